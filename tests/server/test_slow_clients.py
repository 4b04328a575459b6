"""Clients and engines that take their time."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from server.serving_worlds import CHAT, LONG, ask, chat, world
from starlette.types import Scope

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.errors import RequestError
from asyncthink.server import body, conclusion, stream, thought
from asyncthink.server.body import read_body

pytestmark = pytest.mark.anyio


async def test_who_does_not_read_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STALLED", 0.05)
    lines: list[str] = []
    engine = ScriptedEngine(LONG, delay=0.005)
    raw = json.dumps(chat(stream=True)).encode()
    messages: list[Any] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Any:
        if not messages:
            await anyio.sleep_forever()
        return messages.pop()

    async def send(message: Any) -> None:
        if len(message.get("body", b"")) and b"reasoning" in message["body"]:
            await anyio.sleep_forever()

    async with world(engine, settings={"note": lines.append}) as app:
        scope: Scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"host", b"localhost")]}
        with anyio.fail_after(5):
            await app(scope, receive, send)
        assert engine.units == {} and app.state.admission.running == 0
    (line,) = lines
    assert "200 left midway" in line


async def test_a_long_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thought, "SILENCE", 0.02)
    engine = ScriptedEngine({"organizer": "w <ANSWER>x</ANSWER>"}, delay=0.08)
    async with world(engine) as app:
        reply = await ask(app, body=chat(stream=True))
    assert b"\n\n: thinking\n\n" in reply.body
    assert reply.chunks[-1]["asyncthink"]["stop_reason"] == "answer"


async def test_a_body_in_pieces() -> None:
    pieces = [b'{"a"', b": 1", b"}"]
    messages = [{"body": piece, "more_body": n < 2, "type": "http.request"} for n, piece in enumerate(pieces)]

    async def receive() -> Any:
        return messages.pop(0)

    assert await read_body({"headers": []}, receive, 8) == b'{"a": 1}'
    messages[:] = [{"type": "http.request", "body": b"x" * 5, "more_body": True}] * 3
    with pytest.raises(RequestError, match="longer than 8 bytes"):
        await read_body({"headers": []}, receive, 8)
    assert len(messages) == 1, "it reads no further"


async def test_a_body_that_is_declared_too_long_is_not_read() -> None:
    async def receive() -> Any:
        raise AssertionError

    with pytest.raises(RequestError, match="longer than 8 bytes"):
        await read_body({"headers": [(b"content-length", b"9")]}, receive, 8)


async def test_who_leaves_before_all_was_asked() -> None:
    lines: list[str] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    async with world(settings={"note": lines.append}) as app:
        await app(
            {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"host", b"localhost")]},
            receive,
            send,
        )
    assert f"POST {CHAT} 499 " in lines[0]


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SECONDS", 0.02)
    with pytest.raises(RequestError, match="did not arrive") as caught:
        await read_body({"headers": []}, anyio.sleep_forever, 8)  # pyright: ignore[reportArgumentType]
    assert caught.value.status == 408


async def test_a_thought_too_long_to_be_told_tick_by_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conclusion, "LONGEST", 10)
    async with world() as app:
        long = (await ask(app, body=chat())).json["asyncthink"]["metrics"]
        short = (await ask(app, body=chat(asyncthink={"max_critical_path": 5}))).json["asyncthink"]["metrics"]
    assert "active_per_tick" not in long and len(short["active_per_tick"]) <= 5
