"""What a run shows while it goes on: one line a method, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text as Line

from asyncthink.episodes.events import Began, Ended, Event, Finished, Text
from asyncthink.episodes.record import WRITTEN, Trial
from asyncthink.evaluation.preflight import Evaluation
from asyncthink.evaluation.rows import Row
from asyncthink.evaluation.run import Watcher
from asyncthink.viewer.sanitize import clean

NOTES = 5
"""Warnings that are kept in sight."""


@dataclass(slots=True)
class _Line:
    """What is known of one arm so far."""

    done: int = 0
    running: int = 0
    agents: int = 0
    """At work now."""
    tokens: int = 0
    """Decoded since this command began, by episodes that are still under way too."""
    failed: int = 0
    scores: float = 0.0
    ticks: int = 0
    retries: int = 0
    faulty: int = 0
    judged: int = 0
    """Episodes that the sums above are over: those of this command."""


@dataclass(slots=True)
class _Open:
    """An episode under way."""

    working: set[str] = field(default_factory=set[str])


class Board(Watcher):
    """Listens to a run and draws it; a rich renderable."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._lines: dict[str, _Line] = {}
        self._open: dict[Trial, _Open] = {}
        self._total = self._before = 0
        self._notes: list[str] = []

    def begin(self, evaluation: Evaluation, done: int) -> None:
        """Start the clock; what was done before does not count as speed."""
        self._began = self._clock()
        self._lines = {arm.name: _Line() for arm in evaluation.arms}
        self._total, self._before = evaluation.size, done

    def event(self, trial: Trial, event: Event) -> None:
        """Count agents and tokens."""
        line = self._lines[trial.arm]
        if type(event) is Text:
            if event.kind in WRITTEN:
                line.tokens += event.n_tokens
            return
        opened = self._open.get(trial)
        if opened is None:
            opened = self._open[trial] = _Open()
            line.running += 1
        if isinstance(event, Began):
            opened.working.add(event.path)
            line.agents += 1
        elif isinstance(event, Ended) and event.path in opened.working:
            opened.working.discard(event.path)
            line.agents -= 1
        elif isinstance(event, Finished):
            line.agents -= len(opened.working)
            line.running -= 1
            del self._open[trial]

    def row(self, row: Row) -> None:
        """Count a finished episode."""
        line = self._lines[row.arm]
        line.done += 1
        line.judged += 1
        line.scores += row.score
        line.ticks += row.metrics.critical_path
        line.retries += row.metrics.retries
        line.faulty += not row.valid

    def failed(self, trial: Trial, cause: str) -> None:
        """Count a failure, and keep its cause in sight."""
        self._lines[trial.arm].failed += 1
        self.note(f"{trial.arm}, problem {trial.problem}: {cause}")

    def note(self, message: str) -> None:
        """Keep a warning in sight."""
        self._notes = [*self._notes, clean(message)][-NOTES:]

    @property
    def done(self) -> int:
        """Trials on disk."""
        return self._before + sum(line.done for line in self._lines.values())

    def headline(self) -> str:
        """Return how far the run is, as one line of plain text."""
        seconds = self._clock() - self._began
        now = self.done - self._before
        rest = self._total - self.done
        left = seconds / now * rest if now else None if rest else 0.0
        tokens = sum(line.tokens for line in self._lines.values())
        failed = sum(line.failed for line in self._lines.values())
        parts = [
            f"{self.done} of {self._total} episodes",
            _spelled(seconds),
            f"{_spelled(left)} left" if left is not None else "time left not known yet",
            f"{tokens / seconds if seconds else 0:,.0f} tokens/s",
            *([f"{failed} failed"] if failed else []),
        ]
        return " · ".join(parts)

    def __rich__(self) -> Group:
        """Draw it."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("method", "done", "open", "agents", "tokens", "T so far", "score", "faulty", "retries"):
            table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
        for name, line in self._lines.items():
            mean = line.judged or 1
            table.add_row(
                Line(clean(name)),
                str(line.done),
                str(line.running),
                str(line.agents),
                f"{line.tokens:,}",
                f"{line.ticks / mean:,.0f}" if line.judged else "",
                f"{line.scores / mean:.3f}" if line.judged else "",
                f"{line.faulty / mean:.1%}" if line.judged else "",
                str(line.retries),
            )
        return Group(Line(self.headline()), table, *(Line(note, style="yellow") for note in self._notes))


def _spelled(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )
