"""The virtual clock once more, tick by tick and without cleverness: what `clock.py` is held to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from asyncthink.episodes.agents import Agent, agents
from asyncthink.episodes.record import Episode


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What was seen while the ticks went by."""

    total: int
    """T, in ticks."""
    active: list[int]
    """a_1 ... a_T: how many counted agents worked in each tick."""
    starts: dict[str, int | None]
    """Path -> tick at which it got its slot; None: never."""
    overflows: set[str]
    """Workers whose fork found every slot taken."""


@dataclass(frozen=True, slots=True)
class _Fork:
    child: _Actor


@dataclass(frozen=True, slots=True)
class _Join:
    child: _Actor


@dataclass(frozen=True, slots=True)
class _Insert:
    n: int


class _Actor:
    """One agent with its own pool."""

    def __init__(self, agent: Agent, everyone: Sequence[Agent], slots: int, *, counted: bool) -> None:
        self.agent, self.slots, self.counted = agent, slots, counted
        self.children = [
            _Actor(one, everyone, slots, counted=counted and one.joined_at is not None)
            for one in everyone
            if one.parent == agent.path
        ]
        self.children.sort(key=lambda child: child.agent.forked_at)
        self.todo = deque(self._script())
        self.queue: deque[_Actor] = deque()
        self.running: list[_Actor] = []
        self.overflows: list[str] = []
        self.start: int | None = None
        self.position = self.busy = 0

    def _script(self) -> list[tuple[int, _Fork | _Join | _Insert]]:
        script: list[tuple[int, _Fork | _Join | _Insert]] = []
        script += [(child.agent.forked_at, _Fork(child)) for child in self.children]
        joined = [(child.agent.joined_at, child) for child in self.children]
        script += [(at, _Join(child)) for at, child in joined if at is not None]
        script += [(at, _Insert(n)) for at, n in self.agent.inserts]
        return sorted(script, key=lambda step: step[0])

    @property
    def working(self) -> bool:
        return self.busy > 0 or self.position < (self.todo[0][0] if self.todo else self.agent.own)

    @property
    def done(self) -> bool:
        return self.start is not None and not self.todo and not self.working

    def will_start(self, child: _Actor) -> bool:
        """Never-ended workers ahead of it hold their slots for good; one that was refused asks for none."""
        if child.agent.refused:
            return False
        ahead = self.children[: self.children.index(child)]
        return sum(not one.agent.ended for one in ahead) < self.slots

    def settle(self, now: int) -> None:
        """Do all that takes no time."""
        self.serve(now)
        while self.todo and not self.working:
            step = self.todo[0][1]
            if isinstance(step, _Join) and not step.child.done and self.will_start(step.child):
                return
            self.todo.popleft()
            if isinstance(step, _Insert):
                self.busy = step.n
            elif isinstance(step, _Fork) and not step.child.agent.refused:
                if len(self.running) >= self.slots:
                    self.overflows.append(step.child.agent.path)
                self.queue.append(step.child)
            self.serve(now)

    def serve(self, now: int) -> None:
        """Free slots of workers that are done; give free slots to those who queue, until nothing changes."""
        for child in self.children:
            if child.start is not None:
                child.settle(now)
        self.running = [one for one in self.running if not (one.done and one.agent.ended)]
        while self.queue and len(self.running) < self.slots:
            child = self.queue.popleft()
            child.start = now
            child.settle(now)
            if not (child.done and child.agent.ended):
                self.running.append(child)

    def family(self) -> list[_Actor]:
        return [self, *(one for child in self.children for one in child.family())]

    def tick(self) -> None:
        if self.busy:
            self.busy -= 1
        else:
            self.position += 1


def simulate(episode: Episode, *, with_inserted: bool = False) -> Simulation:
    """Let the ticks go by until nobody moves."""
    everyone = agents(episode.traces, with_inserted=with_inserted)
    root = _Actor(everyone[0], everyone, max(0, episode.capacity - 1), counted=True)
    actors = root.family()
    root.start = now = 0
    total: int | None = None
    active: list[int] = []
    while True:
        root.settle(now)
        if total is None and root.done:
            total = now
        moving = [one for one in actors if one.start is not None and one.working]
        if not moving:
            break
        if total is None:
            active.append(sum(one.counted for one in moving))
        for one in moving:
            one.tick()
        now += 1
    assert total is not None, "an organizer waits for nobody"
    starts = {one.agent.path: one.start for one in actors}
    overflows = {path for one in actors for path in one.overflows}
    return Simulation(total=total, active=active, starts=starts, overflows=overflows)
