"""Who may think now, who waits, who is turned away, and when all are gone."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from asyncthink.errors import RequestError

_REMEMBERED = 64
_LONGEST_WAIT = 600


class Admission:
    """A counter with so many places, and so many chairs before it."""

    def __init__(self, places: int, chairs: int) -> None:
        self._places = anyio.Semaphore(places, fast_acquire=True)
        self._total, self._chairs = places, chairs
        self.waiting = 0
        self.running = 0
        self.closed = False
        self._inside: set[anyio.CancelScope] = set()
        self._empty = anyio.Event()
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        """How long the last ones took."""

    @asynccontextmanager
    async def admitted(self) -> AsyncGenerator[None]:
        """Run the block when it is this request's turn; first come, first served.

        Raises:
            RequestError: there is no room, or the server stops before or meanwhile.
        """
        if self.closed:
            raise _stopping(1)
        if self._places.value == 0 and self.waiting >= self._chairs:
            raise RequestError(
                f"{self.running} thoughts are under way and {self.waiting} wait: try again later",
                status=429,
                code="rate_limit_exceeded",
                retry_after=self.patience(),
            )
        with anyio.CancelScope() as scope:
            self._inside.add(scope)
            try:
                await self._wait()
                began = time.monotonic()
                try:
                    yield
                finally:
                    self.running -= 1
                    self._places.release()
                self._seconds.append(time.monotonic() - began)
            finally:
                self._inside.discard(scope)
                if self.closed and not self._inside:
                    self._empty.set()
        if scope.cancelled_caught:
            raise _stopping(None)

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self._places.acquire()
            self.running += 1
        finally:
            self.waiting -= 1

    def patience(self) -> int:
        """Return the seconds after which there should be room, by how long the last ones took."""
        each = sum(self._seconds) / len(self._seconds) if self._seconds else 1.0
        return max(1, min(_LONGEST_WAIT, math.ceil(each * (self.waiting + 1) / self._total)))

    def close(self) -> None:
        """Turn everybody new away; whoever is inside goes on."""
        self.closed = True
        if not self._inside:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until it is closed and nobody is inside."""
        await self._empty.wait()

    def end(self) -> int:
        """Stop whoever is inside; return how many that were."""
        self.close()
        for scope in self._inside:
            scope.cancel()
        return len(self._inside)


def _stopping(retry_after: int | None) -> RequestError:
    return RequestError("the server is stopping", status=503, code="stopping", retry_after=retry_after)
