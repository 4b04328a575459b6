"""The rows of a report: one an arm, and one more for the pooled union of its traces; what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asyncthink.evaluation.report.cells import labels
from asyncthink.evaluation.statistics import Estimate
from asyncthink.evaluation.summary import Arm, CurvePoint, Summary, contender

NAME_CELLS = 48
"""Cells that an arm's name may take up in a table."""
POOLED = ("all_correct", "score", "at_least_")
"""Measures that the pooled union has of its own; it costs what the vote costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A row that is about one arm, or about the pooled union of its traces."""

    label: str
    arm: Arm
    pooled: bool = False

    @property
    def name(self) -> str:
        """What it is called in what methods are matched by."""
        return contender(self.arm.name, self.pooled)

    def curve(self, budget: str) -> Sequence[CurvePoint]:
        """Return the points of one of BUDGETS."""
        return (self.arm.pooled_curves if self.pooled else self.arm.curves).get(budget, ())

    def measure(self, name: str) -> Estimate | None:
        """Return one of the arm's measures."""
        own = self.pooled and name.startswith(POOLED)
        return self.arm.measures.get(f"pooled_{name}" if own else name)


def lines(summary: Summary, width: int = NAME_CELLS) -> list[Line]:
    """Return a row for each arm; parallel thinking has two, for the voted answer and for the pooled union."""
    found: list[Line] = []
    names = arm_labels(summary, width)
    for arm in summary.arms:
        label = names[arm.name]
        if "pooled_score" in arm.measures:
            found.append(Line(label=f"{label} (vote)", arm=arm))
            found.append(Line(label=f"{label} (pooled)", arm=arm, pooled=True))
        else:
            found.append(Line(label=label, arm=arm))
    return found


def arm_labels(summary: Summary, width: int = NAME_CELLS) -> dict[str, str]:
    """Return what each arm is called."""
    return labels([*(arm.name for arm in summary.arms), *summary.absent], width)
