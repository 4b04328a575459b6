"""One line of log and one id for every request, whatever becomes of it."""

from __future__ import annotations

import re
import time
import traceback
from dataclasses import dataclass
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asyncthink.errors import RequestError
from asyncthink.server.response import refuse
from asyncthink.server.security import headers
from asyncthink.server.settings import Note
from asyncthink.viewer.sanitize import clean, head

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
LEFT = 499
"""What is logged for a client that left before it had its answer, as nginx does."""


@dataclass(slots=True)
class Entry:
    """What the journal has on one request; it stands in the scope as `asyncthink.entry`."""

    id: str
    status: int = LEFT
    whole: bool = False
    """The response was written to its end."""
    failed: str = ""
    """Why a stream ended without an answer, one word; empty: it did not, or was no stream."""
    tokens: int | None = None
    """Decoded for it; None: nothing was thought."""


class Journal:
    """Outermost: gives ids, writes the log, and answers 500 where our own code fails."""

    def __init__(self, app: ASGIApp, *, note: Note) -> None:
        self.app, self.note = app, note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what became of it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        given = headers(scope, b"x-request-id")
        sane = len(given) == 1 and _SANE.fullmatch(given[0])
        entry = scope["asyncthink.entry"] = Entry(given[0] if sane else uuid4().hex)
        began = time.monotonic()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                added = MutableHeaders(raw=message.setdefault("headers", []))
                added["X-Request-Id"] = entry.id
                added.setdefault("X-Content-Type-Options", "nosniff")
                added.setdefault("Cache-Control", "no-store")
            elif message["type"] == "http.response.body":
                entry.whole = not message.get("more_body", False)
            await send(message)

        try:
            await self._answered(entry, scope, receive, told)
        finally:
            self._write(entry, scope, time.monotonic() - began)

    async def _answered(self, entry: Entry, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            for line in traceback.format_exception(error):
                self.note(f"request {entry.id}: {clean(line)}")
            if entry.status == LEFT:
                failed = RequestError(
                    f"the server failed; its log has more under {entry.id}", status=500, code="internal_error"
                )
                await refuse(failed, scope, receive, send)

    def _write(self, entry: Entry, scope: Scope, seconds: float) -> None:
        tokens = "" if entry.tokens is None else f" {entry.tokens} tokens"
        left = "" if entry.whole or entry.status == LEFT else " left midway"
        left = f" {entry.failed}" if entry.failed else left
        what = f"{head(scope.get('method', 'WEBSOCKET'), 10)} {head(scope['path'], 80)}"
        self.note(f"request {entry.id}: {what} {entry.status}{left} {seconds:.3f} s{tokens}")
