"""How many requests are under way at a time."""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    """Places for those who are under way at a time: first come, first served, and the number may change."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place."""
        if self.taken < self.places and not self._waiting:
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came together with the cancellation
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.taken -= 1
        self._let_in()

    def resize(self, places: int) -> None:
        """Change how many places there are; whoever has one keeps it."""
        self.places = places
        self._let_in()

    def _let_in(self) -> None:
        while self.taken < self.places and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)
