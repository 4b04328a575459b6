"""`asyncthink eval` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fault_server.control import FaultServer

from asyncthink.episodes.store import RunDirectory
from asyncthink.settings import find_recipe, parse

RIGHT = "2*3*5-2\n(2+5)*(7-3)\n7*(5-3)*2\n2*(3*7-5)-4"
SCRIPT = {
    "organizer": f"so <FORK-1>x</FORK-1> and on <JOIN-1> <ANSWER>{RIGHT}</ANSWER>",
    "workers": {"*": "one two three <RETURN>four</RETURN>"},
}
PROBLEMS = [
    {"id": "whole", "numbers": [2, 3, 5, 7], "target": 28},
    {"numbers": [2, 3, 5, 2], "target": 28},
    {"id": "one", "numbers": [2, 3, 5, 2], "target": 28, "wanted": 1},
]
EVAL = [sys.executable, "-c", "from asyncthink.cli.main import run; run()", "eval"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("script.json").write_text(json.dumps(SCRIPT))
    Path("problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PROBLEMS))
    return tmp_path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run(
        [*EVAL, *arguments], capture_output=True, text=True, timeout=300, env=whole | environment
    )


SCRIPTED = ["--task", "countdown", "--model", "scripted:script.json", "--problems", "problems.jsonl"]


def trials(path: str) -> list[tuple[str, str, int]]:
    found = [one.trial for one in RunDirectory.open(path).episodes()]
    return sorted((one.arm, one.problem, one.sample) for one in found if one)


def test_a_run_leaves_everything_behind_and_resuming_it_changes_nothing() -> None:
    methods = ["--methods", "asyncthink,sequential,silent-workers", "--samples", "2", "--temperature", "1"]
    done = run(*SCRIPTED, *methods, "--output", "run")
    assert done.returncode == 0, done.stderr
    assert "run directory: run" in done.stderr and "18 of 18 episodes" in done.stderr
    assert "report: run/report.html" in done.stdout and "asyncthink" in done.stdout
    keys = ["1 whole", "2 2", "3 one"]
    expected = [
        (arm, key.split()[1], sample)
        for arm in ("asyncthink", "sequential", "silent-workers")
        for key in sorted(keys, key=lambda one: one.split()[1])
        for sample in (0, 1)
    ]
    assert trials("run") == sorted(expected)
    made = {str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file()}
    names = ["config.toml", "manifest.json", "problems.jsonl", "episodes.jsonl", "metrics.jsonl"]
    assert made >= {*names, "report.json", "report.html", "report.md"}
    assert any(name.endswith(".svg") for name in made) and any(name.endswith(".png") for name in made)
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    scores = {(row["arm"], row["problem"]): row["score"] for row in rows}
    assert scores["asyncthink", "whole"] == 0.5, "two of the four lines use the numbers"
    assert (scores["asyncthink", "2"], scores["asyncthink", "one"]) == (0.25, 1.0)
    summary = Path("run/report.json").read_bytes()
    episodes = Path("run/episodes.jsonl").read_bytes()
    again = run("--resume", "run", "--json", ASYNCTHINK_MODEL="nobody", ASYNCTHINK_SAMPLES="7")
    assert again.returncode == 0, again.stderr
    assert Path("run/episodes.jsonl").read_bytes() == episodes
    assert Path("run/report.json").read_bytes() == summary
    told = json.loads(again.stdout)
    assert [arm["name"] for arm in told["arms"]] == ["asyncthink", "sequential", "silent-workers"]
    assert told["arms"][0]["measures"]["score"]["mean"] == pytest.approx(1.75 / 3)


def test_the_recipe_of_a_run_is_a_recipe() -> None:
    assert run(*SCRIPTED, "--methods", "sequential", "--output", "one").returncode == 0
    again = run("one/config.toml", "--output", "two")
    assert again.returncode == 0, again.stderr
    assert Path("one/config.toml").read_bytes() == Path("two/config.toml").read_bytes()
    assert trials("one") == trials("two")


def test_an_interruption_says_how_to_go_on(tmp_path: Path) -> None:
    with FaultServer() as server:
        server.configure({"script": SCRIPT, "delay": 0.05})
        arguments = [*SCRIPTED[:2], *SCRIPTED[4:], "--model", "openai:scripted", "--base-url", server.url]
        process = subprocess.Popen(
            [
                *EVAL,
                *arguments,
                "--methods",
                "sequential",
                "--samples",
                "6",
                "--at-once",
                "2",
                "--output",
                "run",
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OPENAI_API_KEY": "sk-1"},
        )
        file = tmp_path / "run" / "episodes.jsonl"
        until = time.monotonic() + 120
        while not (file.exists() and file.stat().st_size) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 130, told
        last = told.splitlines()[-1]
        left = re.fullmatch(
            r"asyncthink: interrupted with ([0-9]+) episodes to go; go on with: asyncthink eval --resume run",
            last,
        )
        assert left and len(trials("run")) == 18 - int(left[1]) > 0
        assert Path("run/report.html").exists()
        server.configure({"script": SCRIPT})
        done = run("--resume", "run", OPENAI_API_KEY="sk-1")
        assert done.returncode == 0, done.stderr
        assert len(set(trials("run"))) == len(trials("run")) == 18


def test_what_an_engine_fails_is_told_and_tried_again() -> None:
    with FaultServer() as server:
        faults = {"rate": 0.5, "names": ["status_500"], "seed": 1, "override": {"status": 400}}
        server.configure({"script": SCRIPT, "faults": faults})
        arguments = [*SCRIPTED[:2], *SCRIPTED[4:], "--model", "openai:scripted", "--base-url", server.url]
        first = run(
            *arguments, "--methods", "sequential", "--samples", "4", "--output", "run", OPENAI_API_KEY="sk-1"
        )
        assert first.returncode == 4, first.stderr
        last = first.stderr.splitlines()[-1]
        assert re.match(r"asyncthink: [0-9]+ episodes failed, the last with: .*--resume run", last), last
        assert 0 < len(trials("run")) < 12
        server.configure({"script": SCRIPT})
        done = run("--resume", "run", OPENAI_API_KEY="sk-1")
        assert done.returncode == 0, done.stderr
        assert len(set(trials("run"))) == len(trials("run")) == 12


@pytest.mark.parametrize(
    "name", ["countdown", "probes", "contest", "qwen3-4b-eval", "qwen3-4b-countdown-eval"]
)
def test_packaged_recipes_can_be_prepared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncthink.evaluation.preflight import organize, prepare
    from asyncthink.evaluation.recipe import resolve

    raw: dict[str, Any] = parse(find_recipe(f"recipes/{name}.toml"), name)
    raw.pop("tokenizer", None)  # of a checkpoint that a training makes
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    if raw["task"] == "contest_math":
        Path("contest.jsonl").write_text('{"id": 1, "problem": "1+1?", "answer": "2"}\n')
        raw |= {"model": "openai:x", "problems": "contest.jsonl"}
    else:
        raw |= {"limit": 2}
    evaluation = prepare(resolve(raw, name))
    arms = {"probes": 7}
    organizations = organize(evaluation)
    assert len(organizations) == arms.get(name, 3)
    assert len({organization.engine for organization in organizations.values()}) == 1


def test_several_servers_of_one_model_share_the_work() -> None:
    with FaultServer() as first, FaultServer() as second:
        for server in (first, second):
            server.configure({"script": SCRIPT, "delay": 0.002})
        addresses = f"{first.url},{second.url}"
        arguments = [*SCRIPTED[:2], *SCRIPTED[4:], "--model", "openai:scripted", "--base-url", addresses]
        done = run(
            *arguments, "--methods", "asyncthink", "--samples", "4", "--output", "run", OPENAI_API_KEY="sk-1"
        )
        assert done.returncode == 0, done.stderr
        asked = [server.stats()["requests"] for server in (first, second)]
    assert len(trials("run")) == 12 and min(asked) > 5, asked


def test_a_run_is_resumed_from_anywhere_and_reported_again_without_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SCRIPTED, "--methods", "sequential", "--samples", "2", "--temperature", "1"]
    assert run(*arguments, "--output", "run").returncode == 0
    lines = Path("run/episodes.jsonl").read_bytes().splitlines(keepends=True)
    Path("run/episodes.jsonl").write_bytes(b"".join(lines[:3]))
    monkeypatch.chdir("/")
    done = run("--resume", str(tmp_path / "run"), "--at-once", "2")
    assert done.returncode == 0, done.stderr
    assert len(set(trials(str(tmp_path / "run")))) == 6
    monkeypatch.chdir(tmp_path)
    Path("run/episodes.jsonl").write_bytes(b"".join(lines[:3]))
    done = run(*arguments, "--at-once", "3", "--output", "run")
    assert done.returncode == 0 and len(set(trials("run"))) == 6, done.stderr
    Path("script.json").unlink()
    Path("run/report.html").unlink()
    again = run("--resume", "run")
    assert again.returncode == 0 and Path("run/report.html").exists(), again.stderr


@pytest.mark.parametrize("name", ["problems.jsonl", "metrics.jsonl", "report.md", "config.toml"])
def test_a_folder_with_other_files_is_left_as_it_is(name: str) -> None:
    Path("mine").mkdir()
    Path("mine", name).write_text("mine")
    refused = run(*SCRIPTED, "--methods", "sequential", "--output", "mine")
    assert refused.returncode == 2 and f"mine/{name} belongs to something else" in refused.stderr
    assert [path.name for path in Path("mine").iterdir()] == [name]
    assert Path("mine", name).read_text() == "mine"


def test_problems_that_a_task_shows_can_be_asked(tmp_path: Path) -> None:
    shown = subprocess.run([*EVAL[:-1], "tasks", "countdown", "--json"], capture_output=True, timeout=120)
    Path("shown.jsonl").write_bytes(shown.stdout)
    arguments = [*SCRIPTED[:-1], "shown.jsonl", "--methods", "sequential", "--output", "run"]
    assert run(*arguments).returncode == 0
    assert [problem for _, problem, _ in trials("run")] == ["0", "1", "2", "3", "4"]
