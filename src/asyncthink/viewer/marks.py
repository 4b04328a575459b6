"""How an activity looks and is called in a drawing, and how the elements of a drawing are written.

An activity is told by its form as well as by its colour, so that grey print and every kind of sight can tell
it: solid, outlined, dashed, thin, hatched. No mark needs an id, so that many drawings fit on one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from types import MappingProxyType

from asyncthink.viewer.timeline import Activity, Base, Timeline

CRITICAL = "critical"
PALETTE: Mapping[str, str] = MappingProxyType(
    {
        CRITICAL: "#c04500",
        Activity.DECODING: "#4a9bd1",
        Activity.WAITING: "#b87a00",
        Activity.QUEUED: "#009e73",
        Activity.READY: "#4a9bd1",
        Activity.WASTED: "#8c8c8c",
    }
)
"""Activity or CRITICAL -> colour. Each has a contrast of 3:1 or more to white and to near black."""
MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        CRITICAL: "critical path",
        Activity.DECODING: "decoding",
        Activity.WAITING: "waiting",
        Activity.QUEUED: "queued",
        Activity.READY: "result ready",
        Activity.WASTED: "never joined",
    }
)
"""Activity or CRITICAL -> what a legend calls it."""
_LISTED = 12
"""Things of one kind that the text alternative lists."""


class Markup(str):
    """A finished element: it is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str | float) -> Markup:
    """Return an element; `_` in an attribute's name stands for `-`. Text is escaped, elements are not."""
    written = "".join(
        f' {key.replace("_", "-")}="{escape(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
    )
    inside = "".join(part if isinstance(part, Markup) else escape(part, quote=False) for part in content)
    return Markup(f"<{name}{written}>{inside}</{name}>" if content else f"<{name}{written}/>")


def number(value: float) -> str:
    """Return a number with two decimals at most: the same text on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def route(*steps: str | float) -> str:
    """Return path data: letters and the numbers that belong to them."""
    return "".join(step if isinstance(step, str) else f" {number(step)}" for step in steps)


def element(width: float, height: float, body: Iterable[Markup]) -> str:
    """Return a whole drawing that shrinks with its page."""
    return tag(
        "svg",
        *(each for part in body for each in ("\n", part)),
        "\n",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        style="max-width:100%;height:auto",
        role="img",
        font_family="system-ui, Helvetica, Arial, sans-serif",
    )


def mark(activity: str, x: float, y: float, wide: float, bar: float) -> Markup:
    """Return the mark of one activity; x is its left, y its middle."""
    colour = PALETTE[activity]
    across = {"d": route("M", x, y, "h", wide), "stroke": colour, "fill": "none"}
    if activity == Activity.QUEUED:
        return tag("path", **across, stroke_width=max(1.5, bar * 0.2), stroke_dasharray="4 3")
    if activity == Activity.READY:
        return tag("path", **across, stroke_width=max(1, bar * 0.2), stroke_opacity=0.45)
    if activity == Activity.WASTED:
        return tag("path", **across, stroke_width=bar, stroke_dasharray="1.5 2")
    inner = {"x": x + 0.5, "y": y - bar / 2 + 0.5, "width": max(0.25, wide - 1), "height": bar - 1}
    filled = 0.12 if activity == Activity.WAITING else 0.5
    return tag("rect", **inner, fill=colour, fill_opacity=filled, stroke=colour)


def describe(line: Timeline, names: Mapping[str, str]) -> str:
    """Return the timeline in words: T, the critical path, the agents, the waits and the waste.

    Args:
        line: what to tell.
        names: path -> its name, clean.
    """
    pieces = [f"{names[one.path]} {short(one.end - one.start, line.base)}" for one in line.critical]
    waits = [
        f"{names[one.target]} {short(one.waited, line.base)} for {names[one.source]}"
        for one in line.joins
        if one.waited
    ]
    wasted = sum(one.end - one.start for lane in line.lanes for one in lane.spans if one.activity == "wasted")
    agents = [names[lane.path] for lane in line.lanes]
    unit = ", in ticks" if line.base is Base.TICKS else ""
    told = [
        f"The critical path T is {amount(line.total, line.base)}"
        + (f": {_listed(pieces)}." if pieces else "."),
        f"{len(agents):,} agent{'s' * (len(agents) != 1)}: {_listed(agents)}." if agents else "No agents.",
        f"Waits at joins{unit}: {_listed(waits)}." if waits else "No join cost a wait.",
        f"{amount(wasted, line.base)} decoded for results that were never joined." if wasted else "",
    ]
    return " ".join(filter(None, told))


def amount(time: int, base: Base) -> str:
    """Return a stretch of time with its unit: `1 tick`, `2,000 ticks`, `1.25 s`."""
    return f"{time:,} tick{'s' * (time != 1)}" if base is Base.TICKS else short(time, base)


def short(time: int, base: Base) -> str:
    """Return a stretch of time: `2,000` for ticks, `1.25 s`, `40 ms` or `7 µs` on the wall clock."""
    if base is Base.TICKS:
        return f"{time:,}"
    for unit, size in (("s", 1_000_000), ("ms", 1_000)):
        if time >= size:
            return f"{time / size:,.3g} {unit}" if time < 1000 * size else f"{time / size:,.0f} {unit}"
    return f"{time} µs" if time else "0 s"


def _listed(things: Sequence[str]) -> str:
    more = len(things) - _LISTED
    return ", ".join(things[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")
