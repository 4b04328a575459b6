"""Scaling without the hardware: the real runtime over an engine that takes the time a server was measured to take.

One question that falls into independent parts is thought through by pools of growing size. What an agent writes is
made up, so nothing is said about accuracy; how long it takes, how busy the agents are and what it costs follows
from the record, as for any episode, and from a clock that jumps over the time in which nothing happens.

    sequential   T = sum of the parts
    fork-join    T >= parts * (fork tag + join tag): what the organizer writes does not shrink with the pool

so the pool that still helps is about as large as a part is longer than what it takes to hand it out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import exp
from random import Random
from statistics import NormalDist
from typing import Annotated, Any, TypeVar, TypeVarTuple, Unpack

import anyio
import msgspec

from asyncthink.engines.simulated import Costs, SimulatedEngine
from asyncthink.episodes.metrics import measure
from asyncthink.episodes.record import Value
from asyncthink.errors import UsageError
from asyncthink.extras import require
from asyncthink.protocol import tags
from asyncthink.runtime.organization import Organization

Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
MOST_PARTS = 9_999
"""As many forks as can be numbered."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One question and its parts, in tokens."""

    parts: Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS)] | None = None
    """Independent parts of the question (strong scaling); None: `parts_each` for every worker (weak scaling)."""
    parts_each: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 4
    part_tokens: Tokens = 200
    """What a worker writes for a part: the mean."""
    spread: Annotated[float, msgspec.Meta(ge=0, le=3)] = 0.5
    """Standard deviation of the logarithm of that, log-normal: joins wait for the longest."""
    query_tokens: Tokens = 10
    """A sub-query."""
    return_tokens: Tokens = 10
    prompt_tokens: Tokens = 100
    """What an agent is told first."""
    answer_tokens: Tokens = 40

    def lengths(self, workers: int) -> list[int]:
        """Return the tokens of each part: quantiles of the distribution, in an order that never changes."""
        count = self.parts or self.parts_each * max(1, workers)
        if count > MOST_PARTS:
            raise UsageError(f"{count:,} parts cannot be numbered: {MOST_PARTS:,} at most")
        normal = NormalDist()
        scale = self.part_tokens * exp(-(self.spread**2) / 2)
        found = [
            max(1, round(scale * exp(self.spread * normal.inv_cdf((place + 0.5) / count))))
            for place in range(count)
        ]
        Random(f"lengths:{count}").shuffle(found)
        return found


@dataclass(frozen=True, kw_only=True)
class SimulationRecipe:
    """A whole recipe file."""

    costs: Costs
    workload: Workload = field(default_factory=Workload)
    workers: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=9_998)], ...], msgspec.Meta(min_length=1)
    ] = (
        0,
        *(2**power for power in range(1, 13)),
    )
    """Pools; 0: sequential, the organizer does every part itself."""


class Point(Value, frozen=True, kw_only=True):
    """One pool."""

    workers: int
    """0: sequential, the organizer does every part itself."""
    parts: int
    critical_path: int
    """T, in ticks."""
    concurrency: float
    """eta/c."""
    decoded_tokens: int
    """Of all agents."""
    prefilled_tokens: int
    """Of all agents: prompts, sub-queries and results."""
    seconds: float
    """Of the episode, as the simulated clock says."""
    replica_seconds: float
    """What it costs: seconds times replicas."""
    waited: int
    """Ticks that the organizer stood at joins."""
    organizer_tokens: int
    """What the organizer writes: T is never less."""


def organizer_text(work: Workload, lengths: Sequence[int], workers: int) -> str:
    """Return what the organizer writes: every part is forked as soon as a worker is free, the oldest joined first."""
    answer = tags.answer(_words(work.answer_tokens))
    if not workers:
        return "".join(map(_words, lengths)) + answer
    lines: list[str] = []
    for index in range(1, len(lengths) + 1):
        if index > workers:
            lines.append(tags.join(index - workers))
        query = f" {index}" + _words(work.query_tokens - 1)
        lines.append(tags.fork(index, query))
    lines += [tags.join(index) for index in range(max(1, len(lengths) - workers + 1), len(lengths) + 1)]
    return "".join(lines) + answer


def _words(count: int) -> str:
    return " w" * count


def script(work: Workload, workers: int) -> dict[str, Any]:
    """Return the script of a pool's episode."""
    lengths = work.lengths(workers)
    returned = tags.returned(_words(work.return_tokens))
    texts = {
        f" {index}" + _words(work.query_tokens - 1): _words(length) + returned
        for index, length in enumerate(lengths, 1)
    }
    return {"organizer": organizer_text(work, lengths, workers), "workers": texts}


def simulate(recipe: SimulationRecipe, done: Callable[[Point], None] = lambda _: None) -> list[Point]:
    """Play the episode of each pool of a recipe, and return what each came to.

    Args:
        recipe: what is played.
        done: told of each pool.

    Raises:
        MissingExtraError: trio is missing, whose clock jumps.
        UsageError: there are too many parts.
    """
    recipe.costs.check()
    for workers in recipe.workers:
        recipe.workload.lengths(workers)
    found: list[Point] = []
    for workers in recipe.workers:
        found.append(jumping(_play, recipe.workload, recipe.costs, workers))
        done(found[-1])
    return found


def jumping(function: Callable[[Unpack[Ts]], Awaitable[T]], *arguments: *Ts) -> T:
    """Run an async function on a clock that jumps to the next thing to happen as soon as everybody waits.

    Raises:
        MissingExtraError: trio is missing, whose clock does so.
    """
    require("simulate", "a simulation")
    from trio.testing import MockClock

    options = {"clock": MockClock(autojump_threshold=0)}
    try:
        return anyio.run(function, *arguments, backend="trio", backend_options=options)
    except BaseExceptionGroup as error:  # trio hands Ctrl-C to whichever task is running
        if error.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


async def _play(work: Workload, costs: Costs, workers: int) -> Point:
    """Play one pool's episode."""
    engine = SimulatedEngine(script(work, workers), costs)
    query = _words(work.prompt_tokens).strip()
    async with Organization(engine, capacity=workers + 1) as organization:
        episode = await organization.think(query)
    found = measure(episode)
    seconds = found.wall_seconds
    return Point(
        workers=workers,
        parts=len(engine.workers),
        critical_path=found.critical_path,
        concurrency=found.concurrency,
        decoded_tokens=engine.decoded,
        prefilled_tokens=engine.prefilled,
        seconds=seconds,
        replica_seconds=seconds * costs.replicas,
        organizer_tokens=found.critical_path - sum(join.waited for join in found.waits),
        waited=sum(join.waited for join in found.waits),
    )
