"""Agents that move together: nobody decodes token n+1 before everybody awake has decoded token n.

Real order then equals the virtual clock, so runs are exact and repeatable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from anyio import Event
from anyio.lowlevel import checkpoint

Work = Callable[[Sequence[object]], Awaitable[None]]
"""What is done once a tick for all its members. A member that is cancelled while it does this leaves it to
another, who begins anew: what was done already must not be done twice."""


class Lockstep:
    """A barrier for a changing group of members.

    There is no task behind it: one of the members does the work of a tick while the others wait.
    """

    def __init__(self, work: Work | None = None) -> None:
        self.tick = 0
        """Ticks begun."""
        self._work = work
        self._awake: set[object] = set()
        self._next = _Tick()

    def wake(self, member: object) -> None:
        """From now on the group waits for this member."""
        self._awake.add(member)

    def rest(self, member: object) -> None:
        """The group no longer waits for this member."""
        self._awake.discard(member)
        self._next.members.pop(member, None)
        if tick := self._release():
            tick.notify()

    async def arrive(self, member: object) -> int:
        """Wait until all that are awake have arrived and the work is done; return the number of the tick.

        Whoever arrives is awake; a member that is cancelled here rests. All members of a tick go on in the
        same round of the event loop, the one that came last or did the work included.
        """
        tick = self._next
        self._awake.add(member)
        tick.members[member] = None
        try:
            if self._release() and self._work is None:
                tick.notify()
                await checkpoint()
            elif self._work is None:
                await tick.change().wait()
            else:
                await self._finish(tick, self._work)
        except BaseException:
            self.rest(member)
            raise
        return tick.number

    async def _finish(self, tick: _Tick, work: Work) -> None:
        while not tick.done:
            if tick.number and not tick.driven:
                await tick.drive(work)
                await checkpoint()
            else:
                await tick.change().wait()

    def _release(self) -> _Tick | None:
        """Let the next tick begin if nobody is awaited."""
        tick = self._next
        if not tick.members or len(tick.members) < len(self._awake):
            return None
        self.tick += 1
        self._next = _Tick()
        tick.number = self.tick
        return tick


class _Tick:
    """One step of the group, from the first arrival until its work is done."""

    def __init__(self) -> None:
        self.members: dict[object, None] = {}
        """In order of arrival."""
        self.number = 0
        """0 while members are still awaited."""
        self.driven = False
        """A member is at work."""
        self.done = False
        self._changed: Event | None = None
        """Made when somebody waits: most of a tick's cost is its making."""

    def change(self) -> Event:
        """Return what the next `notify` sets."""
        if self._changed is None:
            self._changed = Event()
        return self._changed

    def notify(self) -> None:
        """Let all that wait look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def drive(self, work: Work) -> None:
        self.driven = True
        try:
            await work(tuple(self.members))
            self.done = True
        finally:
            self.driven = False
            self.notify()
