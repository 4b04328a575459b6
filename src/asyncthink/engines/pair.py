"""Two local models in one organization: one organizes, the other works.

    async with PairEngine(LocalEngine("after-rl"), LocalEngine("before-rl")) as engine: ...

What the organization itself is worth shows where its organizer and its workers come from different stages of a
training. Both models move in one lockstep, so that the clock is the same as with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from asyncthink.engines.base import Message
from asyncthink.engines.local import LocalEngine, LocalSession, Running
from asyncthink.engines.lockstep import Lockstep
from asyncthink.errors import UsageError

WORKER = "worker"


class PairEngine:
    """An engine of two.

    Args:
        organizer: answers for every role but `worker`.
        worker: of as many lanes.
        name: what the record calls it.
    """

    def __init__(self, organizer: LocalEngine, worker: LocalEngine, name: str | None = None) -> None:
        self.organizer, self.worker = organizer, worker
        self.name = name or f"pair:{organizer.name},{worker.name}"
        self.capabilities, self.profile = organizer.capabilities, organizer.profile
        self._held = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            for engine in (self.organizer, self.worker):
                await opened.enter_async_context(engine)
            self.capabilities = self.organizer.capabilities
            if len(self.organizer.lanes) != len(self.worker.lanes):
                raise UsageError(f"{self.name}: both models need as many lanes")
            for mine, theirs in zip(self.organizer.lanes, self.worker.lanes, strict=True):
                mine.lockstep = theirs.lockstep = _together(mine, theirs)
            self._held = opened.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._held.aclose()

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> LocalSession:
        """Begin a context with the model of that role; its session is awake."""
        lane = self.organizer.lane(episode)
        if role == WORKER:
            lane = self.worker.lanes[self.organizer.lanes.index(lane)]
        return lane.open(messages, role=role, episode=episode, path=path, capacity=capacity)


def _together(organizer: Running, worker: Running) -> Lockstep:
    """Return a lockstep in which each lane answers its own sessions."""

    async def step(members: Sequence[object]) -> None:
        await organizer.step(members)
        await worker.step(members)

    return Lockstep(step)
