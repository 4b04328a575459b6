"""The virtual clock: who decoded at which tick, the same on every machine.

One token a tick. A worker starts once its fork is decoded and one of the pool's c-1 slots is free, first come
first served; the organizer stands still at a join until that worker is done:

    l_i = max(l_{i-1} + f_i, start + n)        T = l_n

Every organizer has its own pool of the same capacity; to the organizer above it, its length n is its own T.
A worker that never ended holds its slot for good. Workers that were never joined count neither in T nor among
the active. A fork that finds every slot taken overflows; one that never gets a slot (capacity 1) starts
nothing, and a join of it costs no wait. A worker that was refused takes no slot and costs no wait either.

Order at equal token counts: forks, then joins, then insertions; among equals the order of the forks. A join
ends its chunk, so whatever else that chunk completed came before it, and what was inserted comes behind it.

`tests/ticks.py` holds the same rules as a tick-by-tick simulation; a property test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapreplace
from itertools import accumulate

from asyncthink.episodes.agents import Agent, agents
from asyncthink.episodes.record import Episode, Value

_NEVER = 1 << 62


class Turn(Value, frozen=True, kw_only=True):
    """One agent on the clock. Ticks count from the episode's start."""

    start: int | None
    """It works from tick start + 1 on; None: it never got a slot."""
    end: int | None
    """The last tick of its work; None: it never ended or never got a slot."""
    spans: tuple[tuple[int, int], ...]
    """Its work without its waits: (a, b) stands for the ticks a + 1 to b."""
    counted: bool
    """The organizer, and workers joined by a counted agent: those who count in T and among the active."""


class Wait(Value, frozen=True, kw_only=True):
    """One join on the clock."""

    path: str
    """The worker's."""
    arrived: int
    """Tick at which the join was decoded."""
    resumed: int
    """Tick after which the organizer could go on."""

    @property
    def waited(self) -> int:
        """Ticks for which the organizer stood still."""
        return self.resumed - self.arrived


class Schedule(Value, frozen=True, kw_only=True):
    """A whole episode on the clock."""

    total: int
    """T, the critical path, in ticks."""
    turns: dict[str, Turn]
    """Path -> its turn."""
    joins: tuple[Wait, ...]
    """In the order of their arrival."""
    overflows: tuple[str, ...]
    """Paths of the workers whose fork found every slot taken, in the order of their forks."""

    def active(self) -> list[int]:
        """Return a_1 ... a_T: how many counted agents worked in each tick."""
        change = [0] * (self.total + 1)
        for turn in self.turns.values():
            if turn.counted:
                for a, b in turn.spans:
                    change[a] += 1
                    change[b] -= 1
        return list(accumulate(change[: self.total]))


def schedule(episode: Episode, *, with_inserted: bool = False) -> Schedule:
    """Put an episode on the clock.

    Args:
        episode: the record.
        with_inserted: inserted tokens cost ticks too, each one of the agent that it was inserted into.
    """
    return arrange(agents(episode.traces, with_inserted=with_inserted), episode.capacity)


def arrange(everyone: Sequence[Agent], capacity: int) -> Schedule:
    """Put agents on the clock, the root first."""
    below: dict[str, list[Agent]] = {one.path: [] for one in everyone}
    for one in everyone[1:]:
        below.get(one.parent, []).append(one)
    courses: dict[str, _Course] = {}
    for one in sorted(everyone, key=_depth, reverse=True):
        courses[one.path] = _run(one, below[one.path], courses, capacity - 1)
    turns: dict[str, Turn] = {}
    for one in sorted(everyone, key=_depth):
        turns[one.path] = _turn(one, one is everyone[0], courses, turns.get(one.parent))
    joins: list[Wait] = []
    overflows: list[tuple[int, str]] = []
    for path, course in courses.items():
        start = turns[path].start
        if start is not None:
            joins += (Wait(path=p, arrived=start + a, resumed=start + b) for p, a, b in course.waits)
            overflows += ((start + tick, child) for tick, child in course.overflows)
    joins.sort(key=lambda wait: wait.arrived)
    overflows.sort(key=lambda pair: pair[0])
    return Schedule(
        total=courses[everyone[0].path].now if everyone else 0,
        turns={one.path: turns[one.path] for one in everyone},
        joins=tuple(joins),
        overflows=tuple(path for _, path in overflows),
    )


def _depth(one: Agent) -> int:
    return one.path.count("/")


@dataclass(slots=True)
class _Course:
    """One agent's way over the clock, in ticks after its own start."""

    now: int = 0
    decoded: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    starts: dict[str, int | None] = field(default_factory=dict[str, int | None])
    waits: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    overflows: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def work(self, ticks: int) -> None:
        if ticks > 0:
            begun = self.spans.pop()[0] if self.spans and self.spans[-1][1] == self.now else self.now
            self.now += ticks
            self.spans.append((begun, self.now))


def _turn(one: Agent, root: bool, courses: dict[str, _Course], parent: Turn | None) -> Turn:
    """Move an agent's course to where it stands on the whole episode's clock."""
    start = 0 if root else None
    if parent is not None and parent.start is not None:
        ahead = courses[one.parent].starts[one.path]
        start = None if ahead is None else parent.start + ahead
    counted = root or (one.joined_at is not None and parent is not None and parent.counted)
    if start is None:
        return Turn(start=None, end=None, spans=(), counted=counted)
    course = courses[one.path]
    spans = tuple((start + a, start + b) for a, b in course.spans)
    end = start + course.now if one.ended or root else None
    return Turn(start=start, end=end, spans=spans, counted=counted)


def _run(one: Agent, children: list[Agent], courses: dict[str, _Course], slots: int) -> _Course:
    """Run one agent; its children's courses are known."""
    steps = [(child.forked_at, 0, i) for i, child in enumerate(children)]
    steps += [(child.joined_at, 1, i) for i, child in enumerate(children) if child.joined_at is not None]
    steps += [(at, 2, n) for at, n in one.inserts]
    course = _Course()
    free = [0] * min(slots, len(children))
    ends: dict[int, int] = {}
    for at, step, i in sorted(steps):
        course.work(at - course.decoded)
        course.decoded = at
        if step == 0:
            ends[i] = _fork(course, children[i], courses[children[i].path].now, free)
        elif step == 1:
            arrived = course.now
            course.now = max(arrived, ends[i]) if ends[i] < _NEVER else arrived
            course.waits.append((children[i].path, arrived, course.now))
        else:
            course.work(i)
    course.work(one.own - course.decoded)
    return course


def _fork(course: _Course, child: Agent, length: int, free: list[int]) -> int:
    """Start a worker at the earliest free slot; return the tick of its end."""
    if child.refused:
        course.starts[child.path] = None
        return _NEVER
    first = free[0] if free else _NEVER
    if first > course.now:
        course.overflows.append((course.now, child.path))
    start = max(course.now, first)
    course.starts[child.path] = start if start < _NEVER else None
    end = start + length if start < _NEVER else _NEVER
    if free:
        heapreplace(free, end if child.ended else _NEVER)
    return end
