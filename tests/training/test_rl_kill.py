"""Whatever kills a training, however often: the same weights to the last bit, no problem skipped or repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import safetensors.torch

import asyncthink
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.episodes import RunDirectory
from asyncthink.training.owpo import train_rl
from asyncthink.training.rl_recipe import load_rl_recipe
from asyncthink.training.step import StepMetrics, Watcher

from .rl_cases import metrics_of, tiny, weights, write_chain, write_recipe

SOURCE = str(Path(asyncthink.__file__).parents[1])
COMMAND = """
import sys
from asyncthink.training.owpo import train_rl
from asyncthink.training.rl_recipe import load_rl_recipe
train_rl(load_rl_recipe(sys.argv[1]))
"""
TIMES = ("seconds", "rollout_seconds", "update_seconds", "tokens_per_second")
"""What differs from run to run."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{write_chain(tmp_path_factory.mktemp('chain'))}"


def timeless(output: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in metrics_of(output)]


def hold_equal(output: Path, whole: Path, *, problems: int = 2) -> None:
    """Hold an interrupted run to one that was not."""
    found = timeless(output)
    assert found == timeless(whole)
    steps = len(found)
    assert [line["step"] for line in found] == list(range(1, steps + 1))
    used = [number for line in found for number in range(*line["problems"])]
    assert used == list(range(steps * problems)), "each once"
    assert weights(output / "checkpoint") == weights(whole / "checkpoint")
    for one in (whole / "checkpoints").glob("*"):
        assert weights(output / "checkpoints" / one.name) == weights(one)
        load_checkpoint(output / "checkpoints" / one.name)
    assert {one.name for one in output.iterdir()} == {one.name for one in whole.iterdir()}
    kept = [
        [[trace.segments for trace in each.traces] for each in RunDirectory.open(run).episodes()]
        for run in (output, whole)
    ]
    assert kept[0] == kept[1] and len(kept[0]) >= 2 * steps
    times = [line["seconds"] for line in metrics_of(output)]
    assert times == sorted(times)


# Killed with SIGKILL, at any moment


def launch(recipe: Path) -> subprocess.Popen[bytes]:
    """Give the command, the same each time."""
    environment = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    arguments = [sys.executable, "-W", "error", "-c", COMMAND, str(recipe)]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE)


def finish(recipe: Path) -> Path:
    process = launch(recipe)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said.decode()[-3000:]
    return recipe.parent / "run"


def kill(recipe: Path, at: int, share: float) -> None:
    """Kill in the step behind the one at which so many lines are written, `share` of a step later."""
    process = launch(recipe)
    output = recipe.parent / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    seen: list[float] = []
    with cast("Any", process.stderr):
        # A moment in another process is what is waited for.
        while len(seen) <= at and time.monotonic() < deadline:
            lines = len(output.read_text().splitlines()) if output.exists() else 0
            seen += [time.monotonic()] * (lines - len(seen))
            assert process.poll() is None, process.communicate()[1].decode()[-3000:]
            if lines >= at:
                break
            time.sleep(0.002)
        length = seen[-1] - seen[-2] if len(seen) > 1 else 0.1
        time.sleep(share * max(length, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was still at work"


def killed_and_whole(folder: Path, model: str, kills: int, seed: int, **settings: str) -> None:
    """Run once whole and once killed so many times, at steps early enough that 20 follow the last."""
    recipes = [write_recipe(folder / name, model, **settings) for name in ("whole", "killed")]
    whole = finish(recipes[0])
    steps, random = len(metrics_of(whole)), Random(seed)
    assert steps >= 22
    moments = sorted(random.sample(range(1, steps - 20), kills))
    for at in moments:
        kill(recipes[1], at, random.uniform(0, 1.2))
    output = finish(recipes[1])
    losses = [[line["loss"] for line in metrics_of(one)[moments[-1] :]] for one in (output, whole)]
    assert losses[0] == losses[1] and len(losses[0]) >= 20 and len(set(losses[0])) > 10
    hold_equal(output, whole, problems=int(settings.get("problems", "2")))


def test_killed_twice(tmp_path: Path, chain: str) -> None:
    """Two lanes: their threads take turns as they like."""
    short = {"max_critical_path": "30", "cooldown_steps": "10", "bfloat16": "true"}
    killed_and_whole(tmp_path, chain, 2, 1, steps="24", threads="2", checkpoint_every="10", **short)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["chain", "embedded"])
def test_killed_ten_times(tmp_path: Path, chain: str, model: str) -> None:
    """The embedded model needs long episodes: one that is cut off has no answer, and all of those are paid the same."""
    changes = {
        "chain": {"steps": "45", "problems": "4", "updates": "2", "save_every": "2"},
        "embedded": {
            "capacity": "4",
            "steps": "31",
            "episodes": "2",
            "max_critical_path": "600",
            "bfloat16": "true",
        },
    }[model]
    start = chain if model == "chain" else model
    killed_and_whole(tmp_path, start, 10, 2, threads="2", learning_rate="1e-4", **changes)


# Killed at every point of a step, and in the middle of every write


class Killed(Exception):
    pass


class KillAt(Watcher):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, metrics: StepMetrics) -> None:
        if metrics.step == self.at:
            raise Killed


@pytest.mark.parametrize(("save_every", "kl"), [("1", "0.0"), ("3", "0.0"), ("1", "0.5")])
def test_every_step_is_a_good_one_to_be_killed_behind(
    tmp_path: Path, chain: str, save_every: str, kl: str
) -> None:
    """Also where the model is held to what it began as, which is not what it goes on as."""
    steps = {"steps": "4", "episodes": "2", "max_critical_path": "12", "kl": kl}
    whole = tiny(tmp_path / "whole", chain, **steps)
    train_rl(whole)
    for at in range(1, 5):
        recipe = tiny(tmp_path / str(at), chain, save_every=save_every, **steps)
        with pytest.raises(Killed):
            train_rl(recipe, KillAt(at))
        with suppress(Killed):  # where no step is left, nothing is there to be killed in
            train_rl(recipe, KillAt(at + 1))
        train_rl(recipe)
        hold_equal(tmp_path / str(at) / "run", tmp_path / "whole" / "run")


class Writes:
    """Counts what changes the disk, and is killed at one of them: half of what was to be written is there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.dead = 0, -1, False
        self.write_text, self.replace, self.open = Path.write_text, Path.replace, Path.open
        self.write, self.ftruncate = os.write, os.ftruncate
        self.save_file = safetensors.torch.save_file
        for name in ("write_text", "replace", "open"):
            patch.setattr(Path, name, self._method(getattr(self, f"watched_{name}")))
        patch.setattr(os, "write", self.watched_write)
        patch.setattr(os, "ftruncate", self.watched_ftruncate)
        patch.setattr(safetensors.torch, "save_file", self.watched_save_file)

    @staticmethod
    def _method(watched: Callable[..., Any]) -> Callable[..., Any]:
        """Return a plain function, which becomes a method of every path."""

        def method(path: Path, *args: Any, **more: Any) -> Any:
            return watched(path, *args, **more)

        return method

    def begin(self, at: int) -> None:
        """Count anew, in what stands for a process of its own."""
        self.count, self.at, self.dead = 0, at, False

    def due(self) -> bool:
        self.count += 1
        self.dead = self.dead or self.count - 1 == self.at
        return self.count - 1 == self.at

    def watched_write_text(self, path: Path, text: str, **rest: Any) -> int:
        if self.due():
            self.write_text(path, text[: len(text) // 2])
            raise Killed
        return self.write_text(path, text, **rest)

    def watched_replace(self, path: Path, target: Path) -> Path:
        if self.due():
            raise Killed
        return self.replace(path, target)

    def watched_open(self, path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if mode == "wb" and self.due():
            with self.open(path, "wb") as file:
                file.write(b"PK half")
            raise Killed
        return self.open(path, mode, *rest, **more)

    def watched_write(self, fd: int, data: Any) -> int:
        if self.due():
            self.write(fd, bytes(data)[: len(data) // 2])
            raise Killed
        return self.write(fd, data)

    def watched_ftruncate(self, fd: int, length: int) -> None:
        """Who is dead takes nothing back."""
        if self.dead:
            return
        if self.due():
            raise Killed
        self.ftruncate(fd, length)

    def watched_save_file(self, tensors: Any, path: Path, **rest: Any) -> None:
        self.save_file(tensors, path, **rest)
        if self.due():
            os.truncate(path, 1000)
            raise Killed


def test_every_write_is_a_good_one_to_be_killed_in(
    tmp_path: Path, chain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again at another one while it resumes."""
    writes, random = Writes(monkeypatch), Random(4)
    steps = {
        "steps": "2",
        "episodes": "2",
        "problems": "1",
        "max_critical_path": "12",
        "checkpoint_every": "2",
    }

    def attempt(recipe: Path, at: int) -> None:
        settings = load_rl_recipe(str(recipe))
        writes.begin(at)
        train_rl(settings)

    attempt(write_recipe(tmp_path / "whole", chain, **steps), -1)
    total = writes.count
    assert total > 15
    kills = 0
    for at in range(total):
        recipe = write_recipe(tmp_path / str(at), chain, **steps)
        for moment in (at, random.randrange(total)):
            try:
                attempt(recipe, moment)
            except Killed:
                kills += 1
        attempt(recipe, -1)
        hold_equal(tmp_path / str(at) / "run", tmp_path / "whole" / "run", problems=1)
    assert kills > total
