"""What a server can do, found out by asking it: a few tokens a question. For `asyncthink doctor`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from asyncthink.engines.openai.context import CHAT, COMPLETIONS
from asyncthink.engines.openai.dialect import DIALECTS, Continuation
from asyncthink.engines.openai.engine import OpenAIEngine
from asyncthink.engines.openai.pieces import Piece
from asyncthink.engines.openai.preflight import NO_ROUTE
from asyncthink.engines.openai.retry import Trouble

_ASKED = "Count from one to nine, in words, with a blank between them. Write nothing else."
_BEGUN = "one two three"
_NEXT = "four"
_STOP = "three"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that a server can do or cannot."""

    name: str
    works: bool | None
    """None: it could not be told, mostly since the model did not do as it was asked."""
    detail: str


@dataclass(slots=True)
class _Said:
    """What came of one request."""

    pieces: list[Piece] = field(default_factory=list[Piece])
    trouble: Trouble | None = None
    streams: bool = False

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


async def probe(engine: OpenAIEngine) -> list[Finding]:
    """Ask the first server of an open engine; every finding but the last is about the server.

    The last one says what follows for a thought.
    """
    probing = _Probe(engine)
    found = [finding async for finding in probing.findings()]
    follows = list(_consequences(engine))
    if probing.continues and not engine.capabilities.continues:
        follows.append(f"--continuation {probing.continues[0]} would put a result into the model's own text")
    return [*found, Finding(name="what follows", works=True, detail="; ".join(follows))]


class _Probe:
    def __init__(self, engine: OpenAIEngine) -> None:
        self._engine = engine
        self._server = engine.servers[0]
        self._thinks_aloud = False
        self.continues: list[str] = []
        """Ways in which the model went on from its own text."""

    async def findings(self) -> AsyncIterator[Finding]:
        routes = [route for route in (CHAT, COMPLETIONS) if await self._has(route)]
        yield Finding(name="routes", works=bool(routes), detail=", ".join(f"/{route}" for route in routes))
        route = CHAT if self._engine.api == "chat" else COMPLETIONS
        yield await self._streaming(route)
        if self._thinks_aloud:
            detail = "its thoughts come as text, and a tag in them acts: serve it with a reasoning parser"
            yield Finding(name="reasoning apart", works=False, detail=detail)
        if CHAT in routes:
            yield await self._continuation()
        yield await self._stops(route)
        yield await self._logprobs(route)
        if COMPLETIONS in routes:
            yield await self._ids()

    async def _has(self, route: str) -> bool:
        try:
            return (await self._server.post(route, {}))[0] not in NO_ROUTE
        except Trouble:
            return False

    async def _say(self, route: str, max_tokens: int = 24, **more: Any) -> _Said:
        context: dict[str, Any] = (
            {"messages": [{"role": "user", "content": _ASKED}]}
            if route == CHAT
            else {"prompt": f"one two three four five\n{_BEGUN}"}
        )
        body = {"model": self._engine.model, "stream": True, "temperature": 0, "max_tokens": max_tokens}
        said = _Said()
        learned = self._engine.learned
        for _ in range(8):
            sent = learned.fit({**context, **body, **more})
            try:
                reply = await self._server.ask(route, sent.copy)
                try:
                    while (pieces := await reply.next()) is not None:
                        said.pieces += pieces
                    said.streams = reply.streams
                finally:
                    reply.close()
                return said
            except Trouble as trouble:
                said.trouble = trouble
                if any(name in str(trouble) for name in more) or not learned.learn(trouble, sent):
                    return said
        return said

    async def _streaming(self, route: str) -> Finding:
        said = await self._say(route, stream_options={"include_usage": True})
        if said.trouble:
            return Finding(name="streaming", works=False, detail=str(said.trouble))
        self._thinks_aloud = "<think>" in said.text
        events = sum(bool(piece.text or piece.reasoning) for piece in said.pieces)
        counts = next((piece.counts for piece in reversed(said.pieces) if piece.counts), None)
        told = (
            f"{counts.output} tokens by its own count"
            if counts and counts.output is not None
            else "no usage told"
        )
        return Finding(name="streaming", works=said.streams, detail=f"{events} events, {told}")

    async def _continuation(self) -> Finding:
        works: list[str] = []
        for way in (Continuation.FLAGS, Continuation.PLAIN, Continuation.MARK):
            said = await self._continued(way)
            if not said.trouble and said.text.strip().lower().startswith(_NEXT):
                works.append(way)
        self.continues = works
        if works:
            return Finding(name="prefix continuation", works=True, detail=", ".join(works))
        said = await self._continued(Continuation.FLAGS)
        detail = (
            str(said.trouble)
            if said.trouble
            else f"asked to go on from {_BEGUN!r} it wrote {said.text[:40]!r}"
        )
        told = False if said.trouble else None
        return Finding(name="prefix continuation", works=told, detail=detail)

    async def _continued(self, way: Continuation) -> _Said:
        begun: dict[str, Any] = {"role": "assistant", "content": f"{_BEGUN} "}
        more: dict[str, Any] = {}
        if way is Continuation.FLAGS:
            more = {"continue_final_message": True, "add_generation_prompt": False}
        elif way is Continuation.MARK:
            begun["prefix"] = True
        return await self._say(CHAT, 8, messages=[{"role": "user", "content": _ASKED}, begun], **more)

    async def _stops(self, route: str) -> Finding:
        keep = DIALECTS["vllm"].keep_stop or {}
        said = await self._say(route, stop=[_STOP], **keep)
        if said.trouble:
            said = await self._say(route, stop=[_STOP])
        if said.trouble:
            return Finding(name="stop strings", works=False, detail=str(said.trouble))
        text = said.text.lower()
        if text.rstrip().endswith(_STOP):
            return Finding(name="stop strings", works=True, detail="obeyed, and kept in the text")
        if _STOP in text:
            return Finding(name="stop strings", works=False, detail="not obeyed")
        finish = next((piece.finish for piece in said.pieces if piece.finish), None)
        works = True if finish == "stop" and text.strip() else None
        detail = "obeyed, and cut off the text" if works else f"the model wrote {said.text[:40]!r}"
        return Finding(name="stop strings", works=works, detail=detail)

    async def _logprobs(self, route: str) -> Finding:
        more: dict[str, Any] = {"logprobs": True, "top_logprobs": 1} if route == CHAT else {"logprobs": 1}
        said = await self._say(route, 4, **more)
        return _told("log-probabilities", said, any(piece.logprobs for piece in said.pieces))

    async def _ids(self) -> Finding:
        said = await self._say(COMPLETIONS, 4, return_token_ids=True, logprobs=1)
        return _told("token ids", said, any(piece.token_ids for piece in said.pieces))


def _told(name: str, said: _Said, works: bool) -> Finding:
    """Return whether a server told something with each token when it was asked to."""
    if said.trouble:
        return Finding(name=name, works=False, detail=str(said.trouble))
    return Finding(
        name=name, works=works, detail="told with each token" if works else "asked for, but not told"
    )


def _consequences(engine: OpenAIEngine) -> Iterator[str]:
    can = engine.capabilities
    route = CHAT if engine.api == "chat" else COMPLETIONS
    yield f"agents decode through /{route}"
    if engine.api == "chat":
        yield (
            "a join's result is put into the model's own text"
            if can.continues
            else "a join's result is the next user message, and a broken stream cannot be continued"
        )
    if can.token_ids:
        yield "token ids are sent and recorded, so training can use the episodes"
    else:
        yield "token ids are not recorded: training needs a server that tells them, and --tokenizer FOLDER"
    if not engine.dialect.keep_stop:
        yield "stop strings are watched for here, and the request is ended"
    if not engine.dialect.usage_each_event:
        yield "tokens of a request that is cut at a join are estimated"
    if can.context:
        yield f"the context is {can.context} tokens"
