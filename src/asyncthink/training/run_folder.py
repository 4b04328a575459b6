"""The folder of a training run: its recipe, its last state, a line of metrics a step. One process writes it.

The manifest holds digests of what the run began with, so that it does not go on from other weights or data.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

import torch

from asyncthink.engines.lexicon import CONFIG as MODEL_CONFIG
from asyncthink.engines.lexicon import MADE, PROFILE, load_profile, save_profile
from asyncthink.episodes import Episode, Role, files
from asyncthink.episodes.store import sealed, versions
from asyncthink.errors import UsageError
from asyncthink.training.cards import CARD

CONFIG, MANIFEST, STATE, METRICS = "config.toml", "manifest.json", "state.pt", "metrics.jsonl"
EPISODES = "episodes.jsonl"
BESIDE = (
    MODEL_CONFIG,
    PROFILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
    *(f"{role}.jinja" for role in Role),
)
"""What a checkpoint has beside its weights."""
FREE = (
    "trl.servers",
    "trl.gradient_checkpointing",
    "update.save_every",
    "update.checkpoint_every",
    "train.save_every",
)
"""Keys of a recipe that a run may go on with other values of: what is learned does not depend on them."""


class RunFolder:
    """A run directory that belongs to one recipe; a context manager that holds it for writing.

    Args:
        path: of the folder, which is made.
        source: the recipe's text.
        inputs: what the run begins with, a model's folder or a file of data or its content, by the name that the
            recipe has for it.

    Raises:
        UsageError: it belongs to another recipe, began with other inputs, or cannot be written; an input cannot be
            read.
        RecordError: another process is writing it.
    """

    def __init__(self, path: str, source: str, inputs: Mapping[str, Path | bytes]) -> None:
        self.path = Path(path)
        config = self.path / CONFIG
        digests = {name: _digest(file) for name, file in inputs.items()}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if (
                config.exists()
                and not self._untouched()
                and not _same(config.read_text(errors="replace"), source)
            ):
                raise UsageError(
                    f"{path} holds a run of another recipe: name another output, or remove it (only {', '.join(FREE)} "
                    "may change)"
                )
            self._metrics = files.lock(self.path / METRICS, create=True)
            with files.closed_on_error(self._metrics):
                files.replace(config, source.encode())
                self._hold_to(digests)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    def _untouched(self) -> bool:
        """Whether a training began here and earned nothing, not a step: another recipe may have the folder."""
        try:
            ours = json.loads((self.path / MANIFEST).read_bytes())["kind"] == "training"
            earned = (self.path / METRICS).stat().st_size
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False
        return ours and not (
            earned or (self.path / STATE).exists() or any(self.path.glob("trl/checkpoint-*"))
        )

    def _hold_to(self, digests: Mapping[str, str]) -> None:
        """Write down what the run begins with, or refuse to go on with something else."""
        manifest = self.path / MANIFEST
        if not manifest.exists() or self._untouched():
            told = {**versions(), "kind": "training", "inputs": digests}
            files.replace(manifest, json.dumps(told, indent=2).encode() + b"\n")
            return
        try:
            known = dict(json.loads(manifest.read_bytes())["inputs"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{manifest} is no manifest of a training: name another output") from error
        if changed := sorted(name for name in {**known, **digests} if known.get(name) != digests.get(name)):
            raise UsageError(
                f"{self.path} began with another {changed[0]}: bring that back, or name another output"
            )

    @property
    def checkpoint(self) -> Path:
        """Where the model is put at the end."""
        return self.path / MADE

    def on_the_way(self, step: int) -> Path:
        """Return where the model of a step is kept."""
        return self.path / "checkpoints" / f"step-{step:05}"

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the last state, whole or not at all.

        Raises:
            RecordError: it cannot be written; the one before is still there.
        """
        data = io.BytesIO()
        torch.save(dict(state), data)
        with files.told(self.path / STATE):
            files.replace(self.path / STATE, data.getvalue())

    def load(self, kept: int = 0) -> dict[str, Any] | None:
        """Return the last state, None at the beginning; what later steps left is forgotten, for it comes again.

        Args:
            kept: episodes that each step keeps.
        """
        state: dict[str, Any] | None = None
        if (self.path / STATE).exists():
            state = torch.load(self.path / STATE, weights_only=True)
        self.rewind(state["position"]["step"] if state else 0, kept)
        return state

    def rewind(self, steps: int, kept: int = 0) -> None:
        """Forget what was logged and kept behind so many steps.

        Args:
            steps: of which the lines stay.
            kept: episodes that each step keeps.
        """
        os.ftruncate(self._metrics, _length(self.path / METRICS, steps))
        if (self.path / EPISODES).exists():
            os.truncate(self.path / EPISODES, _length(self.path / EPISODES, steps * kept))

    def seconds(self) -> float:
        """Return what the steps so far took, as the last line of metrics says."""
        lines = (self.path / METRICS).read_bytes().splitlines()
        return float(json.loads(lines[-1])["seconds"]) if lines else 0.0

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one step's metrics.

        Raises:
            RecordError: they cannot be written.
        """
        with files.told(self.path / METRICS):
            files.append(self._metrics, json.dumps(values).encode() + b"\n")

    def keep(self, episodes: Iterable[Episode]) -> None:
        """Append a step's episodes, in the form of every run directory.

        Raises:
            RecordError: they cannot be written.
        """
        with files.told(self.path / EPISODES):
            fd = os.open(self.path / EPISODES, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                files.append(fd, b"".join(sealed(each) + b"\n" for each in episodes))
            finally:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let another process write here."""
        os.close(self._metrics)


def _length(file: Path, lines: int) -> int:
    """Return how many bytes a file's first lines take."""
    with file.open("rb") as stream:
        return sum(map(len, islice(stream, lines)))


def _digest(source: Path | bytes) -> str:
    """Return the SHA-256 of content, a file, or the names and contents of a folder's own files, but for its card."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    whole = hashlib.sha256()
    try:
        folder = source.is_dir()
        parts = (
            [each for each in source.iterdir() if each.is_file() and each.name != CARD]
            if folder
            else [source]
        )
        for file in sorted(parts):
            whole.update(f"{file.name}\0".encode() if folder else b"")
            with file.open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    return whole.hexdigest()


def _same(config: str, source: str) -> bool:
    """Tell whether two recipes say the same, comments, spelling and what is free aside."""
    try:
        return _held(config) == _held(source)
    except (ValueError, RecursionError):
        return False


def _held(source: str) -> dict[str, Any]:
    """Return what a recipe says, without what is free; a section that is left empty is none."""
    values = tomllib.loads(source)
    for key in FREE:
        section, _, name = key.partition(".")
        if isinstance(found := values.get(section), dict):
            cast("dict[str, Any]", found).pop(name, None)
            if not found:
                del values[section]
    return values


def copy_beside(start: Path, folder: Path, *, capacity: int | None = None) -> None:
    """Copy what stands beside the weights of the checkpoint to begin with into a new one's folder, which is made.

    Args:
        start: the one to begin with.
        folder: the new one's.
        capacity: that the new one was trained with, which it declares; None: what its start declares.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        if (start / name).exists():
            shutil.copyfile(start / name, folder / name)
    if capacity is not None:
        save_profile(folder, replace(load_profile(start), capacity=capacity))
