"""Whatever kills an evaluation, however often: the same episodes with the same scores, none lost, none twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncthink

KILLER = Path(__file__).parent / "killer.py"
SOURCE = str(Path(asyncthink.__file__).parents[1])
ANSWER = "<ANSWER>\n2*3*5-2\n(2+5)*(7-3)\n7*(5-3)*2\n2*(3*7-5)-4\n</ANSWER>"
SCRIPT = {
    "organizer": f"a <FORK-1>x</FORK-1> b c <FORK-2>y</FORK-2> d <JOIN-2> e <JOIN-1> {ANSWER}",
    "workers": {"*": "one two <RETURN>three</RETURN>"},
}
PROBLEMS = [
    {"id": "a", "numbers": [2, 3, 5, 7], "target": 28},
    {"id": "b", "numbers": [2, 3, 2, 5], "target": 28, "wanted": 1},
    {"id": "c", "numbers": [1, 2, 3, 4], "target": 10},
]


def recipe(folder: Path, **settings: Any) -> dict[str, Any]:
    (folder / "script.json").write_text(json.dumps(SCRIPT))
    (folder / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PROBLEMS))
    return {
        "task": "countdown",
        "model": f"scripted:{folder / 'script.json'}",
        "problems": str(folder / "problems.jsonl"),
        "samples": 2,
        "temperature": 1.0,
        "at_once": 2,
        "methods": {"asyncthink": {}, "sequential": {}},
        **settings,
    }


def killed(command: str, folder: Path, settings: dict[str, Any], *numbers: int) -> dict[str, Any]:
    arguments = [sys.executable, str(KILLER), command, str(folder), json.dumps(settings), *map(str, numbers)]
    environment = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    places = [one[0] for one in found["whole"]]
    assert len(places) == len({tuple(place) for place in places}) > 0
    for one in found["runs"]:
        assert one == found["whole"]
    return found


def test_killed_at_random_moments_and_again_while_it_resumes(tmp_path: Path) -> None:
    found = killed("moments", tmp_path, recipe(tmp_path), 25, 1)
    assert len(found["whole"]) == 12 and found["kills"] >= 25
    assert {score for _, score, *_ in found["whole"]} > {0.0}


def test_killed_at_every_write_boundary_and_again_while_it_resumes(tmp_path: Path) -> None:
    found = killed("boundaries", tmp_path, recipe(tmp_path, samples=1, at_once=1), 2)
    assert found["boundaries"] > 25 and found["kills"] > found["boundaries"]
    assert len(found["whole"]) == 6


def test_a_full_disk_ends_a_run_with_one_line_and_loses_nothing(tmp_path: Path) -> None:
    found = killed("full", tmp_path, recipe(tmp_path))
    assert all(line.startswith("RecordError: ") and line.count("\n") == 1 for line in found["said"]), found[
        "said"
    ]


@pytest.mark.slow
def test_killed_on_the_embedded_model(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "task": "countdown",
        "limit": 2,
        "samples": 2,
        "methods": {"asyncthink": {}, "parallel": {}, "random-forks": {}},
    }
    found = killed("moments", tmp_path, settings, 25, 3)
    assert len(found["whole"]) == 12 and found["kills"] >= 25
