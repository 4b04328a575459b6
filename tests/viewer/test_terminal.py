"""What is shown once a thought is over."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from rich.console import Console

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Episode, Outcome, StopReason, measure
from asyncthink.episodes.record import FormatFault
from asyncthink.protocol import FormatError
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import Part, Score, recognise
from asyncthink.viewer.terminal import render_episode
from tests.episodes.episode_worlds import episode, organizer, worker

QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."
SCRIPT: dict[str, Any] = {
    "organizer": "28 = 7 * 4 , so split <FORK-1>2, 3, 5 to 4</FORK-1> and <FORK-2>3, 5, 7 to 14</FORK-2> "
    "mine is 33 - 5 , that is <FORK-3>2, 3, 7 to 33 or 23</FORK-3> a b c d <JOIN-1> good , one more "
    "<FORK-4>check it</FORK-4> then <JOIN-3> and <JOIN-2> <ANSWER>(2+5-3)*7\n7*(5-3+2)\n5+2*3+7</ANSWER>",
    "workers": {
        "2, 3, 5 to 4": "a " * 34 + "<RETURN>2+5-3</RETURN>",
        "3, 5, 7 to 14": "b " * 12 + "<RETURN>none\nor I am wrong</RETURN>",
        "2, 3, 7 to 33 or 23": "c " * 8 + "stop",
        "*": "d " * 90,
    },
}
GOLDEN = Path(__file__).parent / "golden_episode.txt"


def think(script: dict[str, Any], query: str = QUERY, method: str = "asyncthink") -> Episode:
    async def run() -> Episode:
        engine = ScriptedEngine(script)
        engine.name = "scripted:demo.json"
        async with Organization(engine, method=method, capacity=3) as them:
            return await them.think(query)

    return anyio.run(run)


def show(one: Episode, score: Score | None = None, *, width: int = 80, encoding: str = "utf-8") -> str:
    class File(StringIO):
        @property
        def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
            return encoding

    console = Console(file=File(), width=width, color_system=None, legacy_windows=False, markup=True)
    console.print(render_episode(one, score, measure(one)))
    written = console.file
    assert isinstance(written, StringIO)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def judge(one: Episode) -> Score:
    known = recognise(one.query)
    assert known is not None and one.answer is not None
    return known.task.check(known.problem, one.answer)


def test_golden() -> None:
    one = think(SCRIPT)
    one = msgspec.structs.replace(one, wall_seconds=1.5)
    assert show(one, judge(one)) == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_baselines(method: str) -> None:
    text = show(think({"organizer": ["a b <ANSWER>1</ANSWER>", "a <ANSWER>2</ANSWER>"]}, "q", method))
    assert ("trace 2" in text) is (method == "parallel")
    assert "critical path      5 ticks" in text
    assert "eta/c" in text and "format errors      none" in text


def test_ascii_terminals_get_ascii() -> None:
    one = think(SCRIPT)
    assert show(one, judge(one), encoding="ascii").isascii()


@pytest.mark.parametrize("width", [10, 30, 80, 300])
def test_no_line_is_too_wide(width: int) -> None:
    one = think(SCRIPT)
    assert all(len(line) <= width for line in show(one, judge(one), width=width).splitlines())


def test_failures_are_named() -> None:
    one = episode(2, organizer(5), worker("0/1", 4, 1, 5, outcome=Outcome.NO_RESULT))
    fault = FormatFault(error=FormatError.NO_ANSWER, path="0", at=5)
    cause = "the limit of 9 tokens"
    text = show(
        msgspec.structs.replace(
            one, stop_reason=StopReason.BUDGET, cause=cause, answer=None, faults=(fault, fault)
        )
    )
    assert "no_answer (2 times)" in text
    assert "budget: the limit of 9 tokens" in text
    assert "(no result)" in text
    assert "Answer\n  none\n" in text


def test_many_workers_are_cut() -> None:
    workers = [worker(f"0/{n}", 1, n, n + 1) for n in range(1, 1001)]
    text = show(episode(9, organizer(2000), *workers))
    assert "and 961 more agents" in text
    assert len(text.splitlines()) < 110


@pytest.mark.parametrize("payload", ["\x1b[2J\x1b]0;t\x07", "\u202e[red]x[/red][/]", "\x9b5n\x00\r\n\x08"])
def test_hostile_text_everywhere(payload: str) -> None:
    script = {
        "organizer": f"<FORK-1>{payload}</FORK-1> <JOIN-1> <ANSWER>{payload}</ANSWER>",
        "workers": {"*": f"<RETURN>{payload}</RETURN>"},
    }
    one = think(script, f"query {payload}")
    parts = (Part(text=payload, correct=False, reason=payload),)
    for score in (None, Score(value=0.0, parts=parts, reason=payload)):
        text = show(one, score)
        assert all(line.isprintable() for line in text.splitlines())
        assert "\u202e" not in text
    if "[red]" in payload:
        assert "[red]x[/red][/]" in show(one)
