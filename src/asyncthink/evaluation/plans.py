"""Plans of forks that no model wrote, over a model's own workers: what is the organization itself worth?

A plan goes through a problem's parts in some order and on some schedule, forks each as a model trained on the task
would write it, and answers once enough came back or it may ask no more. It keeps to a limit on forks; nobody tells
it of the cap on T, so a plan that has no such limit may be cut off before it answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import Any, assert_never

from asyncthink.protocol.actions import Answer, Fork, Join, Think
from asyncthink.runtime.agent import Stage
from asyncthink.runtime.organizer import Plan
from asyncthink.tasks.base import Divider, SubQuery

MOST_FORKS = 9_999
"""As many as the protocol has numbers for."""


class Schedule(StrEnum):
    """When to fork and when to join."""

    PAIRS = "pairs"
    """Each fork is joined at once."""
    WAVES = "waves"
    """As many forks as there are workers, then all of their joins, and again."""
    BUSY = "busy"
    """No worker is ever idle: with all of them at work, the oldest is joined before the next fork."""


class Order(StrEnum):
    """Which part first."""

    RANDOM = "random"
    ORACLE = "oracle"
    """The part from which a perfect worker would bring the most that is new, then the next such one."""


def plan(divider: Divider[Any], problem: Any, stage: Stage, schedule: Schedule, order: Order) -> Plan:
    """Make the plan for a problem, with `stage.capacity - 1` workers; its random numbers come from the seed."""
    parts = ordered(divider, problem, order, Random(f"plan:{stage.sampling.seed}"))
    harvest = divider.harvest(problem)
    trained = stage.engine.profile.trained
    open_forks: deque[int] = deque()

    def collect(index: int) -> Plan:
        returned = yield Join(index=index)
        noted = harvest.add(parts[index - 1], returned)
        if trained:
            yield Think(text=f"{noted}\n")

    limit = stage.meter.limits.max_forks
    for index, part in enumerate(parts[: MOST_FORKS if limit is None else min(limit, MOST_FORKS)], 1):
        while open_forks and not harvest.done and _must_join(schedule, open_forks, stage.capacity - 1, index):
            yield from collect(open_forks.popleft())
        if harvest.done:
            break
        if trained:
            yield Think(text=part.before)
        yield Fork(index=index, query=part.query if trained else part.sentence)
        yield Think(text="\n")
        open_forks.append(index)
    while open_forks and not harvest.done:
        yield from collect(open_forks.popleft())
    yield Answer(text=harvest.answer())


def _must_join(schedule: Schedule, open_forks: Sequence[int], workers: int, following: int) -> bool:
    """Whether a join comes before the next fork."""
    match schedule:
        case Schedule.PAIRS:
            return True
        case Schedule.BUSY:
            return len(open_forks) >= workers
        case Schedule.WAVES:
            return (following - 1) % workers == 0
        case _:
            assert_never(schedule)


def ordered(divider: Divider[Any], problem: Any, order: Order, random: Random) -> list[SubQuery]:
    """Return a problem's parts in the order in which they are asked."""
    parts = list(divider.parts(problem))
    random.shuffle(parts)
    if order is Order.RANDOM:
        return parts
    finds = [(part, divider.perfect(problem, part)) for part in parts]
    chosen: list[SubQuery] = []
    known: frozenset[object] = frozenset()
    while finds:
        best = max(range(len(finds)), key=lambda i: len(finds[i][1] - known))
        part, found = finds.pop(best)
        known |= found
        chosen.append(part)
    return chosen
