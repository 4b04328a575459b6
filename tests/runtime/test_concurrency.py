"""Structured concurrency: events, cancellation, failures, and wall time against the virtual clock."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from ticks import simulate

from asyncthink import Episode, Organization, measure
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import EpisodeBuilder, Event, Outcome, StopReason, fold, schedule
from asyncthink.errors import EngineError
from asyncthink.runtime.agent import Result
from asyncthink.runtime.worker import Assignment

pytestmark = pytest.mark.anyio

SCRIPT = {
    "organizer": "1 <FORK-1>a</FORK-1> <FORK-2>b</FORK-2> 2 <FORK-3>c</FORK-3> <JOIN-2> 3 <JOIN-1> "
    "<ANSWER>x</ANSWER>",
    "workers": {
        "a": "1 2 3 4 5 6 <RETURN>ra</RETURN>",
        "b": "1 <RETURN>rb</RETURN>",
        "c": "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 <RETURN>rc</RETURN>",
    },
}


def random_script(rng: random.Random) -> dict[str, Any]:
    """Return a script with random forks, joins in random order, and random lengths."""
    todo: list[int] = []
    text: list[str] = []
    forks = rng.randint(0, 7)
    made = 0
    while made < forks or (todo and rng.random() < 0.8):
        choice = rng.random()
        if made < forks and choice < 0.5:
            made += 1
            todo.append(made)
            text.append(f"<FORK-{made}>q{made}</FORK-{made}>")
        elif todo and choice < 0.8:
            text.append(f"<JOIN-{todo.pop(rng.randrange(len(todo)))}>")
        else:
            text += ["t"] * rng.randint(1, 8)
    workers = {
        f"q{i}": " ".join(["w"] * rng.randint(0, 30) + ["<RETURN>r</RETURN>"] * (rng.random() < 0.9))
        for i in range(1, forks + 1)
    }
    return {"organizer": " ".join([*text, "<ANSWER>x</ANSWER>"]), "workers": workers}


async def think(script: dict[str, Any], capacity: int = 3, **settings: Any) -> Episode:
    async with Organization(ScriptedEngine(script), capacity=capacity, **settings) as organization:
        return await organization.think("q")


async def test_simulated_duration_equals_the_critical_path() -> None:
    """The engine's own tick counter, the closed recursion and the tick-by-tick clock agree exactly."""
    rng = random.Random(5)
    for _ in range(150):
        engine = ScriptedEngine(random_script(rng))
        ticks: list[int] = []

        def listen(_: Event, engine: ScriptedEngine = engine, ticks: list[int] = ticks) -> None:
            ticks[:] = [unit.lockstep.tick for unit in engine.units.values()] or ticks

        async with Organization(engine, capacity=rng.randint(2, 5)) as organization:
            episode = await organization.think("q", listen=listen)
        assert ticks == [measure(episode).critical_path] == [simulate(episode).total]
        for path, turn in schedule(episode).turns.items():
            assert turn.start == simulate(episode).starts[path]


async def test_the_episode_is_the_fold_of_its_events() -> None:
    async with Organization(ScriptedEngine(SCRIPT), capacity=3) as organization:
        heard: list[Event] = []
        episode = await organization.think("q", listen=heard.append)
        assert fold(heard) == episode
        async with organization.stream("q") as events:
            streamed = [event async for event in events]
    # Between agents the order within a tick is free, of one agent it is not.
    for path in ("0", "0/1", "0/2"):
        own = [type(event) for event in heard if getattr(event, "path", None) == path]
        assert [type(event) for event in streamed if getattr(event, "path", None) == path] == own
    for trace, again in zip(episode.traces, fold(streamed).traces, strict=True):
        assert again.segments == trace.segments


async def test_leaving_a_stream_early_stops_everything() -> None:
    engine = ScriptedEngine(SCRIPT, delay=0.001)
    async with Organization(engine, capacity=3) as organization:
        async with organization.stream("q") as events:
            async for _ in events:
                break
        assert engine.units == {}


async def test_a_listener_is_told_what_happens_behind_the_end_of_a_stream() -> None:
    engine, builder = ScriptedEngine(SCRIPT, delay=0.001), EpisodeBuilder()
    async with (
        Organization(engine, capacity=3) as organization,
        organization.stream("q", listen=builder.apply, name="one") as events,
    ):
        async for _ in events:
            break
    assert builder.episode().id == "one"
    assert builder.episode().stop_reason is StopReason.CANCELLED


class Countdown:
    """A cancel scope that fires at the n-th await point of an engine."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.scope = anyio.CancelScope()

    async def point(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()
        await checkpoint()


async def test_cancelling_at_every_await_point_leaves_nothing_behind() -> None:
    cancelled = 0
    for after in range(1, 1000):
        countdown = Countdown(after)
        engine = ScriptedEngine(SCRIPT)

        def open_with_points(
            self: ScriptedEngine, *args: Any, c: Countdown = countdown, **kwargs: Any
        ) -> Any:
            session = ScriptedEngine.open(self, *args, **kwargs)
            arrive = session.unit.lockstep.arrive

            async def counted(member: object) -> int:
                await c.point()
                tick = await arrive(member)
                await c.point()
                return tick

            session.arrive = counted
            return session

        engine.open = open_with_points.__get__(engine)  # pyright: ignore
        builder = EpisodeBuilder()
        async with Organization(engine, capacity=3) as organization:
            with countdown.scope:
                await organization.think("q", listen=builder.apply)
        assert engine.units == {}, after
        assert builder.finished, after
        if countdown.left > 0:
            break
        cancelled += 1
        if countdown.scope.cancelled_caught:
            episode = builder.episode()
            assert episode.stop_reason is StopReason.CANCELLED
            organizer = episode.traces[0]
            answered = organizer.segments[-1].text.endswith("</ANSWER>") if organizer.segments else False
            assert organizer.outcome is (Outcome.ANSWERED if answered else Outcome.CANCELLED)
    assert cancelled > 50


async def test_cancelling_from_outside_at_every_moment() -> None:
    for moment in range(1, 60):
        engine = ScriptedEngine(SCRIPT, delay=0.0005)
        builder = EpisodeBuilder()
        heard = 0
        with anyio.CancelScope() as scope:

            def listen(event: Event, builder: EpisodeBuilder = builder, moment: int = moment) -> None:
                nonlocal heard
                builder.apply(event)
                heard += 1
                if heard == moment:
                    scope.cancel()

            async with Organization(engine, capacity=3) as organization:
                await organization.think("q", listen=listen)
        assert builder.finished
        assert engine.units == {}


class FailingEngine(ScriptedEngine):
    """Fails for one agent at one token."""

    def __init__(self, script: dict[str, Any], path: str) -> None:
        super().__init__(script)
        self.path = path

    def open(self, *args: Any, **kwargs: Any) -> Any:
        session = super().open(*args, **kwargs)
        if kwargs["path"] == self.path:

            async def broken(member: object) -> int:
                del member
                await checkpoint()
                raise EngineError("the cable is cut")

            session.arrive = broken
        return session


async def test_a_failing_worker_is_an_outcome() -> None:
    async with Organization(FailingEngine(SCRIPT, "0/2"), capacity=3) as organization:
        episode = await organization.think("q")
    assert episode.answer == "x"
    failed = next(trace for trace in episode.traces if trace.path == "0/2")
    assert failed.outcome is Outcome.ENGINE_ERROR and failed.cause == "the cable is cut"


async def test_a_failing_organizer_ends_the_episode_without_a_format_error() -> None:
    async with Organization(FailingEngine(SCRIPT, "0"), capacity=3) as organization:
        episode = await organization.think("q")
    assert episode.stop_reason is StopReason.ENGINE_ERROR and episode.answer is None
    assert episode.cause == "the cable is cut" and episode.format_errors == []


class Tool:
    """A worker that decodes nothing."""

    def work(self, assignment: Assignment) -> Awaitable[Result]:
        return self._work(assignment.query)

    async def _work(self, query: str) -> Result:
        await checkpoint()
        if query == "crash":
            raise RuntimeError("tool is broken")
        return Result(outcome=Outcome.RETURNED, text=query.upper(), ticks=7)


async def test_a_tool_is_a_worker_and_its_crash_an_outcome() -> None:
    script = {
        "organizer": '<FORK-1 to="tool">abc</FORK-1> <FORK-2 to="tool">crash</FORK-2> <JOIN-1> <JOIN-2> '
        "<ANSWER>x</ANSWER>"
    }
    episode = await think(script, workers={"tool": Tool()})
    assert episode.traces[1].result == "ABC"
    assert episode.traces[2].outcome is Outcome.FAILED
    assert episode.traces[2].cause == "RuntimeError: tool is broken"
    assert measure(episode).critical_path == 3 + 7 + 1 + 3


class Sloppy:
    """A worker that fails before there is anything to wait for, or gives something else than a result."""

    def work(self, assignment: Assignment) -> Awaitable[Result]:
        if assignment.query == "crash":
            raise RuntimeError("no such tool")
        return self._work()

    async def _work(self) -> Any:
        return "42"


@pytest.mark.parametrize("capacity", [2, 4])
async def test_a_worker_of_somebody_else_cannot_end_the_thought(capacity: int) -> None:
    script = {
        "organizer": '<FORK-1 to="tool">crash</FORK-1> <FORK-2 to="tool">text</FORK-2> <JOIN-1> <JOIN-2> '
        "<ANSWER>x</ANSWER>"
    }
    async with Organization(
        ScriptedEngine(script), capacity=capacity, workers={"tool": Sloppy()}
    ) as organization:
        episode = await organization.think("q")
    assert episode.answer == "x"
    assert [(one.outcome, one.cause) for one in episode.traces[1:]] == [
        (Outcome.FAILED, "RuntimeError: no such tool"),
        (Outcome.FAILED, "TypeError: a worker gives a Result, not str"),
    ]


async def test_wall_time_follows_the_virtual_clock() -> None:
    """A generous guard; benchmarks/wall_clock.py prints the ratio."""
    engine = ScriptedEngine(SCRIPT, delay=0.01)
    async with Organization(engine, capacity=8) as organization:
        began = time.monotonic()
        episode = await organization.think("q")
        seconds = time.monotonic() - began
    least = measure(episode).critical_path * 0.01
    assert least <= seconds < 5 * least + 1


class FullEngine(ScriptedEngine):
    """Refuses to open one agent's session."""

    refused = "0"

    def open(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs["path"] == self.refused:
            raise EngineError("no room left")
        return super().open(*args, **kwargs)


@pytest.mark.parametrize(
    ("method", "refused"), [("asyncthink", "0"), ("sequential", "0"), ("parallel", "0"), ("parallel", "0/2")]
)
async def test_an_engine_that_refuses_to_open_is_a_record(method: str, refused: str) -> None:
    engine = FullEngine(SCRIPT)
    engine.refused = refused
    async with Organization(engine, capacity=3, method=method) as organization:
        episode = await organization.think("q")
        assert engine.units == {}
    assert episode.stop_reason is StopReason.ENGINE_ERROR and episode.cause == "no room left"
    failed = next(trace for trace in episode.traces if trace.path == refused)
    assert failed.outcome is Outcome.ENGINE_ERROR
    assert all(trace.outcome is Outcome.CANCELLED for trace in episode.traces if trace is not failed)


async def test_a_worker_whose_session_is_refused_is_an_outcome() -> None:
    engine = FullEngine(SCRIPT)
    engine.refused = "0/1"
    async with Organization(engine, capacity=3) as organization:
        episode = await organization.think("q")
    assert episode.answer == "x"
    assert episode.traces[1].outcome is Outcome.ENGINE_ERROR
