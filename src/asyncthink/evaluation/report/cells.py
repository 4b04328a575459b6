"""What a table is made of, and how it is written for a terminal, Markdown and HTML. Figures are rounded here.

Names of arms are somebody's text: control characters are made visible, and Markdown and HTML escape every cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import floor, log10

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from asyncthink.episodes.record import Value
from asyncthink.evaluation.statistics import Difference, Estimate
from asyncthink.viewer.marks import Markup, tag
from asyncthink.viewer.sanitize import clean, head, tail
from asyncthink.viewer.words import NOTHING

SAME = 1e-9
"""Ends of an interval that differ by no more are one: the rest is rounding."""
MOST_DECIMALS = 6


class Cell(Value, frozen=True, kw_only=True):
    """One cell."""

    text: str
    interval: str = ""
    """The 95 % interval, as in `[22.0, 30.5]`, perhaps with a p-value behind it; empty: there is none."""

    @property
    def whole(self) -> str:
        """Both, as in `26.2 [22.0, 30.5]`."""
        return f"{self.text} {self.interval}".rstrip()


class Table(Value, frozen=True, kw_only=True):
    """One table of a report."""

    name: str
    """Short, one word, not twice in a report: links lead to it."""
    title: str
    columns: tuple[str, ...]
    """What stands above each."""
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    """What the figures mean, one sentence."""
    texts: int = 1
    """So many columns, the first ones, are words; the others are figures."""


def table(
    name: str, title: str, columns: Sequence[tuple[str, Sequence[Cell | str]]], note: str, *, texts: int = 1
) -> Table:
    """Make a table of (title, cells) columns; plain text becomes a cell."""
    cells = ((Cell(text=one) if isinstance(one, str) else one for one in column) for _, column in columns)
    return Table(
        name=name,
        title=title,
        columns=tuple(heading for heading, _ in columns),
        rows=tuple(zip(*cells, strict=True)),
        note=note,
        texts=texts,
    )


def labels(names: Sequence[str], width: int) -> dict[str, str]:
    """Return what arms are called where there is little room: clean, cut in the middle, no two alike."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        label, number = _short(name, width), 1
        while label in taken:
            number += 1
            label = f"{_short(name, width - 5)} ({number})"
        found[name] = label
        taken.add(label)
    return found


def _short(name: str, width: int) -> str:
    """Cut in the middle: the arms of a sweep differ at their ends."""
    whole = clean(name)
    if cell_len(whole) <= width and len(name) < 1000:
        return whole or NOTHING
    return head(name, width // 2) + tail(name, width - width // 2).removeprefix("…")


def decimals(largest: float) -> int:
    """Return how many decimals a figure of this size gets, so that it has two or three digits that tell."""
    size = abs(largest)
    if size == 0 or size >= 100:
        return 0
    return 1 if size >= 10 else min(MOST_DECIMALS, 1 - min(-1, floor(log10(size))))


def counted(count: int, what: str) -> str:
    """Return `1 problem`, `2 problems`."""
    return f"{count:,} {what}" + "s" * (count != 1)


def figure(value: float, places: int, sign: str = "") -> str:
    """Return a number; nothing is written as -0."""
    rounded = round(value, places)
    return f"{rounded:{sign},.{places}f}" if rounded else f"{0:.{places}f}"


def estimates(
    found: Iterable[Estimate | None], *, percent: bool = False, places: int | None = None
) -> list[Cell]:
    """Return a column of means with their intervals, all with as many decimals as the largest needs.

    One problem alone has no interval, and neither have problems that all gave the same: one without width would
    look like certainty.
    """
    column = list(found)
    means = [abs(each.mean) for each in column if each is not None]
    if places is None:
        places = 1 if percent else decimals(max(means, default=0.0))
    return [_estimate(each, 100 if percent else 1, places) for each in column]


def _estimate(found: Estimate | None, scale: int, places: int) -> Cell:
    if found is None:
        return Cell(text=NOTHING)
    mean, low, high = (value * scale for value in (found.mean, found.low, found.high))
    if mean and not round(mean, places):
        places = max(places, decimals(mean))
    known = found.problems > 1 and high - low > SAME
    interval = f"[{figure(low, places)}, {figure(high, places)}]" if known else ""
    return Cell(text=figure(mean, places), interval=interval)


def difference(
    found: Difference, resamples: int, *, percent: bool = False, places: int | None = None
) -> Cell:
    """Return a difference with its interval and its p-value; one problem, or several that agree, have neither."""
    mean, low, high = (value * (100 if percent else 1) for value in (found.mean, found.low, found.high))
    if places is None:
        places = 1 if percent else decimals(max(map(abs, (mean, low, high))))
    if found.problems < 2 or high - low <= SAME:
        return Cell(text=figure(mean, places, "+"))
    least = 1 / max(1, resamples)
    p_value = f"p ≤ {least:.2g}" if found.p_value <= least else f"p = {found.p_value:.2g}"
    interval = f"[{figure(low, places, '+')}, {figure(high, places, '+')}] {p_value}"
    return Cell(text=figure(mean, places, "+"), interval=interval)


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~#!$])")


def markdown_text(text: str) -> str:
    """Return somebody's text so that Markdown shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", clean(text).replace("&", "&amp;"))


def markdown(shown: Table) -> str:
    """Return the table with its title and note as Markdown."""
    rule = ["---" if place < shown.texts else "---:" for place in range(len(shown.columns))]
    lines = [list(map(markdown_text, shown.columns)), rule]
    lines += [[f"{markdown_text(cell.text)} {cell.interval}".rstrip() for cell in row] for row in shown.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {markdown_text(shown.title)}\n\n{body}\n\n{markdown_text(shown.note)}\n"


def html(shown: Table) -> Markup:
    """Return the table with its note as HTML, in a box that scrolls by itself where the page is narrow."""
    titles = tag("tr", *(_cell(Cell(text=each), n, shown, "col") for n, each in enumerate(shown.columns)))
    rows = [
        tag("tr", *(_cell(cell, n, shown, "" if n else "row") for n, cell in enumerate(row)))
        for row in shown.rows
    ]
    body = tag("table", tag("thead", titles), tag("tbody", "", *rows))
    box = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": shown.title}
    return Markup(tag("div", body, **box) + tag("p", shown.note, **{"class": "note"}))


def _cell(cell: Cell, place: int, shown: Table, heads: str) -> Markup:
    """Return one cell; it heads a `col`, a `row`, or nothing."""
    attributes = ({"scope": heads} if heads else {}) | ({"class": "words"} if place < shown.texts else {})
    interval = (" ", tag("span", cell.interval, **{"class": "interval"})) if cell.interval else ()
    return tag("th" if heads else "td", cell.text, *interval, **attributes)


class Fitted:
    """A table in a terminal: intervals where there is room, the first columns first; then columns go, the last first."""

    def __init__(self, shown: Table) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, whole = self.columns(options.max_width)
        grid = Grid(box=None, pad_edge=False, header_style="bold")
        for place, title in enumerate(self.shown.columns[:shown]):
            words = place < self.shown.texts
            grid.add_column(Text(title), justify="left" if words else "right", overflow="fold")
        for row in self.shown.rows:
            grid.add_row(*(_spelled(cell, place < whole) for place, cell in enumerate(row[:shown])))
        yield Text(self.shown.title, style="bold underline")
        yield grid
        if left := len(self.shown.columns) - shown:
            yield Text(
                f"{left} more column{'s' * (left != 1)}: in the report, or on a wider terminal", "italic"
            )
        yield Text(self.shown.note, style="dim")

    def columns(self, width: int) -> tuple[int, int]:
        """Return how many columns are shown, and how many of them with their intervals."""
        columns = [
            [Cell(text=title), *(row[place] for row in self.shown.rows)]
            for place, title in enumerate(self.shown.columns)
        ]
        short = [max(cell_len(cell.text) for cell in column) + 2 for column in columns]
        extra = [
            max(cell_len(cell.whole) for cell in column) + 2 - short[n] for n, column in enumerate(columns)
        ]
        room = width + 2
        shown = len(columns)
        while shown > self.shown.texts + 1 and sum(short[:shown]) > room:
            shown -= 1
        whole = shown
        while whole and sum(short[:shown]) + sum(extra[:whole]) > room:
            whole -= 1
        return shown, whole


def _spelled(cell: Cell, whole: bool) -> Text:
    text = Text(cell.text)
    return text.append(f" {cell.interval}", style="dim") if whole and cell.interval else text
