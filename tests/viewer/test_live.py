"""The live display: it follows, costs little, and leaves the terminal as it was."""

from __future__ import annotations

import time
from io import StringIO
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Ended, Event, Opened, Role, SegmentKind, Started, Text
from asyncthink.runtime.organization import Organization
from asyncthink.viewer.terminal import LiveTimeline
from tests.episodes.episode_worlds import events_of, random_episode

SCRIPT: dict[str, Any] = {
    "organizer": "a b <FORK-1>x</FORK-1> c d <FORK-2>y</FORK-2> e <JOIN-1> f <ANSWER>1</ANSWER>",
    "workers": {"x": "p q r s t u v w <RETURN>[bold]r[/bold]</RETURN>", "y": "s " * 90},
}
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


class Terminal:
    """A terminal of which everything that is written to it is kept."""

    def __init__(self, *, terminal: bool = True, width: int = 80, height: int = 24) -> None:
        self.file = Screen()
        self.console = Console(
            file=self.file,
            force_terminal=terminal,
            width=width,
            height=height,
            legacy_windows=False,
            _environ={"TERM": "xterm"},
        )

    @property
    def written(self) -> str:
        return self.file.getvalue()

    def frame(self, events: list[Event]) -> str:
        """Return what is shown after these events, without colours."""
        with LiveTimeline(self.console) as live:
            for event in events:
                live.listen(event)
            shown = live.frame()
        plain = Console(file=StringIO(), width=self.console.width, color_system=None)
        with plain.capture() as capture:
            plain.print(shown)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def heard() -> list[Event]:
    events: list[Event] = []

    async def run() -> None:
        async with Organization(ScriptedEngine(SCRIPT), capacity=2) as them:
            await them.think("q", listen=events.append)

    anyio.run(run)
    return events


def assert_clean_end(terminal: Terminal) -> None:
    assert terminal.written.startswith(HIDE)
    assert terminal.written.rfind(SHOW) > terminal.written.rfind(HIDE)
    assert terminal.written.endswith("\x1b[2K"), "what was drawn is erased"


def test_it_shows_and_ends() -> None:
    terminal = Terminal()

    async def run() -> None:
        async with Organization(ScriptedEngine(SCRIPT, delay=0.01), capacity=2) as them:
            with LiveTimeline(terminal.console) as live:
                await them.think("q", listen=live.listen)

    anyio.run(run)
    assert_clean_end(terminal)
    assert "organizer" in terminal.written and "worker 2" in terminal.written


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_it_ends_on_errors(error: type[BaseException]) -> None:
    terminal = Terminal()
    with pytest.raises(error), LiveTimeline(terminal.console) as live:
        for event in heard()[:20]:
            live.listen(event)
        raise error
    assert_clean_end(terminal)


def test_it_ends_when_cancelled() -> None:
    terminal = Terminal()

    async def run() -> None:
        async with Organization(ScriptedEngine(SCRIPT, delay=0.05), capacity=2) as them:
            with anyio.move_on_after(0.3) as scope, LiveTimeline(terminal.console) as live:
                await them.think("q", listen=live.listen)
            assert scope.cancelled_caught

    anyio.run(run)
    assert_clean_end(terminal)


def test_no_terminal_no_output() -> None:
    terminal = Terminal(terminal=False)
    with LiveTimeline(terminal.console) as live:
        for event in heard():
            live.listen(event)
    assert terminal.written == ""


def test_a_frame_in_the_middle() -> None:
    events = heard()
    at = next(i for i, event in enumerate(events) if isinstance(event, Text) and event.text == " e")
    frame = Terminal(width=60).frame(events[: at + 1]).splitlines()
    assert frame[0].startswith("11 ticks   16 tokens   2 of 2 agents decoding   ")
    assert frame[1:] == [
        "tick       0         10       20        30       40",
        "organizer  ━━━━━┯━━━━┯━",
        "worker 1        └─────",
        "worker 2             └",
        "",
        "● organizer  …<FORK-1>x</FORK-1> c d <FORK-2>y</FORK-2> e",
        "● worker 1   p q r s t",
        ": worker 2",
    ]


def test_who_waits_for_whom() -> None:
    events = heard()
    at = next(i for i, event in enumerate(events) if isinstance(event, Text) and event.text == " <JOIN-1>")
    frame = Terminal().frame(events[: at + 3])
    assert "‖ organizer  waits for worker 1" in frame


def test_nobody_waits_for_a_worker_that_has_ended() -> None:
    events = heard()
    at = next(i for i, event in enumerate(events) if isinstance(event, Ended) and event.path == "0/1")
    assert "waits for" in Terminal().frame(events[:at])
    assert "waits for" not in Terminal().frame(events[: at + 1])


def test_how_agents_ended_and_who_is_not_shown() -> None:
    frame = Terminal().frame(heard())
    assert all(told in frame for told in ("✓ organizer", "✓ worker 1", "✗ worker 2"))
    assert "1 more agent not shown" in Terminal(width=120, height=9).frame(heard())


@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 12), (80, 24), (200, 60)])
def test_random_thoughts_fit_the_terminal(width: int, height: int) -> None:
    for seed in range(60):
        rng = Random(seed)
        events = list(events_of(random_episode(rng), rng))
        frame = Terminal(width=width, height=height).frame(events[: rng.randint(0, len(events))])
        assert len(frame.splitlines()) < max(height, 6)
        assert all(len(line) <= width for line in frame.splitlines())


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_hostile_text(text: str) -> None:
    events = [*_opened(), Text(path="0", kind=SegmentKind.DECODED, text=text, n_tokens=1)]
    assert all(line.isprintable() for line in Terminal().frame(events).splitlines())


def test_hearing_costs_little() -> None:
    """A decoder of a hundred thousand tokens a second would be slowed down by a tenth at most."""
    token = Text(path="0", kind=SegmentKind.DECODED, text=" token", n_tokens=1)
    with LiveTimeline(Terminal().console) as live:
        for event in _opened():
            live.listen(event)
        begin = time.process_time()
        for _ in range(100_000):
            live.listen(token)
        assert time.process_time() - begin < 1.0


def _opened() -> list[Event]:
    started = Started(
        id="e", task=None, problem=None, query="q", method="asyncthink", model="m", capacity=2, seed=0
    )
    return [started, Opened(path="0", role=Role.ORGANIZER, query="q")]
