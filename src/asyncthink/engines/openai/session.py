"""One agent at a server: each decode block is one request, or as many as it takes to bring it to its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio

from asyncthink.engines.base import Chunk, Sampling, Usage
from asyncthink.engines.openai.context import Context
from asyncthink.engines.openai.pieces import Piece
from asyncthink.engines.openai.reply import Reply
from asyncthink.engines.openai.request import SMALLEST, Request
from asyncthink.engines.openai.retry import Trouble
from asyncthink.engines.openai.server import Server
from asyncthink.errors import ContextFullError

if TYPE_CHECKING:
    from asyncthink.engines.openai.engine import OpenAIEngine

_LOG = logging.getLogger(__name__)
UNEXPLAINED = 3
"""Replies in a row that end without text and without a reason, after which that is the end of the text."""
GRACE = 1.0
"""Seconds that a reply's end is waited for when its text is complete."""
_CUT_SHORT = ("length", "max_tokens")


class RemoteSession:
    """One agent's context at a server; see `Session` for the contract."""

    def __init__(self, engine: OpenAIEngine, server: Server, context: Context, path: str) -> None:
        self.engine, self.server, self.context, self.path = engine, server, context, path
        self.usage = Usage()
        self.scale = 1.0
        """Tokens that the server counts for each that is estimated of the context."""
        self.most: int | None = None
        """Tokens to ask for at a time, once a server found a request too large."""
        self._closed = False
        server.agents += 1

    @property
    def prompt(self) -> Chunk:
        """The prompt as it is sent."""
        return self.context.prompt

    def decode(self, stops: Sequence[str], max_tokens: int, sampling: Sampling) -> Decoding:
        """Decode; see `Session.decode`. The chunk that completes a stop string may reach past it."""
        return Decoding(self, [stop for stop in stops if stop], max_tokens, sampling)

    def n_tokens(self) -> int:
        """Return about how many tokens the server will count in the context."""
        return int(self.context.n_tokens() * self.scale)

    def insert(self, text: str) -> Chunk:
        """Append text that the model did not write; it is sent with the next request."""
        return self.context.insert(text)

    def trim(self, characters: int) -> None:
        """Forget the last characters that were decoded."""
        self.context.trim(characters)

    def rest(self) -> None:
        """Do nothing: a server waits for nobody."""

    def wake(self) -> None:
        """Do nothing: a server waits for nobody."""

    def close(self) -> None:
        """Leave the server to others; may be called twice."""
        if not self._closed:
            self._closed = True
            self.server.agents -= 1

    def move(self) -> bool:
        """Go to another server of the same model that answers; say whether there is one."""
        other = self.engine.another(self.server)
        if self._closed or other is self.server:
            return False
        self.server.agents -= 1
        other.agents += 1
        self.server = other
        return True


class Decoding:
    """One decode block: an async context manager and the iterator over its chunks."""

    def __init__(
        self, session: RemoteSession, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> None:
        self._session, self._context = session, session.context
        self._stops, self._sampling = stops, sampling
        self._reach = max(map(len, stops), default=1) - 1
        self._tail = ""
        """The end of the text so far: where a stop string may have begun."""
        self._left = max_tokens
        self._chunks: list[Chunk] = []
        self._reply: Reply | None = None
        self._request: Request | None = None
        self._failures = self._unexplained = 0
        self._delivered = self._over = self._repeats = False

    async def __aenter__(self) -> Decoding:
        self._context.begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._drop()
        self._over = True

    def __aiter__(self) -> Decoding:
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks:
            if self._over or self._left <= 0:
                self._drop()
                self._over = True
                self._chunks += self._context.end()
                if not self._chunks:
                    raise StopAsyncIteration
                break
            try:
                await self._advance()
            except Trouble as trouble:
                self._drop()
                await self._recover(trouble)
        chunk = self._chunks.pop(0)
        if not chunk.hidden:
            self._context.add(chunk)
        return chunk

    async def _advance(self) -> None:
        """Take in what comes next of the reply, or ask for one."""
        if self._reply is None:
            session = self._session
            if session.server.policy != session.engine.policy and not session.move():
                raise session.engine.error(session.server, f"nobody holds {session.engine.policy} any more")
            self._reply = await self._session.server.ask(self._context.route, self._body)
            if self._request:
                self._request.accepted()
            return
        found = await self._reply.next()
        if found is None:
            self._end()
            return
        for piece in found:
            self._take(piece)
        if self._over:
            await self._finish()

    def _body(self) -> dict[str, Any]:
        self._request = Request(self._session, self._stops, self._left, self._sampling)
        self._session.usage.retries += self._repeats
        self._repeats = False
        return self._request.body

    def _take(self, piece: Piece) -> None:
        request = self._request
        assert request is not None
        if self._over:
            request.count(piece)
            return
        request.finish = piece.finish or request.finish
        request.refusal += piece.refusal
        chunks = self._context.chunks(piece, request.count(piece))
        if piece.reasoning:
            chunks.insert(0, request.reasoned(piece))
        for chunk in chunks:
            if not chunk.hidden:  # reasoning does not bring the text on: it may break off each time
                self._failures = 0
            self._delivered = True
            request.arrive(chunk)
            self._left -= chunk.n_tokens
            self._chunks.append(chunk)
            if not chunk.hidden and self._stopped(chunk.text):
                self._over = True

    def _end(self) -> None:
        """The reply is over: so is the block, unless the server stopped short of what was asked for."""
        request = self._request
        assert request is not None
        if missing := request.uncounted():
            self._left -= missing.n_tokens
            self._chunks.append(missing)
        said_so = request.finish is not None or not self._reply or not self._reply.done
        self._drop()
        if not said_so and self._context.resumable():
            self._unexplained = 0 if request.arrived else self._unexplained + 1
            if self._unexplained < UNEXPLAINED:
                raise Trouble("the reply ended without a reason", transient=True)
        if why := request.ended_badly():
            raise Trouble(why, transient=False)
        if request.finish not in _CUT_SHORT:
            self._over = True
        elif request.filled(self._session.engine.capabilities.context):
            raise Trouble("the text ended there", transient=False, full=True)
        elif request.limit is None or request.decoded < request.limit:
            raise Trouble(f"the server cut the text short after {request.decoded} tokens", transient=True)
        elif self._left > 0 and not self._context.resumable():
            self._over = True

    async def _finish(self) -> None:
        """Read to the end of a reply whose text is complete, for its usage; if text goes on, leave it.

        Tokens that only the usage tells of are put before the last chunk: behind it nobody reads on.
        """
        assert self._reply is not None and self._request is not None
        try:
            with anyio.move_on_after(GRACE):
                while (found := await self._reply.next()) is not None:
                    for piece in found:
                        self._request.count(piece)
                    if any(piece.text for piece in found):
                        return
                if missing := self._request.uncounted():
                    self._chunks.insert(len(self._chunks) - 1, missing)
        except Trouble:
            return

    def _stopped(self, text: str) -> bool:
        """Whether a stop string is complete with this text."""
        if not self._stops:
            return False
        seen = self._tail + text
        self._tail = seen[-self._reach :] if self._reach else ""
        for stop in self._stops:  # noqa: SIM110 (asked at every token)
            if stop in seen:
                return True
        return False

    def _drop(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None
        if self._request is not None:
            self._request.close()

    async def _recover(self, trouble: Trouble) -> None:
        """Wait until the request may be tried again.

        Raises:
            EngineError: it may not.
        """
        session, engine = self._session, self._session.engine
        learned = engine.learn(trouble, self._request.body if self._request else {})
        self._failures += not learned
        asked, retries, message = trouble.retry_after, engine.retries, str(trouble)
        useless = not trouble.transient and not learned
        if self._delivered and not self._context.resumable():
            message += "; it cannot go on from what it wrote before"
            useless = True
        elif trouble.transient and asked is not None and asked > retries.patience:
            message += f"; it asks to wait {asked:.0f} seconds"
            useless = True
        elif trouble.transient and self._failures >= retries.attempts:
            message += f"; given up after {self._failures} attempts"
            useless = True
        self._repeats = True
        if trouble.full and self._ask_for_less():
            return
        if trouble.full:
            raise ContextFullError(f"the model's context is full: {message}")
        if useless:
            raise engine.error(session.server, message, transient=trouble.transient)
        if learned:
            return
        if trouble.unreachable:
            session.server.failed_at = anyio.current_time()
            if session.move():
                return
        wait = retries.wait(self._failures, asked)
        if self._failures > 1:
            failing = engine.error(session.server, message)
            _LOG.warning("%s: try %d of %d in %.1f s", failing, self._failures + 1, retries.attempts, wait)
        await anyio.sleep(wait)

    def _ask_for_less(self) -> bool:
        """Ask for fewer tokens at a time; say whether that may help where a request was too large."""
        request, most = self._request, self._session.most
        if request is None or request.limit is None or request.limit <= SMALLEST:
            return False
        self._session.most = max(SMALLEST, min(most or request.limit, request.limit) // 4)
        return True
