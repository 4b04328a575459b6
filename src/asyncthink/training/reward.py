"""What an episode is paid, as in the rows "reward" to "R_eta" of docs/paper.md.

    R = R_FE                          with a format error
    R = R_A + lambda * R_eta          otherwise,   R_eta = min(eta/c, tau) / tau

R_A is the task's score. The concurrency term is not gated by correctness, as in the paper; a switch gates it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from asyncthink.episodes.metrics import Metrics
from asyncthink.episodes.record import Episode
from asyncthink.errors import UsageError
from asyncthink.tasks import Asked

Weight: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


@dataclass(frozen=True, kw_only=True)
class RewardRecipe:
    """The weights. The paper states none; these are our starting points [D]."""

    concurrency: Weight = 0.2
    """lambda: what full concurrency is worth; 0 pays for accuracy and format only."""
    tau: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.85
    """Concurrency above it is not paid, so that it is not sought for itself."""
    format_error: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] = -0.25
    """R_FE: the reward of an episode with a format error."""
    gated: bool = False
    """Whether R_eta is multiplied by R_A, so that a wrong answer earns nothing by being busy."""
    leverage: Weight = 0.0
    """Weight of the share of forks that follow a join: the paper's known negative, which ended in nearly
    sequential thinking there."""
    pooled: bool = False
    """Parallel thinking only: R_A is the score of all traces' answers together, not of the voted one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """A reward and its terms."""

    total: float
    accuracy: float
    """R_A, whatever the format."""
    concurrency: float
    """R_eta before its weight; 0 with a format error."""
    leverage: float
    """Share of forks that follow a join."""


def reward_of(episode: Episode, asked: Asked, metrics: Metrics, recipe: RewardRecipe) -> Reward:
    """Pay one episode of a task's problem; an answer that the check refuses earns nothing."""
    accuracy = _accuracy(episode, asked, recipe)
    leverage = _leverage(episode)
    if episode.faults:
        return Reward(total=recipe.format_error, accuracy=accuracy, concurrency=0.0, leverage=leverage)
    concurrency = min(metrics.concurrency, recipe.tau) / recipe.tau
    gate = accuracy if recipe.gated else 1.0
    total = accuracy + recipe.concurrency * concurrency * gate + recipe.leverage * leverage
    return Reward(total=total, accuracy=accuracy, concurrency=concurrency, leverage=leverage)


RewardFunction: TypeAlias = Callable[[Episode, Asked, Metrics, RewardRecipe], Reward]
"""What pays an episode: `reward_of`, or one's own, which may call it."""


def source_of(reward: RewardFunction) -> dict[str, bytes]:
    """Return what a run with a reward of one's own begins with: its name and the file that it stands in.

    Raises:
        UsageError: it is no function that stands in a file, so another run could not tell it from others.
    """
    if reward is reward_of:
        return {}
    if not inspect.isfunction(reward):
        raise UsageError(f"a reward is a function, not {type(reward).__name__}")
    try:
        text = Path(inspect.getfile(reward)).read_bytes()
    except OSError as error:
        raise UsageError(f"the reward {reward.__qualname__} stands in no file") from error
    return {"reward": reward.__qualname__.encode() + b"\n" + text}


def _accuracy(episode: Episode, asked: Asked, recipe: RewardRecipe) -> float:
    if recipe.pooled:
        results = [trace.result for trace in episode.traces if trace.result is not None]
        return asked.task.pool(asked.problem, results).value
    return asked.task.check(asked.problem, episode.answer or "").value


def _leverage(episode: Episode) -> float:
    """Return the share of the organizer's forks that stand behind one of its joins; 0 without a fork."""
    own = [trace for trace in episode.traces if trace.path.count("/") == 1]
    joins = [trace.joined_at for trace in own if trace.joined_at is not None]
    forks = [trace.forked_at for trace in own if trace.forked_at is not None]
    first = min(joins, default=None)
    return sum(first is not None and fork > first for fork in forks) / len(forks) if forks else 0.0
