"""The figures of a report: pictures of a summary, the same bytes on every machine with the same matplotlib.

An arm has one colour, line, marker and hatch in all of them, so that grey print tells arms apart too. Nothing is
set for the whole process: no backend, no style, no list of open figures. What each picture shows is in `charts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from asyncthink.evaluation.report import charts
from asyncthink.evaluation.report.charts import Scene, scene
from asyncthink.evaluation.summary import Summary

DPI = 150
WIDTH = 5.6
"""Inches: two stand side by side on a wide page, one fills a telephone."""
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "hatch.color": "white",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "asyncthink",
}
"""On top of matplotlib's defaults, whatever a user's own matplotlibrc says. Names of arms are not formulas."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure of a report."""

    name: str
    """Of its files, without the ending."""
    title: str
    note: str
    """What it shows, and how it is read."""
    svg: bytes
    png: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """How one figure is made."""

    name: str
    title: str
    note: str
    draw: Callable[[Figure, Scene], None]
    height: Callable[[Scene], float]
    """Inches, without the legend."""
    wanted: Callable[[Summary], bool] = lambda summary: True


def _panels(shown: Scene) -> float:
    return 5.6 if shown.summary.asked > 1 else 3.2


def _rows(shown: Scene) -> float:
    return 1.6 + 2 * 0.26 * max(3, len(shown.summary.arms))


_BAND = (
    "The curve is what a method scores if every episode is cut off at that budget, read off the record, with its "
    "95 % interval; the marker is the mean with what the method itself spends; thin, with a hollow marker, for the "
    "pooled union of parallel traces. Up and to the left is better."
)
PLANS = (
    _Plan(
        name="frontier",
        title="Accuracy against latency",
        note=f"{_BAND} A thin dashed line joins the arms of one sweep.",
        draw=lambda figure, shown: charts.frontier(figure, shown, "critical_path", "T, ticks"),
        height=_panels,
    ),
    _Plan(
        name="frontier_tokens",
        title="Accuracy against total tokens",
        note=f"{_BAND} Tokens are those of all agents: what latency is bought with.",
        draw=lambda figure, shown: charts.frontier(figure, shown, "decoded_tokens", "total tokens"),
        height=_panels,
    ),
    _Plan(
        name="at_least",
        title="At least k correct",
        note="Share of episodes with at least so many different right answers, with 95 % intervals.",
        draw=charts.at_least,
        height=lambda shown: 3.0,
        wanted=lambda summary: summary.asked > 1,
    ),
    _Plan(
        name="spending",
        title="Latency, wall time and tokens, relative to the first method",
        note="Means over that of the first method, 1 is the same; bars of error are each method's own 95 % interval.",
        draw=charts.spending,
        height=lambda shown: 3.0,
    ),
    _Plan(
        name="organisation",
        title="How thoughts are organised",
        note="Above, how many workers episodes fork: an area is a share of the method's episodes. Below, eta/c of valid "
        "episodes: the line spans 80 % of them, the box half of them, the white mark is the median, and the dotted "
        "mark is 1/c, which thinking alone has.",
        draw=charts.organisation,
        height=_rows,
    ),
    _Plan(
        name="joins",
        title="What the k-th join costs",
        note="Above, ticks that an organizer stands still at its k-th join, mean over the episodes that have one; hollow "
        "where fewer than a quarter do. Below, the share of all the method's waiting. Parallel thinking, whose "
        "joins nobody chose, is left out.",
        draw=charts.joins,
        height=lambda shown: 5.0,
        wanted=lambda summary: bool(charts.joining(summary)),
    ),
    _Plan(
        name="format_errors",
        title="Format errors by kind",
        note="Errors in 100 episodes; above the line those that the paper counts, below it those that we added.",
        draw=charts.format_errors,
        height=lambda shown: 1.2 + 0.09 * 7 * max(3, len(shown.summary.arms)),
        wanted=lambda summary: any(arm.format_errors for arm in summary.arms),
    ),
)


def figures(summary: Summary) -> Iterator[Picture]:
    """Draw all figures that there is something for, the most important first."""
    if not summary.arms:
        return
    shown = scene(summary)
    for plan in PLANS:
        if plan.wanted(summary):
            yield _drawn(plan, shown)


def _drawn(plan: _Plan, shown: Scene) -> Picture:
    height = min(20.0, plan.height(shown) + shown.legend_height)
    return drawn(plan.name, plan.title, plan.note, height, lambda figure: plan.draw(figure, shown))


def drawn(name: str, title: str, note: str, height: float, draw: Callable[[Figure], None]) -> Picture:
    """Make one figure, so many inches high."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        draw(figure)
        svg = _saved(figure, "svg", {"Date": None, "Creator": None, "Format": None, "Type": None})
        png = _saved(figure, "png", {"Software": None})
    return Picture(name=name, title=title, note=note, svg=svg, png=png)


def _saved(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    """Return a file's content, without a date or a version in it."""
    out = BytesIO()
    figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()
