"""What a report shows of a training: which figures of metrics.jsonl, what they are called, and what they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a run trains on."""

    SFT = "sft"
    """Traces: format fine-tuning."""
    RL = "rl"
    """Its own episodes: reinforcement learning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One figure of a line of metrics.jsonl."""

    key: str
    """Its name there."""
    label: str
    """What a reader calls it, with no other measure of the same name."""
    unit: str = ""
    """Empty: it has none."""
    scale: float = 1.0
    rest: bool = False
    """What is missing to 1 is shown."""

    @property
    def titled(self) -> str:
        """Label and unit, as above an axis."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def of(self, line: Mapping[str, Any]) -> float:
        """Return what a line has of it, in its unit."""
        value = float(line[self.key])
        return self.scale * (1 - value if self.rest else value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One measure over a training, or two that belong together."""

    name: str
    """Of its file, without the ending."""
    title: str
    """With the unit."""
    note: str
    """How it is read."""
    measures: tuple[Measure, ...]
    log: bool = False
    """The axis upwards is logarithmic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What a report of one kind of training is about."""

    about: str
    """What happens in such a training."""
    across: Measure
    """What goes on from left to right; rises with every line."""
    target: str
    """Where a line says how far that is to rise."""
    charts: tuple[Chart, ...]
    counted: tuple[Measure, ...]
    """What is summed up over a run."""

    @property
    def measures(self) -> list[Measure]:
        """All that is drawn, the most important first."""
        return [each for chart in self.charts for each in chart.measures]

    @property
    def keys(self) -> list[str]:
        """What every line must have as a number."""
        drawn = [each.key for each in (*self.measures, *self.counted)]
        return list(dict.fromkeys([self.across.key, self.target, *drawn, "seconds"]))


_RL = Subject(
    about="A step samples episodes of problems of the train split with the model as it is, and updates it once or "
    "a few times on them.",
    across=Measure(key="step", label="step"),
    target="steps",
    charts=(
        Chart(
            name="accuracy",
            title="Accuracy and solved, %",
            note="Accuracy is the task's score of an answer, whatever the format; solved are the episodes with all of it.",
            measures=(
                Measure(key="accuracy", label="accuracy", unit="%", scale=100),
                Measure(key="solved", label="solved", unit="% of episodes", scale=100),
            ),
        ),
        Chart(
            name="concurrency",
            title="eta/c, %",
            note="eta/c is the share of the c agents that work at a tick, over valid episodes.",
            measures=(Measure(key="concurrency", label="eta/c", unit="%", scale=100),),
        ),
        Chart(
            name="organisation",
            title="Forks and joins per episode",
            note="Workers that an organizer starts and waits for, mean over a step's episodes.",
            measures=(
                Measure(key="forks", label="forks per episode"),
                Measure(key="joins", label="joins per episode"),
            ),
        ),
        Chart(
            name="critical_path",
            title="Critical path, ticks",
            note="T on the virtual clock: a tick is a decoded token.",
            measures=(Measure(key="critical_path", label="critical path", unit="ticks"),),
        ),
        Chart(
            name="reward",
            title="Reward",
            note="What an episode is paid: accuracy and concurrency, or the price of a format error.",
            measures=(Measure(key="reward", label="reward"),),
        ),
        Chart(
            name="format_errors",
            title="Format errors, % of episodes",
            note="Episodes with at least one.",
            measures=(
                Measure(key="valid", label="format errors", unit="% of episodes", scale=100, rest=True),
            ),
        ),
        Chart(
            name="even_groups",
            title="Even groups, % of groups",
            note="Problems all of whose episodes were paid the same: nothing is learned from them.",
            measures=(Measure(key="even_groups", label="even groups", unit="% of groups", scale=100),),
        ),
        Chart(
            name="kl",
            title="KL to the sampler, nats per token",
            note="How far the model that learns is from the one that sampled the step's episodes. With one update a "
            "step it is rounding and no more; where it grows, sampler and trainer do not compute the same.",
            measures=(Measure(key="kl", label="KL to the sampler", unit="nats per token"),),
        ),
        Chart(
            name="moved",
            title="KL to the start, nats per token",
            note="How far the model is from what the run began as, where `loss.kl` holds it to that; elsewhere 0.",
            measures=(Measure(key="moved", label="KL to the start", unit="nats per token"),),
        ),
        Chart(
            name="entropy",
            title="Entropy of the policy, nats per token",
            note="Mean of minus the log-probability of what was sampled: how much is left to chance. Where it comes to "
            "nothing, nothing new is tried.",
            measures=(Measure(key="entropy", label="entropy", unit="nats per token"),),
        ),
        Chart(
            name="gradient_norm",
            title="Gradient norm",
            note="Before it is cut to the recipe's max_norm.",
            measures=(Measure(key="gradient_norm", label="gradient norm"),),
        ),
        Chart(
            name="tokens_per_second",
            title="Decoded tokens per second",
            note="Of all agents, over the whole step: sampling and update.",
            measures=(Measure(key="tokens_per_second", label="decoded tokens per second"),),
        ),
        Chart(
            name="seconds",
            title="Seconds per step",
            note="What sampling the episodes and learning from them take.",
            measures=(
                Measure(key="rollout_seconds", label="rollout", unit="seconds per step"),
                Measure(key="update_seconds", label="update", unit="seconds per step"),
            ),
        ),
    ),
    counted=(
        Measure(key="decoded_tokens", label="decoded tokens"),
        Measure(key="trained_tokens", label="trained tokens"),
    ),
)

_SFT = Subject(
    about="A step sees a batch of traces once and learns to write them.",
    across=Measure(key="tokens", label="tokens", unit="millions", scale=1e-6),
    target="total_tokens",
    charts=(
        Chart(
            name="loss",
            title="Loss, nats per token",
            note="Cross-entropy over trained tokens: what the model is to write, not what it is given. The axis "
            "is logarithmic.",
            measures=(Measure(key="loss", label="loss", unit="nats per token"),),
            log=True,
        ),
        Chart(
            name="accuracy",
            title="Accuracy, % of trained tokens",
            note="Trained tokens that the model would have written greedily.",
            measures=(Measure(key="accuracy", label="accuracy", unit="% of trained tokens", scale=100),),
        ),
        Chart(
            name="tokens_per_second",
            title="Tokens per second",
            note="Prompts and inserted text included, padding not.",
            measures=(Measure(key="tokens_per_second", label="tokens per second"),),
        ),
    ),
    counted=(),
)

SUBJECTS: Mapping[Kind, Subject] = {Kind.SFT: _SFT, Kind.RL: _RL}
