"""What an evaluation found: every figure of its tables and pictures, computed from rows. JSON in the report's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from asyncthink.episodes.record import Value
from asyncthink.evaluation.equal import Equal, equals
from asyncthink.evaluation.rows import Row, Step, worth
from asyncthink.evaluation.statistics import (
    Bootstrap,
    Difference,
    Estimate,
    Gain,
    organisation_gain,
    quantiles,
)

Pairs: TypeAlias = list[tuple[str, float]]
"""(problem, value), one a row."""
BUDGETS = {"critical_path": "by_ticks", "decoded_tokens": "by_tokens", "workers": "by_workers"}
"""What methods are matched on -> the rows' field with the score under such a budget."""
CURVE_POINTS = 40


def contender(arm: str, pooled: bool) -> str:
    """Return what an arm, or the pooled union of its traces, is called in what methods are matched by."""
    return f"{arm} (pooled)" if pooled else arm


class CurvePoint(Value, frozen=True, kw_only=True):
    """What an arm scores under one budget."""

    budget: int
    score: Estimate
    all_correct: Estimate


class JoinCost(Value, frozen=True, kw_only=True):
    """What an organizer's k-th join costs."""

    join: int
    """1 for the first."""
    episodes: int
    """Episodes that have so many."""
    waited: float
    """Ticks that it stood still, mean over those."""
    share: float
    """Of all the arm's waiting."""


class Arm(Value, frozen=True, kw_only=True):
    """One method as it was configured."""

    name: str
    method: str
    model: str
    capacity: int
    episodes: int
    missing: int
    """Trials without an episode: the engine failed, or the run is not finished."""
    measures: dict[str, Estimate]
    """Means by name, see MEASURES; those that are undefined everywhere are left out."""
    quantiles: dict[str, dict[str, float]]
    """Of critical_path, concurrency, decoded_tokens, forks: share -> value; without what is undefined everywhere."""
    forks: dict[str, int]
    """Workers in an episode -> episodes."""
    concurrency: tuple[float, ...]
    """eta/c of each valid episode."""
    joins: tuple[JoinCost, ...]
    format_errors: dict[str, int]
    """Kind -> how many in all."""
    stops: dict[str, int]
    """Reason -> episodes."""
    curves: dict[str, tuple[CurvePoint, ...]]
    """One of BUDGETS -> points at rising budgets."""
    pooled_curves: dict[str, tuple[CurvePoint, ...]]
    """The same of the pooled union of parallel traces; empty for other methods."""


class Comparison(Value, frozen=True, kw_only=True):
    """Two arms on the same problems."""

    first: str
    second: str
    measure: str
    difference: Difference
    """first - second."""


class Match(Value, frozen=True, kw_only=True):
    """All arms under one budget."""

    budget_of: str
    """One of BUDGETS."""
    budget: int
    """The median that `arm` spends."""
    arm: str
    scores: dict[str, Estimate]
    """Contender -> score."""
    all_correct: dict[str, Estimate]


class Summary(Value, frozen=True, kw_only=True):
    """A whole evaluation."""

    task: str
    problems: int
    samples: int
    """Trials of each problem by each arm."""
    asked: int
    """The most answers that a problem asks for; above 1, "at least k" is defined."""
    resamples: int
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    """Each arm with the first one."""
    matches: tuple[Match, ...]
    equals: tuple[Equal, ...]
    """The first arm with each other contender; without those that are never completely right."""
    gains: dict[str, Gain]
    """Measure, perhaps with a cap on T -> organisation gain of the arm `asyncthink`; empty without random and
    oracle forks over the same model and capacity."""
    absent: tuple[str, ...] = ()
    """Arms without any episode: none of their trials was finished."""


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


MEASURES: dict[str, Callable[[Row], float | None]] = {
    "score": lambda row: row.score,
    "all_correct": lambda row: float(row.correct == row.asked),
    "pooled_score": lambda row: row.pooled,
    "pooled_all_correct": lambda row: (
        None if row.pooled_correct is None else float(row.pooled_correct == row.asked)
    ),
    "answered": lambda row: float(row.answered),
    "valid": lambda row: float(row.valid),
    "critical_path": lambda row: row.metrics.critical_path,
    "critical_path_with_inserted": lambda row: row.metrics.critical_path_with_inserted,
    "concurrency": lambda row: row.metrics.concurrency if row.valid else None,
    "decoded_tokens": lambda row: row.metrics.decoded_tokens,
    "wasted_tokens": lambda row: row.metrics.wasted_tokens,
    "sequential_tokens": lambda row: row.metrics.sequential_tokens,
    "saved": lambda row: _share(
        row.metrics.sequential_tokens - row.metrics.critical_path, row.metrics.sequential_tokens
    ),
    "lower_bound": lambda row: row.metrics.lower_bound,
    "over_bound": lambda row: _share(row.metrics.critical_path, row.metrics.lower_bound),
    "waited": lambda row: sum(wait.waited for wait in row.metrics.waits),
    "forks": lambda row: row.metrics.forks,
    "joins": lambda row: row.metrics.joins,
    "lost_workers": lambda row: row.lost_workers,
    "failed_workers": lambda row: row.failed_workers,
    "wall_seconds": lambda row: row.metrics.wall_seconds,
    "prompt_tokens": lambda row: row.metrics.prompt_tokens,
    "inserted_tokens": lambda row: row.metrics.inserted_tokens,
    "requests": lambda row: row.metrics.requests or None,
    "retries": lambda row: row.metrics.retries if row.metrics.requests else None,
    "cached_share": lambda row: _share(row.metrics.cached_tokens, row.metrics.input_tokens),
    "cost": lambda row: row.metrics.cost,
}
"""Name -> its value for a row; None where it is undefined there. `concurrency` is eta/c over valid episodes; `saved`
the share of ticks saved against decoding the same work one after the other; `over_bound` is T over the shortest that
any schedule could make it."""


def summarise(
    task: str, rows: Sequence[Row], problems: Sequence[str], arms: Sequence[str], samples: int
) -> Summary:
    """Compute everything.

    Args:
        task: its name.
        rows: judged episodes, in any order.
        problems: keys of all problems of the run.
        arms: names of all arms, in the order in which they are shown; the others are compared with the first.
        samples: trials of each problem by each arm.
    """
    bootstrap = Bootstrap(problems)
    by_arm = {name: [row for row in rows if row.arm == name] for name in arms}
    asked = max((row.asked for row in rows), default=1)
    measures = {**MEASURES, **_at_least(asked)}
    grids = {budget: _grid(budget, rows) for budget in BUDGETS}
    expected = len(problems) * samples
    matches = tuple(_match(by_arm, bootstrap))
    return Summary(
        task=task,
        problems=len(problems),
        samples=samples,
        asked=asked,
        resamples=len(bootstrap.draws([(problems[0], 0.0)])) if problems else 0,
        arms=tuple(
            _arm(name, found, expected, bootstrap, measures, grids) for name, found in by_arm.items() if found
        ),
        comparisons=tuple(_compare(by_arm, bootstrap, asked)),
        matches=matches,
        equals=tuple(equals(_contenders(by_arm), bootstrap)),
        gains=_gains(by_arm, bootstrap, matches),
        absent=tuple(name for name, found in by_arm.items() if not found),
    )


def _at_least(asked: int) -> Mapping[str, Callable[[Row], float | None]]:
    """Return the measures of several-solution tasks: at least k right, of the answer and of the pooled ones."""
    found: dict[str, Callable[[Row], float | None]] = {}
    for k in range(1, asked + 1) if asked > 1 else ():
        found[f"at_least_{k}"] = lambda row, k=k: float(row.correct >= k)
        found[f"pooled_at_least_{k}"] = lambda row, k=k: (
            None if row.pooled_correct is None else float(row.pooled_correct >= k)
        )
    return found


def _values(rows: Sequence[Row], measure: Callable[[Row], float | None]) -> Pairs:
    return [(row.problem, float(value)) for row in rows if (value := measure(row)) is not None]


def _arm(
    name: str,
    rows: Sequence[Row],
    expected: int,
    bootstrap: Bootstrap,
    measures: Mapping[str, Callable[[Row], float | None]],
    grids: Mapping[str, Sequence[int]],
) -> Arm:
    estimates = {each: bootstrap.estimate(_values(rows, measure)) for each, measure in measures.items()}
    spread = {
        each: [value for _, value in _values(rows, MEASURES[each])]
        for each in ("critical_path", "concurrency", "decoded_tokens", "forks")
    }
    return Arm(
        name=name,
        method=rows[0].method,
        model=rows[0].model,
        capacity=rows[0].capacity,
        episodes=len(rows),
        missing=expected - len(rows),
        measures={each: estimate for each, estimate in estimates.items() if estimate is not None},
        quantiles={each: dict(quantiles(values)) for each, values in spread.items() if values},
        forks={str(n): count for n, count in sorted(Counter(row.metrics.forks for row in rows).items())},
        concurrency=tuple(row.metrics.concurrency for row in rows if row.valid),
        joins=tuple(_join_costs(rows)),
        format_errors=dict(Counter(error for row in rows for error in row.format_errors).most_common()),
        stops=dict(Counter(row.stop_reason for row in rows).most_common()),
        curves={budget: tuple(_curve(rows, budget, grid, bootstrap)) for budget, grid in grids.items()},
        pooled_curves={
            budget: tuple(_curve(rows, budget, grid, bootstrap, pooled=True))
            for budget, grid in grids.items()
        }
        if _several(rows)
        else {},
    )


def _several(rows: Sequence[Row]) -> bool:
    """Whether there is a pooled union beside the answers."""
    return any(row.pooled is not None for row in rows)


def _contenders(by_arm: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, Sequence[Row], bool]]:
    """Yield name, rows, and whether the pooled union is meant."""
    for name, rows in by_arm.items():
        if rows:
            yield contender(name, False), rows, False
        if _several(rows):
            yield contender(name, True), rows, True


def _join_costs(rows: Sequence[Row]) -> list[JoinCost]:
    waits: dict[int, list[int]] = {}
    for row in rows:
        for k, wait in enumerate(row.metrics.waits, 1):
            waits.setdefault(k, []).append(wait.waited)
    total = sum(map(sum, waits.values()))
    return [
        JoinCost(
            join=k,
            episodes=len(found),
            waited=sum(found) / len(found),
            share=sum(found) / total if total else 0.0,
        )
        for k, found in sorted(waits.items())
    ]


def _steps(row: Row, budget: str) -> tuple[Step, ...]:
    return getattr(row, BUDGETS[budget])


def _grid(budget: str, rows: Sequence[Row]) -> list[int]:
    """Return the budgets at which curves are drawn: from 0 to where nearly every episode is done."""
    costs = [step.cost for row in rows for step in _steps(row, budget)]
    last = int(np.quantile(costs, 0.995)) if costs else 0
    return sorted({round(last * i / CURVE_POINTS) for i in range(CURVE_POINTS + 1)})


def _curve(
    rows: Sequence[Row], budget: str, grid: Sequence[int], bootstrap: Bootstrap, *, pooled: bool = False
) -> list[CurvePoint]:
    points: list[CurvePoint] = []
    for cap in grid:
        scores, right = _under(rows, budget, cap, bootstrap, pooled=pooled)
        if scores is not None and right is not None:
            points.append(CurvePoint(budget=cap, score=scores, all_correct=right))
    return points


def _under(
    rows: Sequence[Row], budget: str, cap: float, bootstrap: Bootstrap, *, pooled: bool = False
) -> tuple[Estimate | None, Estimate | None]:
    scores: Pairs = [(row.problem, worth(_steps(row, budget), cap, pooled=pooled)) for row in rows]
    return bootstrap.estimate(scores), bootstrap.estimate(_whole(scores))


def _whole(scores: Pairs) -> Pairs:
    return [(problem, float(score == 1.0)) for problem, score in scores]


def _compare(by_arm: Mapping[str, Sequence[Row]], bootstrap: Bootstrap, asked: int) -> list[Comparison]:
    names = [name for name, rows in by_arm.items() if rows]
    measures = [
        "all_correct",
        *(["score"] if asked > 1 else []),
        "critical_path",
        "decoded_tokens",
        "wall_seconds",
    ]
    found: list[Comparison] = []
    for second in names[1:]:
        for measure in measures:
            ours, theirs = (_values(by_arm[name], MEASURES[measure]) for name in (names[0], second))
            difference = bootstrap.difference(ours, theirs)
            if difference is not None:
                found.append(
                    Comparison(first=names[0], second=second, measure=measure, difference=difference)
                )
    return found


def _match(by_arm: Mapping[str, Sequence[Row]], bootstrap: Bootstrap) -> list[Match]:
    """Put all arms under the median budget of each."""
    found: dict[tuple[str, int], Match] = {}
    for budget in BUDGETS:
        for name, rows in by_arm.items():
            if not rows:
                continue
            cap = int(np.median([_steps(row, budget)[-1].cost for row in rows]))
            under = {
                each: _under(theirs, budget, cap, bootstrap, pooled=pooled)
                for each, theirs, pooled in _contenders(by_arm)
            }
            found.setdefault(
                (budget, cap),
                Match(
                    budget_of=budget,
                    budget=cap,
                    arm=name,
                    scores={each: pair[0] for each, pair in under.items() if pair[0]},
                    all_correct={each: pair[1] for each, pair in under.items() if pair[1]},
                ),
            )
    return list(found.values())


def _gains(
    by_arm: Mapping[str, Sequence[Row]], bootstrap: Bootstrap, matches: Sequence[Match]
) -> dict[str, Gain]:
    """Return the gain without a budget, and under each of those on T: there the order of the forks counts most."""
    trio = [by_arm.get(name, ()) for name in ("asyncthink", "random-forks", "oracle-forks")]
    if not all(trio) or len({(row.model, row.capacity) for rows in trio for row in rows}) > 1:
        return {}
    caps = sorted({match.budget for match in matches if match.budget_of == "critical_path"})
    gains: dict[str, Gain] = {}
    for measure in ("score", "all_correct"):
        found = {measure: [_values(rows, MEASURES[measure]) for rows in trio]}
        for cap in caps:
            under = [[(row.problem, worth(row.by_ticks, cap)) for row in rows] for rows in trio]
            whole = [_whole(pairs) for pairs in under]
            found[f"{measure} at T <= {cap}"] = under if measure == "score" else whole
        for name, (policy, chance, best) in found.items():
            if gain := organisation_gain(bootstrap, policy, chance, best):
                gains[name] = gain
    return gains
