"""The fan-out that benchmarks/peers.py and growth.py let everyone play, and how it is counted.

The standard library only: the peers' environment has nothing of ours.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

QUERY = "a question of many parts"
WORKER_TEXT = "Some words about it. <RETURN>the text that every worker returns</RETURN>"
ANSWER = "done"
INSTRUCTIONS = {"organizer": "Fork, join, answer.", "worker": "Return a result."}
WARM_UP = 3
_FORK = re.compile(r"<FORK-(\d+)>(.*?)</FORK-\1>")

Think = Callable[[], Awaitable[str]]
"""Play one episode; return its answer."""
Talk = Callable[[str, Any, str], Awaitable[tuple[str, Any]]]
"""Call the model: (role, what was said before or None, text) -> (its text, what was said so far)."""


@dataclass(kw_only=True, slots=True)
class Fan:
    """One organizer forks W workers, joins them, and answers."""

    workers: int
    together: bool
    """The organizer is called again once all workers are done; else once more for each of them."""
    calls: int = 0
    """How often a fake model was called."""
    organizer: Sequence[str] = field(init=False)
    """What the organizer says at each of its calls."""

    def __post_init__(self) -> None:
        numbers = range(1, self.workers + 1)
        forks = " ".join(f"<FORK-{i}>part {i} of the question</FORK-{i}>" for i in numbers)
        joins = [f"<JOIN-{i}>" for i in numbers]
        joined = ["".join(joins)] if self.together else joins
        self.organizer = [f"{forks} {joined[0]}", *joined[1:], f"<ANSWER>{ANSWER}</ANSWER>"]

    def reply(self, role: str, call: int) -> str:
        """Return the fake model's text at an agent's call, 0 being its first."""
        self.calls += 1
        return self.organizer[call] if role == "organizer" else WORKER_TEXT


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    workers: int
    together: bool
    episodes: int
    model_calls: float | None
    """Of an episode; None where they are not counted."""
    ms: float
    """CPU milliseconds of a fork with its join; the organizer's own calls are shared out among them."""
    kib: float
    """Most Python memory that an episode held at once, over its workers."""


def asked(text: str) -> list[str]:
    """Return the sub-queries in an organizer's text."""
    return [query for _, query in _FORK.findall(text)]


async def fork_join(fan: Fan, talk: Talk) -> str:
    """Play an episode as applications write it, with asyncio and one call of the peer for each agent."""
    text, said = await talk("organizer", None, QUERY)
    running = [asyncio.ensure_future(talk("worker", None, query)) for query in asked(text)]
    for batch in [running] if fan.together else [[one] for one in running]:
        results = await asyncio.gather(*batch)
        text, said = await talk("organizer", said, "\n".join(result for result, _ in results))
    return text


async def cost(side: Callable[[Fan, AsyncExitStack], Awaitable[Think]], fan: Fan, seconds: float) -> Cost:
    """Play episodes, one after the other, for so many seconds of CPU time."""
    async with AsyncExitStack() as held:
        think = await side(fan, held)
        for _ in range(WARM_UP):
            assert ANSWER in await think()
        gc.collect()
        fan.calls, episodes, spent = 0, 0, 0.0
        began = time.process_time()
        while spent < seconds:
            await think()
            episodes += 1
            spent = time.process_time() - began
        calls = fan.calls / episodes or None
        kib = await _peak(think) / 1024
    return Cost(
        workers=fan.workers,
        together=fan.together,
        episodes=episodes,
        model_calls=calls,
        ms=round(1000 * spent / (episodes * fan.workers), 4),
        kib=round(kib / fan.workers, 2),
    )


async def _peak(think: Think) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        await think()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def plain(found: Cost) -> dict[str, Any]:
    """Return what JSON can hold."""
    return asdict(found)
