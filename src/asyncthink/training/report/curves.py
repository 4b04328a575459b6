"""From the lines of a run to what is drawn: raw points, a moving mean, the means at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, nan

from asyncthink.training.report.measures import Measure
from asyncthink.training.report.runs import Run, drawable

MOST_POINTS = 400
"""Of one curve; more would only make the file large."""
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One measure of one run, from left to right."""

    points: Sequence[Point]
    """What a step had; of many steps every k-th."""
    means: Sequence[Point]
    """Mean over a step and those before it, as many as the window has; NaN where one of them is no number."""


def values(run: Run, measure: Measure) -> list[float]:
    """Return what every line has of a measure."""
    return [measure.of(line) for line in run.lines]


def mean(found: Sequence[float]) -> float:
    """Return the mean; NaN if a value is no number that can be drawn."""
    return fsum(found) / len(found) if found and all(map(drawable, found)) else nan


def curve(run: Run, measure: Measure) -> Curve:
    """Return a measure over a run, thinned so that its last step is kept."""
    across = [run.subject.across.of(line) for line in run.lines]
    found, window = values(run, measure), run.subject.window
    every = -(-len(found) // MOST_POINTS)
    kept = range((len(found) - 1) % every, len(found), every)
    return Curve(
        points=[(across[place], found[place]) for place in kept],
        means=[(across[place], mean(found[max(0, place + 1 - window) : place + 1])) for place in kept],
    )


def ends(run: Run, measure: Measure) -> tuple[float, float]:
    """Return the means over the first and over the last steps, as many as the window has."""
    found, window = values(run, measure), run.subject.window
    return mean(found[:window]), mean(found[-window:])
