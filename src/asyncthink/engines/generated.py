"""An engine over a function that decodes token ids behind token ids: what a trainer's own inference servers offer.

The tokenizer is that of the checkpoint. Contexts are token ids; what was decoded is never encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from asyncthink.engines.base import Capabilities, Chunk, Message, Profile, Sampling
from asyncthink.engines.lexicon import first_line
from asyncthink.engines.openai.pieces import Piece
from asyncthink.engines.openai.retry import Trouble
from asyncthink.engines.openai.tokens import TokenContext, Tokens
from asyncthink.errors import ContextFullError, EngineError


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What was decoded behind a context."""

    token_ids: tuple[int, ...]
    """The token that ended the text included."""
    logprobs: tuple[float, ...] | None = None
    """Natural logarithms, one a token; None: not told."""


class Generate(Protocol):
    """Decodes behind token ids until a stop string is complete, the model ends, or `max_tokens`."""

    async def __call__(
        self, request: str, ids: list[int], *, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> Reply:
        """Decode; every request of one agent has the same name, which is nobody else's."""
        ...


class GeneratedEngine:
    """A model behind a function.

    Args:
        generate: decodes; whatever it raises is taken for a passing failure, which is not tried again here.
        tokens: of the checkpoint.
        name: of the model, for the record.
        context: longest context in tokens.
    """

    def __init__(self, generate: Generate, tokens: Tokens, *, name: str, context: int) -> None:
        self.generate, self.tokens, self.name = generate, tokens, name
        self.profile: Profile = tokens.lexicon.profile
        self.context = context
        self.capabilities = Capabilities(
            token_ids=True, streaming=False, continues=True, aborts=False, context=context
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Do nothing: whoever made the function holds the model."""

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> GeneratedSession:
        """Begin a context."""
        prompt = self.tokens.prompts.build(messages, role=role, capacity=capacity)
        return GeneratedSession(self, TokenContext(prompt, self.tokens), f"{episode}/{path}")


class GeneratedSession:
    """One agent's context; see `Session` for the contract."""

    def __init__(self, engine: GeneratedEngine, context: TokenContext, request: str) -> None:
        self.engine, self.context, self.request = engine, context, request

    @property
    def prompt(self) -> Chunk:
        """The prompt as the model sees it."""
        return self.context.prompt

    def decode(self, stops: Sequence[str], max_tokens: int, sampling: Sampling) -> Decoding:
        """Decode; see `Session.decode`. One token a chunk."""
        return Decoding(self, [stop for stop in stops if stop], max_tokens, sampling)

    def insert(self, text: str) -> Chunk:
        """Append text that the model did not write; it is sent with the next request."""
        return self.context.insert(text)

    def trim(self, characters: int) -> None:
        """Refuse: every chunk is one token, which cannot be cut."""
        raise EngineError(f"a token cannot be cut, not by {characters} characters")

    @property
    def usage(self) -> None:
        """Nobody counts."""
        return

    def rest(self) -> None:
        """Do nothing: nobody is waited for."""

    def wake(self) -> None:
        """Do nothing: nobody is waited for."""

    def close(self) -> None:
        """Do nothing: nothing is held."""


class Decoding:
    """One block of decoded text: an async context manager and the iterator over its chunks."""

    def __init__(
        self, session: GeneratedSession, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> None:
        self._session, self._context, self._engine = session, session.context, session.engine
        self._stops, self._left, self._sampling = stops, max_tokens, sampling
        self._reach = max(map(len, stops), default=1) - 1
        self._tail = ""
        """The end of the text so far: where a stop string may have begun."""
        self._chunks: list[Chunk] = []
        self._over = max_tokens <= 0

    async def __aenter__(self) -> Decoding:
        self._context.begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._chunks, self._over = [], True

    def __aiter__(self) -> Decoding:
        return self

    async def __anext__(self) -> Chunk:
        if not self._chunks and not self._over:
            await self._ask()
        if not self._chunks:
            raise StopAsyncIteration
        chunk = self._chunks.pop(0)
        self._context.add(chunk)
        return chunk

    async def _ask(self) -> None:
        """Take in a reply: it is the whole block, unless the context was too full to ask for that."""
        room = self._engine.context - self._context.n_tokens()
        if room <= 0:
            raise ContextFullError(f"the model's context of {self._engine.context} tokens is full")
        asked = min(self._left, room)
        reply = await self._reply(asked)
        try:
            piece = Piece(token_ids=reply.token_ids, logprobs=reply.logprobs)
            found = self._context.chunks(piece, None)[:asked]
        except Trouble as trouble:
            raise EngineError(f"{self._engine.name}: {trouble}") from trouble
        self._over = len(found) < asked or asked == self._left
        self._left -= asked
        for chunk in found:
            self._chunks.append(chunk)
            if self._ends(chunk):
                self._over = True
                break
        if self._over:
            self._chunks += self._context.end()

    async def _reply(self, asked: int) -> Reply:
        ids = list(self._context.ids)
        request = self._session.request
        try:
            return await self._engine.generate(
                request, ids, stops=self._stops, max_tokens=asked, sampling=self._sampling
            )
        except EngineError:
            raise
        except Exception as error:  # a server of somebody else's may raise anything
            raise EngineError(f"{self._engine.name}: {first_line(error)}", transient=True) from error

    def _ends(self, chunk: Chunk) -> bool:
        """Whether a token ends the text or completes a stop string."""
        seen = self._tail + chunk.text
        self._tail = seen[-self._reach :] if self._reach else ""
        ended = not self._engine.tokens.eos.isdisjoint(chunk.token_ids or ())
        return ended or any(stop in seen for stop in self._stops)
