"""An engine that plays a script and takes the time that a real one was measured to take: for pools nobody has at hand.

Its seconds are those of the event loop's clock, so under a clock that jumps (`asyncthink simulate` has one) an hour
of a thousand agents takes as long as computing it. Sequences of one replica are decoded together, a step's
length depending on how many they are; what is new in a context is prefilled before its next token. Words without
a tag are handed on several at a time, to save the computer work; each still takes its step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Annotated, Any, Self

import anyio
import msgspec
from anyio.abc import TaskGroup

from asyncthink.engines.base import Capabilities, Chunk, Message, Profile
from asyncthink.engines.scripted import ScriptedEngine, ScriptedSession
from asyncthink.errors import UsageError

INSTANT = 1e-9
"""Seconds in which everybody who was given a token asks for the next one. The clock jumps over them."""
MOST_WORDS = 16
"""Tokens without a tag that are handed on together, at most."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What things take on one replica of a server."""

    steps: tuple[tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[float, msgspec.Meta(gt=0, le=1e6)]], ...]
    """(sequences decoded together, seconds of one token of each), rising in both. In between it is interpolated,
    beyond the last it grows as between the last two."""
    prefill: Seconds = 0.0
    """A token that is new in a context, before the next is decoded."""
    message: Seconds = 0.0
    """Until a sub-query is at its worker, or a result at its organizer: network, queue and request."""
    slots: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Sequences that one replica decodes together; others wait for the next step, the longest waiting first."""
    replicas: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Replicas of the model; an agent stays with one."""

    def check(self) -> Self:
        """Return the costs, if they make sense.

        Raises:
            UsageError: the steps are no rising curve.
        """
        sizes = [size for size, _ in self.steps]
        if not sizes or any(b <= a for a, b in pairwise(sizes)):
            raise UsageError("costs: steps need pairs of (sequences, seconds), with more sequences in each")
        if any(b < a for (_, a), (_, b) in pairwise(self.steps)):
            raise UsageError("costs: a step of more sequences cannot be faster")
        return self

    def step(self, sequences: int) -> float:
        """Return the seconds of one decoding step."""
        if len(self.steps) == 1:
            return self.steps[0][1]
        place = bisect_left(self.steps, sequences, key=lambda each: each[0])
        place = min(max(place, 1), len(self.steps) - 1)
        (few, least), (many, most) = self.steps[place - 1 : place + 1]
        if sequences <= few:
            return least
        return least + (most - least) * (sequences - few) / (many - few)


@dataclass(slots=True)
class _Wanted:
    """What an agent waits for."""

    tokens: int
    done: anyio.Event = field(default_factory=anyio.Event)


class _Replica:
    """Decodes tokens for those who wait, a token of each in a step."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._waiting: dict[str, _Wanted] = {}
        self._came = anyio.Event()
        self.agents = 0

    async def decode(self, name: str, tokens: int) -> None:
        """Wait for the end of the step that decodes the last of an agent's next tokens."""
        wanted = self._waiting[name] = _Wanted(tokens)
        self._came.set()
        try:
            await wanted.done.wait()
        finally:
            self._waiting.pop(name, None)

    async def run(self) -> None:
        """Step for ever."""
        while True:
            while not self._waiting:
                self._came = anyio.Event()
                await self._came.wait()
            await anyio.sleep(INSTANT)  # until everybody has asked
            batch = list(self._waiting)[: self._costs.slots]
            steps = min((self._waiting[name].tokens for name in batch), default=1)
            steps = await self._steps(steps, self._costs.step(max(1, len(batch))))
            for name in batch:
                if wanted := self._waiting.get(name):
                    wanted.tokens -= steps
                    if not wanted.tokens:
                        del self._waiting[name]
                        wanted.done.set()

    async def _steps(self, steps: int, seconds: float) -> int:
        """Take some steps; return how many there were, since whoever comes in between is taken in after the next."""
        self._came, began = anyio.Event(), anyio.current_time()
        with anyio.move_on_after(steps * seconds):
            await self._came.wait()
            steps = max(1, min(steps, ceil((anyio.current_time() - began) / seconds)))
        await anyio.sleep_until(began + steps * seconds)
        return steps


class SimulatedEngine(ScriptedEngine):
    """Plays a script in the time that a server would take.

    Args:
        script: as for `ScriptedEngine`.
        costs: of one replica, and how many replicas there are.

    Raises:
        UsageError: the script is not of its form, or the costs make no sense.
    """

    capabilities = Capabilities(token_ids=False, streaming=True, continues=True)
    profile = Profile(trained=True)

    def __init__(self, script: dict[str, Any], costs: Costs) -> None:
        super().__init__(script)
        self.name = "simulated"
        self.costs = costs.check()
        self.replicas: list[_Replica] = []
        self.decoded = 0
        self.prefilled = 0
        """Tokens of all agents, those of prompts and insertions among them."""
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self.replicas = [_Replica(self.costs) for _ in range(self.costs.replicas)]
        self._group = await anyio.create_task_group().__aenter__()
        for replica in self.replicas:
            self._group.start_soon(replica.run)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        await super().__aexit__(*exc_info)

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> SimulatedSession:
        """Begin to play an agent's text on the replica with the fewest agents."""
        query, tokens, unit = self.playing(messages, role=role, episode=episode, path=path)
        replica = min(self.replicas, key=lambda each: each.agents)
        return SimulatedSession(self, episode, unit, query, tokens, replica=replica, name=f"{episode} {path}")


class SimulatedSession(ScriptedSession):
    """One agent of a script, on one replica."""

    def __init__(self, engine: SimulatedEngine, *script: Any, replica: _Replica, name: str) -> None:
        super().__init__(engine, *script)
        self._costs, self._simulated = engine.costs, engine
        self._replica, self._name = replica, name
        self._fresh = self.prompt.n_tokens
        replica.agents += 1

    async def next(self, most: int) -> tuple[str, int] | None:
        """Return the next tokens when a server would have them, or None behind the last."""
        if self._next == len(self._tokens):
            return None
        if self._fresh:
            self._simulated.prefilled += self._fresh
            seconds, self._fresh = self._costs.message + self._fresh * self._costs.prefill, 0
            await anyio.sleep(seconds)
        begin, end = self._next, self._next + 1
        until = min(begin + min(most, MOST_WORDS), len(self._tokens))
        while end < until and "<" not in self._tokens[end] and "<" not in self._tokens[begin]:
            end += 1
        await self._replica.decode(self._name, end - begin)
        self._simulated.decoded += end - begin
        self._next = end
        return "".join(self._tokens[begin:end]), end - begin

    def insert(self, text: str) -> Chunk:
        """Take note of inserted text: it is prefilled before the next token."""
        inserted = super().insert(text)
        self._fresh += inserted.n_tokens
        return inserted

    def rest(self) -> None:
        """Do nothing: a step does not wait for anybody."""

    def wake(self) -> None:
        """Do nothing, likewise."""

    def close(self) -> None:
        """Leave the replica."""
        if not self._closed:
            self._replica.agents -= 1
        super().close()
