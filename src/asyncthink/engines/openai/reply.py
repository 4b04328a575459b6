"""One reply as it comes: read, watched, and ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import anyio

from asyncthink.engines.openai import pieces
from asyncthink.engines.openai.pieces import Piece
from asyncthink.engines.openai.retry import Trouble
from asyncthink.engines.openai.stream import EventReader, Unpacker

if TYPE_CHECKING:
    from asyncthink.engines.openai.server import Server

_LINGER = 2.0
"""Seconds for which a reply's end is awaited when its text is over."""
_TAIL = 0.05
"""Seconds for which the end of a reply is awaited behind its last event."""
_LOOK = 1.0
"""Seconds between two looks at whether a reply is still alive."""
_DONE = b"[DONE]"


class Reply:
    """One reply as it comes: the pieces that its events, or its one body, say."""

    def __init__(self, server: Server) -> None:
        self.began = 0.0
        self.streams = True
        """False where the server sent the whole text in one body."""
        self.done = False
        """The server said that this is the end."""
        self._server = server
        self._response: aiohttp.ClientResponse | None = None
        self._unpacker: Unpacker
        self._events: EventReader | None = None
        self._body = bytearray()
        self._sniffed = False
        self._alive = 0.0
        """When something whole came last: a head, a line."""
        self._watch: asyncio.TimerHandle | None = None
        self._finished = self._over = self._closed = self._silent = False
        self._trouble: Trouble | None = None
        """What went wrong behind pieces that were still good."""

    async def open(self, response: aiohttp.ClientResponse) -> None:
        """Begin to read a response.

        Raises:
            Trouble: it is an error.
        """
        self._response = response
        if response.status != 200:
            raise await self._server.error_of(response)
        self._unpacker = Unpacker(response.headers.get("Content-Encoding", "").strip().lower())
        kind = response.headers.get("Content-Type", "").lower()
        if "html" in kind:
            raise Trouble("a web page came instead of a reply", transient=True)
        if "json" not in kind:
            self._events = EventReader()
        self._loop = asyncio.get_running_loop()
        self._alive = self._loop.time()
        self._look()

    def _look(self) -> None:
        """Give up a reply that is silent, or trickles: bytes come, but no line of them is whole.

        The HTTP client's own time-out does not see a trickle, and its reader is not woken when it could not
        follow a reply's framing.
        """
        self._watch = None
        if self._response is None:
            return
        connection = self._response.connection
        protocol = connection.protocol if connection is not None else None
        lost = protocol is not None and protocol.exception() is not None
        rest = self._alive + self._server.retries.idle - self._loop.time()
        if rest > 0 and not lost:
            self._watch = self._loop.call_later(min(rest, _LOOK), self._look)
            return
        self._silent = not lost
        self._response.close()  # wakes the reader

    async def next(self) -> list[Piece] | None:
        """Return the next pieces; None when the reply is over.

        Raises:
            Trouble: it broke off, makes no sense, or says that something failed.
        """
        while not self._over:
            data = b"" if self._trouble else await self._read()
            try:
                if self._trouble:
                    raise self._trouble
                found = self._feed(data) if data else self._end()
            except Trouble as trouble:
                self._server.heed(trouble, self.began)
                raise self._server.hide(trouble) from None
            if found:
                return found
        await self._reach_end()
        return None

    async def _reach_end(self) -> None:
        """Read the few bytes behind the last event, so that the connection can serve another request."""
        if self.done and self._response is not None and not self._response.content.at_eof():
            with suppress(aiohttp.ClientError), anyio.move_on_after(_TAIL):
                await self._response.content.readany()

    async def _read(self) -> bytes:
        assert self._response is not None
        try:
            if self._finished:
                with anyio.move_on_after(_LINGER):
                    return await self._response.content.readany()
                return b""
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if self._finished:
                return b""
            if self._silent:
                seconds = self._server.retries.idle
                raise Trouble(f"nothing whole came for {seconds:g} seconds", transient=True) from None
            raise self._server.trouble(error) from None

    def _feed(self, data: bytes) -> list[Piece]:
        data = self._unpacker.feed(data)
        if not self._sniffed and data:
            self._sniffed = True
            if data[:1] in b"{[<":  # one body, whatever its content type says
                self._events = None
        if self._events is None:
            self._body += data
            return []
        lines = self._events.lines
        found = self._pieces(self._events.feed(data))
        if self._events.lines > lines:
            self._alive = self._loop.time()
        return found

    def _end(self) -> list[Piece]:
        found: list[Piece] = []
        if self._events is None:
            self.streams = False
            if self._body.lstrip().startswith(b"<"):
                raise Trouble("a web page came instead of a reply", transient=True)
            found = [pieces.read(self._server.cleaned(bytes(self._body)))]
            self._finished = found[0].finish is not None
        elif not self._over:
            found = self._pieces(self._events.close())
        if not self._finished and not self._over:
            self._server.policy = None  # as after any connection that breaks: see `Server.trouble`
            raise Trouble("the reply broke off without an end", transient=True)
        self._over = True
        return found

    def _pieces(self, events: list[bytes]) -> list[Piece]:
        found: list[Piece] = []
        for data in events:
            if data.strip() == _DONE:
                assert self._events is not None
                found += [pieces.read(each) for each in self._events.close()]
                self._over = self.done = True
                break
            try:
                piece = pieces.read(self._server.cleaned(data))
            except Trouble as trouble:
                if not found:
                    raise
                self._trouble = trouble
                break
            if self._finished:  # nothing but usage may follow
                piece.text = piece.reasoning = ""
                piece.token_ids = piece.finish = None
            self._finished = self._finished or piece.finish is not None
            found.append(piece)
        return found

    def close(self) -> None:
        """End the request: a connection whose reply was not read to its end is closed; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        if self._response is not None:
            if self._over and self._response.content.at_eof():
                self._response.release()
            else:
                self._response.close()
        self._server.release(good=self._finished)
