"""`asyncthink view`: files, the terminal, the page's process, and what cannot be shown."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyncthink.cli.main import app
from asyncthink.episodes.record import encode
from asyncthink.episodes.store import RunDirectory
from tests.episodes.episode_worlds import episode, organizer, worker

ONE = episode(3, organizer(6, 2), worker("0/1", 20, 2, 4), worker("0/2", 3, 3))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunDirectory.create(tmp_path / "runs" / "mine", "", {"command": "think"}) as made:
        made.append(ONE)
    return tmp_path / "runs" / "mine"


def test_files(run: Path, tmp_path: Path) -> None:
    names = {"--html": "a.html", "--svg": "a.svg", "--chrome-trace": "a.json"}
    files = [word for flag, name in names.items() for word in (flag, str(tmp_path / name))]
    result = CliRunner().invoke(app, ["view", str(run), *files])
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert "worker 1, decoding, ticks 3-22: q0/1<" in (tmp_path / "a.svg").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["otherData"]["T"] == 26
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        str(tmp_path / n) for n in names.values()
    ]


def test_one_episode_in_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(encode(ONE))
    shown = CliRunner().invoke(app, ["view", str(file)])
    assert shown.exit_code == 0 and "organizer" in shown.stdout and "26 ticks" in shown.stdout
    drawn = CliRunner().invoke(app, ["view", str(file), "--svg", "-", "--base", "wall"])
    assert drawn.exit_code == 0 and drawn.stdout.startswith("<svg") and "T = 1 s" in drawn.stdout
    traced = CliRunner().invoke(app, ["view", str(file), "--chrome-trace", "-", "--base", "wall"])
    assert traced.exit_code == 0 and json.loads(traced.stdout)["otherData"]["T"] == 1_000_000


def test_an_episode_on_the_terminal(run: Path) -> None:
    result = CliRunner().invoke(app, ["view", str(run), "--episode", "e"])
    assert result.exit_code == 0 and "worker 2" in result.stdout


def test_a_run_s_line_is_an_episode_file(run: Path, tmp_path: Path) -> None:
    """As it stands, laid out anew, or the whole file of the run."""
    line = (run / "episodes.jsonl").read_text()
    for number, text in enumerate((line, json.dumps(json.loads(line), indent=2))):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        assert CliRunner().invoke(app, ["view", str(file), "--svg", "-"]).stdout.startswith("<svg")
    whole = CliRunner().invoke(app, ["view", str(run / "episodes.jsonl"), "--episode", "0"])
    assert whole.exit_code == 0 and "worker 2" in whole.stdout


def test_what_is_broken_behind_an_episode_is_told(run: Path) -> None:
    with (run / "episodes.jsonl").open("a") as file:
        file.write('{"torn')
    result = CliRunner().invoke(app, ["view", str(run), "--episode", "0"])
    assert result.exit_code == 0 and "a torn last line (6 bytes) was dropped" in result.stderr
    with (run / "episodes.jsonl").open("a") as file:
        file.write("\n" + (run / "episodes.jsonl").read_text().split("\n")[0] + "\n")
    missing = CliRunner().invoke(app, ["view", str(run), "--episode", "2"])
    assert missing.exit_code == 2 and "it has 1 episodes, from 0 on; " in missing.stderr
    assert "episodes.jsonl line 2" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["none"], "there is no folder none", 2),
        (["."], "there is no run in .", 2),
        (["runs/mine", "--episode", "7"], "no episodes named '7'; it has 1 episodes", 2),
        (["runs/mine", "--html", "none/a.html"], "none/a.html cannot be written: No such file", 1),
        (["runs/mine", "--svg", "a.svg", "--base", "tick"], "did you mean 'ticks'", 2),
        (["broken.json"], "broken.json is not one episode: Object missing", 2),
        (["bytes.json"], "bytes.json is not one episode: JSON is malformed", 2),
        (["two"], "there is no run in two", 2),
        (["none", "--episode", "0"], "there is no folder none", 2),
        (["runs", "--episode", "0"], "runs is a folder of runs: name one of them, such as runs/mine", 2),
        (["runs/mine", "--episode", "0", "--base", "wall"], "the terminal draws ticks", 2),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str, status: int
) -> None:
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path)
    if arguments == ["."]:
        monkeypatch.chdir(tmp_path / "two")
    result = CliRunner().invoke(app, ["view", *arguments, "--no-browser"])
    assert result.exit_code == status and told in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_one_of_many_has_to_be_named(run: Path) -> None:
    with RunDirectory.resume(run) as more:
        more.append(ONE)
    result = CliRunner().invoke(app, ["view", str(run), "--svg", "-"])
    assert result.exit_code == 2 and "has 2 episodes: choose one with --episode" in result.stderr


def test_the_page_s_process(run: Path) -> None:
    command = [sys.executable, "-c", "from asyncthink.cli.main import run; run()"]
    process = subprocess.Popen(
        [*command, "view", str(run), "--no-browser"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)(/runs/mine) ", line)
        assert found, line
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        for path, status in ((found[2], 200), ("/", 200), ("/v1/models", 404)):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        connection.request("GET", "/", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 403
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()
