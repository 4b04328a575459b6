"""Runs and their episodes, to choose from: one short line an episode, read a little at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from asyncthink.episodes import clock
from asyncthink.episodes.record import WRITTEN, Episode, Value
from asyncthink.episodes.store import RunDirectory
from asyncthink.errors import AsyncThinkError, RecordError
from asyncthink.tasks import judge
from asyncthink.tasks.base import Score
from asyncthink.viewer.sanitize import head

DEEPEST = 3
"""Folders below the one that is looked into."""
_CELLS = 160


class Line(Value, frozen=True, kw_only=True):
    """One episode of a run. Texts are clean."""

    number: int
    """Its place in the run, from 0."""
    id: str
    arm: str
    """Name of its arm in an evaluation, else its method."""
    problem: str
    """Key of its problem in an evaluation, with the sample; else empty."""
    query: str
    score: float | None
    """In [0, 1]; None where nothing can check it."""
    critical_path: int
    concurrency: float
    forks: int
    tokens: int
    wall_seconds: float
    format_errors: tuple[str, ...]
    stop_reason: str


def line(number: int, episode: Episode) -> Line:
    """Return what a table says of an episode."""
    # What `measure` says, without what a table does not show: most of its time.
    plan, trial, score = clock.schedule(episode), episode.trial, score_of(episode)
    worked = sum(plan.active())
    segments = (one for trace in episode.traces for one in trace.segments)
    return Line(
        number=number,
        id=head(episode.id, 80),
        arm=head(trial.arm if trial else episode.method, 60),
        problem=f"{head(trial.problem, 40)}/{trial.sample}" if trial else "",
        query=head(episode.query, _CELLS),
        score=score.value if score else None,
        critical_path=plan.total,
        concurrency=worked / (plan.total * episode.capacity) if plan.total else 0.0,
        forks=max(0, len(episode.traces) - 1),
        tokens=sum(one.n_tokens for one in segments if one.kind in WRITTEN),
        wall_seconds=episode.wall_seconds,
        format_errors=tuple(dict.fromkeys(episode.format_errors)),
        stop_reason=episode.stop_reason.value,
    )


def score_of(episode: Episode) -> Score | None:
    """Return what the task's check says of an episode; None for a free question, or a task that is not known here."""
    if episode.task is None or episode.problem is None:
        return None
    try:
        return judge(episode.task, episode.problem, episode.answer or "")
    except AsyncThinkError:
        return None


class RunLines:
    """The lines of one run, which may still be growing. Several threads may ask."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.lines: list[Line] = []
        self.broken = ""
        """Why the rest cannot be read; empty: it can."""
        self._begins = [0]
        self._turn = Lock()

    def read(self, seconds: float) -> bool:
        """Read on, for so many seconds at most; return whether that was all there is now."""
        until = time.monotonic() + seconds
        with self._turn:
            try:
                for end, episode in self.run.episodes_from(self._begins[-1]):
                    self.lines.append(line(len(self.lines), episode))
                    self._begins.append(end)
                    if time.monotonic() > until:
                        return False
            except RecordError as error:
                self.broken = head(str(error), 400)
        return True

    def episode(self, number: int) -> Episode:
        """Return one whole episode.

        Raises:
            RecordError: there is none of that number, or it cannot be read.
        """
        while not 0 <= number < len(self.lines):
            if number < 0 or (self.read(1.0) and not number < len(self.lines)):
                raise RecordError(
                    f"{self.run.path} has no episode {number}: it has {len(self.lines):,}, from 0 on"
                )
        for _, episode in self.run.episodes_from(self._begins[number]):
            return episode
        raise RecordError(f"{self.run.path}: episode {number} is not there any more")

    def find(self, name: str) -> int:
        """Return the number of an episode that is named by its number or its id, or by the id's beginning.

        Raises:
            RecordError: there is none, or more than one.
        """
        while not self.read(60.0):
            pass
        if name.isdecimal() and name.isascii() and int(name) < len(self.lines):
            return int(name)
        found = [one.number for one in self.lines if one.id == name] or [
            one.number for one in self.lines if one.id.startswith(name)
        ]
        if len(found) == 1:
            return found[0]
        count = f"{len(self.lines):,} episodes, from 0 on" if self.lines else "no episode"
        how_many = "no" if not found else f"{len(found):,}"
        broken = f"; {self.broken}" if self.broken else ""
        raise RecordError(
            f"{self.run.path} has {how_many} episodes named {head(name, 80)!r}; it has {count}{broken}"
        )


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the run directories in a folder and a few levels below, by name; a folder that is one has none below.

    Raises:
        RecordError: there is no such folder.
    """
    if not folder.is_dir():
        raise RecordError(f"there is no folder {folder}")
    yield from _below(folder, DEEPEST)


def _below(folder: Path, levels: int) -> Iterator[Path]:
    if (folder / "manifest.json").is_file() and (folder / "episodes.jsonl").is_file():
        yield folder
    elif levels:
        try:
            inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        except OSError:
            return
        for one in inside:
            yield from _below(one, levels - 1)
