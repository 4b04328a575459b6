"""The board counts what a run tells it, and draws it."""

from __future__ import annotations

import json
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from asyncthink.cli.watching import watched
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Event, Trial
from asyncthink.episodes.events import Began, Ended, Finished
from asyncthink.evaluation.board import Board
from asyncthink.evaluation.preflight import Evaluation
from asyncthink.evaluation.recipe import resolve
from asyncthink.evaluation.rows import Row
from asyncthink.evaluation.run import begin

pytestmark = pytest.mark.anyio
ANSWER = "<ANSWER>\n(2+5)*(7-3)\n7*(5-3)*2\n</ANSWER>"
SCRIPT = {
    "organizer": f"a <FORK-1>x</FORK-1> b <JOIN-1> {ANSWER}",
    "workers": {"*": "one <RETURN>two</RETURN>"},
}


class Told(Board):
    """A board that remembers how many agents were at work after each event."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(clock=lambda: self.now)
        self.agents: list[int] = []
        self.drawn: list[str] = []

    def begin(self, evaluation: Evaluation, done: int) -> None:
        super().begin(evaluation, done)
        self.drawn.append(drawn(self))

    def event(self, trial: Trial, event: Event) -> None:
        super().event(trial, event)
        if isinstance(event, Began | Ended | Finished):
            self.drawn.append(drawn(self))

    def row(self, row: Row) -> None:
        self.now += 2.0
        super().row(row)
        self.drawn.append(drawn(self))


def drawn(board: Board) -> str:
    page = StringIO()
    Console(width=120, file=page).print(board)
    return page.getvalue()


def settings(folder: Path) -> dict[str, Any]:
    (folder / "script.json").write_text(json.dumps(SCRIPT))
    (folder / "problems.jsonl").write_text('{"numbers": [2, 3, 5, 7], "target": 28}\n')
    return {
        "task": "countdown",
        "model": f"scripted:{folder / 'script.json'}",
        "problems": str(folder / "problems.jsonl"),
        "samples": 2,
        "temperature": 1.0,
        "at_once": 1,
        "methods": {"asyncthink": {}, "sequential": {}},
    }


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_is_counted(tmp_path: Path, anyio_backend: str) -> None:
    board = Told()
    with begin(resolve(settings(tmp_path), "here"), tmp_path / "run") as run:
        await run.go_on(board)
    assert board.drawn[0].startswith("0 of 4 episodes · 0 s · time left not known yet · 0 tokens/s")
    assert any("asyncthink     0     1       2" in text for text in board.drawn), board.drawn[1]
    last = drawn(board).splitlines()
    assert last[0].startswith("4 of 4 episodes · 8 s · 0 s left · ")
    # 2 of 4 lines right: 0.5; 3 + 3 + 3 tokens around the fork, 6 waited for, then the answer
    done = {line.split()[0]: line.split()[1:] for line in last[2:]}
    assert done["asyncthink"][:3] == done["sequential"][:3] == ["2", "0", "0"]
    assert done["asyncthink"][5] == "0.500" and done["sequential"][-2] == "100.0%"
    halfway = [text for text in board.drawn if text.startswith("2 of 4 episodes · 4 s · 4 s left")]
    assert halfway
    again = Told()
    with begin(resolve(settings(tmp_path), "here"), tmp_path / "run") as run:
        await run.go_on(again)
    assert again.headline().startswith("4 of 4 episodes · 0 s · 0 s left")


async def test_notes_and_failures_stay_in_sight() -> None:
    board = Board(clock=lambda: 0.0)
    for number in range(9):
        board.note(f"note {number} \x1b[31m[red]")
    text = drawn(board)
    assert "note 3" not in text and "note 8" in text and "\x1b" not in text and "[red]" in text


def test_where_nobody_watches_a_line_is_written_now_and_then() -> None:
    page = StringIO()
    until = time.monotonic() + 60
    with watched(Board(), Console(width=40, file=page), 0.01):
        while page.getvalue().count("\n") < 3 and time.monotonic() < until:
            time.sleep(0.01)
    lines = page.getvalue().splitlines()
    assert len(lines) >= 4 and all(line.startswith("0 of 0 episodes") for line in lines)


def test_a_scripted_engine_is_what_the_recipe_asks_for(tmp_path: Path) -> None:
    from asyncthink.evaluation.preflight import organize, prepare

    evaluation = prepare(resolve(settings(tmp_path), "here"))
    engines = {organization.engine for organization in organize(evaluation).values()}
    assert [type(engine) for engine in engines] == [ScriptedEngine]
    assert [trial for _, _, trial in evaluation.trials()] == [
        Trial(arm=arm, problem="1", sample=sample)
        for sample in (0, 1)
        for arm in ("asyncthink", "sequential")
    ]
