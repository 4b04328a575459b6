"""A timeline as one SVG element, for a report or a paper: lanes over time, one strong line through them.

The strong line is the critical path; everything else is quiet. The element stands alone: no script, style
sheet, id or link. Text and axis take the colour of the page's text, so that it fits a light page and a dark
one. What models and users wrote is made harmless, then escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise

from rich.cells import cell_len

from asyncthink.viewer.marks import (
    CRITICAL,
    MEANINGS,
    PALETTE,
    Markup,
    amount,
    describe,
    element,
    mark,
    route,
    short,
    tag,
)
from asyncthink.viewer.names import agent_name
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.timeline import Activity, Arrow, Base, Lane, Piece, Span, Timeline

MOST_LANES, FIRST_LANES, CRITICAL_LANES = 40, 38, 200
"""Past so many lanes only so many are shown, and so many of the critical path; the rest of it is drawn below them."""
MOST_MARKS = 800
"""Stretches, pieces of the critical path and rings that are elements of their own: the longest. The others are drawn
together, one in a pixel, so that no drawing grows without bounds."""
_MORE = 20.0
"""Pixels for the line that says how many lanes are left out."""
_LABEL_CELLS, _HOVER_CELLS, _PATH_CELLS = 16, 120, 64
_TALLEST, _LOWEST, _HEIGHT = 28.0, 4.0, 560.0
"""Pixels: a lane at most, a lane at least, all lanes together."""


def draw(
    line: Timeline,
    *,
    title: str = "",
    width: int = 960,
    names: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    buttons: bool = False,
) -> str:
    """Return the timeline as one SVG element.

    Args:
        line: what to draw.
        title: shown above it; empty: none.
        width: pixels at full size, 320 at least; on a narrower page it shrinks.
        names: path -> what its lane is called; where there is none, `organizer`, `worker 2`, `worker 2/1`.
        labels: path -> text that is shown when the pointer rests on the lane: its sub-query.
        buttons: whether forks, joins and bars name their agent in `data-path`, for a script to find.
    """
    named = {lane.path: agent_name(lane.path, "asyncthink") for lane in line.lanes} | dict(names or {})
    frame = _frame(line, named, max(320, width), title)
    body = (
        *_texts(line, frame, title),
        *_grid(line, frame),
        *_lanes(frame),
        *_arrows(line, frame),
        *_spans(line, frame, labels or {}, buttons),
        *_critical(line, frame),
        *_end(line, frame),
        *(_buttons(line, frame) if buttons else ()),
    )
    return str(element(frame.width, frame.height, body))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """Where things are, in pixels."""

    width: float
    height: float
    left: float
    """Of tick 0."""
    right: float
    """Of the last tick."""
    top: float
    """Of the first lane."""
    lane: float
    """Height of a lane."""
    length: int
    """Ticks from left to right, 1 at least."""
    rows: dict[str, int]
    """Path -> its place among the lanes shown."""
    names: dict[str, str]
    """Path -> its name, clean."""
    hidden: int
    """Lanes that are not shown."""

    @property
    def bottom(self) -> float:
        """Of the last lane."""
        return self.top + self.lane * len(self.rows)

    @property
    def base(self) -> float:
        """Of the axis."""
        return self.bottom + (_MORE if self.hidden else 0)

    @property
    def bar(self) -> float:
        """Height of a bar."""
        return round(self.lane * 0.56, 1)

    @property
    def stroke(self) -> float:
        """Width of the critical path."""
        return min(3.5, self.width / 170, max(1.5, self.bar * 0.25))

    def x(self, tick: int) -> float:
        return self.left + (self.right - self.left) * tick / self.length

    def y(self, path: str) -> float:
        """Return the middle of a lane; of one that is not shown, that of the line below all lanes."""
        row = self.rows.get(path)
        return self.bottom + _MORE / 2 if row is None else self.top + self.lane * (row + 0.5)


def _frame(line: Timeline, names: Mapping[str, str], width: int, title: str) -> _Frame:
    paths = [lane.path for lane in line.lanes]
    if len(paths) > MOST_LANES:
        critical = dict.fromkeys(piece.path for piece in line.critical)
        kept = {*paths[:FIRST_LANES], *list(critical)[:CRITICAL_LANES]}
        paths = [path for path in paths if path in kept]
    clean = {lane.path: head(names[lane.path], _LABEL_CELLS) for lane in line.lanes}
    lane = max(_LOWEST, min(_TALLEST, _HEIGHT / max(1, len(paths))))
    top = 30.0 + (26 if title else 0)
    hidden = len(line.lanes) - len(paths)
    longest = max((cell_len(clean[path]) for path in paths), default=0)
    return _Frame(
        width=width,
        height=round(top + lane * len(paths) + (_MORE if hidden else 0) + 32, 1),
        left=round(22 + 7.0 * longest, 1),
        right=width - 22.0,
        top=top,
        lane=lane,
        length=max(1, line.length),
        rows={path: row for row, path in enumerate(paths)},
        names=clean,
        hidden=hidden,
    )


def _texts(line: Timeline, frame: _Frame, title: str) -> Iterator[Markup]:
    """Tell the picture in words, and show the title."""
    yield tag(
        "title", head(title, _HOVER_CELLS) or f"Timeline of an episode of {amount(line.total, line.base)}"
    )
    yield tag("desc", describe(line, frame.names))
    if title:
        shown = head(title, int((frame.width - 24) / 9))
        yield tag("text", shown, x=12, y=24, font_size=15, font_weight="bold", fill="currentColor")


def _grid(line: Timeline, frame: _Frame) -> Iterator[Markup]:
    """Draw round ticks below the lanes, and a faint line up from each."""
    shown = min(10, int((frame.right - frame.left) / 55))
    step = next(
        f * 10**power for power in count() for f in (1, 2, 5) if f * 10**power * shown >= frame.length
    )
    marks = range(0, line.length + 1, step)
    upright = "".join(route("M", frame.x(tick), frame.top, "V", frame.base) for tick in marks)
    yield tag("path", d=upright, stroke="currentColor", stroke_opacity=0.13, fill="none")
    axis = "".join(route("M", frame.x(tick), frame.base, "v", 4) for tick in marks)
    axis += route("M", frame.left, frame.base, "H", frame.right)
    yield tag("path", d=axis, stroke="currentColor", stroke_opacity=0.6, fill="none")
    numbers = [tag("text", short(tick, line.base), x=frame.x(tick), y=frame.base + 17) for tick in marks]
    name = "ticks" if line.base is Base.TICKS else "time"
    unit = tag("text", name, x=frame.left - 18, y=frame.base + 17, text_anchor="end")
    yield tag("g", *numbers, unit, font_size=11, fill="currentColor", fill_opacity=0.75, text_anchor="middle")


def _lanes(frame: _Frame) -> Iterator[Markup]:
    """Name the lanes and shade every other one."""
    size = min(13.0, max(8.0, frame.lane - 2))
    every = next(n for n in count(1) if n * frame.lane >= size + 1)
    wide = frame.right - frame.left
    bands = "".join(
        route("M", frame.left, frame.top + row * frame.lane, "h", wide, "v", frame.lane, "h", -wide, "z")
        for row in range(0, len(frame.rows), 2)
    )
    yield tag("path", d=bands, fill="currentColor", fill_opacity=0.04)
    named = [
        tag("text", frame.names[path], x=frame.left - 10, y=frame.y(path) + size * 0.35)
        for path, row in frame.rows.items()
        if row % every == 0
    ]
    yield tag("g", *named, font_size=size, fill="currentColor", text_anchor="end")
    if frame.hidden:
        more = f"and {frame.hidden:,} more agent{'s' * (frame.hidden != 1)}"
        where = {"x": frame.left, "y": frame.bottom + 14}
        yield tag("text", more, **where, font_size=12, fill="currentColor", fill_opacity=0.75)


def _arrows(line: Timeline, frame: _Frame) -> Iterator[Markup]:
    """Draw forks down and joins up, thin; not those that the critical path runs along."""
    strong = {(a.path, b.path, b.start) for a, b in pairwise(_whole(line))}
    drawn = "".join(
        _arrow(arrow, frame)
        for arrow in (*line.forks, *line.joins)
        if arrow.source in frame.rows and arrow.target in frame.rows
        if (arrow.source, arrow.target, arrow.tick) not in strong
    )
    if drawn:
        pen = {"stroke": "currentColor", "stroke_opacity": 0.5, "stroke_width": min(1.0, frame.lane / 20)}
        yield tag("path", d=drawn, **pen, fill="none")


def _arrow(arrow: Arrow, frame: _Frame) -> str:
    """Return the line and its open head, from one bar's edge to the other's."""
    x, start, end = frame.x(arrow.tick), frame.y(arrow.source), frame.y(arrow.target)
    down = 1 if end > start else -1
    start, end = start + down * frame.bar / 2, end - down * frame.bar / 2
    size = min(3.5, frame.lane * 0.16)
    back = end - down * size * 1.3
    return route("M", x, start, "V", end, "M", x - size, back, "L", x, end, "L", x + size, back)


def _spans(line: Timeline, frame: _Frame, labels: Mapping[str, str], buttons: bool) -> Iterator[Markup]:
    for_whom = {(join.target, join.tick): join for join in line.joins if join.waited}
    lanes = [lane for lane in line.lanes if lane.path in frame.rows]
    least = _least(span.end - span.start for lane in lanes for span in lane.spans)
    yield from _pooled_spans(lanes, frame, least)
    for lane in lanes:
        name = frame.names[lane.path]
        label = labels.get(lane.path, "")
        asked = f": {head(label, _HOVER_CELLS)}" if label else ""
        for span in lane.spans:
            if span.end - span.start < least:
                continue
            join = for_whom.get((lane.path, span.end)) if span.activity is Activity.WAITING else None
            doing = f"waiting for {frame.names[join.source]}" if join else MEANINGS[span.activity]
            title = tag("title", f"{name}, {doing}, {_when(span, line.base)}{asked}")
            x, wide = frame.x(span.start), max(0.75, frame.x(span.end) - frame.x(span.start))
            shape = mark(span.activity, x, frame.y(lane.path), wide, frame.bar)
            note = _waited(span, line.base, x, wide, frame.y(lane.path), frame.bar) if join else ""
            what: dict[str, str | int] = {
                "data_activity": span.activity,
                "data_start": span.start,
                "data_end": span.end,
            }
            if buttons:
                what["data_path"] = head(lane.path, _PATH_CELLS)
            yield tag("g", title, shape, note, **what)


def _pooled_spans(lanes: Sequence[Lane], frame: _Frame, least: int) -> Iterator[Markup]:
    """Draw what is shorter than `least` as one shape for each activity."""
    drawn: dict[Activity, dict[str, None]] = {}
    for lane in lanes:
        for span in lane.spans:
            if span.end - span.start < least:
                wide = max(1, round(frame.x(span.end) - frame.x(span.start)))
                way = route("M", round(frame.x(span.start)), frame.y(lane.path), "h", wide)
                drawn.setdefault(span.activity, {})[way] = None
    for activity, ways in drawn.items():
        pen = {"stroke": PALETTE[activity], "stroke_width": frame.bar, "stroke_opacity": 0.5}
        yield tag("path", d="".join(ways), fill="none", **pen, pointer_events="none")


def _least(lengths: Iterable[int]) -> int:
    """Return how long a stretch must be to be one of the `MOST_MARKS` longest; of equals none or all."""
    ordered = sorted(lengths, reverse=True)
    return ordered[MOST_MARKS] + 1 if len(ordered) > MOST_MARKS else 0


def _when(span: Span, base: Base) -> str:
    if base is Base.TICKS:
        return f"ticks {span.start + 1:,}-{span.end:,}"
    return f"{short(span.start, base)} to {short(span.end, base)}"


def _waited(span: Span, base: Base, x: float, wide: float, y: float, bar: float) -> str:
    """Return how long a join made its organizer wait, where there is room."""
    size = min(11.0, bar - 3)
    waited = short(span.end - span.start, base)
    for text in (f"waits {waited}", waited):
        if size >= 8 and len(text) * size * 0.58 + 4 <= wide:
            where = {"x": x + wide / 2, "y": y + size * 0.35, "font_size": size}
            return tag("text", text, **where, text_anchor="middle", fill="currentColor")
    return ""


def _critical(line: Timeline, frame: _Frame) -> Iterator[Markup]:
    """Draw the critical path: along the lanes, and upright where it changes from one to another."""
    strokes: list[Markup] = []
    pooled: dict[str, None] = {}
    heads: dict[str, None] = {}
    least = _least(piece.end - piece.start for piece in line.critical)
    for before, piece in pairwise(_whole(line)):
        x, start, y = frame.x(piece.start), frame.y(before.path), frame.y(piece.path)
        end = frame.x(piece.end)
        if alone := piece.end - piece.start >= least:
            what = {
                "data_path": head(piece.path, _PATH_CELLS),
                "data_start": piece.start,
                "data_end": piece.end,
            }
        else:
            x, end, what = round(x), round(end), {}
        upright = route("V", y) if start != y else ""
        if upright:
            heads[_head(x, start, y, frame)] = None
        if upright or piece.start < piece.end:
            way = route("M", x, start) + upright + route("H", end)
            if alone:
                strokes.append(tag("path", d=way, **what))
            else:
                pooled[way] = None
    if pooled:
        strokes.append(tag("path", d="".join(pooled)))
    if strokes:
        pen = {"stroke": PALETTE[CRITICAL], "stroke_width": frame.stroke, "fill": "none"}
        round_ends = {"stroke_linecap": "round", "stroke_linejoin": "round"}
        yield tag("g", *strokes, **pen, **round_ends, pointer_events="none", data_activity=CRITICAL)
    if heads:
        yield tag("path", d="".join(heads), fill=PALETTE[CRITICAL], pointer_events="none")


def _whole(line: Timeline) -> tuple[Piece, ...]:
    """Return the critical path between two empty pieces of the root: it may begin or end below it."""
    if not line.critical:
        return ()
    root, end = line.lanes[0].path, line.total
    return (
        Piece(path=root, start=0, end=0),
        *line.critical,
        Piece(path=root, start=end, end=end),
    )


def _head(x: float, start: float, end: float, frame: _Frame) -> str:
    """Return a filled head that touches the bar at the end of an upright line."""
    size, down = frame.stroke * 1.35, 1 if end > start else -1
    tip = end - down * frame.bar / 2
    back = tip - down * min(2 * size, frame.lane - frame.bar)
    return route("M", x, tip, "L", x - size, back, "H", x + size, "z")


def _buttons(line: Timeline, frame: _Frame) -> Iterator[Markup]:
    """Draw a ring where a fork leaves its organizer, and one where a result comes back."""
    size = max(3.0, min(6.0, frame.lane * 0.22))
    arrows = [("fork", arrow, arrow.target, arrow.source) for arrow in line.forks]
    arrows += [("join", arrow, arrow.source, arrow.target) for arrow in line.joins]
    shown = (each for each in arrows if each[2] in frame.rows and each[3] in frame.rows)
    for what, arrow, worker, organizer in islice(shown, MOST_MARKS):
        waited = f" after {amount(arrow.waited, line.base)}" if arrow.waited else ""
        told = f"{frame.names[organizer]} {what}s {frame.names[worker]}{waited}, at {amount(arrow.tick, line.base)}"
        where = {"cx": frame.x(arrow.tick), "cy": frame.y(organizer), "r": size}
        ring = {"fill": "Canvas", "stroke": "currentColor", "data_path": head(worker, _PATH_CELLS)}
        labelled = {"class": what, "role": "button", "tabindex": "0", "aria_label": told}
        yield tag("circle", tag("title", told), **where, **ring, **labelled)


def _end(line: Timeline, frame: _Frame) -> Iterator[Markup]:
    """Mark T."""
    x = frame.x(line.total)
    upright = route("M", x, frame.top - 6, "V", frame.base)
    yield tag("path", d=upright, stroke=PALETTE[CRITICAL], stroke_dasharray="2 3", fill="none")
    if line.critical:
        where = {"cx": x, "cy": frame.y(line.lanes[0].path), "r": frame.stroke}
        yield tag("circle", **where, fill=PALETTE[CRITICAL])
    text = f"T = {amount(line.total, line.base)}"
    room = len(text) * 4
    anchor = "start" if x - room < frame.left else "end" if x + room > frame.width - 8 else "middle"
    at = {"start": frame.left, "end": frame.width - 8, "middle": x}[anchor]
    bold = {"font_size": 13, "font_weight": "bold", "fill": "currentColor"}
    yield tag("text", text, x=at, y=frame.top - 11, text_anchor=anchor, **bold)


def legend(*, width: int = 960) -> str:
    """Return what the marks mean, as one SVG element."""
    column, left = 156.0, 12.0
    columns = max(1, int((width - left) / column))
    parts = [tag("title", "Legend"), tag("desc", ", ".join(MEANINGS.values()))]
    for place, (what, meaning) in enumerate(MEANINGS.items()):
        x, y = left + place % columns * column, 14.0 + place // columns * 24
        if what == CRITICAL:
            pen = {"stroke": PALETTE[what], "stroke_width": 3.5, "stroke_linecap": "round"}
            parts.append(tag("path", d=route("M", x + 2, y, "h", 24), **pen))
        else:
            parts.append(mark(what, x, y, 28, 14))
        parts.append(tag("text", meaning, x=x + 36, y=y + 4.5, font_size=13, fill="currentColor"))
    return element(width, 28.0 + (len(MEANINGS) - 1) // columns * 24, parts)
