"""A response of server-sent events: JSON objects, one an event, with `[DONE]` behind the last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import anyio
from starlette.types import Send

from asyncthink.server.response import dumps

STALLED = 60.0
"""Seconds after which a client that reads nothing has left."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """Writes one response.

    Raises:
        BrokenResourceError: from `write` and the others; the client does not read any more.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def begin(self) -> None:
        """Send the headers: from here on, what goes wrong is told as an event."""
        self.begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})

    async def write(self, chunks: Iterable[Mapping[str, Any]]) -> None:
        """Send events; all at once, which costs as much as one."""
        await self._body(b"".join(b"data: %b\n\n" % dumps(chunk) for chunk in chunks))

    async def breathe(self) -> None:
        """Send a comment, so that nobody in between takes the connection for dead."""
        await self._body(b": thinking\n\n")

    async def end(self, *, done: bool) -> None:
        """End the response; without `done` it was not told to its end."""
        await self._body(b"data: [DONE]\n\n" if done else b"", more=False)

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        if data or not more:
            with anyio.move_on_after(STALLED) as patience:
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
            if patience.cancelled_caught:
                raise anyio.BrokenResourceError
