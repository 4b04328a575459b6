"""A chart as one SVG element: curves with a moving mean over faint raw points, readable on a light and a dark page.

Text and grid have the page's own colour. No part needs an id, so that many charts fit on one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, product
from math import ceil, floor, log10

from rich.cells import cell_len

from asyncthink.training.report.curves import Curve, Point
from asyncthink.training.report.runs import drawable
from asyncthink.viewer.marks import Markup, element, route, tag

COLOURS = ("#c04500", "#0072b2", "#009e73", "#aa4499", "#b87a00", "#4a9bd1", "#8c8c8c", "#a0674a")
"""Told apart by every kind of sight; 3:1 or more to a white and to a nearly black page."""
DASHES = ("", "7 3", "2 3")
"""What tells curves of one colour apart."""
WIDTH, HEIGHT = 480.0, 262.0
"""Pixels, without the legend."""
TOP, BASE, RIGHT = 34.0, 226.0, 464.0
"""Edges of the field."""
ROW, LINE = 18.0, 26.0
"""Pixels of a legend's row, and of the line in it."""
LETTER = 6.6
"""Width of a letter of 11 pixels, on the safe side."""
ROOM = 0.05
"""Share of the height that stays free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A curve with what a legend calls it."""

    name: str
    """Clean."""
    curve: Curve


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Values along one side, and where they are."""

    low: float
    high: float
    begin: float
    """Pixels of `low`."""
    end: float
    ticks: Sequence[tuple[float, str]]
    """Value and text."""
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, here = (log10(each) if self.log else each for each in (self.low, self.high, value))
        return self.begin + (self.end - self.begin) * (here - low) / (high - low)


def axis(
    values: Iterable[float], begin: float, end: float, most: int, *, room: float = 0.0, whole: bool = False
) -> Axis:
    """Return an axis from 0, or from the least value below it, to the largest one.

    Args:
        values: all that is to have a place.
        begin: pixels.
        end: pixels.
        most: ticks, about.
        room: share of the length that stays free beyond the values.
        whole: ticks stand at whole numbers only.
    """
    found = [0.0, *values]
    low, high = min(found), max(found)
    if low == high:
        high = 1.0
    spare = (high - low) * room
    low, high = low - spare * (low < 0), high + spare * (high > 0)
    step = max(_step((high - low) / most), float(whole))
    ticks = [place * step for place in range(ceil(low / step), floor(high / step) + 1)]
    return Axis(
        low=low, high=high, begin=begin, end=end, ticks=[(tick, _spelled(tick, step)) for tick in ticks]
    )


def log_axis(values: Iterable[float], begin: float, end: float) -> Axis:
    """Return a logarithmic axis; values below or at 0 have no place on it."""
    found = [value for value in values if value > 0] or [1.0]
    least, most = min(found), max(found)
    powers = range(floor(log10(least)) - 1, ceil(log10(most)) + 2)
    factors = (1, 2, 5) if most / least < 300 else (1,)
    round_ones = [float(f"{factor}e{power}") for power, factor in product(powers, factors)]
    low = max(tick for tick in round_ones if tick <= least)
    high = min(tick for tick in round_ones if tick > least and tick >= most)
    ticks = [(tick, _spelled(tick, tick)) for tick in round_ones if low <= tick <= high]
    return Axis(low=low, high=high, begin=begin, end=end, ticks=ticks, log=True)


def _step(least: float) -> float:
    """Return the least of 1, 2, 5, 10, 20... and their fractions that is no smaller."""
    power = floor(log10(least))
    return next(
        step for p in count(power) for factor in (1, 2, 5) if (step := float(f"{factor}e{p}")) >= least
    )


def _spelled(value: float, step: float) -> str:
    """Return a tick's text, with as many decimals as its step needs."""
    if not value:
        return "0"
    if step < 1e-4 or abs(value) >= 1e7:
        return f"{value:.12g}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:,.{max(0, -floor(log10(step)))}f}"


def draw(title: str, told: str, across: str, curves: Sequence[Drawn], *, log: bool = False) -> Markup:
    """Return a chart; a legend below it names its curves if there are several.

    Args:
        title: what goes up, with its unit.
        told: the chart in words, for whoever cannot see it.
        across: what goes from left to right, with its unit.
        curves: the first first.
        log: the axis upwards is logarithmic.
    """
    points = [point for each in curves for point in (*each.curve.points, *each.curve.means)]
    ups = [up for _, up in points if drawable(up)]
    y = log_axis(ups, BASE, TOP) if log else axis(ups, BASE, TOP, 6, room=ROOM)
    left = 20 + LETTER * max((len(text) for _, text in y.ticks), default=1)
    overs = [over for over, _ in points]
    x = axis(overs, left, RIGHT, 6, whole=all(over == int(over) for over in overs))
    legend = list(_legend([each.name for each in curves], left)) if len(curves) > 1 else []
    rows = -(-len(curves) // _columns([each.name for each in curves], left)) if legend else 0
    body = (
        tag("title", title),
        tag("desc", told),
        tag("text", title, x=left, y=20, font_size=13, font_weight="bold", fill="currentColor"),
        *_grid(x, y, across),
        *(mark for place, each in enumerate(curves) for mark in _raw(each.curve.points, place, x, y)),
        *(mark for place, each in enumerate(curves) for mark in _mean(each, place, x, y)),
        *legend,
    )
    return Markup(element(WIDTH, HEIGHT + rows * ROW + (6 if rows else 0), body))


def _grid(x: Axis, y: Axis, across: str) -> Iterator[Markup]:
    """Draw faint lines at the ticks, their numbers, and the axis below."""
    lines = "".join(route("M", x.begin, y.at(tick), "H", x.end) for tick, _ in y.ticks)
    yield tag("path", d=lines, stroke="currentColor", stroke_opacity=0.15, fill="none")
    floor_at = y.at(max(y.low, 0.0)) if not y.log else y.begin
    base = route("M", x.begin, floor_at, "H", x.end)
    base += "".join(route("M", x.at(tick), y.begin, "v", 4) for tick, _ in x.ticks)
    yield tag("path", d=base, stroke="currentColor", stroke_opacity=0.6, fill="none")
    soft = {"font_size": 11, "fill": "currentColor", "fill_opacity": 0.75}
    upright = [tag("text", text, x=x.begin - 8, y=y.at(tick) + 4) for tick, text in y.ticks]
    yield tag("g", *upright, **soft, text_anchor="end")
    along = [tag("text", text, x=x.at(tick), y=y.begin + 17) for tick, text in x.ticks]
    named = tag("text", across, x=(x.begin + x.end) / 2, y=y.begin + 32)
    yield tag("g", *along, named, **soft, text_anchor="middle")


def _look(place: int) -> tuple[str, dict[str, str]]:
    """Return the colour of a curve and how it is dashed."""
    dash = DASHES[place // len(COLOURS) % len(DASHES)]
    return COLOURS[place % len(COLOURS)], {"stroke_dasharray": dash} if dash else {}


def _shown(points: Iterable[Point], y: Axis) -> list[Point | None]:
    """Return the points that have a place, and None for one that has none."""
    return [point if drawable(point[1]) and (point[1] > 0 or not y.log) else None for point in points]


def _raw(points: Sequence[Point], place: int, x: Axis, y: Axis) -> Iterator[Markup]:
    dots = "".join(
        route("M", x.at(point[0]), y.at(point[1]), "h", 0.0) for point in _shown(points, y) if point
    )
    pen = {"stroke": _look(place)[0], "stroke_width": 3, "stroke_linecap": "round"}
    if dots:
        yield tag("path", d=dots, **pen, stroke_opacity=0.45, fill="none", data_points=f"{place}")


def _mean(drawn: Drawn, place: int, x: Axis, y: Axis) -> Iterator[Markup]:
    """Draw the moving mean, broken where it has no value, and its end as a dot."""
    colour, dash = _look(place)
    shown = _shown(drawn.curve.means, y)
    way = "".join(
        route("L" if n and shown[n - 1] else "M", x.at(point[0]), y.at(point[1]))
        for n, point in enumerate(shown)
        if point
    )
    if way:
        pen = {"stroke": colour, "stroke_width": 2, "stroke_linejoin": "round", **dash}
        yield tag("path", tag("title", drawn.name), d=way, **pen, fill="none", data_means=f"{place}")
    if shown and (last := shown[-1]):
        yield tag("circle", cx=x.at(last[0]), cy=y.at(last[1]), r=3.2, fill=colour)


def _columns(names: Sequence[str], left: float) -> int:
    longest = max(map(cell_len, names))
    return max(1, int((RIGHT - left) / (LINE + 22 + LETTER * longest)))


def _legend(names: Sequence[str], left: float) -> Iterator[Markup]:
    """Name the curves below the chart, in rows."""
    columns = min(len(names), _columns(names, left))
    wide = (RIGHT - left) / columns if columns > 1 else 0.0
    wide = min(wide, LINE + 34 + LETTER * max(map(cell_len, names)))
    for place, name in enumerate(names):
        at, y = left + place % columns * wide, HEIGHT + 6 + place // columns * ROW
        colour, dash = _look(place)
        yield tag("path", d=route("M", at, y, "h", LINE), stroke=colour, stroke_width=2.5, **dash)
        yield tag("text", name, x=at + LINE + 6, y=y + 4, font_size=11, fill="currentColor")
