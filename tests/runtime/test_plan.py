"""Plans in the organizer's place: what they write costs its tokens, is dictated, and is never parsed."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import (
    Episode,
    EpisodeBuilder,
    Event,
    Outcome,
    SegmentKind,
    StopReason,
    Text,
    Trial,
    measure,
)
from asyncthink.errors import UsageError
from asyncthink.protocol.actions import Answer, Fork, Join, Think
from asyncthink.runtime.agent import Stage
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.runtime.organizer import Plan
from asyncthink.tasks import Asked

pytestmark = pytest.mark.anyio
SCRIPT: dict[str, Any] = {
    "organizer": "nobody asks the model <ANSWER>no</ANSWER>",
    "workers": {"a": "one two three <RETURN><ANSWER>7</ANSWER></RETURN>", "*": "never returns"},
}


def plan(asked: Asked | None, stage: Stage) -> Plan:
    assert asked is None
    yield Think(text="so")
    yield Fork(index=1, query="a")
    yield Fork(index=2, query="b")
    first = yield Join(index=1)
    second = yield Join(index=2)
    yield Answer(text=f"{first} {second} {stage.capacity}")


async def follow(script: dict[str, Any] = SCRIPT, limits: Limits | None = None) -> Episode:
    engine = ScriptedEngine(script)
    organization = Organization(engine, method="plan", plan=plan, capacity=3, limits=limits)
    async with organization:
        return await organization.think("?", trial=Trial(arm="x", problem="7", sample=2))


async def test_a_plan_forks_joins_and_answers_at_the_cost_of_its_tokens() -> None:
    episode = await follow()
    assert episode.answer == "<ANSWER>7</ANSWER> None 3"
    assert (episode.method, episode.stop_reason, episode.format_errors) == ("plan", StopReason.ANSWER, [])
    assert episode.trial == Trial(arm="x", problem="7", sample=2)
    organizer, a, b = episode.traces
    kinds = {segment.kind for segment in organizer.segments}
    assert kinds == {SegmentKind.PROMPT, SegmentKind.DICTATED, SegmentKind.INSERTED}
    # so <FORK-1> a </FORK-1> is 4 tokens, the second fork 3 more: the workers start at ticks 4 and 7.
    assert (a.forked_at, b.forked_at, a.joined_at, b.joined_at) == (4, 7, 8, 9)
    assert (a.outcome, b.outcome) == (Outcome.RETURNED, Outcome.NO_RESULT)
    # Worker 1 decodes 8 tokens, ticks 5 to 12; the second join is tick 13, then the answer.
    dictated = [one for one in organizer.segments if one.kind is SegmentKind.DICTATED]
    assert measure(episode).critical_path == 13 + dictated[-1].n_tokens


async def test_the_cap_on_the_critical_path_holds_for_plans() -> None:
    episode = await follow(limits=Limits(max_critical_path=12))
    assert (episode.answer, episode.stop_reason) == (None, StopReason.BUDGET)
    assert measure(episode).critical_path <= 12
    assert "critical path" in (episode.cause or "")


def test_the_method_and_its_plan_belong_together() -> None:
    with pytest.raises(UsageError, match="belong together"):
        Organization(ScriptedEngine(SCRIPT), method="plan")
    with pytest.raises(UsageError, match="belong together"):
        Organization(ScriptedEngine(SCRIPT), plan=plan)


async def test_like_changes_one_argument_over_the_same_open_engine() -> None:
    engine = ScriptedEngine(SCRIPT)
    async with Organization(engine, capacity=3, temperature=0.3) as first:
        second = first.like(method="sequential")
        assert (second.engine, second.capacity, second.temperature) == (engine, 3, 0.3)
        assert (await second.think("?")).answer == "no"


async def test_a_parallel_episode_that_is_cancelled_after_its_first_trace_ended_is_whole() -> None:
    script: dict[str, Any] = {"organizer": ["<ANSWER>1</ANSWER>", "on " * 400], "workers": {}}
    organization = Organization(ScriptedEngine(script, delay=0.01), method="parallel", capacity=2)
    builder = EpisodeBuilder()
    ended = anyio.Event()

    def listen(event: Event) -> None:
        builder.apply(event)
        if isinstance(event, Text) and event.path == "0" and "</ANSWER>" in event.text:
            ended.set()

    async with organization, anyio.create_task_group() as group:
        group.start_soon(partial(organization.think, "?", listen=listen))
        await ended.wait()
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    episode = builder.episode()
    assert episode.stop_reason is StopReason.CANCELLED
    assert [trace.outcome for trace in episode.traces] == [Outcome.ANSWERED, Outcome.CANCELLED]
