"""How many requests are under way at a time."""

from __future__ import annotations

import asyncio
import random

import pytest

from asyncthink.engines.openai.gate import Gate

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_first_come_first_served_and_never_too_many() -> None:
    gate, order, most = Gate(3), list[int](), 0

    async def use(number: int) -> None:
        nonlocal most
        await gate.enter()
        order.append(number)
        most = max(most, gate.taken)
        await asyncio.sleep(0)
        gate.leave()

    await asyncio.gather(*map(use, range(50)))
    assert (order, most, gate.taken) == (list(range(50)), 3, 0)


async def test_more_places_let_in_and_fewer_take_nobodys_away() -> None:
    gate = Gate(1)
    await gate.enter()
    waiting = [asyncio.ensure_future(gate.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.resize(3)
    await asyncio.sleep(0)
    assert [each.done() for each in waiting] == [True, True, False]
    gate.resize(1)
    gate.leave()
    gate.leave()
    await asyncio.sleep(0)
    assert (gate.taken, waiting[2].done()) == (1, False)
    gate.leave()
    await asyncio.sleep(0)
    assert (gate.taken, waiting[2].done()) == (1, True)


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_is_cancelled_keeps_no_place(seed: int) -> None:
    """Also at the very moment in which its turn comes."""
    draw, gate = random.Random(seed), Gate(2)

    async def use() -> None:
        await gate.enter()
        try:
            await asyncio.sleep(0)
        finally:
            gate.leave()

    tasks = [asyncio.ensure_future(use()) for _ in range(30)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        if draw.random() < 0.5:
            draw.choice(tasks).cancel()
    assert gate.taken == 0
    async with asyncio.timeout(5):
        await gate.enter()
        await gate.enter()
