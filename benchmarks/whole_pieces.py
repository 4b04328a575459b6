"""An engine in this process that returns a whole piece at each call, as the peers' fake models do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Self

from fan_out import Fan

from asyncthink.engines.base import Capabilities, Chunk, Message, Profile, Sampling


class PieceEngine:
    """Says what a fan-out tells it to, without any delay."""

    name = "pieces"
    capabilities = Capabilities(token_ids=False, streaming=True, continues=True)
    profile = Profile()

    def __init__(self, fan: Fan) -> None:
        self.fan = fan

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> PieceSession:
        del episode, path, capacity
        return PieceSession(self.fan, role, messages[-1].content)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Nothing is held."""


class PieceSession:
    """One agent; a piece of n words counts as n tokens."""

    def __init__(self, fan: Fan, role: str, query: str) -> None:
        self.prompt = _chunk(query)
        self._fan, self._role = fan, role
        self._calls = count()

    def decode(self, stops: Sequence[str], max_tokens: int, sampling: Sampling) -> Piece:
        del stops, max_tokens, sampling
        return Piece(iter((_chunk(self._fan.reply(self._role, next(self._calls))),)))

    def insert(self, text: str) -> Chunk:
        return _chunk(text)

    def trim(self, characters: int) -> None:
        """Nothing stands past a cut: each piece ends at its join."""

    @property
    def usage(self) -> None:
        """Nobody counts."""
        return

    def rest(self) -> None:
        """Nobody waits for it."""

    def wake(self) -> None:
        """Nobody waited for it."""

    def close(self) -> None:
        """Nothing is held."""


class Piece:
    """One decode block, with one chunk."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Nothing is held."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


def _chunk(text: str) -> Chunk:
    return Chunk(text=text, n_tokens=len(text.split()))
