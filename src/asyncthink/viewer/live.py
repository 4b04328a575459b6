"""A thought while it goes on: lanes over token time, and what every agent wrote last.

Events come one a token, so hearing one costs next to nothing; a thread of the display draws what is known,
12 times a second at most, and less often where drawing is dear. The lanes are those of the record so far,
on the virtual clock, in steps of a scale that grows with it: the picture always fits the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asyncthink.episodes.agents import Agent
from asyncthink.episodes.events import Began, Ended, Event, Joined, Neared, Opened, Started
from asyncthink.episodes.events import Text as TextEvent
from asyncthink.episodes.record import WRITTEN, Outcome, SegmentKind
from asyncthink.viewer.canvas import CRITICAL, DECODING, QUIET, WASTED, draw
from asyncthink.viewer.names import agent_name, choose
from asyncthink.viewer.sanitize import head, tail
from asyncthink.viewer.timeline import Timeline, lay_out

FRAMES_PER_SECOND = 12
_SHARE = 0.1
"""Of the time, the most that drawing may take."""
_NOTES = 3
"""Lines of notes that are kept."""
_ECHO = 3
"""Cells left free at a line's end: a terminal that echoes ^C must not wrap it."""
_KEPT = 400
"""Characters of an agent's latest text: more than a line shows."""
_MARKS = {
    "decoding": ("●", "*", DECODING),
    "waiting": ("‖", "|", QUIET),
    "queued": (":", ":", QUIET),
    "done": ("✓", "+", "green"),
    "stopped": ("✗", "x", WASTED),
}


@dataclass(slots=True)
class _Agent:
    """What is known of an agent so far."""

    path: str
    forked_at: int
    joined_at: int | None = None
    tokens: int = 0
    ticks: int | None = None
    latest: str = ""
    began: bool = False
    outcome: Outcome | None = None
    awaited: str | None = None
    """Path of the worker that it stands still for."""

    def on_the_clock(self) -> Agent:
        return Agent(
            path=self.path,
            own=self.tokens if self.ticks is None else self.ticks,
            forked_at=self.forked_at,
            joined_at=None if self.joined_at is None else max(self.forked_at, self.joined_at),
            ended=True,
            inserts=[],
            refused=self.outcome is Outcome.REFUSED,
        )

    def state(self) -> str:
        if self.outcome is not None:
            good = self.outcome in (Outcome.ANSWERED, Outcome.RETURNED)
            return "done" if good else "stopped"
        return "waiting" if self.awaited else "decoding" if self.began else "queued"


class LiveTimeline:
    """Shows a thought while it goes on; on anything but a terminal only what its user must know, as lines.

        with LiveTimeline(Console(stderr=True)) as live:
            episode = await organization.think(query, listen=live.listen)

    The display is gone once the block is left, however it is left; `render_episode` shows what remains.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._method, self._capacity = "", 1
        self._agents: dict[str, _Agent] = {}
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
        if type(event) is TextEvent:
            self._hear(event)
            return
        match event:
            case Started():
                self._method, self._capacity, self._agents = event.method, event.capacity, {}
                self._since = time.monotonic()
            case Opened():
                self._agents[event.path] = _Agent(path=event.path, forked_at=event.forked_at or 0)
            case Began():
                self._agents[event.path].began = True
            case Joined():
                self._join(event)
            case Ended():
                self._end(event)
            case _:
                pass

    def note(self, text: str) -> None:
        """Show a line that the user must know: above the picture, or where there is none on standard error."""
        line = " ".join(text.split())
        self._notes = [*self._notes, line][-_NOTES:]
        if self._live is None:
            sys.stderr.write(f"asyncthink: {line}\n")

    def _hear(self, event: TextEvent) -> None:
        agent = self._agents[event.path]
        if event.kind in WRITTEN:
            agent.tokens += event.n_tokens
            agent.awaited = None
        elif event.kind is SegmentKind.PROMPT:
            return
        agent.latest = (agent.latest + event.text[-_KEPT:])[-_KEPT:]

    def _join(self, event: Joined) -> None:
        worker = self._agents[event.path]
        worker.joined_at = event.joined_at
        if worker.outcome is None:
            self._agents[event.path.rpartition("/")[0]].awaited = event.path

    def _end(self, event: Ended) -> None:
        agent = self._agents[event.path]
        agent.outcome, agent.ticks, agent.awaited = event.outcome, event.ticks, None
        parent = self._agents.get(event.path.rpartition("/")[0])
        if parent is not None and parent.awaited == event.path:
            parent.awaited = None

    def _latest_frame(self) -> Group:
        now = time.monotonic()
        if now >= self._due:
            self._frame = self.frame()
            self._due = now + (time.monotonic() - now) / _SHARE
        return self._frame

    def frame(self) -> Group:
        """Draw what is known now."""
        agents = list(self._agents.values())
        if not agents:
            return Group()
        width, ascii_only = self._console.width, self._console.options.ascii_only
        view = lay_out([one.on_the_clock() for one in agents], self._capacity, over=False)
        at_work = [one.path for one in agents if one.outcome is None]
        recent = [one.path for one in reversed(agents)]
        shown = choose([agents[0].path, *at_work, *recent], (self._console.height - 5) // 2)
        names = {one.path: agent_name(one.path, self._method) for one in agents}
        lanes = draw(view, names, width, length=_scale(view.length), shown=shown, ascii_only=ascii_only)
        spoken = [self._spoken(one, names, width, ascii_only) for one in agents if one.path in shown]
        width = self._console.width
        notes = [Text(head(note, width - _ECHO, ascii_only=ascii_only), "yellow") for note in self._notes]
        return Group(self._headline(agents, view, len(shown)), *notes, *lanes, Text(), *spoken)

    def _headline(self, agents: Sequence[_Agent], view: Timeline, shown: int) -> Text:
        working = sum(one.state() == "decoding" for one in agents)
        tokens = sum(one.tokens for one in agents)
        seconds = time.monotonic() - self._since
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{view.total:,} ticks", CRITICAL)
        line.append(f"   {tokens:,} tokens   {working} of {self._capacity} agents decoding   {seconds:.1f} s")
        if shown < len(agents):
            line.append(f"   {len(agents) - shown} more agents not shown", QUIET)
        return line

    def _spoken(self, one: _Agent, names: dict[str, str], width: int, ascii_only: bool) -> Text:
        mark, plain, style = _MARKS[one.state()]
        line = Text(no_wrap=True, overflow="crop").append(f"{plain if ascii_only else mark} ", style)
        line.append(f"{names[one.path]:<10} ", "bold" if one.state() == "decoding" else "")
        if awaited := one.awaited:
            return line.append(f"waits for {agent_name(awaited, self._method)}", QUIET)
        return line.append(
            tail(one.latest, max(1, width - _ECHO - line.cell_len), ascii_only=ascii_only), QUIET
        )


def _scale(length: int) -> int:
    """Return the round number of ticks, 50 at least, that a growing picture stands for."""
    steps = (factor * 10**power for power in count(1) for factor in (1, 2, 5))
    return next(step for step in steps if step >= max(50, length))
