"""One row an episode: what it scored and what it cost. Tables and figures are made of rows, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import msgspec

from asyncthink.episodes.metrics import Metrics, measure
from asyncthink.episodes.record import WRITTEN, Episode, Outcome, Value
from asyncthink.tasks import Asked, Score


class Step(Value, frozen=True, kw_only=True):
    """What an episode is worth from some budget on."""

    cost: int
    """The least budget for it."""
    score: float
    pooled: float | None = None
    """Parallel thinking: the score of the answers so far together; None for other methods."""


def worth(steps: Sequence[Step], budget: float, *, pooled: bool = False) -> float:
    """Return the score under a budget: that of the last step it pays for, 0 before the first."""
    paid = next((step for step in reversed(steps) if step.cost <= budget), None)
    if paid is None:
        return 0.0
    return paid.pooled if pooled and paid.pooled is not None else paid.score


class Row(Value, frozen=True, kw_only=True):
    """A judged episode."""

    arm: str
    problem: str
    """Key of the problem: rows of one problem are one cluster, and what methods are paired by."""
    sample: int
    method: str
    """asyncthink, sequential, parallel or plan."""
    model: str
    capacity: int
    score: float
    """Of the answer, in [0, 1]; 0 without one."""
    asked: int
    """Answers that were asked for."""
    correct: int
    """Of these, how many are right."""
    pooled: float | None
    """Parallel thinking: the score of all traces' answers together; None for other methods."""
    pooled_correct: int | None
    answered: bool
    stop_reason: str
    format_errors: tuple[str, ...]
    by_ticks: tuple[Step, ...]
    """The score under a cap on T, at rising caps, exactly: below the first it is 0. One step at T; parallel
    thinking has one for each trace that ends, since those that have not are cut off and the others merged."""
    by_tokens: tuple[Step, ...]
    """The same under a cap on the decoded tokens of all agents, where these decode a token a tick and parallel
    traces take turns in their order. An organizer that ends with workers still at work can need one fewer for
    each of these."""
    by_workers: tuple[Step, ...]
    """The same with at most so many workers: an episode that started more counts 0, though it might have done
    with fewer; parallel thinking has fewer traces, the first ones."""
    lost_workers: int
    """Joined workers that had nothing to return, whatever the reason."""
    failed_workers: int
    """Workers that an engine's failure ended."""
    metrics: Metrics
    """Without `active_per_tick`, which is as long as T."""

    @property
    def valid(self) -> bool:
        """Whether it has no format error."""
        return not self.format_errors


def row_of(episode: Episode, asked: Asked) -> Row:
    """Judge and measure an episode of an evaluation.

    Raises:
        ValueError: it is of no evaluation.
    """
    if episode.trial is None:
        raise ValueError(f"episode {episode.id!r} is of no evaluation")
    score = asked.task.check(asked.problem, episode.answer or "")
    pooled = _pooled(episode, asked)
    metrics = msgspec.structs.replace(measure(episode), active_per_tick=())
    ticks, tokens, workers = (
        _merged_steps(episode, asked)
        if episode.method == "parallel"
        else tuple(
            (Step(cost=cost, score=score.value),)
            for cost in (metrics.critical_path, metrics.decoded_tokens, metrics.forks)
        )
    )
    return Row(
        arm=episode.trial.arm,
        problem=episode.trial.problem,
        sample=episode.trial.sample,
        method=episode.method,
        model=episode.model,
        capacity=episode.capacity,
        score=score.value,
        asked=score.of,
        correct=round(score.value * score.of),
        pooled=pooled.value if pooled else None,
        pooled_correct=round(pooled.value * pooled.of) if pooled else None,
        answered=episode.answer is not None,
        by_ticks=ticks,
        by_tokens=tokens,
        by_workers=workers,
        stop_reason=episode.stop_reason.value,
        format_errors=tuple(episode.format_errors),
        lost_workers=sum(one.joined_at is not None and one.result is None for one in episode.traces),
        failed_workers=sum(one.outcome is Outcome.ENGINE_ERROR for one in episode.traces),
        metrics=metrics,
    )


def _pooled(episode: Episode, asked: Asked) -> Score | None:
    if episode.method != "parallel":
        return None
    results = [trace.result for trace in episode.traces]
    return asked.task.pool(asked.problem, [result for result in results if result is not None])


def _merged_steps(episode: Episode, asked: Asked) -> Iterator[tuple[Step, ...]]:
    """Return what parallel thinking scores under caps on T, on all tokens, and on workers."""
    lengths = [sum(one.n_tokens for one in trace.segments if one.kind in WRITTEN) for trace in episode.traces]
    # What all have decoded once trace i ends: those before it in the tick as much as it, the others one less.
    spent = [
        sum(min(n, max(0, end - (j > i))) for j, n in enumerate(lengths)) for i, end in enumerate(lengths)
    ]
    answers = [trace.result for trace in episode.traces]

    @cache
    def worth(ended: tuple[int, ...]) -> tuple[float, float]:
        texts = [text for i in ended if (text := answers[i]) is not None]
        if not texts:
            return 0.0, 0.0
        voted = asked.task.check(asked.problem, asked.task.merge(texts))
        return voted.value, asked.task.pool(asked.problem, texts).value

    for costs in (lengths, spent, range(len(lengths))):
        steps: list[Step] = []
        for cost in sorted(set(costs)):
            voted, pooled = worth(tuple(i for i, own in enumerate(costs) if own <= cost))
            steps.append(Step(cost=cost, score=voted, pooled=pooled))
        yield tuple(steps)
