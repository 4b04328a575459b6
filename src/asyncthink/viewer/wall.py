"""An episode on the wall clock, in microseconds, as a schedule like the virtual clock's.

The record says when each agent got its slot and when it ended, not when each of its tokens came. So an agent's tokens
are taken to come evenly, but for its waits: a join that it reaches before its worker's end waits for that end, and no
worker begins before its fork. What one token takes then follows from when the agent ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from asyncthink.episodes.agents import Agent
from asyncthink.episodes.clock import Schedule, Turn, Wait
from asyncthink.episodes.record import Episode, Trace

MICROSECONDS = 1_000_000
_HALVINGS = 48


@dataclass(frozen=True, slots=True)
class Measured:
    """A schedule, and when each agent was forked."""

    schedule: Schedule
    forked: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Something in an agent's tokens whose time is known: a worker that began, or one that was waited for."""

    at: int
    """Tokens the agent had decoded."""
    joined: bool
    path: str
    """The worker's."""
    time: int


def arrange(
    episode: Episode, everyone: Sequence[Agent], plan: Schedule, forked: Mapping[str, int | None]
) -> Measured:
    """Put a finished episode on the wall clock.

    Args:
        episode: the record.
        everyone: its agents, the root first.
        plan: the same on the virtual clock: who queued, and who counts.
        forked: the tick of each fork there.
    """
    traces = {trace.path: trace for trace in episode.traces}
    ends = {path: _end(trace, episode.wall_seconds) for path, trace in traces.items()}
    starts = {path: _start(trace, path == everyone[0].path) for path, trace in traces.items()}
    below: dict[str, list[Agent]] = {}
    for one in everyone[1:]:
        below.setdefault(one.parent, []).append(one)
    queued = {one.path for one in everyone[1:] if plan.turns[one.path].start != forked[one.path]}
    usual = _usual(everyone, starts, ends)
    courses: dict[str, _Course] = {}
    for one in everyone:
        begun = starts[one.path]
        if begun is not None:
            marks = _marks(below.get(one.path, ()), starts, ends, queued)
            courses[one.path] = _fitted(one, begun, max(begun, ends[one.path]), marks, usual)
    turns = {one.path: _turn(one, plan.turns[one.path], courses.get(one.path)) for one in everyone}
    waits = [wait for course in courses.values() for wait in course.waits]
    schedule = Schedule(
        total=turns[everyone[0].path].end or 0 if everyone else 0,
        turns=turns,
        joins=tuple(sorted(waits, key=lambda wait: wait.arrived)),
        overflows=plan.overflows,
    )
    times: dict[str, int | None] = {}
    for one in everyone:
        start = turns[one.path].start
        parent = courses.get(one.parent)
        if start is not None and one.path not in queued:
            times[one.path] = start
        else:
            times[one.path] = None if parent is None else parent.forks.get(one.path)
    return Measured(schedule, times)


def _start(trace: Trace, root: bool) -> int | None:
    seconds = 0.0 if root else trace.wall_start
    return None if seconds is None else round(seconds * MICROSECONDS)


def _end(trace: Trace, last: float) -> int:
    return round((last if trace.wall_end is None else trace.wall_end) * MICROSECONDS)


def _marks(
    children: Sequence[Agent],
    starts: Mapping[str, int | None],
    ends: Mapping[str, int],
    queued: set[str],
) -> list[_Mark]:
    """Return what its workers tell of an agent's own time, in the order of its tokens."""
    marks: list[_Mark] = []
    for child in children:
        begun = starts[child.path]
        known = begun if begun is not None and child.path not in queued else 0
        marks.append(_Mark(child.forked_at, False, child.path, known))
        if child.joined_at is not None:
            marks.append(_Mark(child.joined_at, True, child.path, 0 if begun is None else ends[child.path]))
    return sorted(marks, key=lambda mark: (mark.at, mark.joined))


class _Course:
    """One agent's way over the wall clock, if each of its tokens takes so many microseconds."""

    def __init__(self, one: Agent, begun: int, last: int, marks: Sequence[_Mark], pace: float) -> None:
        self.waits: list[Wait] = []
        self.forks: dict[str, int] = {}
        self.spans: list[tuple[int, int]] = []
        now, since, decoded = float(begun), begun, 0
        for mark in marks:
            now += (mark.at - decoded) * pace
            decoded = mark.at
            if not mark.joined:
                now = max(now, mark.time)
                self.forks[mark.path] = min(last, round(now))
                continue
            arrived = min(last, round(now))
            now = max(now, mark.time)
            resumed = min(last, round(now))
            self.waits.append(Wait(path=mark.path, arrived=arrived, resumed=resumed))
            if arrived < resumed:
                self.spans.append((since, arrived))
                since = resumed
        self.now = now + (one.own - decoded) * pace
        self.spans.append((since, last))


def _fitted(one: Agent, begun: int, last: int, marks: Sequence[_Mark], usual: float) -> _Course:
    """Find the pace at which an agent ends when it did; where its end was a wait, any slow one would: the usual, then."""
    low, high = 0.0, (last - begun) / max(1, one.own)
    still = _Course(one, begun, last, marks, 0.0)
    if still.now >= last:
        high = min(high, usual)
    for _ in range(_HALVINGS):
        pace = (low + high) / 2
        if _Course(one, begun, last, marks, pace).now <= last:
            low = pace
        else:
            high = pace
    return _Course(one, begun, last, marks, low)


def _usual(everyone: Sequence[Agent], starts: Mapping[str, int | None], ends: Mapping[str, int]) -> float:
    """Return the microseconds of a token: the median over agents that wait for nobody."""
    waiting = {one.parent for one in everyone if one.joined_at is not None}
    paces: list[float] = []
    for one in everyone:
        begun = starts[one.path]
        if begun is not None and one.own and one.path not in waiting:
            paces.append(max(0, ends[one.path] - begun) / one.own)
    return median(paces) if paces else 0.0


def _turn(one: Agent, ticks: Turn, course: _Course | None) -> Turn:
    if course is None:
        return Turn(start=None, end=None, spans=(), counted=ticks.counted)
    spans = tuple(span for span in course.spans if span[0] < span[1])
    end = course.spans[-1][1]
    return Turn(start=course.spans[0][0], end=end, spans=spans, counted=ticks.counted)
