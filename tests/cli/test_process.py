"""What only a process of its own shows: imports, streams, signals, missing packages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asyncthink.episodes.store import RunDirectory
from asyncthink.extras import EXTRAS

COMMAND = [sys.executable, "-c", "from asyncthink.cli.main import run; run()"]
SECONDS = 120


def run(*arguments: str, setup: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{setup}\nfrom asyncthink.cli.main import run; run()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=cwd)


HEAVY = ("torch", "transformers", "httpx", "requests", "urllib3", "aiohttp", "http.client", "msgspec")


@pytest.mark.parametrize("arguments", [["--help"], ["think", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    setup = (
        "import atexit, sys\n"
        f"atexit.register(lambda: sys.stderr.write(' '.join(m for m in {HEAVY} if m in sys.modules)))"
    )
    result = run(*arguments, setup=setup)
    assert result.returncode == 0
    assert result.stderr == ""
    assert "think" in result.stdout


def test_a_missing_extra_is_told_with_the_line_that_mends_it() -> None:
    """As in an installation without the extra: the finder does not find torch."""
    setup = (
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)"
    )
    for arguments in (["think", "--task", "countdown"], ["train", "sft", "recipes/embedded-base.toml"]):
        result = run(*arguments, setup=setup)
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert "needs torch: pip install jinja2 numpy safetensors tokenizers 'torch>=" in result.stderr
    doctor = run("doctor", setup=setup)
    assert doctor.returncode == 2
    assert "--    extra local: missing torch: pip install" in doctor.stdout


def test_the_extras_are_those_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra, modules in EXTRAS.items():
        declared = {need.partition(">")[0] for need in project["optional-dependencies"][extra]}
        assert declared == set(modules)


def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "s.json"
    script.write_text(json.dumps({"organizer": "<ANSWER>\x1b[2J\u202e</ANSWER>"}))
    result = run("think", "q", "--model", f"scripted:{script}", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["answer"] == "\x1b[2J\u202e"
    assert result.stdout.count("\n") == 1
    assert "\x1b[2J" not in result.stderr


def test_an_interrupted_thought_is_kept(tmp_path: Path) -> None:
    """Ctrl-C: what was thought so far is shown and saved, and the exit status says so."""
    script = tmp_path / "s.py"
    script.write_text(
        "import asyncthink.engines.models as models\n"
        "from asyncthink.engines.scripted import ScriptedEngine\n"
        "models.load_engine = lambda name, server=None: ScriptedEngine({'organizer': 'w ' * 10_000}, delay=0.01)\n"
        "from asyncthink.cli.main import run\n"
        "run()\n"
    )
    arguments = ["think", "q", "--json", "--output", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), True)
    lock = tmp_path / "run" / "manifest.json"
    for _ in range(600):
        if lock.exists():
            break
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["stop_reason"] == "cancelled"
    assert "Traceback" not in stderr
    (episode,) = RunDirectory.open(tmp_path / "run").episodes()
    assert episode.stop_reason.value == "cancelled"
    assert episode.traces[0].segments


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["tasks", "countdown", "--limit", "2000"], 0), (["--help"], 1)],  # the second is click's own
)
def test_a_reader_that_has_seen_enough_ends_it_quietly(arguments: list[str], status: int) -> None:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(SECONDS) == status
    assert error == b""


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*COMMAND, "tasks"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=SECONDS
        )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
