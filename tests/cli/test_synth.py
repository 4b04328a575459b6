"""`asyncthink synth` as a user runs it, against a server that answers what a script says."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fault_server.control import FaultServer
from typer.testing import CliRunner, Result

from asyncthink.cli.main import app
from asyncthink.training.synthesis import read_examples
from asyncthink.training.teacher.prompts import messages
from asyncthink.training.teacher.question import Settings, plan_of, train_problem
from asyncthink.training.teacher.reply import Drop, moves_of

COMMAND = [sys.executable, "-c", "from asyncthink.cli.main import run; run()", "synth"]
SETTINGS = Settings(model="openai:scripted", task="vertex_cover", capacity=3, seed=5, max_forks=3)
ARGUMENTS = ["--task", "vertex_cover", "--capacity", "3", "--seed", "5", "--max-forks", "3"]
PAGE = Path(__file__).parents[2] / "docs" / "synthesis.md"
PIECE = {"text": "string", "trained": "bool"}
BAD = "Sure, here is a plan."


def asked(index: int) -> str:
    """Return what a question's request says last."""
    query = train_problem(SETTINGS, index)
    told = query.task.prompt(query.problem)
    return messages(told, capacity=SETTINGS.capacity, plan=plan_of(SETTINGS, index))[1].content


def reply(index: int) -> str:
    """Return what a teacher writes that follows the plan."""
    spelled: list[str] = []
    for move in plan_of(SETTINGS, index):
        number = move[1:]
        if move[0] == "F":
            spelled.append(f"ask <FORK-{number}>part {number} of {index}</FORK-{number}>")
        else:
            spelled.append(f"read <JOIN-{number}>found {number}</JOIN-{number}>")
    numbers = sorted({move[1:] for move in plan_of(SETTINGS, index)})
    workers = [f"=== WORKER {number} ===\nI look. <RETURN>found {number}</RETURN>" for number in numbers]
    return "\n".join([*workers, "=== ORGANIZER ===", *spelled, f"<ANSWER>{index}</ANSWER>"])


def script(replies: dict[int, str]) -> dict[str, Any]:
    workers = {asked(index): text for index, text in replies.items()}
    return {"script": {"workers": workers}, "worker_mark": "You write example traces"}


@pytest.fixture(scope="module")
def server() -> Generator[FaultServer]:
    with FaultServer() as process:
        yield process


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> Result:
    """Run the command in this process, which is quicker; kills and signals need one of their own."""
    return CliRunner().invoke(app, ["synth", *arguments], catch_exceptions=False)


def at(server: FaultServer, *more: str, limit: int = 8, output: str = "traces.jsonl") -> list[str]:
    place = ["--model", "openai:scripted", "--base-url", server.url]
    return [*place, *ARGUMENTS, "--limit", str(limit), "--output", output, *more]


def bodies(server: FaultServer) -> list[Any]:
    """Return the requests for a text; those that only try a route hold none."""
    return [body for body in server.stats()["last_bodies"] if body.get("messages")]


def questions_asked(server: FaultServer) -> list[str]:
    return sorted(body["messages"][-1]["content"] for body in bodies(server))


def test_a_teacher_writes_traces_and_the_report_says_what_became_of_them(server: FaultServer) -> None:
    replies = {index: reply(index) for index in range(8)}
    replies[2] = BAD
    replies[5] = replies[5].replace("</ANSWER>", "")
    server.configure(script(replies))
    done = run(*at(server, "--json", "--temperature", "0.5", "--max-tokens", "900"))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    assert (told["questions"], told["kept"], told["share_kept"]) == (8, 6, 0.75)
    assert told["dropped"] == {"no_organizer": 1, "malformed_tag": 1}
    assert told["structures"]["likeness"] == {"as_asked": 6, "reordered": 0, "other": 0}
    assert (told["output"], told["report"]) == ("traces.jsonl", "traces.report.json")
    plans = [plan_of(SETTINGS, index) for index in range(8) if index not in (2, 5)]
    examples = read_examples("traces.jsonl")
    organizers = [each for each in examples if each.role == "organizer"]
    assert [moves_of(each) for each in organizers] == plans
    assert [each.capacity for each in organizers] == [3] * 6
    assert len(examples) - 6 == told["examples"]["worker"] == sum(len(plan) // 2 for plan in plans)
    report = json.loads(Path("traces.report.json").read_text())
    assert [(each["index"], each["reason"]) for each in report["dropped"]] == [
        (2, "no_organizer"),
        (5, "malformed_tag"),
    ]
    assert report["dropped"][0]["reply"] == BAD
    assert report["statistics"] == {
        name: value for name, value in told.items() if name not in ("output", "report")
    }
    assert questions_asked(server) == sorted(asked(index) for index in range(8))
    assert {(body["temperature"], body["max_tokens"]) for body in bodies(server)} == {(0.5, 900)}
    assert len({body["seed"] for body in bodies(server)}) == 8, "each question has chance of its own"
    assert "8/8" in done.stderr and "kept 6" in done.stderr


def test_killed_and_given_again_it_asks_only_for_what_is_missing(server: FaultServer) -> None:
    replies = {index: reply(index) for index in range(8)} | {3: BAD}
    server.configure(script(replies))
    assert run(*at(server, output="whole.jsonl")).exit_code == 0
    server.configure({**script(replies), "delay": 0.02})
    process = subprocess.Popen(
        [*COMMAND, *at(server, "--at-once", "2")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = Path("traces.log.jsonl")
    until = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") > 3) and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    finished = {json.loads(line)["index"] for line in log.read_text().splitlines()[1:]}
    assert 3 <= len(finished) < 8
    found = [each.query for each in read_examples("traces.jsonl") if each.role == "organizer"]
    assert len(found) >= len(finished) - 1, "one is the bad one"
    server.configure(script(replies))
    done = run(*at(server))
    assert done.exit_code == 0, done.stderr
    assert questions_asked(server) == sorted(asked(index) for index in range(8) if index not in finished)
    for name in (".jsonl", ".report.json"):
        assert Path(f"traces{name}").read_bytes() == Path(f"whole{name}").read_bytes()


def test_when_nothing_is_missing_no_server_is_needed(server: FaultServer) -> None:
    server.configure(script({0: reply(0)}))
    assert run(*at(server, limit=1)).exit_code == 0
    again = at(server, limit=1)
    again[3] = "http://127.0.0.1:9/v1"
    done = run(*again)
    assert done.exit_code == 0, done.stderr
    assert "1 questions: 1 kept, 0 dropped" in done.stdout
    changed = run(*again, "--top-p", "0.5")
    assert changed.exit_code == 2
    assert changed.stderr == (
        "asyncthink: traces.jsonl was made with top_p = 1.0: go on so, or name another --output\n"
    )


def test_an_interruption_says_how_to_go_on(server: FaultServer) -> None:
    server.configure({**script({index: reply(index) for index in range(8)}), "delay": 0.03})
    process = subprocess.Popen(
        [*COMMAND, *at(server, "--at-once", "1")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = Path("traces.log.jsonl")
    until = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") > 1) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    last = re.fullmatch(
        r"asyncthink: interrupted; ([0-9]+) questions to go: the same command goes on", error.splitlines()[-1]
    )
    assert last and "Traceback" not in error
    count = len(log.read_text().splitlines()) - 1
    assert int(last[1]) == 8 - count > 0
    assert told.startswith(f"{count} questions: {count} kept, 0 dropped\n")
    assert Path("traces.report.json").exists()


def test_what_a_server_fails_is_told_and_asked_again(server: FaultServer) -> None:
    replies = script({index: reply(index) for index in range(8)})
    faults = {"rate": 0.5, "names": ["status_500"], "seed": 3, "override": {"status": 400}}
    server.configure({**replies, "faults": faults})
    first = run(*at(server))
    assert first.exit_code == 4, first.stderr
    last = first.stderr.splitlines()[-1]
    failed = re.match(r"asyncthink: the engine failed ([0-9]) questions, the last with: .* to go", last)
    assert failed and 0 < int(failed[1]) < 8, last
    server.configure(replies)
    done = run(*at(server))
    assert done.exit_code == 0, done.stderr
    assert len(questions_asked(server)) == int(failed[1])
    assert len([each for each in read_examples("traces.jsonl") if each.role == "organizer"]) == 8


def test_when_nothing_is_kept_the_exit_status_says_so(server: FaultServer) -> None:
    server.configure({"script": {"workers": {"*": BAD}}, "worker_mark": "You write example traces"})
    done = run(*at(server, limit=2))
    assert done.exit_code == 3
    assert "2 questions: 0 kept, 2 dropped\ndropped: no_organizer 2\n" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last == "asyncthink: no trace was kept: traces.report.json says why"
    assert Path("traces.jsonl").read_bytes() == b""


def test_what_a_model_wrote_reaches_no_terminal(server: FaultServer) -> None:
    server.configure({"script": {"workers": {"*": "\x1b[2J[/red]"}}, "worker_mark": "You write"})
    done = run(*at(server, limit=1))
    assert done.exit_code == 3
    assert "[2J" not in done.stdout + done.stderr
    assert json.loads(Path("traces.report.json").read_text())["dropped"][0]["reply"] == "\x1b[2J[/red]"


@pytest.mark.parametrize("task", ["countdown", "sudoku"])
def test_a_program_writes_the_same_format(task: str) -> None:
    arguments = ["--model", "program", "--task", task, "--seed", "1"]
    assert run(*arguments, "--limit", "2", "--output", "traces.jsonl").exit_code == 0
    done = run(*arguments, "--limit", "4", "--output", "traces.jsonl")
    assert done.exit_code == 0, done.stderr
    assert "4 questions: 4 kept, 0 dropped\n" in done.stdout and "structures" not in done.stdout
    assert run(*arguments, "--limit", "4", "--output", "whole.jsonl").exit_code == 0
    assert Path("traces.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    roles = [each.role for each in read_examples("traces.jsonl")]
    assert roles.count("organizer") == 4 and roles.count("worker") > 4


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--output", "x.jsonl"], 2, "there is no teacher: --model openai:NAME, or --model program"),
        (["--model", "program"], 2, "--output is missing, or no file such as traces.jsonl"),
        (["--model", "program", "--output", "folder"], 2, "no file such as traces.jsonl"),
        (["--model", "program", "--output", ".jsonl"], 2, "no file such as traces.jsonl"),
        (["--model", "gpt", "--output", "x.jsonl"], 2, "unknown model 'gpt'"),
        (["--model", "embedded", "--output", "x.jsonl"], 2, "name a teacher, as in --model openai:NAME"),
        (["--model", "program", "--task", "soduku", "--output", "x.jsonl"], 2, "did you mean 'sudoku'?"),
        (["--model", "program", "--task", "cases", "--output", "x.jsonl"], 2, "no problems to learn from"),
        (["--model", "program", "--task", "vertex_cover", "--output", "x.jsonl"], 2, "name a model"),
        (["--model", "program", "--top-p", "1", "--output", "x.jsonl"], 2, "only a model takes top_p"),
        (["--model", "program", "--base-url", "u", "--output", "x.jsonl"], 2, "only a model takes base_url"),
        (["--model", "openai:m", "--output", "x.jsonl"], 2, "needs a key: export OPENAI_API_KEY"),
        (
            ["--model", "openai:m", "--base-url", "http://127.0.0.1:9/v1", "--output", "x.jsonl"],
            4,
            "connection refused: is the server running",
        ),
        (["--model", "program", "--output", "mine.jsonl"], 2, "mine.jsonl belongs to something else"),
        (["--model", "program", "--output", "/proc/none/x.jsonl"], 2, "/proc/none: No such file"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], status: int, said: str) -> None:
    Path("mine.jsonl").write_text("mine")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (status, ""), result.stderr
    assert said in result.stderr
    assert result.stderr.startswith("asyncthink: ") and result.stderr.count("\n") == 1
    assert Path("mine.jsonl").read_text() == "mine"


def test_the_page_names_every_reason_option_and_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    reasons = set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE))
    assert reasons == {reason.value for reason in Drop}
    shown = CliRunner().invoke(app, ["synth", "--help"]).stdout
    options = set(re.findall(r"(?<![-|\w])(--[a-z][a-z-]+)", page))
    assert len(options) > 8
    for each in options:
        assert each in shown, each
    for name in re.findall(r"\basyncthink(?:\.[A-Za-z_][A-Za-z0-9_]*)+", page):
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute) or import_module(name)
    (shown_example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    Path("page.jsonl").write_text(" ".join(shown_example.split()))
    (example,) = read_examples("page.jsonl")
    assert moves_of(example) == ("F1", "J1") and [each.trained for each in example.pieces] == [
        True,
        False,
        True,
    ]
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (PAGE.parent / target).exists(), target
    for command in re.findall(r"^    asyncthink (.*(?:\\\n.*)*)$", page, re.MULTILINE):
        assert command.startswith(("synth ", "train sft ")), command


def test_a_folder_of_traces_is_a_data_set(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("cache").absolute())
    server.configure(script({index: reply(index) for index in range(3)} | {3: BAD}))
    arguments = at(server, limit=4, output="data/traces.jsonl")
    assert run(*arguments).exit_code == 0
    assert not Path("data/README.md").exists(), "nobody asked"
    assert run(*arguments, "--data-set").exit_code == 0
    lines = [json.loads(line) for line in Path("data/traces.jsonl").read_text().splitlines()]
    (split,) = datasets.load_dataset("data", cache_dir="cache").values()
    assert split.to_list() == lines and len(lines) > 3
    assert split.features["pieces"].feature == {name: datasets.Value(kind) for name, kind in PIECE.items()}
    copied = datasets.load_dataset("parquet", data_files="data/traces.parquet", cache_dir="cache")["train"]
    assert copied.to_list() == lines and copied.features == split.features
    card = Path("data/README.md").read_text()
    assert "n<1K" in card and "by the model `openai:scripted`" in card and "\n# license:" in card
    Path("data/README.md").write_text("mine")
    assert run(*arguments, "--data-set").exit_code == 0
    assert Path("data/README.md").read_text() == "mine"


def test_a_data_set_without_pyarrow_is_the_file_and_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncthink.training.cards.find_spec", dict[str, None]().get)
    arguments = ["--model", "program", "--limit", "2", "--output", "data/t.jsonl", "--data-set"]
    assert run(*arguments).exit_code == 0
    assert {each.name for each in Path("data").iterdir()} == {
        "t.jsonl",
        "t.log.jsonl",
        "t.report.json",
        "README.md",
    }
    assert "path: t.jsonl" in Path("data/README.md").read_text()
