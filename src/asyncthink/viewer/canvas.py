"""A timeline as lines of text: one row an agent, box-drawing characters, heavy for the critical path.

organizer  ━━━━━┳━━━━┯━━━━━······┳━━━━━━━━┯━━━━━
worker 1        ┗━━━━━━━━━━━━━━━━┛        │
worker 2             └───────────────┈┈┈┈┈┘
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import count, groupby

from rich.text import Text

from asyncthink.viewer.timeline import Activity, Arrow, Timeline

LEFT, RIGHT, UP, DOWN = 1, 2, 4, 8
_BOX = {
    LEFT | RIGHT: "─━─━",
    LEFT: "─━─━",
    RIGHT: "─━─━",
    UP | DOWN: "││┃┃",
    UP: "││┃┃",
    DOWN: "││┃┃",
    DOWN | RIGHT: "┌┍┎┏",
    DOWN | LEFT: "┐┑┒┓",
    UP | RIGHT: "└┕┖┗",
    UP | LEFT: "┘┙┚┛",
    UP | DOWN | RIGHT: "├┝┠┣",
    UP | DOWN | LEFT: "┤┥┨┫",
    DOWN | LEFT | RIGHT: "┬┯┰┳",
    UP | LEFT | RIGHT: "┴┷┸┻",
    UP | DOWN | LEFT | RIGHT: "┼┿╂╋",
}
"""Sides that a line leaves by -> light, heavy across, heavy upright, heavy both."""
_FILLS = {Activity.WAITING: "·.", Activity.QUEUED: "::", Activity.READY: "┈_", Activity.WASTED: "×x"}
"""Activity -> the character, and the one for terminals with ASCII only."""
CRITICAL, DECODING, QUIET, WASTED = "bold magenta", "cyan", "bright_black", "red"
_LABEL_WIDTH = 14


@dataclass(slots=True)
class _Cell:
    sides: int = 0
    across: bool = False
    """The critical path runs along the row."""
    upright: bool = False
    """The critical path runs between rows."""
    fill: Activity | None = None

    def glyph(self, ascii_only: bool) -> tuple[str, str]:
        """Return the character and its style."""
        if not self.sides:
            style = WASTED if self.fill is Activity.WASTED else QUIET
            return (_FILLS[self.fill][ascii_only], style) if self.fill else (" ", "")
        heavy = self.across or self.upright
        linked = bool(self.sides & (LEFT | RIGHT))
        style = CRITICAL if heavy else DECODING if linked else QUIET
        if ascii_only:
            corner = linked and self.sides & (UP | DOWN)
            return "+" if corner else "|" if not linked else "=" if heavy else "-", style
        return _BOX[self.sides][self.across + 2 * self.upright], style


def draw(
    view: Timeline,
    names: dict[str, str],
    width: int,
    *,
    length: int | None = None,
    shown: Collection[str] | None = None,
    ascii_only: bool = False,
) -> list[Text]:
    """Return an axis and a row for each lane, `width` cells wide at most.

    Args:
        view: what to draw.
        names: path -> a short clean name.
        width: cells.
        length: ticks that the width stands for; None: the timeline's.
        shown: paths of the lanes to draw; None: all.
        ascii_only: no box-drawing characters.
    """
    paths = [lane.path for lane in view.lanes if shown is None or lane.path in shown]
    labels = min(_LABEL_WIDTH, max((len(names[path]) for path in paths), default=0))
    grid = _Grid(paths, max(10, width - labels - 2), max(1, length or view.length))
    grid.paint(view)
    lines = [Text("tick".ljust(labels + 2) + grid.axis(), QUIET, no_wrap=True, overflow="crop")]
    for path in paths:
        line = Text(names[path][:labels].ljust(labels + 2), no_wrap=True, overflow="crop")
        glyphs = (cell.glyph(ascii_only) for cell in grid.rows[path])
        for style, run in groupby(glyphs, key=lambda glyph: glyph[1]):
            line.append("".join(character for character, _ in run), style)
        line.rstrip()
        lines.append(line)
    return lines


def legend(view: Timeline, *, ascii_only: bool = False) -> Text:
    """Return what the lines mean: of the marks, those that occur."""
    used = {span.activity for lane in view.lanes for span in lane.spans}
    line = Text(no_wrap=True, overflow="crop")
    line.append("= " if ascii_only else "━ ", CRITICAL).append("critical path")
    if len(view.lanes) > 1:
        line.append("  - " if ascii_only else "  ─ ", DECODING).append("decoding")
    words = {
        Activity.WAITING: "waiting",
        Activity.READY: "result ready",
        Activity.QUEUED: "queued",
        Activity.WASTED: "never joined",
    }
    for activity, meaning in words.items():
        if activity in used:
            mark = _FILLS[activity][ascii_only]
            line.append(f"  {mark} ", WASTED if activity is Activity.WASTED else QUIET).append(meaning)
    return line


class _Grid:
    """Cells by lane and column; tick 0 is the first column, the last tick the last."""

    def __init__(self, paths: list[str], columns: int, length: int) -> None:
        self.columns, self.length = columns, length
        self.rows = {path: [_Cell() for _ in range(columns)] for path in paths}
        self.order = {path: number for number, path in enumerate(paths)}

    def column(self, tick: int) -> int:
        return min(self.columns - 1, (2 * tick * (self.columns - 1) + self.length) // (2 * self.length))

    def axis(self) -> str:
        """Return round ticks, each number beginning at its column."""
        steps = (factor * 10**power for power in count() for factor in (1, 2, 5))
        step = next(step for step in steps if step * (self.columns - 1) >= 9 * self.length)
        line = ""
        for tick in range(0, self.length + 1, step):
            if self.column(tick) + len(str(tick)) <= self.columns:
                line = line.ljust(self.column(tick)) + str(tick)
        return line

    def paint(self, view: Timeline) -> None:
        for lane in view.lanes:
            for span in lane.spans if lane.path in self.rows else ():
                self._span(lane.path, span.activity, self.column(span.start), self.column(span.end))
        for piece in view.critical:
            for cell in self._cells(piece.path, piece.start, piece.end):
                cell.across = True
                cell.sides = cell.sides or LEFT | RIGHT
        turns = {(a.path, b.path, b.start) for a, b in zip(view.critical, view.critical[1:], strict=False)}
        for arrows, side in ((view.forks, RIGHT), (view.joins, LEFT)):
            for arrow in arrows:
                self._arrow(arrow, side, (arrow.source, arrow.target, arrow.tick) in turns)

    def _cells(self, path: str, start: int, end: int) -> list[_Cell]:
        return self.rows.get(path, [])[self.column(start) : self.column(end) + 1]

    def _span(self, path: str, activity: Activity, first: int, last: int) -> None:
        for x in range(first, last + 1):
            cell = self.rows[path][x]
            if activity is Activity.DECODING:
                cell.sides |= (LEFT if x > first or first == last else 0) | (RIGHT if x < last else 0)
            elif cell.fill is None or activity is Activity.WASTED:
                cell.fill = activity

    def _arrow(self, arrow: Arrow, side: int, critical: bool) -> None:
        """Link two rows: a fork leaves the worker's corner to the right, a join to the left."""
        upper, lower = (arrow.source, arrow.target) if side == RIGHT else (arrow.target, arrow.source)
        if upper not in self.rows or lower not in self.rows:
            return
        x = self.column(arrow.tick)
        for path, sides in ((upper, DOWN), (lower, UP | side)):
            cell = self.rows[path][x]
            cell.sides |= sides
            cell.upright |= critical
        for path, number in self.order.items():
            if self.order[upper] < number < self.order[lower]:
                cell = self.rows[path][x]
                if cell.sides in (0, UP | DOWN) and (cell.fill is None or critical):
                    cell.sides = UP | DOWN
                    cell.upright |= critical
