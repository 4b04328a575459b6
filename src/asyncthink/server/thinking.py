"""The two endpoints that think. What a request started ends when its client leaves."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import anyio
from starlette.types import Receive, Scope, Send

from asyncthink.errors import RequestError
from asyncthink.runtime.fanout import until
from asyncthink.runtime.organization import Organization
from asyncthink.server.admission import Admission
from asyncthink.server.body import parse, read_body
from asyncthink.server.journal import Entry
from asyncthink.server.request import understand
from asyncthink.server.response import error_body, json_response
from asyncthink.server.settings import Settings
from asyncthink.server.stream import EventStream
from asyncthink.server.thought import Thought


class Thinking:
    """An endpoint; an ASGI application of its own, since it must see its client leave."""

    def __init__(
        self, organization: Organization, settings: Settings, admission: Admission, *, chat: bool
    ) -> None:
        self.organization, self.settings, self.admission, self.chat = organization, settings, admission, chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; all that it started ends when its client leaves."""
        with suppress(anyio.BrokenResourceError):  # it left while it still asked, or reads no more
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = parse(await read_body(scope, receive, self.settings.max_body))
        asked = understand(raw, self.organization, self.settings, chat=self.chat)
        thought = Thought(asked, self.settings, scope["asyncthink.entry"])
        async with until(partial(_departure, receive)):
            if asked.stream:
                await self._stream(thought, EventStream(send), scope["asyncthink.entry"])
                return
            async with self.admission.admitted():
                body = await thought.whole()
            await json_response(body)(scope, receive, send)

    async def _stream(self, thought: Thought, stream: EventStream, entry: Entry) -> None:
        try:
            async with self.admission.admitted():
                await stream.begin()
                await thought.streamed(stream)
        except RequestError as error:
            if not stream.begun:
                raise
            entry.failed = error.code or "failed"
            await stream.write([error_body(error)])
            await stream.end(done=False)
        else:
            await stream.end(done=True)


async def _departure(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
