"""Rows and summaries to test with: one row by hand, or a whole evaluation drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from asyncthink.episodes.metrics import JoinWait, Metrics
from asyncthink.evaluation.rows import Row, Step
from asyncthink.evaluation.summary import Summary, summarise
from asyncthink.protocol import FormatError


def metrics(
    ticks: int, tokens: int, forks: int, *, waits: Sequence[int], concurrency: float, wall: float
) -> Metrics:
    """A worker is joined for each wait; nothing is wasted."""
    return Metrics(
        critical_path=ticks,
        critical_path_with_inserted=ticks + 10,
        concurrency=concurrency,
        active_per_tick=(1,) * ticks,
        span=ticks,
        lower_bound=max(1, ticks // 2) if ticks else 0,
        decoded_tokens=tokens,
        wasted_tokens=0,
        sequential_tokens=tokens,
        inserted_tokens=10,
        prompt_tokens=20,
        overrun_tokens=0,
        forks=forks,
        joins=len(waits),
        waits=tuple(JoinWait(path=f"0/{k}", waited=waited) for k, waited in enumerate(waits, 1)),
        wall_seconds=wall,
        exact=True,
    )


def row(
    arm: str = "asyncthink",
    problem: str = "0",
    sample: int = 0,
    *,
    method: str = "asyncthink",
    correct: int = 4,
    asked: int = 4,
    pooled: int | None = None,
    ticks: int = 100,
    tokens: int = 150,
    forks: int = 2,
    waits: Sequence[int] = (10, 5),
    concurrency: float = 0.5,
    wall: float = 2.0,
    capacity: int = 4,
    errors: Sequence[str] = (),
    model: str = "embedded",
) -> Row:
    """One row, whose only step on each budget is at what it spent."""
    score = correct / asked
    together = None if pooled is None else pooled / asked
    return Row(
        arm=arm,
        problem=problem,
        sample=sample,
        method=method,
        model=model,
        capacity=capacity,
        score=score,
        asked=asked,
        correct=correct,
        pooled=together,
        pooled_correct=pooled,
        answered=FormatError.NO_ANSWER.value not in errors,
        stop_reason="budget" if FormatError.NO_ANSWER.value in errors else "answer",
        format_errors=tuple(errors),
        by_ticks=(Step(cost=ticks, score=score, pooled=together),),
        by_tokens=(Step(cost=tokens, score=score, pooled=together),),
        by_workers=(Step(cost=forks, score=score, pooled=together),),
        lost_workers=0,
        failed_workers=0,
        metrics=metrics(ticks, tokens, forks, waits=waits, concurrency=concurrency, wall=wall),
    )


ARMS = ("asyncthink", "sequential", "parallel", "random-forks", "oracle-forks")
_SPEED = {"asyncthink": 0.65, "sequential": 1.0, "parallel": 1.25, "random-forks": 0.5, "oracle-forks": 0.4}
_SKILL = {"asyncthink": 0.75, "sequential": 0.62, "parallel": 0.7, "random-forks": 0.72, "oracle-forks": 0.9}


def random_row(rng: Random, arm: str, method: str, problem: str, sample: int, *, asked: int = 4) -> Row:
    """A row such as that method has them; problems with higher numbers are harder."""
    skill = _SKILL[method] - 0.004 * (int(problem) % 60)
    correct = sum(rng.random() < skill for _ in range(asked))
    ticks = round(600 * _SPEED[method] * rng.lognormvariate(0, 0.25))
    forking = method not in ("sequential", "parallel")
    forks = rng.randint(5, 13) if forking else 3 * (method == "parallel")
    waits = [max(0, round(rng.gauss(30 - 2 * k, 15))) for k in range(max(0, forks - 1))] if forking else []
    kinds = [error.value for error in FormatError]
    errors = rng.choices(kinds, weights=[3, 6, 2, 4, 1, 2, 1], k=rng.randint(1, 2))
    eta = {"sequential": 0.25, "parallel": rng.uniform(0.75, 0.95)}.get(method, rng.uniform(0.3, 0.6))
    return row(
        arm,
        problem,
        sample,
        method="plan" if method.endswith("-forks") else method,
        correct=correct,
        asked=asked,
        pooled=min(asked, correct + (rng.random() < 0.4)) if method == "parallel" else None,
        ticks=ticks,
        tokens=round(ticks * eta * 4),
        forks=forks,
        waits=waits,
        concurrency=eta,
        wall=ticks * 0.1 * rng.uniform(0.9, 1.3),
        errors=errors if forking and rng.random() < 0.05 else (),
    )


def random_summary(
    seed: int = 0,
    *,
    arms: Sequence[str] = ARMS,
    problems: int = 40,
    samples: int = 2,
    asked: int = 4,
    task: str = "countdown",
) -> Summary:
    """A whole evaluation; an arm is called as its method, perhaps with something behind a blank."""
    rng = Random(seed)
    keys = [str(n) for n in range(problems)]
    rows = [
        random_row(rng, arm, arm.split(" ")[0], key, sample, asked=asked)
        for sample in range(samples)
        for key in keys
        for arm in arms
    ]
    return summarise(task, rows, keys, list(arms), samples)
