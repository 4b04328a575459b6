"""Fan-out: never more at once than allowed, in order, taken when there is room, and one error as itself."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asyncthink.runtime.fanout import each, single_errors, until

pytestmark = pytest.mark.anyio


class Log:
    """What was started, how many are under way, and the most there ever were."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.most = 0

    @property
    def running(self) -> int:
        return len(self.started) - len(self.ended) - len(self.cancelled)

    def begin(self, item: int) -> None:
        self.started.append(item)
        self.most = max(self.most, self.running)


async def for_rounds(log: Log, item: int, rounds: int) -> None:
    """Take so many rounds of the event loop."""
    log.begin(item)
    for _ in range(rounds):
        await checkpoint()
    log.ended.append(item)


async def forever(log: Log, item: int) -> None:
    log.begin(item)
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        log.cancelled.append(item)
        raise


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 50, 51, 10**9])
async def test_never_more_together_than_allowed_and_as_many_as_there_are(at_once: int) -> None:
    log, rng = Log(), Random(at_once)
    rounds = [rng.randint(60, 90) for _ in range(50)]
    await each(range(50), lambda item: for_rounds(log, item, rounds[item]), at_once)
    assert log.most == min(at_once, 50)
    assert sorted(log.ended) == list(range(50)) and log.running == 0


@pytest.mark.parametrize("at_once", [1, 4, 100])
async def test_items_start_in_their_order_whatever_they_take(at_once: int) -> None:
    log, rng = Log(), Random(7)
    rounds = [rng.randint(0, 9) for _ in range(40)]
    await each(iter(range(40)), lambda item: for_rounds(log, item, rounds[item]), at_once)
    assert log.started == list(range(40))
    assert sorted(log.ended) == log.started


async def test_one_at_a_time_is_one_after_the_other() -> None:
    log = Log()
    await each([3, 1, 2], lambda item: for_rounds(log, item, item), 1)
    assert log.started == log.ended == [3, 1, 2] and log.most == 1


async def test_an_item_is_taken_once_there_is_room_for_it() -> None:
    log, taken = Log(), list[int]()

    def items() -> Iterator[int]:
        for item in range(20):
            assert log.running < 3
            taken.append(item)
            yield item

    await each(items(), lambda item: for_rounds(log, item, 5), 3)
    assert taken == log.started == list(range(20)) and log.most == 3


async def test_of_endless_items_only_those_are_taken_that_fit() -> None:
    log, taken = Log(), list[int]()

    def items() -> Iterator[int]:
        item = 0
        while True:
            taken.append(item)
            yield item
            item += 1

    async def act(item: int) -> None:
        await forever(log, item)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(each, items(), act, 5)
            while log.running < 5:
                await checkpoint()
            for _ in range(20):
                await checkpoint()
            assert taken == log.started == list(range(5))
            scope.cancel()
    assert sorted(log.cancelled) == list(range(5))


@pytest.mark.parametrize("at_once", [1, 5])
async def test_nothing_to_do_is_done_at_once(at_once: int) -> None:
    log, none = Log(), list[int]()
    await each(none, lambda item: for_rounds(log, item, 1), at_once)
    await each(iter(none), lambda item: for_rounds(log, item, 1), at_once)
    assert log.started == []


class Broken(Exception):
    """What goes wrong."""


async def test_the_first_error_is_raised_as_itself_and_stops_the_others() -> None:
    log = Log()

    async def act(item: int) -> None:
        if item == 3:
            while log.running < 3:
                await checkpoint()
            raise Broken(f"item {item}")
        await forever(log, item)

    with pytest.raises(Broken, match=r"^item 3$") as caught:
        await each(range(100), act, 4)
    assert not isinstance(caught.value, BaseExceptionGroup)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert log.started == [0, 1, 2] and sorted(log.cancelled) == [0, 1, 2]


async def test_an_error_of_the_first_item_leaves_the_rest_undone() -> None:
    log = Log()

    async def act(item: int) -> None:
        if item == 0:
            raise Broken
        await for_rounds(log, item, 1)

    with pytest.raises(Broken):
        await each(range(100), act, 1)
    assert log.started == []


class Stopped(BaseException):
    """As what stops a whole program."""


async def test_what_is_no_ordinary_error_comes_through_too() -> None:
    log = Log()

    async def act(item: int) -> None:
        if item == 1:
            raise Stopped
        await forever(log, item)

    with pytest.raises(Stopped):
        await each(range(3), act, 3)
    assert sorted(log.cancelled) == log.started


async def test_of_several_errors_one_is_raised() -> None:
    gate = anyio.Event()

    async def act(item: int) -> None:
        if item == 2:
            gate.set()
        await gate.wait()
        raise Broken(f"item {item}")

    with pytest.raises(Broken, match=r"^item [012]$"):
        await each(range(3), act, 3)


async def test_an_error_of_the_items_themselves_stops_everything() -> None:
    log = Log()

    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise Broken("no more")

    with pytest.raises(Broken, match="no more"):
        await each(items(), lambda item: forever(log, item), 3)
    assert sorted(log.cancelled) == [0, 1]


async def test_whoever_cancels_it_gets_no_error() -> None:
    log = Log()
    with anyio.CancelScope() as scope:

        async def act(item: int) -> None:
            if item == 2:
                scope.cancel()
            await forever(log, item)

        await each(range(9), act, 3)
    assert scope.cancelled_caught
    assert sorted(log.cancelled) == sorted(log.started) and {0, 1, 2} <= set(log.started)
    assert len(log.started) <= 3


@pytest.mark.parametrize(
    "error",
    [
        Broken("a"),
        ExceptionGroup("outer", [Broken("a"), Broken("b")]),
        ExceptionGroup("outer", [ExceptionGroup("inner", [Broken("a")]), ValueError("b")]),
        BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [Broken("a")])]),
    ],
    ids=["alone", "of two", "nested", "of any kind"],
)
async def test_groups_are_taken_off_however_deep(error: BaseException) -> None:
    with pytest.raises(Broken, match=r"^a$"), single_errors():
        raise error
    with pytest.raises(Broken, match=r"^a$"), single_errors(), single_errors():
        raise error


async def test_a_block_stands_still_where_it_is_over() -> None:
    over, reached = anyio.Event(), list[str]()
    with anyio.fail_after(5):
        async with until(over.wait):
            reached.append("begun")
            over.set()
            await anyio.sleep_forever()
        reached.append("behind")
    assert reached == ["begun", "behind"]


async def test_a_block_that_ends_by_itself_waits_for_nothing() -> None:
    with anyio.fail_after(5):
        async with until(anyio.sleep_forever):
            await checkpoint()


async def test_errors_of_either_are_raised_as_themselves() -> None:
    async def fail() -> None:
        await checkpoint()
        raise KeyError("watch")

    with pytest.raises(ValueError, match="block"):
        async with until(anyio.sleep_forever):
            raise ValueError("block")
    with anyio.fail_after(5), pytest.raises(KeyError, match="watch"):
        async with until(fail):
            await anyio.sleep_forever()
