"""Who may think now, who waits, and who is turned away."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from server.serving_worlds import CHAT, LONG, Reply, ask, chat, world
from starlette.applications import Starlette

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.errors import UsageError
from asyncthink.server.admission import Admission
from asyncthink.server.settings import Settings

pytestmark = pytest.mark.anyio
SLOW = {"organizer": "w w w <ANSWER>x</ANSWER>"}


async def reached(admission: Admission, **wanted: int) -> None:
    with anyio.fail_after(10):
        while any(getattr(admission, name) != value for name, value in wanted.items()):
            await anyio.sleep(0.002)


async def keep(replies: list[Reply], app: Starlette, **more: Any) -> None:
    replies.append(await ask(app, CHAT, chat(**more)))


@asynccontextmanager
async def full(chairs: int, delay: float) -> AsyncGenerator[Starlette]:
    """A server with one place, which is taken, as are all chairs; whoever is inside gets an answer."""
    replies: list[Reply] = []
    engine = ScriptedEngine(SLOW, delay=delay)
    async with world(engine, settings={"at_once": 1, "max_waiting": chairs}) as app:
        async with anyio.create_task_group() as group:
            for n in range(1 + chairs):
                group.start_soon(partial(keep, replies, app, stream=bool(n % 2)))
            await reached(app.state.admission, running=1, waiting=chairs)
            yield app
        assert [reply.status for reply in replies] == [200] * (1 + chairs)
        assert (await ask(app, CHAT, chat())).status == (503 if app.state.admission.closed else 200)


async def test_the_last_chair_is_the_last() -> None:
    async with full(2, 0.1) as app:
        refused = await ask(app, CHAT, chat(stream=True))
        assert refused.status == 429
        assert refused.error["type"] == "rate_limit_error" and int(refused.headers["retry-after"]) >= 1
        health = await ask(app, "/health")
        assert health.json == {"status": "ok", "running": 1, "waiting": 2}


async def test_a_server_without_chairs_takes_whom_it_has_a_place_for() -> None:
    async with world(settings={"at_once": 1, "max_waiting": 0}) as app:
        assert (await ask(app, CHAT, chat())).status == 200


async def test_who_waits_and_leaves_is_forgotten() -> None:
    replies: list[Reply] = []
    left: list[Reply] = []
    engine = ScriptedEngine(SLOW, delay=0.1)
    async with world(engine, settings={"at_once": 1, "max_waiting": 1}) as app:
        admission: Admission = app.state.admission
        leave = anyio.Event()

        async def wait() -> None:
            left.append(await ask(app, CHAT, chat(), leave=leave))

        async with anyio.create_task_group() as group:
            group.start_soon(partial(keep, replies, app))
            await reached(admission, running=1)
            group.start_soon(wait)
            await reached(admission, running=1, waiting=1)
            leave.set()
            await reached(admission, running=1, waiting=0)
            group.start_soon(partial(keep, replies, app))
        assert left[0].status == 0, "nothing was sent"
        assert [reply.status for reply in replies] == [200, 200]
        assert (admission.running, admission.waiting) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_everything(stream: bool) -> None:
    engine = ScriptedEngine(LONG, delay=0.005)
    kept: list[Any] = []
    async with world(engine, settings={"save": kept.append}) as app:
        leave = anyio.Event()

        async def heard() -> None:
            while sum(unit.members for unit in engine.units.values()) < 3:
                await anyio.sleep(0.005)
            scope.deadline = anyio.current_time() + 1
            leave.set()

        async with anyio.create_task_group() as group:
            with anyio.fail_after(60) as scope:
                group.start_soon(heard)
                reply = await ask(app, CHAT, chat(stream=stream), leave=leave)
            assert not reply.whole and reply.status == (200 if stream else 0)
        assert engine.units == {}
        assert app.state.admission.running == 0
    (episode,) = kept
    assert episode.stop_reason == "cancelled" and len(episode.traces) == 3


async def test_closed_lets_those_inside_end_and_nobody_in() -> None:
    async with full(1, 0.05) as app:
        admission: Admission = app.state.admission
        admission.close()
        late = await ask(app, CHAT, chat())
        assert late.status == 503 and late.headers["retry-after"] == "1" and late.error["code"] == "stopping"
        health = await ask(app, "/health")
        assert health.status == 503 and health.json["status"] == "stopping"
        with anyio.fail_after(10):
            await admission.emptied()


async def test_the_end_is_told_to_those_inside() -> None:
    replies: list[Reply] = []
    engine = ScriptedEngine(LONG, delay=0.005)
    async with world(engine, settings={"at_once": 2}) as app:
        admission: Admission = app.state.admission
        async with anyio.create_task_group() as group:
            group.start_soon(partial(keep, replies, app, stream=True))
            await reached(admission, running=1, waiting=0)
            for _ in range(2):
                group.start_soon(partial(keep, replies, app, stream=False))
            await reached(admission, running=2, waiting=1)
            assert admission.end() == 3
            with anyio.fail_after(1):
                await admission.emptied()
        assert engine.units == {}
    assert sorted(reply.status for reply in replies) == [200, 503, 503]
    assert all(b"the server is stopping" in reply.body and reply.whole for reply in replies)
    assert not any(b"[DONE]" in reply.body for reply in replies)
    for refused in (reply for reply in replies if reply.status == 503):
        assert refused.error["type"] == "unavailable_error"
        assert "retry-after" not in refused.headers and refused.headers["x-should-retry"] == "false"


async def test_patience_follows_how_long_thoughts_take() -> None:
    admission = Admission(2, 10)
    assert admission.patience() == 1
    for _ in range(3):
        async with admission.admitted():
            await anyio.sleep(0.01)
    assert admission.patience() == 1
    admission._seconds.extend([30.0] * 64)  # pyright: ignore[reportPrivateUsage]
    assert admission.patience() == 15
    admission.waiting = 5
    assert admission.patience() == 90
    admission.waiting = 50
    assert admission.patience() == 600


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_waiting": -1},
        {"drain_seconds": -1.0},
        {"drain_seconds": float("inf")},
        {"drain_seconds": float("nan")},
        {"max_body": 0},
        {"model": ""},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        given: dict[str, Any] = {"model": "m", **wrong}
        Settings(**given)
