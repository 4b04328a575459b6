"""An episode as a picture without pixels: lanes over time, forks and joins, and what made it last.

A pure function of the record, and of the schedule that the virtual clock (or `wall.py`) makes of it; every view draws
this one value. The critical path is told backwards: an agent's work goes back to the join that held it up last,
then to the worker that was waited for, from its start to its fork, or to the worker whose slot it queued for.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from enum import StrEnum

from asyncthink.episodes import clock
from asyncthink.episodes.agents import Agent, agents
from asyncthink.episodes.clock import Schedule, Turn, Wait
from asyncthink.episodes.record import Episode, Value
from asyncthink.viewer import wall


class Base(StrEnum):
    """What time is counted in."""

    TICKS = "ticks"
    """Of the virtual clock: one is a token. The same on every machine."""
    WALL = "wall"
    """Microseconds on the machine that it ran on; between an agent's start and its end they are estimated."""


class Activity(StrEnum):
    """What an agent does for a while."""

    DECODING = "decoding"
    WAITING = "waiting"
    """It stands still at a join."""
    QUEUED = "queued"
    """It was forked, but every slot of the pool is taken."""
    READY = "ready"
    """It is done; its result has not been asked for yet."""
    WASTED = "wasted"
    """It decodes what nobody will ever join."""


class Span(Value, frozen=True, kw_only=True):
    """One agent doing one thing in the ticks (or microseconds) start + 1 to end."""

    activity: Activity
    start: int
    end: int


class Lane(Value, frozen=True, kw_only=True):
    """One agent over time."""

    path: str
    spans: tuple[Span, ...]
    """In the order of time, without overlap; none is empty."""

    @property
    def ticks(self) -> int:
        """Ticks of its own work, waits left out."""
        work = (Activity.DECODING, Activity.WASTED)
        return sum(span.end - span.start for span in self.spans if span.activity in work)


class Arrow(Value, frozen=True, kw_only=True):
    """A fork (from an organizer to its worker) or a join (back)."""

    source: str
    target: str
    tick: int
    """A fork: when its last token was decoded. A join: when the organizer could go on."""
    waited: int = 0
    """A join: ticks for which the organizer stood still."""


class Piece(Value, frozen=True, kw_only=True):
    """A stretch of the critical path: the work of one agent in the ticks start + 1 to end."""

    path: str
    start: int
    end: int


class Timeline(Value, frozen=True, kw_only=True):
    """A whole episode. Times are ticks, or microseconds where `base` says so."""

    base: Base = Base.TICKS
    total: int
    """T, the critical path."""
    length: int
    """Time up to the end of the last span: more than T where work went on that nobody joined."""
    lanes: tuple[Lane, ...]
    """The organizer first; below each agent the workers that it forked, in that order."""
    forks: tuple[Arrow, ...]
    joins: tuple[Arrow, ...]
    critical: tuple[Piece, ...]
    """From tick 0 to T without a gap: the lengths add up to T."""


def timeline(episode: Episode, base: Base = Base.TICKS) -> Timeline:
    """Lay out a finished episode."""
    everyone = agents(episode.traces)
    if base is Base.TICKS:
        return lay_out(everyone, episode.capacity)
    plan = clock.arrange(everyone, episode.capacity)
    measured = wall.arrange(episode, everyone, plan, _forks(everyone, plan))
    return _Layout(everyone, measured.schedule, measured.forked, over=True).timeline(base)


def lay_out(everyone: Sequence[Agent], capacity: int, *, over: bool = True) -> Timeline:
    """Lay out agents, the root first.

    Args:
        everyone: what the clock needs to know of each.
        capacity: the pool's.
        over: False while they are still at work: nothing counts as wasted yet.
    """
    plan = clock.arrange(everyone, capacity)
    return _Layout(everyone, plan, _forks(everyone, plan), over=over).timeline(Base.TICKS)


def _forks(everyone: Sequence[Agent], plan: Schedule) -> dict[str, int | None]:
    """Map each agent to the tick of its fork, which follows from its parent's spans; None if that never came."""
    return {one.path: _tick(plan.turns.get(one.parent), one.forked_at) for one in everyone}


class _Layout:
    """Reads a schedule; computes no times."""

    def __init__(
        self, everyone: Sequence[Agent], plan: Schedule, forked: Mapping[str, int | None], *, over: bool
    ) -> None:
        self.agents, self.plan, self.forked, self.over = everyone, plan, forked, over
        self.refused = {one.path for one in everyone if one.refused}
        self.joined: dict[str, Wait] = {wait.path: wait for wait in plan.joins}
        self.waits: dict[str, list[Wait]] = {}
        for wait in plan.joins:
            if wait.waited:
                self.waits.setdefault(wait.path.rpartition("/")[0], []).append(wait)
        ends = [turn.end or 0 for turn in plan.turns.values()]
        worked = [turn.spans[-1][1] for turn in plan.turns.values() if turn.spans]
        asked = [wait.resumed for wait in plan.joins]
        self.length = max([plan.total, *ends, *worked, *asked])

    def timeline(self, base: Base) -> Timeline:
        forks = [(one, self.forked[one.path]) for one in self.agents[1:]]
        return Timeline(
            base=base,
            total=self.plan.total,
            length=self.length,
            lanes=tuple(Lane(path=path, spans=self.spans(path)) for path in _preorder(self.agents)),
            forks=tuple(Arrow(source=a.parent, target=a.path, tick=t) for a, t in forks if t is not None),
            joins=tuple(
                Arrow(source=w.path, target=w.path.rpartition("/")[0], tick=w.resumed, waited=w.waited)
                for w in self.plan.joins
            ),
            critical=self.critical() if self.agents else (),
        )

    def spans(self, path: str) -> tuple[Span, ...]:
        """Return what one agent did."""
        turn, forked, joined = self.plan.turns[path], self.forked[path], self.joined.get(path)
        working = Activity.DECODING if turn.counted or not self.over else Activity.WASTED
        found = [(working, a, b) for a, b in turn.spans]
        found += [(Activity.WAITING, wait.arrived, wait.resumed) for wait in self.waits.get(path, ())]
        if forked is not None and path not in self.refused:
            never = joined.resumed if joined else self.length
            found.append((Activity.QUEUED, forked, never if turn.start is None else turn.start))
        if joined and turn.end is not None:
            found.append((Activity.READY, turn.end, joined.resumed))
        found.sort(key=lambda span: span[1])
        return tuple(Span(activity=what, start=a, end=b) for what, a, b in found if a < b)

    def critical(self) -> tuple[Piece, ...]:
        """Follow the critical path from its end to its beginning."""
        root = self.agents[0].path
        freed = self._freed()
        path, tick = root, self.plan.total
        pieces: list[Piece] = []
        seen: set[tuple[str, int]] = set()
        while True:
            held = self._held(path, tick)
            begun = min(tick, held.resumed if held else self.plan.turns[path].start or 0)
            if begun < tick:
                pieces.append(Piece(path=path, start=begun, end=tick))
            tick = begun
            if held:
                path = held.path
            elif path == root:
                return tuple(reversed(pieces))
            elif (path, tick) in seen:  # only where the wall clock stood still
                path = root
            else:
                seen.add((path, tick))
                path = freed.get(path, path.rpartition("/")[0])

    def _held(self, path: str, tick: int) -> Wait | None:
        """Return the last join before a tick at which the agent stood still."""
        waits = self.waits.get(path, [])
        before = bisect_right(waits, tick, key=lambda wait: wait.resumed)
        return waits[before - 1] if before else None

    def _freed(self) -> dict[str, str]:
        """Map each worker that queued to the one whose slot it got: of those forked before it, the last to end by then."""
        found: dict[str, str] = {}
        ended: dict[str, list[tuple[int, int, str]]] = {}
        for number, one in enumerate(sorted(self.agents[1:], key=lambda agent: agent.forked_at)):
            turn, earlier = self.plan.turns[one.path], ended.setdefault(one.parent, [])
            if turn.start is not None and self.forked[one.path] != turn.start:
                last = bisect_right(earlier, turn.start, key=lambda each: each[0])
                found[one.path] = earlier[last - 1][2] if last else one.parent
            if turn.end is not None:
                insort(earlier, (turn.end, -number, one.path))
        return found


def _tick(turn: Turn | None, tokens: int) -> int | None:
    """Return the tick at which an agent had first decoded so many tokens; None if it never began."""
    if turn is None or turn.start is None:
        return None
    tick = turn.start
    for start, end in turn.spans:
        if tokens <= 0:
            break
        tick = min(end, start + tokens)
        tokens -= end - start
    return tick


def _preorder(everyone: Sequence[Agent]) -> list[str]:
    keys: dict[str, tuple[int, ...]] = {}
    for number, one in enumerate(everyone):
        keys[one.path] = (*keys.get(one.parent, ()), number)
    return sorted(keys, key=lambda path: keys[path])
