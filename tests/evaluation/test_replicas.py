"""A server that is killed in the middle of an evaluation: the others go on with what it had in hand."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fault_server.control import FaultServer

from asyncthink.episodes import Outcome
from asyncthink.episodes.store import RunDirectory

ANSWER = "<ANSWER>\n2*3*5-2\n(2+5)*(7-3)\n7*(5-3)*2\n2*(3*7-5)-4\n</ANSWER>"
SCRIPT = {
    "organizer": f"a <FORK-1>x</FORK-1> b c <FORK-2>y</FORK-2> d <JOIN-2> e <JOIN-1> {ANSWER}",
    "workers": {"*": "one two three four five six <RETURN>seven</RETURN>"},
}
CONFIG = {"script": SCRIPT, "query": "", "owned_by": "vllm", "delay": 0.02}
GUARD = 120.0


def evaluation(folder: Path, *servers: FaultServer) -> subprocess.Popen[bytes]:
    for each in servers:
        each.configure(CONFIG)
    urls = ",".join(each.url for each in servers)
    command = [sys.executable, "-c", "from asyncthink.cli.main import run; run()", "eval"]
    command += ["--task", "countdown", "--split", "dev"]
    command += ["--limit", "6", "--samples", "2", "--methods", "asyncthink,sequential", "--at-once", "6"]
    command += ["--model", "openai:scripted", "--base-url", urls, "--output", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)  # what goes wrong is told on standard error


def texts(folder: Path) -> dict[tuple[Any, ...], list[tuple[str, str]]]:
    """Return what the agents of each trial wrote and got, and that nothing failed."""
    found: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
    for episode in RunDirectory.open(folder).episodes():
        assert episode.trial is not None
        assert all(each.outcome is not Outcome.ENGINE_ERROR for each in episode.traces)
        place = (episode.trial.arm, episode.trial.problem, episode.trial.sample)
        assert place not in found, "each trial is there once"
        found[place] = [
            (each.path, "".join(one.text for one in each.segments if one.kind != "prompt"))
            for each in episode.traces
        ]
    return found


def test_a_replica_killed_in_the_middle(tmp_path: Path) -> None:
    with FaultServer() as first, FaultServer() as second:
        whole = evaluation(tmp_path / "whole", first)
        assert whole.wait(GUARD) == 0
        run = evaluation(tmp_path / "killed", first, second)
        lines = tmp_path / "killed" / "episodes.jsonl"
        until = time.monotonic() + GUARD
        while not lines.exists() or lines.read_bytes().count(b"\n") < 5:
            assert run.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        asked = second.stats()["requests"]
        second.kill()
        assert run.wait(GUARD) == 0
        assert asked
    done, expected = texts(tmp_path / "killed"), texts(tmp_path / "whole")
    assert len(expected) == 24 and done == expected
    usages = [
        each.usage for episode in RunDirectory.open(tmp_path / "killed").episodes() for each in episode.traces
    ]
    assert sum(usage.retries for usage in usages if usage) > 0, "some were in the hands of the one that died"
