"""Trackers: every step of every trainer, one run over all sittings, and never the cause of an end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asyncthink.cli.main import app
from asyncthink.training import mixture
from asyncthink.training.sft import Progress
from asyncthink.training.tracking import Tracker, figures

from .rl_cases import metrics_of, write_chain, write_recipe
from .sft_world import MODEL, make_small
from .sft_world import write_recipe as write_sft


@dataclass
class Recorded:
    """What a tracker's package was told."""

    begun: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list[tuple[int, dict[str, float]]])
    finished: int = 0
    interrupt: int = 0
    """The step behind which somebody presses Ctrl-C."""
    error: Exception | None = None

    def init(self, **arguments: Any) -> None:
        sys.stdout.write("* a line that is no checkpoint's path\n")
        self.begun.append(arguments)

    def log(self, values: dict[str, float], *, step: int) -> None:
        if self.error:
            raise self.error
        self.logged.append((step, values))
        if step == self.interrupt:
            self.interrupt = 0
            raise KeyboardInterrupt

    def finish(self) -> None:
        self.finished += 1


def package(monkeypatch: pytest.MonkeyPatch, name: str) -> Recorded:
    """Put a package that records in the place of a tracker's: this is not the real one."""
    recorded, module = Recorded(), ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(init=recorded.init, log=recorded.log, finish=recorded.finish)
    monkeypatch.setitem(sys.modules, name, module)
    return recorded


def train(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments])


@pytest.mark.parametrize(("kind", "trainer"), [("wandb", "ours"), ("trackio", "trl")])
def test_a_resumed_run_goes_on_in_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, trainer: str
) -> None:
    found = package(monkeypatch, kind)
    found.interrupt = 2
    path = str(write_recipe(tmp_path / "a", f"hf:{write_chain(tmp_path / 'chain')}"))
    arguments = ["rl", path, "--track", kind, "--set", f'trainer="{trainer}"']
    assert train(*arguments).exit_code == 130
    done = train(*arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path}/a/run/checkpoint\n"
    first, second = found.begun
    assert first == second and (first["project"], first["resume"]) == ("asyncthink", "allow")
    assert first["name"] == (tmp_path / "a" / "run" / "tracked.txt").read_text().strip()
    assert first.get("id", first["name"]) == first["name"] and first["name"].startswith("run-")
    assert first["config"]["update"]["steps"] == 3
    logged = dict(found.logged)
    assert sorted(logged) == [1, 2, 3] and found.finished == 2
    for line in metrics_of(tmp_path / "a" / "run"):
        assert logged[line["step"]] == figures(line)
        assert logged[line["step"]]["reward"] == line["reward"]


def test_fine_tuning_is_tracked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    monkeypatch.setattr(mixture, "SHARD", 60)
    found = package(monkeypatch, "wandb")
    path = write_sft(tmp_path, begin=MODEL, tokens="1_500")
    done = train("sft", str(path), "--track", "wandb")
    assert done.exit_code == 0, done.output
    lines = metrics_of(Path(done.stdout.strip()).parent)
    assert [(line["step"], line["loss"]) for line in lines] == [
        (step, values["loss"]) for step, values in found.logged
    ]


def test_a_tracker_that_fails_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(monkeypatch, "wandb").error = OSError("no route\nto host")
    path = str(write_recipe(tmp_path / "a", f"hf:{write_chain(tmp_path / 'chain')}"))
    done = train("rl", path, "--track", "wandb")
    assert done.exit_code == 0
    assert done.stderr.count("wandb tracks no more: no route to host") == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [("wandbb", "did you mean 'wandb'"), ("wandb", "--track wandb needs wandb: pip install wandb")],
)
def test_a_tracker_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setattr("asyncthink.training.tracking.find_spec", dict[str, None]().get)
    path = str(write_recipe(tmp_path / "a", f"hf:{write_chain(tmp_path / 'chain')}"))
    done = train("rl", path, "--track", name)
    assert done.exit_code == 2 and told in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "a" / "run").exists()


def progress(step: int, loss: float) -> Progress:
    return Progress(
        step=step, tokens=step, total_tokens=9, loss=loss, accuracy=0.5, tokens_per_second=1.0, seconds=1.0
    )


def test_tensorboard_forgets_what_is_made_again(tmp_path: Path) -> None:
    """The real one: its own reader finds each step once, as it was made last."""
    pytest.importorskip("tensorboard")
    reader: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    for steps in ((1, 2, 3), (3, 4)):
        tracker = Tracker("tensorboard", tmp_path, "seed = 1")
        for step in steps:
            tracker.log(progress(step, step + len(steps)))
        tracker.close()
    read = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(each.step, each.value) for each in read.Scalars("loss")] == [(1, 4), (2, 5), (3, 5), (4, 6)]
    assert set(read.Tags()["scalars"]) == set(figures(vars_of(progress(1, 0))))


def vars_of(metrics: Progress) -> dict[str, Any]:
    return {name: getattr(metrics, name) for name in metrics.__slots__}


def test_trackio_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, on this machine."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    store: Any = import_module("trackio.sqlite_storage").SQLiteStorage
    for steps in ((1, 2), (3,)):
        tracker = Tracker("trackio", tmp_path, "seed = 1")
        for step in steps:
            tracker.log(progress(step, float(step)))
        tracker.close()
    (name,) = store.get_runs("asyncthink")
    logged = store.get_logs("asyncthink", name)
    assert [(each["step"], each["loss"]) for each in logged] == [(1, 1.0), (2, 2.0), (3, 3.0)]
