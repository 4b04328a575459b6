"""What each figure of a report shows; `figures` sets the style and saves them.

A chart takes any summary that has what it shows: one arm, one problem, no forks, nothing valid, T = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import (
    FontProperties,
    findfont,  # pyright: ignore[reportUnknownVariableType]
    get_font,  # pyright: ignore[reportUnknownVariableType]
)
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from asyncthink.evaluation.report.lines import Line, arm_labels, lines
from asyncthink.evaluation.statistics import Estimate
from asyncthink.evaluation.summary import Arm, Summary
from asyncthink.protocol.actions import PAPER_ERRORS, FormatError

COLOURS = ("#c04500", "#0072b2", "#009e73", "#aa4499", "#b87a00", "#4a9bd1", "#555555", "#7a5230")
"""Told apart by every kind of sight; 3:1 or more to white. The first is the viewer's critical path."""
Dash: TypeAlias = Literal["-", "--", "-.", ":"]
DASHES: tuple[Dash, ...] = ("-", "--", "-.", ":")
MARKERS = "oDs^vP*X"
HATCHES = ("", "//", "\\\\", "xx", "--", "||", "++", "////")
NAME_CELLS = 34
LEGEND_ROW = 0.19
"""Inches."""
MOST_JOINS, MOST_BANDS = 16, 6
"""Joins that are drawn; arms whose curves have room for bands."""
WORDS = "#333333"


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one arm is drawn everywhere."""

    colour: str
    dash: Dash
    marker: str
    hatch: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A summary with what its arms are called and look like."""

    summary: Summary
    names: dict[str, str]
    looks: dict[str, Look]

    @property
    def columns(self) -> int:
        """Of the legend."""
        longest = max(map(len, self.names.values()))
        return 3 if longest <= 18 else 2 if longest <= 28 else 1

    @property
    def legend_height(self) -> float:
        """Inches."""
        return LEGEND_ROW * -(-(len(self.summary.arms) + 1) // self.columns) + 0.15


def scene(summary: Summary) -> Scene:
    """Choose names and looks."""
    looks = {
        arm.name: Look(
            colour=COLOURS[n % len(COLOURS)],
            dash=DASHES[(n + n // len(COLOURS)) % len(DASHES)],
            marker=MARKERS[n % len(MARKERS)],
            hatch=HATCHES[n % len(HATCHES)],
        )
        for n, arm in enumerate(summary.arms)
    }
    names = {name: _drawable(label) for name, label in arm_labels(summary, NAME_CELLS).items()}
    return Scene(summary=summary, names=names, looks=looks)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def _drawable(text: str) -> str:
    """Replace what the font has no form for; a legend leaves out what begins with an underscore."""
    shown = "".join(one if ord(one) in _glyphs() else "\ufffd" for one in text)
    return f" {shown}" if shown.startswith("_") else shown


def _legend(
    figure: Figure, shown: Scene, kind: str, *, pooled: bool = False, arms: Sequence[Arm] | None = None
) -> None:
    """Name arms, all of them or some, below a figure, by `line` or `bar`."""
    handles: list[Any] = []
    called: list[str] = []
    for arm in shown.summary.arms if arms is None else arms:
        look = shown.looks[arm.name]
        several = pooled and "pooled_score" in arm.measures
        for hollow in (False, True) if several else (False,):
            handles.append(_handle(look, kind, hollow))
            called.append(shown.names[arm.name] + (" (pooled)" if hollow else " (vote)" if several else ""))
    figure.legend(handles, called, loc="outside lower center", ncols=shown.columns, handlelength=2.6)


def _handle(look: Look, kind: str, hollow: bool) -> Any:
    if kind == "bar":
        return Patch(**_filled(look, hollow))
    line: Dash | Literal["none"] = "none" if hollow else look.dash
    return Line2D([], [], color=look.colour, linestyle=line, **_marked(look, hollow))


def _filled(look: Look, hollow: bool = False) -> dict[str, Any]:
    if hollow:
        return {"facecolor": "white", "edgecolor": look.colour, "hatch": "", "linewidth": 1.2}
    return {"facecolor": look.colour, "edgecolor": "white", "hatch": look.hatch, "linewidth": 0.0}


def _marked(look: Look, hollow: bool = False) -> dict[str, Any]:
    inside = "white" if hollow else look.colour
    return {
        "marker": look.marker,
        "markersize": 6.0,
        "markerfacecolor": inside,
        "markeredgecolor": look.colour,
    }


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=WORDS)


def _errors(found: Estimate, scale: float = 1.0) -> list[list[float]]:
    """Return how far an interval reaches from its mean; the mean of a skewed one may lie outside."""
    return [[max(0.0, found.mean - found.low) * scale], [max(0.0, found.high - found.mean) * scale]]


def _thousands(value: float, _place: int | None) -> str:
    return f"{value:,.10g}"


def frontier(figure: Figure, shown: Scene, budget: str, title: str) -> None:
    """Draw what each arm scores against what it may spend; a second panel where several answers are asked for."""
    measures = [("all_correct", "accuracy, % of episodes", 100.0)]
    if shown.summary.asked > 1:
        measures.append(("score", "score", 1.0))
    panels: list[Axes] = list(figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0])
    for axes, (measure, called, scale) in zip(panels, measures, strict=True):
        axes.grid(True)
        axes.set_title(called)
        tops, ends = [0.01], [0.0]
        for line in lines(shown.summary):
            _curve(axes, shown, line, budget, measure, scale)
            points = line.curve(budget)
            tops += [getattr(point, measure).high for point in points]
            ends += [float(point.budget) for point in points]
            tops.append(_point(axes, shown.looks[line.arm.name], line, budget, measure, scale))
            spent = line.measure(budget)
            ends.append(spent.high if spent else 0.0)
        _sweeps(axes, shown, budget, measure, scale)
        axes.set_ylim(0, min(1.04, max(tops) * 1.08) * scale)
        axes.set_xlim(0, max(ends) * 1.03 or 1.0)
    panels[-1].set_xlabel(title)
    panels[-1].xaxis.set_major_formatter(FuncFormatter(_thousands))
    _legend(figure, shown, "line", pooled=True)


def _curve(axes: Axes, shown: Scene, line: Line, budget: str, measure: str, scale: float) -> None:
    look, points = shown.looks[line.arm.name], line.curve(budget)
    found: list[Estimate] = [getattr(point, measure) for point in points]
    budgets = [point.budget for point in points]
    few = len(shown.summary.arms) <= MOST_BANDS
    pen: dict[str, Any] = {"color": look.colour, "linestyle": look.dash, "linewidth": 1.7 if few else 0.9}
    if line.pooled:
        pen["linewidth"] *= 0.5
    axes.plot(budgets, [one.mean * scale for one in found], **pen)
    if few and not line.pooled:
        low, high = [one.low * scale for one in found], [one.high * scale for one in found]
        axes.fill_between(budgets, low, high, color=look.colour, alpha=0.13, linewidth=0)


def _point(axes: Axes, look: Look, line: Line, budget: str, measure: str, scale: float) -> float:
    """Draw an arm's own mean with error bars both ways; return how high it reaches."""
    spent, found = line.measure(budget), line.measure(measure)
    if spent is None or found is None:
        return 0.0
    axes.errorbar(
        [spent.mean],
        [found.mean * scale],
        xerr=_errors(spent),
        yerr=_errors(found, scale),
        color=look.colour,
        linestyle="none",
        elinewidth=1.0,
        zorder=3,
        **_marked(look, line.pooled),
    )
    return found.high


def _sweeps(axes: Axes, shown: Scene, budget: str, measure: str, scale: float) -> None:
    """Join the means of arms that are one sweep, such as `asyncthink max_worker_tokens=64` and `...=128`."""
    found: dict[str, list[tuple[float, float]]] = {}
    for arm in shown.summary.arms:
        base, _, rest = arm.name.partition(" ")
        if "=" in rest and budget in arm.measures and measure in arm.measures:
            means = arm.measures[budget].mean, arm.measures[measure].mean * scale
            found.setdefault(base, []).append(means)
    for points in found.values():
        across, up = zip(*sorted(points), strict=True)
        axes.plot(across, up, color=WORDS, linestyle=(0, (4, 3)), linewidth=0.9, zorder=2)


def at_least(figure: Figure, shown: Scene) -> None:
    """Draw how often at least k answers are right."""
    axes = figure.subplots()
    counts = range(1, shown.summary.asked + 1)
    rows = lines(shown.summary)
    wide = 0.8 / len(rows)
    for n, line in enumerate(rows):
        for k in counts:
            if (found := line.measure(f"at_least_{k}")) is not None:
                x = k + (n - (len(rows) - 1) / 2) * wide
                _bar(axes, x, wide, found, 100.0, shown.looks[line.arm.name], line.pooled)
    axes.grid(True, axis="y")
    axes.set_title("episodes with at least k right answers, %")
    axes.set_xticks(
        list(counts), [f"all {k}" if k == shown.summary.asked else f"at least {k}" for k in counts]
    )
    axes.set_xlim(0.5, shown.summary.asked + 0.5)
    axes.set_ylim(0, 104)
    _legend(figure, shown, "bar", pooled=True)


def _bar(
    axes: Axes, x: float, wide: float, found: Estimate, scale: float, look: Look, hollow: bool = False
) -> None:
    axes.bar([x], [found.mean * scale], width=wide * 0.92, **_filled(look, hollow))
    axes.errorbar(
        [x],
        [found.mean * scale],
        yerr=_errors(found, scale),
        color="#222222",
        elinewidth=0.9,
        linestyle="none",
    )


_SPENT = {"critical_path": "T", "wall_seconds": "wall time", "decoded_tokens": "total tokens"}


def spending(figure: Figure, shown: Scene) -> None:
    """Draw latency, wall time and tokens side by side, each over what the first arm has."""
    axes, arms = figure.subplots(), shown.summary.arms
    wide = 0.8 / len(arms)
    for place, measure in enumerate(_SPENT):
        first = arms[0].measures.get(measure)
        for n, arm in enumerate(arms):
            found = arm.measures.get(measure)
            if found is not None and first is not None and first.mean > 0:
                x = place + (n - (len(arms) - 1) / 2) * wide
                _bar(axes, x, wide, found, 1 / first.mean, shown.looks[arm.name])
    if not axes.patches:
        _say(axes, "the first method spends nothing")
    axes.axhline(1.0, color=WORDS, linewidth=0.9, linestyle="--")
    axes.grid(True, axis="y")
    axes.set_title(f"times that of {shown.names[arms[0].name]}")
    axes.set_xticks(range(len(_SPENT)), list(_SPENT.values()))
    axes.set_xlim(-0.5, len(_SPENT) - 0.5)
    axes.set_ylim(bottom=0)
    _legend(figure, shown, "bar")


def organisation(figure: Figure, shown: Scene) -> None:
    """Draw the distributions of forks and of eta/c, a row an arm."""
    top, bottom = figure.subplots(2, 1)
    arms = shown.summary.arms
    for row, arm in enumerate(arms):
        look = shown.looks[arm.name]
        counts = {int(n): count for n, count in arm.forks.items()}
        sizes = [260 * count / arm.episodes for count in counts.values()]
        top.scatter(list(counts), [row] * len(counts), s=sizes, color=look.colour, linewidths=0)
        _box(bottom, row, [100 * value for value in arm.concurrency], look)
        alone = 100 / arm.capacity
        bottom.plot([alone, alone], [row - 0.38, row + 0.38], color=WORDS, linestyle=":", linewidth=1.2)
    for axes, title in ((top, "workers forked in an episode"), (bottom, "eta/c of valid episodes, %")):
        axes.set_title(title)
        axes.grid(True, axis="x")
        axes.set_yticks(range(len(arms)), [shown.names[arm.name] for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
    most = max(int(n) for arm in arms for n in arm.forks)
    top.set_xlim(-0.6, max(1, most) + 0.6)
    top.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.set_xlim(0, 102)


def _box(axes: Axes, row: int, values: Sequence[float], look: Look) -> None:
    """Draw where most of the values lie."""
    if not values:
        axes.text(50, row, "no valid episode", ha="center", va="center", color=WORDS, fontsize=8)
        return
    least, low, middle, high, most = (float(one) for one in np.quantile(values, (0.1, 0.25, 0.5, 0.75, 0.9)))
    axes.plot([least, most], [row, row], color=look.colour, linewidth=1.3, solid_capstyle="butt")
    axes.add_patch(Rectangle((low - 0.3, row - 0.22), high - low + 0.6, 0.44, color=look.colour, linewidth=0))
    if high - low > 2:
        axes.plot(
            [middle, middle], [row - 0.22, row + 0.22], color="white", linewidth=3, solid_capstyle="butt"
        )


def joining(summary: Summary) -> list[Arm]:
    """Return the arms whose joins somebody chose: parallel thinking merely ends."""
    return [arm for arm in summary.arms if arm.joins and arm.method != "parallel"]


def joins(figure: Figure, shown: Scene) -> None:
    """Draw what joins cost, by their place in an episode."""
    arms = joining(shown.summary)
    above, below = figure.subplots(2, 1, sharex=True)
    for arm in arms:
        look, found = shown.looks[arm.name], arm.joins[:MOST_JOINS]
        places = [join.join for join in found]
        often = [4 * join.episodes >= arm.episodes for join in found]
        for axes, up in (
            (above, [join.waited for join in found]),
            (below, [100 * join.share for join in found]),
        ):
            axes.plot(places, up, color=look.colour, linestyle=look.dash, linewidth=1.2)
            for hollow in (False, True):
                chosen = [n for n, common in enumerate(often) if common is not hollow]
                where = [places[n] for n in chosen], [up[n] for n in chosen]
                axes.plot(*where, color=look.colour, linestyle="none", **_marked(look, hollow))
    for axes, title in (
        (above, "ticks waited at the k-th join, mean"),
        (below, "share of the method's waiting, %"),
    ):
        axes.set_title(title)
        axes.grid(True)
        axes.set_ylim(bottom=0)
    below.set_xlim(0.5, max(len(arm.joins[:MOST_JOINS]) for arm in arms) + 0.5)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlabel("k, in the order of an episode")
    _legend(figure, shown, "line", arms=arms)


def format_errors(figure: Figure, shown: Scene) -> None:
    """Draw format errors by kind, the paper's above ours."""
    axes, arms = figure.subplots(), shown.summary.arms
    paper = [error.value for error in PAPER_ERRORS]
    ours = [error.value for error in FormatError if error not in PAPER_ERRORS]
    tall = 0.76 / len(arms)
    for row, kind in enumerate([*paper, *ours]):
        for n, arm in enumerate(arms):
            y = row + (n - (len(arms) - 1) / 2) * tall
            rate = 100 * arm.format_errors.get(kind, 0) / arm.episodes
            axes.barh([y], [rate], height=tall * 0.92, **_filled(shown.looks[arm.name]))
    axes.axhline(len(paper) - 0.5, color=WORDS, linewidth=0.9)
    axes.set_yticks(range(len(paper) + len(ours)), [*paper, *ours])
    axes.set_ylim(len(paper) + len(ours) - 0.5, -0.5)
    axes.grid(True, axis="x")
    axes.set_title("format errors in 100 episodes")
    _legend(figure, shown, "bar")
