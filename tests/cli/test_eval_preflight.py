"""Bad configurations of an evaluation: each is caught before a model is asked anything, with the line that mends it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from fault_server.control import FaultServer
from typer.testing import CliRunner, Result

from asyncthink import extras
from asyncthink.cli.main import app
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.openai.engine import OpenAIEngine
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes.store import RunDirectory

GOOD = {"numbers": [2, 3, 5, 7], "target": 28}
SCRIPT: dict[str, Any] = {"organizer": "<ANSWER>2*3*5-2</ANSWER>", "workers": {}}


def asked(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a model was asked")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with a few files; opening a session of any engine fails the test."""
    for engine in (ScriptedEngine, LocalEngine, OpenAIEngine):
        monkeypatch.setattr(engine, "open", asked)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("script.json").write_text(json.dumps(SCRIPT))
    return tmp_path


def lines(*values: Any) -> str:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in values)
    Path("problems.jsonl").write_text(text)
    return "problems.jsonl"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)


def refused(arguments: Sequence[str], *told: str, status: int = 2) -> None:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("asyncthink: "), result.stderr
    for part in told:
        assert part in last, last


SCRIPTED = ["--task", "countdown", "--model", "scripted:script.json"]
EMBEDDED = ["--task", "countdown", "--limit", "2"]
BAD: list[tuple[list[str], list[str]]] = [
    ([], ["there is no task", "--task countdown"]),
    (["--task", "countdwon"], ["unknown task 'countdwon'", "did you mean 'countdown'"]),
    ([*EMBEDDED, "--methods", "sequentail"], ["did you mean 'sequential'"]),
    ([*EMBEDDED, "--methods", "sequential,sequential"], ["names one twice"]),
    ([*EMBEDDED, "--methods", ","], ["there is no method", "--methods asyncthink"]),
    ([*EMBEDDED, "--split", "tset"], ["unknown split 'tset'", "did you mean 'test'"]),
    ([*EMBEDDED, "--samples", "0"], ["samples must be at least 1"]),
    (["--task", "countdown", "--limit", "0"], ["limit must be at least 1"]),
    (["--task", "sudoku", "--limit", "1000000000000"], ["limit must be at least 1 and at most 100000"]),
    ([*EMBEDDED, "--at-once", "0"], ["at_once must be at least 1"]),
    ([*EMBEDDED, "--capacity", "0"], ["capacity must be between 1 and 9999"]),
    ([*EMBEDDED, "--temperature", "-1"], ["temperature must be between 0 and 100"]),
    ([*EMBEDDED, "--top-p", "0"], ["top_p must be above 0"]),
    ([*EMBEDDED, "--max-critical-path", "0"], ["max_critical_path must be above 0"]),
    ([*EMBEDDED, "--samples", "2", "--temperature", "0"], ["the same text", "--samples 1"]),
    ([*EMBEDDED, "--temperature", "0", "--methods", "parallel"], ["the same text", "leave temperature out"]),
    ([*EMBEDDED, "--max-cost", "1"], ["max_cost needs", "--prices"]),
    ([*EMBEDDED, "--prices", "nowhere.toml"], ["nowhere.toml"]),
    ([*EMBEDDED, "--prompts", "nowhere.toml"], ["nowhere.toml"]),
    ([*EMBEDDED, "--problems", "nowhere.jsonl"], ["nowhere.jsonl", "No such file"]),
    (["--task", "contest_math", *SCRIPTED[2:]], ["--problems FILE.jsonl"]),
    (
        ["--task", "vertex_cover", "--limit", "1"],
        ["only knows countdown, countdown-paper, sudoku", "--model openai:MODEL"],
    ),
    (
        ["--task", "cases", "--limit", "1"],
        ["only knows countdown, countdown-paper, sudoku", "--model openai:MODEL"],
    ),
    ([*EMBEDDED, "--model", "embeded"], ["unknown model 'embeded'", "did you mean 'embedded'"]),
    ([*EMBEDDED, "--model", "hf:nowhere"], ["nowhere"]),
    ([*EMBEDDED, "--base-url", "http://127.0.0.1:1/v1"], ["only make sense with --model openai:MODEL"]),
    ([*EMBEDDED, "--model", "openai:gpt"], ["OPENAI_API_KEY"]),
    ([*EMBEDDED, "--methods", "random-forks", "--capacity", "1"], ["a capacity of at least 2"]),
    (
        ["--task", "vertex_cover", "--model", "scripted:script.json", "--methods", "oracle-forks"],
        ["a task that a program can divide (countdown, countdown-paper, sudoku)"],
    ),
    (["nowhere.toml"], ["unknown recipe 'nowhere.toml'", "recipes/"]),
    (["--resume", "nowhere"], ["nowhere holds no run"]),
    (["--resume", "nowhere", "--samples", "3"], ["leave out samples"]),
    (["--resume", "nowhere", "--at-once", "3"], ["nowhere holds no run"]),
]


@pytest.mark.parametrize(("arguments", "told"), BAD, ids=[" ".join(one[0]) for one in BAD])
def test_options(arguments: list[str], told: list[str]) -> None:
    refused(arguments, *told, status=4 if "hf:nowhere" in arguments else 2)


FILES: list[tuple[list[Any], list[str]]] = [
    ([GOOD, '{"numbers": [2, 3'], ["line 2 is no JSON"]),
    ([GOOD, {"numbrs": [2, 3, 5, 7], "target": 28}], ["line 2", "'numbrs'", "did you mean 'numbers'"]),
    ([{"numbers": [2, 3, 5, 7]}], ["line 1", "'target' is missing"]),
    ([{"id": "a", **GOOD}, {"id": "a", **GOOD}], ["line 2", "'a' was there before"]),
    ([{"numbers": [2, 3, 5, "7"], "target": 28}], ["line 1", "whole numbers"]),
    ([GOOD, [1, 2]], ["line 2", "a JSON object"]),
    ([], ["holds no problem"]),
    ([GOOD, {"numbers": [2, 3, 5, 70], "target": 28}], ["the number 70"]),
]


@pytest.mark.parametrize(("values", "told"), FILES, ids=range(len(FILES)))
def test_problem_files(values: list[Any], told: list[str]) -> None:
    refused(["--task", "countdown", "--problems", lines(*values)], *told)


RECIPES: list[tuple[str, list[str]]] = [
    ("task = ", ["recipe.toml"]),
    ('task = "countdown"\nsampels = 2', ["'sampels'", "did you mean 'samples'"]),
    ('task = "countdown"\n[methods.mine]\n', ["'mine'", 'needs method = "..."']),
    (
        'task = "countdown"\n[methods.sequential]\nmax_organiser_tokens = 2',
        ["did you mean 'methods.sequential.max_organizer_tokens'"],
    ),
    ('task = "countdown"\n[methods.sequential]\nmax_tokens = "2"', ["methods", "int"]),
    ('task = "countdown"\n[methods.sequential]\nmax_tokens = [3, 3]', ["a list of different values"]),
    ('task = "countdown"\nmethods = 3', ["methods are tables"]),
    ('task = "countdown"\nlimit = 1\n[methods.a]\nmethod = "paralel"', ["did you mean 'parallel'"]),
]


@pytest.mark.parametrize(("text", "told"), RECIPES, ids=range(len(RECIPES)))
def test_recipes(text: str, told: list[str]) -> None:
    Path("recipe.toml").write_text(text)
    refused(["recipe.toml"], *told)


def test_methods_of_a_recipe_that_are_no_tables() -> None:
    Path("recipe.toml").write_text('task = "countdown"\nmethods = ["asyncthink"]')
    refused(["recipe.toml", "--methods", "sequential"], "methods must be tables")


def test_an_extra_that_is_missing_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = {"matplotlib", "math_verify"}

    def missing(extra: str) -> list[str]:
        return sorted(absent & set(extras.EXTRAS[extra]))

    monkeypatch.setattr(extras, "missing", missing)
    refused(EMBEDDED, "the report of an evaluation needs matplotlib: pip install matplotlib")
    absent.remove("matplotlib")
    lines({"problem": "1 + 1?", "answer": "2"})
    contest = ["--task", "contest_math", "--problems", "problems.jsonl", "--model", "scripted:script.json"]
    refused(contest, "the task contest_math needs math_verify: pip install math-verify")


def with_room(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=n_bytes)

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_disk_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 1_000_000)
    refused([*EMBEDDED, "--output", "run"], "has 1 MB left", "choose another --output")
    assert not Path("run").exists()


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 10**12)
    refused([*EMBEDDED, "--output", "/proc/asyncthink"], "/proc/asyncthink: ")


def test_a_folder_that_holds_something_else() -> None:
    RunDirectory.create("other", "seed = 1\n", {}).close()
    Path("other/episodes.jsonl").write_text('{"half')
    refused([*EMBEDDED, "--output", "other"], "made with another configuration", "changed: ", "seed")
    refused(["--resume", "other"], "is no evaluation")
    Path("file").write_text("")
    refused([*EMBEDDED, "--output", "file"], "file")


def test_a_run_that_is_being_written(folder: Path) -> None:
    from asyncthink.evaluation.recipe import resolve
    from asyncthink.evaluation.run import begin

    recipe = resolve({"task": "countdown", "limit": 2, "methods": {"sequential": {}}}, "here")
    with begin(recipe, folder / "run"):
        refused(["--resume", "run"], "is being written by another process")
        refused([*EMBEDDED, "--methods", "sequential", "--output", "run"], "is being written")
    (folder / "run" / "episodes.jsonl").write_text('{"half')  # something was done
    again = [*EMBEDDED, "--methods", "sequential", "--samples", "2", "--output", "run"]
    refused(again, "changed: samples", "name another folder")
    (folder / "run" / "problems.jsonl").write_text("{}\n")
    refused(["--resume", "run"], "is not what the run began with")


def test_servers_are_asked_who_they_are_before_they_are_asked_anything() -> None:
    with FaultServer() as server:
        server.configure(
            {"script": {"organizer": "<ANSWER>1</ANSWER>", "workers": {}}, "key": "sk-right-0123456789"}
        )
        there = [*EMBEDDED, "--base-url", server.url]
        key = {"OPENAI_API_KEY": "sk-right-0123456789"}
        wrong = {"OPENAI_API_KEY": "sk-wrong-0123456789"}

        def told(arguments: list[str], environment: dict[str, str], part: str) -> None:
            result = CliRunner().invoke(app, ["eval", *arguments], env=environment, catch_exceptions=False)
            assert result.exit_code in (2, 4) and part in result.stderr.splitlines()[-1], result.stderr

        told([*there, "--model", "openai:scriptd"], key, "scripted")
        told([*there, "--model", "openai:scripted"], wrong, "OPENAI_API_KEY")
    told([*there, "--model", "openai:scripted", "--output", "dead"], key, server.url.partition("/v1")[0])
    # Nothing was earned there, so that the mended command takes its place.
    told(
        [*EMBEDDED, "--model", "openai:scripted", "--base-url", "http://127.0.0.1:9/v1", "--output", "dead"],
        key,
        ":9",
    )
