"""Lines of runs: read bit by bit, while a run grows, past nothing that is broken."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest

from asyncthink.episodes import measure
from asyncthink.episodes.record import Trial
from asyncthink.episodes.store import RunDirectory
from asyncthink.errors import RecordError
from asyncthink.viewer.index import RunLines, line, runs_below
from tests.episodes.episode_worlds import episode, organizer, random_episode, worker


def named(name: str, tokens: int = 3):
    one = episode(2, organizer(tokens), worker("0/1", 5, 1, 2))
    return msgspec.structs.replace(one, id=name)


def test_a_growing_run(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "", {"kind": "test"}) as run:
        for number in range(5):
            run.append(named(f"episode-{number}", number + 3))
        lines = RunLines(RunDirectory.open(tmp_path / "run"))
        assert not lines.read(0.0) and len(lines.lines) == 1
        assert lines.read(60.0)
        assert [one.id for one in lines.lines] == [f"episode-{n}" for n in range(5)]
        assert [one.critical_path for one in lines.lines] == [n + 3 + 4 for n in range(5)]
        run.append(named("late"))
        assert lines.read(60.0) and lines.lines[-1].id == "late"
        assert lines.episode(5).id == "late" and lines.episode(0).id == "episode-0"


def test_episodes_by_name(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "", {}) as run:
        for name in ("alpha", "alpine", "beta"):
            run.append(named(name))
    lines = RunLines(RunDirectory.open(tmp_path / "run"))
    assert (lines.find("2"), lines.find("beta"), lines.find("alpi")) == (2, 2, 1)
    for name, told in (
        ("alp", "2 episodes named 'alp'"),
        ("gamma", "no episodes named 'gamma'"),
        ("3", "no episodes"),
    ):
        with pytest.raises(RecordError, match=told):
            lines.find(name)
    with pytest.raises(RecordError, match="has no episode 3"):
        lines.episode(3)
    with pytest.raises(RecordError, match="has no episode -1"):
        lines.episode(-1)


def test_a_whole_id_goes_before_one_that_begins_with_it(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "", {}) as run:
        for name in ("ab", "a"):
            run.append(named(name))
    assert RunLines(RunDirectory.open(tmp_path / "run")).find("a") == 1


def test_arm_and_problem_are_those_of_the_trial() -> None:
    free = named("a")
    tried = msgspec.structs.replace(free, trial=Trial(arm="small", problem="p", sample=2))
    assert (line(0, free).arm, line(0, free).problem) == ("asyncthink", "")
    assert (line(0, tried).arm, line(0, tried).problem) == ("small", "p/2")


def test_a_broken_line_is_told_and_what_stands_before_it_is_kept(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "", {}) as run:
        for name in ("a", "b", "c"):
            run.append(named(name))
    file = tmp_path / "run" / "episodes.jsonl"
    first, second, third = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second.replace(b"query", b"quarry") + third)
    lines = RunLines(RunDirectory.open(tmp_path / "run"))
    assert lines.read(60.0) and len(lines.lines) == 1
    assert "line 2" in lines.broken


def test_runs_are_found(tmp_path: Path) -> None:
    for name in ("b", "a/deep"):
        RunDirectory.create(tmp_path / name, "", {}).close()
    (tmp_path / "a" / "other").mkdir()
    assert [one.relative_to(tmp_path).as_posix() for one in runs_below(tmp_path)] == ["a/deep", "b"]
    assert list(runs_below(tmp_path / "b")) == [tmp_path / "b"]
    for deep in ("c/c/c", "d/d/d/d"):
        RunDirectory.create(tmp_path / "deep" / deep, "", {}).close()
    assert list(runs_below(tmp_path / "deep")) == [tmp_path / "deep" / "c" / "c" / "c"]
    with pytest.raises(RecordError, match="is no folder"):
        list(runs_below(tmp_path / "none"))


def test_lines_say_what_measure_says() -> None:
    for one in map(random_episode, map(Random, range(300))):
        found, metrics = line(0, one), measure(one)
        assert (found.critical_path, found.forks, found.tokens) == (
            metrics.critical_path,
            metrics.forks,
            metrics.decoded_tokens,
        )
        assert found.concurrency == metrics.concurrency
