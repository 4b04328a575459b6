"""Many things at once, and one thing gone wrong: what is built on task groups beside the pool."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import anyio

T = TypeVar("T")


async def each(items: Iterable[T], act: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Run `act` on every item, at most `at_once` of them together, in their order.

    Items are taken when there is room for them, so there may be more than fit into memory. The first error
    stops the others and is raised as itself.
    """
    waiting, room = iter(items), at_once - 1

    async def go_on() -> None:
        nonlocal room
        for item in waiting:
            if room > 0:  # for as many as there are items, not for all that there could be
                room -= 1
                group.start_soon(go_on)
            await act(item)

    with single_errors():
        async with anyio.create_task_group() as group:
            group.start_soon(go_on)


async def together(items: Iterable[T], act: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    """Run `act` on all items, all begun in one round of asyncio's event loop, in their order.

    How many have begun when the first of them is answered then does not depend on the machine. The first error
    stops the others and is raised as itself.
    """
    with single_errors():
        async with anyio.create_task_group() as group:
            for item in items:
                group.start_soon(act, item)


def _first(error: BaseException) -> BaseException:
    """Return the first error that is no group."""
    if isinstance(error, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


@contextmanager
def single_errors() -> Generator[None]:
    """Raise what went wrong itself, instead of the groups that task groups put around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _first(group) from None


@asynccontextmanager
async def until(over: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """Run the block, and stop it where it stands when `over` returns; what either raises is raised as itself."""
    with single_errors():
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await over()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            yield
            group.cancel_scope.cancel()
