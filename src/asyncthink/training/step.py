"""What one step of reinforcement learning comes to, whoever makes the update: its rows with their advantages, its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from asyncthink.training.advantage import advantages
from asyncthink.training.reward import Reward
from asyncthink.training.rollout import Rollout
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.update import Updated


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """One line of metrics.jsonl: means over the step's episodes where nothing else is said."""

    step: int
    """From 1."""
    steps: int
    problems: tuple[int, int]
    """Number of the first problem that was used, and the one behind the last."""
    reward: float
    reward_std: float
    """Within groups."""
    accuracy: float
    """R_A, format errors or not."""
    solved: float
    """Share of episodes with full accuracy."""
    concurrency: float
    """eta/c over valid episodes; 0 without one."""
    critical_path: float
    """Ticks."""
    forks: float
    joins: float
    valid: float
    """Share of episodes without a format error."""
    format_errors: dict[str, int] = field(default_factory=dict[str, int])
    """Name -> episodes that have it."""
    even_groups: float
    """Share of groups whose rewards are all the same: nothing is learned from them."""
    decoded_tokens: int
    """Of all episodes together."""
    rows: int
    trained_tokens: int
    loss: float
    """Sum over the step's updates, each weighed as `loss.aggregation` says, `loss.kl`'s term included."""
    gradient_norm: float
    """Before it was cut to `update.max_norm`, mean of the updates."""
    kl: float
    """KL(sampler || model that learns), nats a token: see `Updated.kl`."""
    moved: float
    """KL of the model that learns to the model it began as, where `loss.kl` holds on to that; else 0."""
    entropy: float
    """Of the policy, in nats: mean of -log p of what was sampled, over tokens of rows with something left to chance."""
    clipped: float
    """Share of these tokens whose ratio was clipped; 0 on policy."""
    rollout_seconds: float
    update_seconds: float
    tokens_per_second: float
    """Decoded tokens over the step's seconds, update included."""
    seconds: float
    """Of the run so far."""


class Watcher:
    """Told how a run goes on; does nothing by itself."""

    def begin(self, steps: int, done: int, episodes: int) -> None:
        """The run begins or goes on, with so many episodes a step."""

    def episode(self) -> None:
        """An episode of the step is there."""

    def step(self, metrics: StepMetrics) -> None:
        """A step is done and kept."""


def weighed(
    groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[Reward]], *, normalise: bool
) -> tuple[list[TrainingRow], list[float]]:
    """Return the rows of some groups, each with its episode's advantage."""
    found: list[TrainingRow] = []
    weights: list[float] = []
    for group, paid in zip(groups, rewards, strict=True):
        shared = advantages([each.total for each in paid], normalise=normalise)
        for one, advantage in zip(group, shared, strict=True):
            own = rows(one.episode)
            found += own
            weights += [advantage] * len(own)
    return found, weights


def step_metrics(
    step: int,
    steps: int,
    groups: Sequence[Sequence[Rollout]],
    rewards: Sequence[Sequence[Reward]],
    updates: Sequence[Updated],
    *,
    rollout_seconds: float,
    update_seconds: float,
    seconds: float,
) -> StepMetrics:
    """Return the figures of a step, from 1, of so many; `seconds` are the run's so far."""
    episodes = [one for group in groups for one in group]
    paid = [each for group in rewards for each in group]
    valid = [one for one in episodes if not one.episode.faults]
    errors = Counter(name for one in episodes for name in set(one.episode.format_errors))
    first = (step - 1) * len(groups)
    decoded = sum(one.metrics.decoded_tokens for one in episodes)
    trained = sum(each.tokens for each in updates)
    totals = [[each.total for each in group] for group in rewards]
    return StepMetrics(
        step=step,
        steps=steps,
        problems=(first, first + len(groups)),
        reward=fmean(each.total for each in paid),
        reward_std=fmean(map(pstdev, totals)),
        accuracy=fmean(each.accuracy for each in paid),
        solved=fmean(each.accuracy == 1 for each in paid),
        concurrency=fmean([one.metrics.concurrency for one in valid] or [0.0]),
        critical_path=fmean(one.metrics.critical_path for one in episodes),
        forks=fmean(one.metrics.forks for one in episodes),
        joins=fmean(one.metrics.joins for one in episodes),
        valid=len(valid) / len(episodes),
        format_errors=dict(sorted(errors.items())),
        even_groups=fmean(max(group) == min(group) for group in totals),
        decoded_tokens=decoded,
        rows=sum(each.rows for each in updates),
        trained_tokens=trained,
        loss=sum(each.loss for each in updates),
        gradient_norm=fmean([each.gradient_norm for each in updates] or [0.0]),
        kl=fmean([each.kl for each in updates] or [0.0]),
        moved=fmean([each.moved for each in updates] or [0.0]),
        entropy=fmean([each.entropy for each in updates] or [0.0]),
        clipped=fmean([each.clipped for each in updates] or [0.0]),
        rollout_seconds=rollout_seconds,
        update_seconds=update_seconds,
        tokens_per_second=decoded / (rollout_seconds + update_seconds),
        seconds=seconds,
    )
