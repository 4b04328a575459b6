"""What the engine over a function does with replies that servers should not give; test_conformance.py has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_worlds import begin, collect, ids_of, text_of

from asyncthink.engines.base import Sampling
from asyncthink.engines.generated import GeneratedEngine, Reply
from asyncthink.engines.openai.tokens import Tokens
from asyncthink.errors import ContextFullError, EngineError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Given:
    """Answers with what it was given, one reply a request."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Any]] = []

    async def __call__(
        self, request: str, ids: list[int], *, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> Reply:
        self.asked.append({"request": request, "ids": ids, "max_tokens": max_tokens})
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def engine_of(folder: Path, given: Given, context: int = 1400) -> GeneratedEngine:
    return GeneratedEngine(given, Tokens(folder), name="given", context=context)


def spelled(engine: GeneratedEngine, text: str) -> tuple[int, ...]:
    return engine.tokens.prompts.insertion(text).token_ids or ()


async def test_what_follows_a_stop_string_or_the_limit_is_dropped(folder: Path) -> None:
    given = Given()
    engine = engine_of(folder, given)
    ids = spelled(engine, " 1 2 3 4")
    given.replies += [Reply(token_ids=ids), Reply(token_ids=ids)]
    session = begin(engine)
    assert text_of(await collect(session, 9, stops=["2"])) == " 1 2"
    assert len(ids_of(await collect(session, 3))) == 3
    kept = len(given.asked[1]["ids"]) - len(given.asked[0]["ids"])
    assert given.asked[1]["ids"][-kept:] == list(ids[:kept]) and 0 < kept < len(ids), (
        "what was dropped is not sent"
    )


async def test_agents_have_names_and_contexts_grow_by_what_was_read(folder: Path) -> None:
    given = Given()
    engine = engine_of(folder, given)
    ids = spelled(engine, " 1 2 3")
    given.replies += [Reply(token_ids=ids, logprobs=(-0.5,) * len(ids)), Reply(token_ids=())]
    session = begin(engine, path="0/7", episode="mine")
    async with session.decode((), 20, Sampling()) as chunks:
        first = await anext(aiter(chunks))
    inserted = session.insert(" 9")
    assert first.logprobs == (-0.5,)
    assert await collect(session, 20) == []
    before, after = given.asked
    assert before["request"] == after["request"] == "mine/0/7"
    assert after["ids"] == [*before["ids"], ids[0], *(inserted.token_ids or ())]


async def test_a_full_context_is_told_once_its_last_token_is_read(folder: Path) -> None:
    given = Given()
    engine = engine_of(folder, given)
    session = begin(engine)
    room = 3
    engine.context = session.prompt.n_tokens + room
    ids = spelled(engine, " 1 2 3 4 5 6")[:room]
    given.replies.append(Reply(token_ids=ids))
    read = 0
    with pytest.raises(ContextFullError, match="is full"):
        async with session.decode((), 20, Sampling()) as chunks:
            async for _ in chunks:
                read += 1
    assert read == room and given.asked[0]["max_tokens"] == room


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RuntimeError("the actor died\nfar away"), "given: the actor died"),
        (Reply(token_ids=(1 << 60,)), "given: the server sent a token id that no tokenizer has"),
    ],
)
async def test_failures_are_engine_errors(folder: Path, failure: Reply | Exception, message: str) -> None:
    session = begin(engine_of(folder, Given(failure)))
    with pytest.raises(EngineError) as caught:
        await collect(session, 5)
    assert str(caught.value) == message
