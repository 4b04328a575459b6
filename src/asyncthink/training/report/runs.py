"""Run directories as a report reads them: config.toml and metrics.jsonl, and nothing else.

A run may be read while it trains, or after it was killed: a last line that was not written to its end is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

from asyncthink.episodes.files import told
from asyncthink.errors import RecordError, UsageError
from asyncthink.evaluation.report.cells import labels
from asyncthink.settings import parse
from asyncthink.training.report.measures import SUBJECTS, Kind, Subject

CONFIG, METRICS = "config.toml", "metrics.jsonl"
NAME_CELLS = 34
LARGEST = 1e15
"""A figure beyond it is drawn and averaged no more than one that is no number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A training, finished or not, with one finished step at least."""

    path: Path
    name: str
    """Short, clean, told from those of the other runs."""
    kind: Kind
    config: str
    """Its recipe, as it was written."""
    settings: Mapping[str, Any]
    """The same, read."""
    lines: Sequence[Mapping[str, Any]]
    """One a step, the first first; each has every figure of its kind as a number, which may be infinite or NaN."""

    @property
    def subject(self) -> Subject:
        """What is shown of it."""
        return SUBJECTS[self.kind]

    @property
    def finished(self) -> bool:
        """Whether it went as far as its recipe says."""
        return bool(self.lines[-1][self.subject.across.key] >= self.lines[-1][self.subject.target])


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read runs of one kind.

    Raises:
        RecordError: one is no training run, has no step yet, or a file of it cannot be read.
        UsageError: they are not of one kind, or one is given twice.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise UsageError("a run is given twice")
    names = [path.name for path in resolved]
    if len(set(names)) < len(names):
        names = [str(path) for path in resolved]
    short = labels(names, NAME_CELLS)
    runs = [_run(path, short[name]) for path, name in zip(paths, names, strict=True)]
    for one in runs[1:]:
        if one.kind is not runs[0].kind:
            raise UsageError(
                f"{runs[0].path} is a run of train {runs[0].kind}, {one.path} of train {one.kind}: "
                "a report compares runs of one kind"
            )
    return runs


def _run(path: Path, name: str) -> Run:
    if not (path / CONFIG).is_file():
        raise RecordError(f"{path} is no training run: it has no {CONFIG}")
    with told(path / CONFIG):
        config = (path / CONFIG).read_text(encoding="utf-8")
    settings = parse(config, str(path / CONFIG))
    kind = Kind.SFT if "train" in settings else Kind.RL
    if "output" not in settings or not {"train", "start"} & settings.keys():
        raise RecordError(f"{path} is no training run: its {CONFIG} is a recipe of something else")
    lines = _lines(path / METRICS, SUBJECTS[kind])
    if not lines:
        raise RecordError(f"{path}: no step is finished yet, so there is nothing to report")
    return Run(path=path, name=name, kind=kind, config=config, settings=settings, lines=lines)


def _lines(file: Path, subject: Subject) -> list[Mapping[str, Any]]:
    """Read all lines but a torn last one."""
    if not file.exists():
        return []
    with told(file):
        written = file.read_bytes().splitlines()
    found: list[Mapping[str, Any]] = []
    last = 0.0
    for number, raw in enumerate(written, 1):
        try:
            read = json.loads(raw)
        except (ValueError, RecursionError) as error:
            if number == len(written):
                break
            raise RecordError(f"{file} line {number} is no JSON: {error}") from error
        line = _checked(read, subject, f"{file} line {number}")
        across = float(line[subject.across.key])
        if not last < across < LARGEST:
            raise RecordError(f"{file} line {number}: {subject.across.key!r} does not rise")
        last = across
        found.append(line)
    return found


def _checked(read: Any, subject: Subject, where: str) -> Mapping[str, Any]:
    """Return a line that has all figures as numbers."""
    line = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    for key in subject.keys:
        if type(line.get(key)) not in (int, float):
            raise RecordError(f"{where} has no number {key!r}")
        with suppress(OverflowError):
            float(line[key])
            continue
        raise RecordError(f"{where}: {key!r} is too large")
    return line


def drawable(value: float) -> bool:
    """Return whether a figure can be drawn and averaged."""
    return isfinite(value) and abs(value) < LARGEST
