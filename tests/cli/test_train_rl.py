"""`asyncthink train` as a user runs it: what is told while it goes on, how it ends, and the report of it."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from asyncthink.cli import train_progress
from asyncthink.cli.main import app
from asyncthink.cli.train_progress import Pace, Reports, RLProgress, SFTProgress, shown
from asyncthink.errors import EngineError
from asyncthink.training.sft import Progress
from asyncthink.training.step import StepMetrics

TRAIN = [sys.executable, "-c", "from asyncthink.cli.main import run; run()", "train"]
SECONDS = 300
RL = """
start = "{start}"
output = "run"

[rollout]
problems = 2
episodes = 2
max_critical_path = 60

[update]
steps = {steps}
threads = 1
"""
SFT = """
output = "run"

[model]
hidden_size = 32
intermediate_size = 48
layers = 1
heads = 2
head_dim = 16

[[data]]
kind = "guess"
share = 1
numbers = { 3 = 1.0 }
wanted = { 1 = 1.0 }

[train]
tokens = 2_000
batch_tokens = 700
learning_rate = 0.02
embedding_learning_rate = 0.02
threads = 1
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(steps: int = 2, start: str = "embedded") -> str:
    Path("tiny.toml").write_text(RL.format(steps=steps, start=start))
    return "tiny.toml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments])


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]


def metrics(step: int, steps: int = 40, **changes: Any) -> StepMetrics:
    values: dict[str, Any] = {
        "step": step,
        "steps": steps,
        "problems": (0, 2),
        "reward": 0.25 * step,
        "reward_std": 0.1,
        "accuracy": 0.5,
        "solved": 0.25,
        "concurrency": 0.375,
        "critical_path": 1213.0,
        "forks": 2.5,
        "joins": 1.5,
        "valid": 0.875,
        "even_groups": 0.0,
        "decoded_tokens": 400,
        "rows": 8,
        "trained_tokens": 300,
        "loss": 0.0,
        "gradient_norm": 0.5,
        "kl": 2e-9,
        "entropy": 0.125,
        "moved": 0.25,
        "clipped": 0.0,
        "rollout_seconds": 4.0,
        "update_seconds": 1.0,
        "tokens_per_second": 812.4,
        "seconds": 5.0,
    }
    return StepMetrics(**{**values, **changes})


def tuned(step: int) -> Progress:
    rates = {"loss": 1.5, "accuracy": 0.25, "tokens_per_second": 3000.0, "seconds": 1.0}
    return Progress(step=step, tokens=100 * step, total_tokens=1000, **rates)


# Real runs


def test_a_training_tells_every_step_and_leaves_a_report() -> None:
    done = run("rl", recipe())
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "run/checkpoint\n"
    told = done.stderr.splitlines()
    assert told[0] == "run: 2 steps of 4 episodes" and len(told) == 3
    for number, (line, step) in enumerate(zip(told[1:], lines(), strict=True), 1):
        expected = (
            f"step {number}/2  reward {step['reward']:.3f}  accuracy {100 * step['accuracy']:.1f}%  "
            f"eta/c {100 * step['concurrency']:.1f}%  critical path {step['critical_path']:.1f}  "
            f"forks {step['forks']:.2f}  format errors {100 - 100 * step['valid']:.1f}%  KL {step['kl']:.1e}  "
            f"tokens/s {step['tokens_per_second']:,.0f}  "
        )
        assert line.startswith(expected) and re.fullmatch(r"0:[0-9:]{5} left", line.removeprefix(expected))
    assert told[-1].endswith("0:00:00 left")
    page = Path("run/report.html").read_text()
    assert "Training: run" in page and "not finished" not in page
    assert len(list(Path("run/figures").glob("*.svg"))) == 13
    before = Path("run/metrics.jsonl").read_bytes()
    Path("run/report.html").unlink()
    again = run("rl", "tiny.toml")
    assert (again.exit_code, again.stdout) == (0, "run/checkpoint\n")
    assert again.stderr == "run: 2 steps of 4 episodes, 2 of them done\n"
    assert Path("run/metrics.jsonl").read_bytes() == before
    assert Path("run/report.html").exists(), "a run that is done has its report"


def test_an_interrupted_training_goes_on_with_the_same_command() -> None:
    command = [*TRAIN, "rl", recipe(steps=3)]
    told: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line)
            if line.startswith("step 1/3"):
                process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130, told
    assert told[-1] == "asyncthink: interrupted; the same command goes on\n"
    assert "Traceback" not in "".join(told)
    kept = lines()
    assert 1 <= len(kept) < 3
    assert f"run is not finished: {len(kept)} of 3 steps." in Path("run/report.html").read_text()
    done = run("rl", "tiny.toml")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith(f"run: 3 steps of 4 episodes, {len(kept)} of them done\n")
    assert [step["step"] for step in lines()] == [1, 2, 3] and lines()[: len(kept)] == kept
    assert "not finished" not in Path("run/report.html").read_text()


def test_a_fine_tuning_tells_its_last_step_and_leaves_a_report() -> None:
    Path("tiny.toml").write_text(SFT)
    done = run("sft", "tiny.toml")
    assert (done.exit_code, done.stdout) == (0, "run/checkpoint\n"), done.stderr
    last = lines()[-1]
    first, *told = done.stderr.splitlines()
    assert first == "run: 2,000 tokens"
    (line,) = told  # it takes less than the seconds between two lines
    share = f"{100 * last['accuracy']:.1f}%"
    assert line.startswith(
        f"step {last['step']}  100.0%  loss {last['loss']:.3f}  accuracy {share}  tokens/s "
    )
    assert "Loss, nats per token" in Path("run/report.html").read_text()
    shown_again = run("report", "run", "--output", "elsewhere/report")
    assert shown_again.exit_code == 0
    assert "loss, nats per token" in shown_again.stdout
    assert shown_again.stdout.endswith("report: elsewhere/report/report.html\n")
    assert Path("elsewhere/report/report.md").exists() and Path("elsewhere/report/figures/loss.svg").exists()


# Errors


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["rl", "nowhere.toml"], 2, "unknown recipe 'nowhere.toml'"),
        (["rl", "sft.toml"], 2, "unknown recipe key 'model'"),
        (["sft", "rl.toml"], 2, "unknown recipe key 'rollout'"),
        (["rl", "other.toml"], 2, "run holds a run of another recipe"),
        (["rl", "lost.toml"], 4, "nowhere"),
        (["report", "nowhere"], 2, "nowhere is no training run: it has no config.toml"),
        (["report", "run"], 2, "run: no step is finished yet"),
        (["report", "run", "./run"], 2, "a run is given twice"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], status: int, told: str) -> None:
    Path("sft.toml").write_text(SFT)
    Path("rl.toml").write_text(RL.format(steps=2, start="embedded"))
    Path("other.toml").write_text(RL.format(steps=3, start="embedded"))
    Path("lost.toml").write_text(RL.format(steps=3, start="hf:nowhere").replace('"run"', '"lost"'))
    Path("run").mkdir()
    Path("run/config.toml").write_text(RL.format(steps=2, start="embedded"))
    result = run(*arguments)
    assert result.exit_code == status, result.output
    (line,) = [each for each in result.stderr.splitlines() if each.startswith("asyncthink: ")]
    assert told in line and result.stdout == ""
    assert result.stderr.splitlines()[-1] == line and "Traceback" not in result.output


def test_a_run_must_be_named() -> None:
    result = run("report")
    assert result.exit_code == 2 and "Missing argument 'RUN" in result.stderr


def test_a_report_without_numpy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[..., Any] = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == "numpy" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    result = run("report", "run")
    assert result.exit_code == 2
    assert result.stderr == "asyncthink: a report needs numpy: pip install matplotlib numpy\n"


# What is shown


def test_the_time_left_is_that_of_the_last_steps() -> None:
    seconds = 0.0
    pace = Pace(100, lambda: seconds)
    assert pace.left() == ""
    pace.add(40)
    assert pace.left() == "", "one moment says nothing"
    for step in range(41, 51):
        seconds += 20
        pace.add(step)
    assert pace.left() == "0:16:40 left", "50 steps of 20 s"
    for step in range(51, 100):
        seconds += 2
        pace.add(step)
    seconds += 2
    pace.add(100)
    assert pace.left() == "0:00:00 left"
    slow = Pace(1000, lambda: seconds)
    for step in range(200):
        seconds += 100 if step < 100 else 1
        slow.add(step)
    assert slow.left() == "0:13:21 left", "801 steps of 1 s: the slow ones are long ago"
    none = Pace(10, lambda: seconds)
    none.add(5)
    none.add(5)
    assert none.left() == ""


def terminal(width: int) -> Console:
    return Console(file=StringIO(), force_terminal=True, color_system=None, width=width)


def drawn(progress: RLProgress | SFTProgress, width: int) -> list[str]:
    """Return what stands on a terminal, line by line."""
    console = terminal(width)
    console.print(progress.display)
    assert isinstance(console.file, StringIO)
    found = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert all(len(line) <= width for line in found)
    return found


def test_a_terminal_has_bars_and_figures() -> None:
    seconds = 0.0
    progress = RLProgress(terminal(100), "run", lambda: seconds)
    assert drawn(progress, 100)[0].endswith("loading the model")
    progress.begin(40, 0, 8)
    assert [line.split()[0] for line in drawn(progress, 100)] == ["steps", "episodes"]
    for step in (1, 2, 3):
        for _ in range(8):
            progress.episode()
        assert drawn(progress, 100)[1].endswith("8/8  learning")
        seconds += 60
        progress.step(metrics(step))
    for _ in range(3):
        progress.episode()
    steps, episodes, _, heads, last, means = drawn(progress, 80)
    assert steps.endswith("3/40  0:37:00 left") and episodes.endswith(" 3/8")
    assert heads.split() == ["reward", "accuracy", "eta/c", "path", "forks", "errors", "KL", "tokens/s"]
    same = ["50.0%", "37.5%", "1,213.0", "2.50", "12.5%", "2.0e-09", "812"]
    assert last.split() == ["step", "3", "0.750", *same]
    assert means.split() == ["mean", "of", "3", "0.500", *same]
    narrow = drawn(progress, 40)
    assert narrow[2].split() == ["step", "3", "mean", "of", "3"]
    assert narrow[-1].split() == ["tokens/s", "812", "812"] and len(narrow) == 11
    told = progress.display.console.file
    assert isinstance(told, StringIO) and told.getvalue() == "", "no plain lines on a terminal"


def test_means_are_over_the_last_ten_steps() -> None:
    progress = RLProgress(terminal(100), "run")
    progress.begin(40, 0, 8)
    for step in range(1, 15):
        progress.display.add(f"step {step}", [float(step), *[0.0] * 7])
    assert drawn(progress, 100)[-1].split()[:4] == ["mean", "of", "10", "9.500"]


def test_fine_tuning_tells_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[int] = []
    monkeypatch.setattr(train_progress, "write_report", lambda runs, folder: reports.append(seen))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    seconds, seen = 0.0, 0
    out = StringIO()
    progress = SFTProgress(Console(file=out, width=40), "run", 1000, lambda: seconds)
    with shown(progress):
        for seen in range(1, 9):
            seconds += 12
            progress(tuned(seen))
    rates = "loss 1.500  accuracy 25.0%  tokens/s 3,000"
    assert out.getvalue().splitlines() == [
        "run: 1,000 tokens",
        f"step 3  30.0%  {rates}  0:01:24 left",
        f"step 6  60.0%  {rates}  0:00:48 left",
        f"step 8  80.0%  {rates}  0:00:24 left",
    ]
    assert reports == [8], "at the end"


def test_reports_come_every_so_many_steps_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(train_progress, "write_report", lambda runs, folder: written.append(done))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    done = 0
    progress = RLProgress(Console(file=StringIO()), "run")
    with pytest.raises(EngineError), shown(progress):
        progress.begin(40, 0, 8)
        for done in range(1, 24):
            progress.step(metrics(done))
        raise EngineError("gone")
    assert written == [10, 20, 23]
    with pytest.raises(EngineError), shown(progress):
        raise EngineError("gone at once")
    assert written == [10, 20, 23], "there is nothing new"


def test_a_report_that_cannot_be_written_stops_nothing() -> None:
    told: list[str] = []
    reports = Reports("nowhere", 1, told.append)
    for _ in range(3):
        reports.step()
    assert told == ["no report: nowhere is no training run: it has no config.toml"], "once"


def test_a_terminal_is_left_as_it_was() -> None:
    console = terminal(90)
    progress = RLProgress(console, "nowhere")
    with shown(progress):
        progress.begin(1, 0, 2)
        progress.step(metrics(1, 1))
        time.sleep(0.3)  # the view is drawn four times a second
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is back"
    assert "1/1" in text and "no report: nowhere is no training run" in text
