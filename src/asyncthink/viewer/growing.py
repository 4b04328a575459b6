"""A thought while it goes on: what is known of each agent so far, and the timeline that follows from it.

The lanes are those of the record so far, on the virtual clock. Events come one a token, so hearing one costs next to
nothing; laying out is left to whoever draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from asyncthink.episodes.agents import Agent
from asyncthink.episodes.events import Began, Ended, Event, Joined, Opened, Started
from asyncthink.episodes.events import Text as TextEvent
from asyncthink.episodes.record import WRITTEN, Outcome, SegmentKind
from asyncthink.viewer.timeline import Timeline, lay_out

_KEPT = 400
"""Characters of an agent's latest text: more than a line shows."""


@dataclass(slots=True)
class GrowingAgent:
    """What is known of an agent so far."""

    path: str
    query: str
    forked_at: int
    joined_at: int | None = None
    tokens: int = 0
    ticks: int | None = None
    latest: str = ""
    began: bool = False
    outcome: Outcome | None = None
    awaited: str | None = None
    """Path of the worker that it stands still for."""

    def on_the_clock(self) -> Agent:
        """Return what the clock needs to know: it might end at once."""
        return Agent(
            path=self.path,
            own=self.tokens if self.ticks is None else self.ticks,
            forked_at=self.forked_at,
            joined_at=None if self.joined_at is None else max(self.forked_at, self.joined_at),
            ended=True,
            inserts=[],
            refused=self.outcome is Outcome.REFUSED,
        )

    def state(self) -> str:
        """Return what it does, in a word."""
        if self.outcome is not None:
            good = self.outcome in (Outcome.ANSWERED, Outcome.RETURNED)
            return "done" if good else "stopped"
        return "waiting" if self.awaited else "decoding" if self.began else "queued"


@dataclass(slots=True)
class Growing:
    """An episode so far: `take` its events."""

    method: str = ""
    capacity: int = 1
    agents: dict[str, GrowingAgent] = field(default_factory=dict[str, GrowingAgent])

    def take(self, event: Event) -> None:
        """Take note of what happens."""
        if type(event) is TextEvent:
            self._hear(event)
            return
        match event:
            case Started():
                self.method, self.capacity, self.agents = event.method, event.capacity, {}
            case Opened():
                self.agents[event.path] = GrowingAgent(
                    path=event.path, query=event.query, forked_at=event.forked_at or 0
                )
            case Began():
                self.agents[event.path].began = True
            case Joined():
                self._join(event)
            case Ended():
                self._end(event)
            case _:
                pass

    def timeline(self) -> Timeline:
        """Lay out what is known now."""
        return lay_out([one.on_the_clock() for one in list(self.agents.values())], self.capacity, over=False)

    def _hear(self, event: TextEvent) -> None:
        agent = self.agents[event.path]
        if event.kind in WRITTEN:
            agent.tokens += event.n_tokens
            agent.awaited = None
        elif event.kind is SegmentKind.PROMPT:
            return
        agent.latest = (agent.latest + event.text[-_KEPT:])[-_KEPT:]

    def _join(self, event: Joined) -> None:
        worker = self.agents[event.path]
        worker.joined_at = event.joined_at
        if worker.outcome is None:
            self.agents[event.path.rpartition("/")[0]].awaited = event.path

    def _end(self, event: Ended) -> None:
        agent = self.agents[event.path]
        agent.outcome, agent.ticks, agent.awaited = event.outcome, event.ticks, None
        parent = self.agents.get(event.path.rpartition("/")[0])
        if parent is not None and parent.awaited == event.path:
            parent.awaited = None


def scale(length: int) -> int:
    """Return the round number of ticks, 50 at least, that a growing picture stands for."""
    steps = (factor * 10**power for power in count(1) for factor in (1, 2, 5))
    return next(step for step in steps if step >= max(50, length))
