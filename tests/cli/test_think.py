"""`asyncthink think` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hand_cases import CASES, DONE, FORK1, NAMES, work
from typer.testing import CliRunner, Result

from asyncthink.cli.main import app
from asyncthink.episodes.store import RunDirectory
from asyncthink.tasks.countdown import Countdown, CountdownProblem

SENTENCE = "Using the numbers 1, 2, 3, 8, find 4 different expressions that equal 24."
METRICS = {"critical_path", "concurrency", "decoded_tokens"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def script(folder: Path, organizer: Any, workers: dict[str, str] | None = None) -> str:
    path = folder / "script.json"
    path.write_text(json.dumps({"organizer": organizer, "workers": workers or {}}), encoding="utf-8")
    return f"scripted:{path}"


@pytest.mark.parametrize(
    ("organizer", "workers", "capacity", "critical_path", "active", "errors"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_values_worked_out_by_hand(
    organizer: str,
    workers: dict[str, str],
    capacity: int,
    critical_path: int,
    active: int,
    errors: list[str],
    tmp_path: Path,
) -> None:
    model = script(tmp_path, organizer, workers)
    result = run("think", "q", "--model", model, "--capacity", capacity, "--json")
    shown = json.loads(result.stdout)
    assert shown["metrics"]["critical_path"] == critical_path
    assert shown["metrics"]["concurrency"] == pytest.approx(active / critical_path / capacity)
    assert shown["format_errors"] == [NAMES[error] for error in errors]
    assert result.exit_code == (3 if "na" in errors else 0)


def check(shown: dict[str, Any]) -> None:
    """The score is the exact check's, and everything that is promised is there."""
    problem = CountdownProblem(numbers=(1, 2, 3, 8), target=24, wanted=4)
    assert set(shown) == {"answer", "score", "stop_reason", "cause", "format_errors", "metrics"}
    assert set(shown["metrics"]) >= METRICS
    assert shown["score"] == Countdown().check(problem, shown["answer"]).value
    assert shown["stop_reason"] == "answer"


def test_the_embedded_model_solves_a_problem_however_it_is_asked() -> None:
    """The same problem gives the same thought, whether in words or in numbers."""
    sentence = run("think", SENTENCE, "--json")
    options = run("think", "--task", "countdown", "--numbers", "1,2,3,8", "--target", "24", "--json")
    for result in (sentence, options):
        assert result.exit_code == 0, result.stderr
        check(json.loads(result.stdout))
    one, other = json.loads(sentence.stdout), json.loads(options.stdout)
    for shown in (one, other):
        del shown["metrics"]["wall_seconds"]
    assert one == other
    assert one["score"] > 0


@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_the_baselines_run_on_the_embedded_model(method: str) -> None:
    result = run("think", SENTENCE, "--method", method, "--json", "--seed", 1)
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    check(shown)
    if method == "sequential":
        assert shown["metrics"]["forks"] == 0
        assert shown["metrics"]["concurrency"] == 0.25
    else:
        assert shown["metrics"]["forks"] == 3
        assert shown["metrics"]["concurrency"] > 0.5


def test_the_end_of_a_thought_for_people(tmp_path: Path) -> None:
    answer = "<ANSWER>\n3 * 8 * (2 - 1)\n8 * 3 / (2 - 1)\n1 + 1\n8 * (1 + 2) * 3\n</ANSWER>"
    model = script(tmp_path, f"{FORK1} <JOIN-1> {answer}", {"a": work(10)})
    result = run("think", SENTENCE, "--model", model, "--capacity", 2)
    assert result.exit_code == 0
    for text in ("critical path", "eta/c", "one after another", "decoded", "worker 1", "3 * 8 * (2 - 1)"):
        assert text in result.stdout, text


def test_standard_input(tmp_path: Path) -> None:
    model = script(tmp_path, DONE)
    result = CliRunner().invoke(app, ["think", "-", "--model", model, "--json"], input="what?\n")
    assert json.loads(result.stdout)["answer"] == "x"


def test_an_environment_variable_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTHINK_MAX_TOKENS", "2")
    result = run("think", "q", "--model", script(tmp_path, f"1 2 3 {DONE}"), "--json")
    assert json.loads(result.stdout)["stop_reason"] == "budget"
    assert result.exit_code == 3
    assert "the limit of 2 tokens" in result.stderr


def test_episodes_are_kept_and_added(tmp_path: Path) -> None:
    model = script(tmp_path, f"{FORK1} <JOIN-1> {DONE}", {"a": work(10)})
    folder = tmp_path / "run"
    for _ in range(2):
        assert run("think", "q", "--model", model, "--output", folder, "--json").exit_code == 0
    episodes = list(RunDirectory.open(folder).episodes())
    assert [episode.answer for episode in episodes] == ["x", "x"]
    other = run("think", "q", "--model", model, "--output", folder, "--seed", 1)
    assert other.exit_code == 2
    assert len(list(RunDirectory.open(folder).episodes())) == 2


BROKEN = "{folder}/broken"
BAD: list[tuple[list[str], int, str]] = [
    (["think", "hello"], 2, "only knows countdown"),
    (["think", "Is 2027 prime?", "--method", "parallel"], 2, "only knows countdown"),
    (["think"], 2, "there is no question"),
    (["think", "q", "--task", "countdown"], 2, "either a question or --task"),
    (["think", "--task", "countdwn"], 2, "did you mean 'countdown'?"),
    (["think", "q", "--model", "embeded"], 2, "did you mean 'embedded'?"),
    (["think", "q", "--method", "paralel"], 2, "did you mean 'parallel'?"),
    (["think", "q", "--model", "hf:"], 2, "needs a folder"),
    (["think", "--numbers", "1,2,3,4", "--target", "9"], 2, "need --task countdown"),
    (["think", "--task", "countdown", "--numbers", "1,2,3,4"], 2, "belong together"),
    (["think", "--task", "countdown", "--numbers", "1,2,x,4", "--target", "9"], 2, "x"),
    (["think", "--task", "countdown", "--numbers", "", "--target", "9"], 2, "numbers"),
    (["think", "--task", "countdown", "--numbers", "1,2,3", "--target", "9"], 2, "was not made for"),
    (["think", "--task", "countdown", "--numbers", "1,2,3,99", "--target", "9"], 2, "was not made for"),
    (["think", "--task", "countdown", "--numbers", "1,2,3,4", "--target", "1000"], 2, "was not made for"),
    (["think", "--task", "countdown", "--numbers", "1,2,3,4", "--target", "-5"], 2, "target"),
    (["think", "q", "--capacity", "0"], 2, "capacity"),
    (["think", "q", "--temperature", "-1"], 2, "temperature"),
    (["think", "q", "--top-p", "0"], 2, "top_p"),
    (["think", "q", "--max-tokens", "0"], 2, "max_tokens"),
    (["think", "q", "--deadline", "-1"], 2, "deadline"),
    (["think", SENTENCE, "--output", "{folder}/file/run"], 2, "{folder}/file"),
    (["think", SENTENCE, "--model", "hf:{folder}"], 4, "config.json is missing"),
    (["think", SENTENCE, "--model", "hf:{folder}/broken"], 4, "cannot be read"),
    (["think", "q", "--model", "scripted:{folder}/none.json"], 2, "No such file"),
    (["think", "q", "--model", "scripted:{folder}/file"], 2, "not JSON"),
    (["tasks", "countdwn"], 2, "did you mean 'countdown'?"),
    (["tasks", "countdown", "--split", "tset"], 2, "did you mean 'test'?"),
    (["train", "sft", "recipes/embeded-base.toml"], 2, "did you mean 'recipes/embedded-base.toml'?"),
    (["doctor", "--model", "hf:{folder}"], 4, "config.json is missing"),
]


@pytest.mark.parametrize(("arguments", "status", "told"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_clear_line(
    arguments: list[str], status: int, told: str, tmp_path: Path, broken: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "broken").symlink_to(broken)
    result = run(*(argument.format(folder=tmp_path) for argument in arguments))
    assert result.exit_code == status
    assert told.format(folder=tmp_path) in result.output
    assert "Traceback" not in result.output
    if arguments[0] != "doctor":
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights were cut off."""
    from shutil import copytree

    from asyncthink.engines.models import EMBEDDED

    folder = copytree(EMBEDDED, tmp_path_factory.mktemp("checkpoint") / "broken")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def test_tasks_lists_and_shows() -> None:
    listed = run("tasks")
    assert "countdown" in listed.stdout and "countdown-paper" in listed.stdout
    rows = [
        json.loads(line) for line in run("tasks", "countdown", "--limit", 3, "--json").stdout.splitlines()
    ]
    assert [row["id"] for row in rows] == [0, 1, 2]
    assert set(rows[0]) == {"id", "numbers", "target", "wanted"}
    assert run("tasks", "countdown", "--limit", 3, "--json").stdout == "".join(
        json.dumps(row, separators=(",", ":")) + "\n" for row in rows
    )


def test_doctor() -> None:
    result = run("doctor")
    assert result.exit_code == 0
    assert "answers countdown" in result.stdout
    assert "FAIL" not in result.stdout
