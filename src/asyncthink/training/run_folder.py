"""The folder of a training run: its recipe, its last state, a line of metrics a step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from asyncthink.errors import UsageError

CONFIG, STATE, METRICS, CHECKPOINT = "config.toml", "state.pt", "metrics.jsonl", "checkpoint"


class RunFolder:
    """A run directory that belongs to one recipe.

    Raises:
        UsageError: it belongs to another recipe or cannot be written.
    """

    def __init__(self, path: str, source: str) -> None:
        self.path = Path(path)
        config = self.path / CONFIG
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if config.exists() and config.read_text() != source:
                raise UsageError(f"{path} holds a run of another recipe: name another output, or remove it")
            _replace(config, source)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    @property
    def checkpoint(self) -> Path:
        """Where the model is put at the end."""
        return self.path / CHECKPOINT

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the last state, whole or not at all."""
        torch.save(dict(state), self.path / "state.tmp")
        (self.path / "state.tmp").replace(self.path / STATE)

    def load(self) -> dict[str, Any] | None:
        """Return the last state, None at the beginning; metrics of later steps are forgotten, for they come again."""
        if not (self.path / STATE).exists():
            (self.path / METRICS).unlink(missing_ok=True)
            return None
        state: dict[str, Any] = torch.load(self.path / STATE, weights_only=True)
        steps: int = state["position"]["step"]
        if (self.path / METRICS).exists():
            kept = (self.path / METRICS).read_text().splitlines(keepends=True)[:steps]
            _replace(self.path / METRICS, "".join(kept))
        return state

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one step's metrics."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(values) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: a kill may come at any moment."""
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").replace(path)
