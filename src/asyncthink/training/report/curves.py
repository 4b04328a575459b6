"""From the lines of a run to what is drawn: raw points, a moving mean, the means at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, nan

from asyncthink.training.report.measures import Measure
from asyncthink.training.report.runs import Run, drawable

WINDOW = 10
"""Steps at the beginning and at the end that a table's means are over."""
LEAST_REACH, MOST_REACH, PARTS = 5, 50, 40
"""A moving mean reaches over the steps / PARTS on either side, within these bounds."""
MOST_POINTS = 400
"""Of one curve; more would only make the file large."""
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One measure of one run, from left to right."""

    points: Sequence[Point]
    """What a step had; of many steps every k-th."""
    means: Sequence[Point]
    """Mean over a step and its neighbours on either side; NaN where one of them is no number."""


def values(run: Run, measure: Measure) -> list[float]:
    """Return what every line has of a measure."""
    return [measure.of(line) for line in run.lines]


def mean(found: Sequence[float]) -> float:
    """Return the mean; NaN if a value is no number that can be drawn."""
    return fsum(found) / len(found) if found and all(map(drawable, found)) else nan


def reach(runs: Sequence[Run]) -> int:
    """Return how many steps on either side a moving mean is over: the same in all runs."""
    longest = max(len(run.lines) for run in runs)
    return min(MOST_REACH, max(LEAST_REACH, longest // PARTS))


def curve(run: Run, measure: Measure, reach: int) -> Curve:
    """Return a measure over a run, thinned so that its last step is kept."""
    across = [run.subject.across.of(line) for line in run.lines]
    found = values(run, measure)
    every = -(-len(found) // MOST_POINTS)
    kept = range((len(found) - 1) % every, len(found), every)
    return Curve(
        points=[(across[place], found[place]) for place in kept],
        means=[(across[place], mean(found[max(0, place - reach) : place + reach + 1])) for place in kept],
    )


def ends(run: Run, measure: Measure) -> tuple[float, float]:
    """Return the means over the first and over the last steps."""
    found = values(run, measure)
    return mean(found[:WINDOW]), mean(found[-WINDOW:])
