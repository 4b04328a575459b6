"""A thought while it goes on: lanes over token time, and what every agent wrote last.

Events come one a token, so hearing one costs next to nothing; a thread of the display draws what is known,
12 times a second at most, and less often where drawing is dear. The lanes are drawn in
steps of a scale that grows with them: the picture always fits the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asyncthink.episodes.events import Event, Neared, Started
from asyncthink.viewer.canvas import CRITICAL, DECODING, QUIET, WASTED, draw
from asyncthink.viewer.growing import Growing, GrowingAgent, scale
from asyncthink.viewer.names import agent_name, choose
from asyncthink.viewer.sanitize import head, tail
from asyncthink.viewer.timeline import Timeline

FRAMES_PER_SECOND = 12
_SHARE = 0.1
"""Of the time, the most that drawing may take."""
_NOTES = 3
"""Lines of notes that are kept."""
_ECHO = 3
"""Cells left free at a line's end: a terminal that echoes ^C must not wrap it."""
_MARKS = {
    "decoding": ("●", "*", DECODING),
    "waiting": ("‖", "|", QUIET),
    "queued": (":", ":", QUIET),
    "done": ("✓", "+", "green"),
    "stopped": ("✗", "x", WASTED),
}


class LiveTimeline:
    """Shows a thought while it goes on; on anything but a terminal only what its user must know, as lines.

        with LiveTimeline(Console(stderr=True)) as live:
            episode = await organization.think(query, listen=live.listen)

    The display is gone once the block is left, however it is left; `render_episode` shows what remains.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._growing = Growing()
        self._since = 0.0
        self._frame, self._due = Group(), 0.0
        self._live: Live | None = None
        self._notes: list[str] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal and self._console.file.isatty() and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._latest_frame,
                console=self._console,
                refresh_per_second=FRAMES_PER_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def listen(self, event: Event) -> None:
        """Take note of what happens; pass it to `Organization.think(..., listen=...)`."""
        if isinstance(event, Neared):
            self.note(
                f"{event.spent / event.of:.0%} of {event.limit} is spent: {event.spent:.6g} of {event.of:g}"
            )
        if self._live is None:
            return
        if isinstance(event, Started):
            self._since = time.monotonic()
        self._growing.take(event)

    def note(self, text: str) -> None:
        """Show a line that the user must know: above the picture, or where there is none on standard error."""
        line = " ".join(text.split())
        self._notes = [*self._notes, line][-_NOTES:]
        if self._live is None:
            sys.stderr.write(f"asyncthink: {line}\n")

    def _latest_frame(self) -> Group:
        now = time.monotonic()
        if now >= self._due:
            self._frame = self.frame()
            self._due = now + (time.monotonic() - now) / _SHARE
        return self._frame

    def frame(self) -> Group:
        """Draw what is known now."""
        agents = list(self._growing.agents.values())
        if not agents:
            return Group()
        width, ascii_only = self._console.width, self._console.options.ascii_only
        view = self._growing.timeline()
        at_work = [one.path for one in agents if one.outcome is None]
        recent = [one.path for one in reversed(agents)]
        shown = choose([agents[0].path, *at_work, *recent], (self._console.height - 5) // 2)
        names = {one.path: agent_name(one.path, self._growing.method) for one in agents}
        lanes = draw(view, names, width, length=scale(view.length), shown=shown, ascii_only=ascii_only)
        spoken = [self._spoken(one, names, width, ascii_only) for one in agents if one.path in shown]
        width = self._console.width
        notes = [Text(head(note, width - _ECHO, ascii_only=ascii_only), "yellow") for note in self._notes]
        return Group(self._headline(agents, view, len(shown)), *notes, *lanes, Text(), *spoken)

    def _headline(self, agents: Sequence[GrowingAgent], view: Timeline, shown: int) -> Text:
        working = sum(one.state() == "decoding" for one in agents)
        tokens = sum(one.tokens for one in agents)
        seconds = time.monotonic() - self._since
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{view.total:,} ticks", CRITICAL)
        line.append(
            f"   {tokens:,} tokens   {working} of {self._growing.capacity} agents decoding   {seconds:.1f} s"
        )
        if shown < len(agents):
            left = len(agents) - shown
            line.append(f"   {left} more agent{'s' * (left != 1)} not shown", QUIET)
        return line

    def _spoken(self, one: GrowingAgent, names: dict[str, str], width: int, ascii_only: bool) -> Text:
        mark, plain, style = _MARKS[one.state()]
        line = Text(no_wrap=True, overflow="crop").append(f"{plain if ascii_only else mark} ", style)
        line.append(f"{names[one.path]:<10} ", "bold" if one.state() == "decoding" else "")
        if awaited := one.awaited:
            return line.append(f"waits for {agent_name(awaited, self._growing.method)}", QUIET)
        return line.append(
            tail(one.latest, max(1, width - _ECHO - line.cell_len), ascii_only=ascii_only), QUIET
        )
