"""What is made of a body, and what is said to those of which nothing can be made. Random ones never give a 500."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server.serving_worlds import CHAT, SCRIPT, ask, chat, world

from asyncthink import Organization
from asyncthink.engines.base import Profile
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.errors import RequestError
from asyncthink.runtime.budget import Limits
from asyncthink.server.body import parse
from asyncthink.server.messages import question
from asyncthink.server.request import understand
from asyncthink.server.settings import Settings

pytestmark = pytest.mark.anyio
USER = {"role": "user", "content": "q"}


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


REFUSED: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "mm"}, 404, "model", "unknown model 'mm': did you mean 'm'"),
    ({"model": None}, 400, "model", "model is missing"),
    ({"messages": []}, 400, "messages", "the last message must be the user's"),
    ({"messages": "q"}, 400, "messages", "Expected `array`"),
    ({"messages": ["q"]}, 400, "messages[0]", "Expected `object`"),
    ({"messages": [{}]}, 400, "messages[0].role", "unknown role 'None'"),
    ({"messages": [USER, {"role": "assistant", "content": "so"}]}, 400, "messages", "the last message"),
    ({"messages": [USER, {"role": "tool", "content": "x"}, USER]}, 400, "messages[1].role", "calls no tools"),
    ({"messages": [{"role": "usr", "content": "q"}]}, 400, "messages[0].role", "did you mean 'user'"),
    ({"messages": [{**USER, "contnt": "q"}]}, 400, "messages[0].contnt", "did you mean 'content'"),
    (user(""), 400, "messages[0].content", "the question is empty"),
    (user(None), 400, "messages[0].content", "content is text"),
    (
        user([{"type": "image_url", "image_url": {}}]),
        400,
        "messages[0].content[0]",
        "'image_url' cannot be read",
    ),
    (user([{"type": "text"}]), 400, "messages[0].content[0]", "cannot be read"),
    (user([1]), 400, "messages[0].content[0]", "without a type"),
    ({"temprature": 1}, 400, "temprature", "did you mean 'temperature'"),
    ({"temperature": "hot"}, 400, "temperature", "Expected `number | null`, got `string`"),
    ({"temperature": True}, 400, "temperature", "got `boolean`"),
    ({"temperature": -1}, 400, "temperature", "temperature must be between 0 and 100"),
    ({"top_p": 0}, 400, "top_p", "top_p must be above 0"),
    ({"seed": 2**63}, 400, "seed", "Expected `integer` <= 9223372036854775807"),
    ({"seed": 1.5}, 400, "seed", "Expected `integer | null`"),
    ({"max_tokens": 0}, 400, "max_tokens", "max_tokens must be above 0"),
    ({"max_tokens": -3}, 400, "max_tokens", "max_tokens must be above 0"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", "at most 4"),
    ({"stop": ""}, 400, "stop", "none empty"),
    ({"n": 2}, 400, "n", "one answer a request"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "calls no tools"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "answers are text"),
    ({"logprobs": True}, 400, "logprobs", "asyncthink.episode"),
    ({"audio": {}}, 400, "audio", "answers are text"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", "max_critical_path"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "needs stream"),
    ({"stream": True, "stream_options": {"usage": True}}, 400, "stream_options.usage", "include_usage"),
    ({"asyncthink": {"capacty": 2}}, 400, "asyncthink.capacty", "did you mean 'asyncthink.capacity'"),
    ({"asyncthink": {"capacity": 0}}, 400, "asyncthink.capacity", "between 1 and 9999"),
    ({"asyncthink": {"method": "paralel"}}, 400, "asyncthink.method", "did you mean 'parallel'"),
    ({"asyncthink": {"method": "plan"}}, 400, "asyncthink.method", "unknown method 'plan'"),
    ({"asyncthink": {"events": True}}, 400, "asyncthink.events", "needs stream"),
    ({"asyncthink": {"deadline": -1}}, 400, "asyncthink.deadline", "deadline must be above 0"),
    ({"asyncthink": []}, 400, "asyncthink", "Expected `object"),
    ({"model": "m:parallel", "asyncthink": {"method": "sequential"}}, 400, "asyncthink.method", "thinks by"),
]


@pytest.mark.parametrize(("change", "status", "param", "message"), REFUSED, ids=range(len(REFUSED)))
async def test_what_makes_no_sense_is_said(
    change: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    async with world() as app:
        reply = await ask(app, body={**chat(), **change})
    assert reply.status == status
    assert reply.error["param"] == param
    assert message in reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"


HARMLESS: list[dict[str, Any]] = [
    {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "x"},
    {
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "presence_penalty": 0.0,
        "logit_bias": {},
    },
    {"response_format": {"type": "text"}, "modalities": ["text"], "frequency_penalty": 0, "stop": []},
    {"stop": ["w", "x", "y", "z"]},
    {"temperature": None, "tools": None, "stream": None, "asyncthink": None, "reasoning_effort": None},
    user([{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]),
    {"messages": [{"role": "system", "content": "Be brief."}, USER]},
    {
        "messages": [
            USER,
            {"role": "assistant", "content": "a", "refusal": None, "tool_calls": [], "reasoning": "r"},
            {**USER, "name": "Ada"},
        ]
    },
]


@pytest.mark.parametrize("change", HARMLESS, ids=range(len(HARMLESS)))
async def test_what_asks_for_nothing_special_is_taken(change: dict[str, Any]) -> None:
    async with world() as app:
        reply = await ask(app, body={**chat(), **change})
    assert reply.status == 200, reply.body


BODIES: list[tuple[bytes, str]] = [
    (b"", "truncated"),
    (b"nonsense", "malformed"),
    (b"[]", "no JSON object"),
    (b'{"model": "m", "user": "\xff\xfe"}', "utf-8"),
    (b'{"model": "\\ud800"}', "no JSON"),
    (b'{"model": NaN}', "malformed"),
    (b'{"seed": 1e999}', "out of range"),
    (b"\xef\xbb\xbf{}", "malformed"),
    (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "nested deeper than 32"),
    (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 32"),
]


@pytest.mark.parametrize(("body", "message"), BODIES, ids=range(len(BODIES)))
async def test_bytes_that_are_no_request(body: bytes, message: str) -> None:
    async with world() as app:
        for path in (CHAT, "/v1/completions"):
            reply = await ask(app, path, body)
            assert reply.status == 400
            assert message in reply.error["message"]


def test_the_deepest_body_has_32_levels() -> None:
    for innermost in (b"", b"1"):
        assert parse(b'{"a": ' + b"[" * 31 + innermost + b"]" * 31 + b"}")
    with pytest.raises(RequestError, match="deeper than 32"):
        parse(b'{"a": ' + b"[" * 32 + b"]" * 32 + b"}")


def test_every_limit_reaches_the_thought() -> None:
    wish = {"max_critical_path": 2, "max_forks": 3, "max_worker_tokens": 4, "max_organizer_tokens": 5}
    body = chat(max_tokens=1, asyncthink={**wish, "deadline": 6.0})
    asked = understand(body, Organization(ScriptedEngine(SCRIPT)), Settings(model="m"), chat=True)
    assert asked.organization.limits == Limits(max_tokens=1, deadline=6.0, **wish)


@pytest.mark.parametrize(
    ("path", "status", "message", "allowed"),
    [
        (CHAT, 405, "GET is not for this path: POST is", "POST"),
        ("/v1/chat/completion", 404, f"did you mean {CHAT!r}", None),
        ("/health/", 404, "did you mean '/health'", None),
    ],
)
async def test_what_no_route_takes(path: str, status: int, message: str, allowed: str | None) -> None:
    async with world() as app:
        reply = await ask(app, path)
    assert reply.status == status and message in reply.error["message"]
    code = "method_not_allowed" if allowed else "unknown_url"
    assert (reply.error["type"], reply.error["code"]) == ("invalid_request_error", code)
    assert reply.headers.get("allow") == allowed


async def test_a_body_beyond_the_limit() -> None:
    async with world(settings={"max_body": 1000}) as app:
        assert (await ask(app, body=chat("q" * 800))).status == 200
        for headers in ((), [("content-length", "1100")]):
            reply = await ask(app, body=chat("q" * 1000), headers=headers)
            assert reply.status == 413 and "1000 bytes" in reply.error["message"]


async def test_completions_take_one_text() -> None:
    async with world() as app:
        for prompt, status in (
            ("q", 200),
            (["q"], 200),
            (["q", "r"], 400),
            ("", 400),
            ([1, 2], 400),
            ([], 400),
        ):
            reply = await ask(app, "/v1/completions", {"model": "m", "prompt": prompt})
            assert reply.status == status, prompt


def test_what_was_said_before_stands_before_the_question() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "And now?"},
    ]
    told = question(messages, alone=False)
    assert told == (
        "Be brief.\n\nThe conversation so far:\n\nUser: Hello\n\nAssistant: Hi\n\nThe user now asks:\n\nAnd now?"
    )
    assert question(messages[-1:], alone=True) == "And now?"
    with pytest.raises(RequestError, match="a single user message"):
        question(messages, alone=True)


async def test_a_model_of_one_task() -> None:
    engine = ScriptedEngine({"organizer": "<ANSWER>x</ANSWER>"})
    limits = {"counts": [4], "largest": 20, "targets": [10, 100]}
    engine.profile = Profile(tasks={"countdown": limits}, trained=True)
    async with world(engine) as app:
        known = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."
        assert (await ask(app, body=chat(known))).status == 200
        free = await ask(app, body=chat("Who are you?"))
        assert free.status == 400 and free.error["code"] == "unsupported_query"
        assert "only knows countdown" in free.error["message"]
        system = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": known}]}
        assert "a single user message" in (await ask(app, body={**chat(), **system})).error["message"]
        engine.profile = Profile(tasks={"countdown": {}}, trained=True)  # as of a broken checkpoint
        broken = await ask(app, body=chat(known))
        assert broken.status == 502 and "cannot be read" in broken.error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "stream",
        "stop",
        "seed",
        "temperature",
        "top_p",
        "max_tokens",
        "asyncthink",
        "n",
    ]
)
CHANGED = st.dictionaries(NAMES | st.text(max_size=8), JSON, max_size=4)
RANDOM = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())


def mutated(body: bytes, at: int, byte: int, cut: int) -> bytes:
    place = at % len(body)
    return body[:place] + bytes([byte]) + body[place + 1 : len(body) - cut % 3]


MUTATED = st.builds(
    mutated,
    st.just(json.dumps(chat(stream=True)).encode()),
    st.integers(0, 500),
    st.integers(0, 255),
    st.integers(0, 2),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=RANDOM | MUTATED | CHANGED.map(lambda change: json.dumps({**chat(), **change}).encode()))
def test_no_body_is_too_much(body: bytes) -> None:
    async def main() -> None:
        async with world() as app:
            for path in (CHAT, "/v1/completions"):
                reply = await ask(app, path, body)
                assert reply.whole
                assert reply.status in (200, 400, 404), (reply.status, reply.body)
                if reply.status != 200:
                    assert set(reply.error) == {"message", "type", "param", "code"}

    anyio.run(main)
