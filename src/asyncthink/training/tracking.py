"""A training's figures in a tracker, where the user asks for one: trackio, wandb or tensorboard.

trackio and tensorboard keep them on this machine unless their own settings say otherwise; wandb sends them to its
service. Without `--track` none is imported.
"""

from __future__ import annotations

import logging
import sys
import tomllib
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import uuid4

from asyncthink.episodes import files
from asyncthink.errors import MissingExtraError, UnknownNameError
from asyncthink.training.sft import Progress
from asyncthink.training.step import StepMetrics

TRACKERS = ("tensorboard", "trackio", "wandb")
PROJECT = "asyncthink"
NAME, EVENTS = "tracked.txt", "tensorboard"
"""Of a run directory: a file with the run's name at the tracker, and a folder of tensorboard's."""


class _Open(Protocol):
    """What takes a run's figures; the packages trackio and wandb are so by themselves."""

    def log(self, values: dict[str, float], *, step: int) -> object: ...

    def finish(self) -> object: ...


class _Board:
    """tensorboard in the same form.

    Args:
        folder: of its files.
        settings: the recipe's text.
        step: the first that comes; what is there of it and later ones is forgotten.
    """

    def __init__(self, folder: Path, settings: str, step: int) -> None:
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder), purge_step=step)
        self._writer.add_text("recipe", f"```toml\n{settings}\n```", step)

    def log(self, values: dict[str, float], *, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class Tracker:
    """Logs each step of a run; a resumed run goes on in the same one of the tracker. Its failure stops no training.

    Args:
        kind: one of `TRACKERS`.
        run: the run directory.
        settings: the recipe's text.

    Raises:
        UnknownNameError: there is no such tracker.
        MissingExtraError: its package is not installed.
    """

    def __init__(self, kind: str, run: Path, settings: str) -> None:
        if kind not in TRACKERS:
            raise UnknownNameError("tracker", kind, TRACKERS)
        if find_spec(kind) is None:
            raise MissingExtraError(f"--track {kind} needs {kind}: pip install {kind}")
        self.kind, self.run, self._settings = kind, run, settings
        self._open: _Open | None = None
        self._failed = False

    def log(self, metrics: StepMetrics | Progress) -> None:
        """Log a step, the first one when the tracker is opened."""
        if self._failed:
            return
        try:
            with redirect_stdout(sys.stderr):  # standard output is the command's own
                self._open = self._open or self._begin(metrics.step)
                self._open.log(figures(asdict(metrics)), step=metrics.step)
        except Exception as error:  # of somebody else's program, whose network or disk may be anything
            self._failed = True
            told = f"{self.kind} tracks no more: {files.one_line(error)}"
            logging.getLogger(__name__).warning(told)

    def close(self) -> None:
        """Let the tracker end its run."""
        if self._open is not None:
            with suppress(Exception), redirect_stdout(sys.stderr):
                self._open.finish()
        self._open = None

    def _begin(self, step: int) -> _Open:
        if self.kind == "tensorboard":
            return _Board(self.run / EVENTS, self._settings, step)
        package, name = import_module(self.kind), self._name()
        own = {"embed": False} if self.kind == "trackio" else {"id": name, "dir": str(self.run)}
        config = tomllib.loads(self._settings)
        package.init(project=PROJECT, name=name, resume="allow", config=config, **own)
        return cast("_Open", package)

    def _name(self) -> str:
        """Return the run's name at the tracker, which the run directory keeps."""
        kept = self.run / NAME
        if not kept.exists():
            files.replace(kept, f"{self.run.name}-{uuid4().hex[:8]}\n".encode())
        return kept.read_text(encoding="utf-8").strip()


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a step's metrics is a number; numbers by name are told apart as in `format_errors/no_answer`."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            parts = figures(value)  # pyright: ignore[reportUnknownArgumentType]
            found |= {f"{name}/{part}": each for part, each in parts.items()}
        elif isinstance(value, int | float) and name != "step":
            found[name] = value
    return found
