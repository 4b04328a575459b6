"""HTTP/1.1 by hand: one connection, its requests one after the other, and whether the client is still there.

A protocol and not a stream reader, because a client that leaves is then noticed at once, whatever its request
is waiting for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import Protocol, cast

_HEAD_END = b"\r\n\r\n"
_LONGEST_HEAD = 1 << 16


@dataclass(slots=True)
class Request:
    """One request; its body arrives after its head."""

    method: str
    path: str
    version: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""

    @property
    def keeps_alive(self) -> bool:
        wish = self.headers.get("connection", "").lower()
        return wish != "close" if self.version == "HTTP/1.1" else wish == "keep-alive"


class Watch(Protocol):
    """Who is told about a request's life."""

    def ended(self, *, left: bool) -> None:
        """The reply is written, or the client left."""
        ...


class Service(Protocol):
    """Who answers the requests."""

    def began(self, connection: Connection, request: Request) -> Watch:
        """A head was parsed."""
        ...

    async def answer(self, connection: Connection, request: Request) -> None:
        """Write the reply."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""
        ...


@dataclass(slots=True, eq=False)
class _Underway:
    request: Request
    watch: Watch
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class Connection(asyncio.Protocol):
    """One client."""

    service: Service
    transport: asyncio.Transport | None = None
    closing: bool = False
    """Close when this reply is written."""
    _buffer: bytearray = field(default_factory=bytearray)
    _now: _Underway | None = None
    _writable: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.service.lost(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client does not read."""
        if self.transport is not None:
            self.transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        """Close once all is written."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        if self.transport is None:
            return
        raw: socket.socket | None = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closing = True
        self.transport.abort()

    def _advance(self) -> None:
        if self._now is None:
            self._read_head()
        if self._now is None or self._now.task is not None:
            return
        body = self._read_body(self._now.request)
        if body is not None:
            self._now.request.body = body
            self._now.task = asyncio.get_running_loop().create_task(self._answer(self._now))

    def _read_head(self) -> None:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            if len(self._buffer) > _LONGEST_HEAD:
                self.close()
            return
        head = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + len(_HEAD_END)]
        try:
            request = _parse_head(head)
        except ValueError:
            self.close()
            return
        self._now = _Underway(request, self.service.began(self, request))

    def _read_body(self, request: Request) -> bytes | None:
        if "chunked" in request.headers.get("transfer-encoding", "").lower():
            return self._read_chunks()
        length = int(request.headers.get("content-length", "0"))
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        body, at = b"", 0
        while (line_end := self._buffer.find(b"\r\n", at)) >= 0:
            size = int(self._buffer[at:line_end].split(b";")[0], 16)
            start = line_end + 2
            at = start + size + 2
            if len(self._buffer) < at:
                return None
            body += self._buffer[start : start + size]
            if not size:
                del self._buffer[:at]
                return body
        return None

    async def _answer(self, now: _Underway) -> None:
        try:
            await self.service.answer(self, now.request)
        finally:
            self._end(now, left=False)
        if self.closing or not now.request.keeps_alive:
            self.close()
        else:
            self._advance()

    def _leave(self) -> None:
        self.closing = True
        if self._now is not None:
            task = self._now.task
            self._end(self._now, left=True)
            if task is not None:
                task.cancel()

    def _end(self, now: _Underway, *, left: bool) -> None:
        if self._now is now:
            self._now = None
            now.watch.ended(left=left)


def _parse_head(head: str) -> Request:
    first, *lines = head.split("\r\n")
    method, path, version = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    int(headers.get("content-length", "0"))
    return Request(method, path, version, headers)
