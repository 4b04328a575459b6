"""Whatever a server does, an episode ends in one typed state, and its text is the unique pieces in order."""

from __future__ import annotations

import anyio
import pytest
from fault_server.control import FAULTS, FaultServer
from remote_worlds import FAST, MODES, QUERY, SCRIPT, decoded, engine_at, think_at

from asyncthink import Organization, load_engine
from asyncthink.episodes.record import Outcome, StopReason
from asyncthink.errors import EngineError

pytestmark = pytest.mark.anyio
SECONDS = 60
NUMBERED = ("duplicates", "reordered")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault["then"] != "ended"])
async def test_a_fault(server: FaultServer, name: str, mode: str) -> None:
    """Each agent's first request has the fault; the server itself checks every continuation's prefix."""
    config = {"faults": {"name": name, "times": 1}, "event_ids": name in NUMBERED}
    with anyio.fail_after(SECONDS):
        episode = await think_at(server, mode, config)
    stats = server.stats()
    assert stats["by_fault"] == {name: 3} or episode.stop_reason is StopReason.ENGINE_ERROR
    assert (stats["mismatches"], stats["errors"], stats["restarts"]) == ([], [], 0)
    whole = "".join(SCRIPT["organizer"])
    text = decoded(episode)
    assert whole.startswith(text)
    if FAULTS[name]["then"] == "fatal":
        assert episode.stop_reason is StopReason.ENGINE_ERROR
    elif mode != "turns":  # where a server of turns ends is tested below
        assert text == whole
        assert (episode.answer, episode.format_errors) == ("48", [])
        assert decoded(episode, "0/1") == SCRIPT["workers"]["7*6"]  # type: ignore[index]
    if episode.stop_reason is StopReason.ENGINE_ERROR:
        assert episode.cause and "\n" not in episode.cause and len(episode.cause) < 600
        assert episode.cause.startswith(f"openai:scripted at {server.url}: ")


MIDWAY = ["hang", "close", "reset", "end", "bad_json", "trickle_midway", "error_event"]


@pytest.mark.parametrize("name", MIDWAY)
async def test_a_server_of_turns_cannot_mend_a_broken_stream(server: FaultServer, name: str) -> None:
    """What arrived is kept; nothing is told twice."""
    episode = await think_at(server, "turns", {"faults": {"name": name, "times": 1}})
    assert episode.stop_reason is StopReason.ENGINE_ERROR
    assert "cannot go on from what it wrote" in (episode.cause or "")
    assert 0 < len(decoded(episode)) < len(SCRIPT["organizer"])
    assert server.stats()["mismatches"] == []


@pytest.mark.parametrize(
    "name", ["status_503", "reset_before_headers", "hang_before_headers", "rate_limit_ms"]
)
async def test_who_never_recovers_is_given_up(server: FaultServer, name: str) -> None:
    episode = await think_at(server, "flags", {"faults": {"name": name, "times": 1000}})
    assert episode.stop_reason is StopReason.ENGINE_ERROR
    assert "given up after 4 attempts" in (episode.cause or "")
    assert episode.traces[0].usage is not None and episode.traces[0].usage.retries == 3


@pytest.mark.parametrize("name", ["reset_before_headers", "close_before_headers"])
async def test_a_connection_that_was_just_being_closed_is_replaced_at_once(
    server: FaultServer, name: str
) -> None:
    """Servers close idle connections when they like: that is no failure, and nobody waits for it."""
    episode = await think_at(server, "flags", {"faults": {"name": name, "times": 1}})
    assert episode.answer == "48"
    assert [trace.usage and trace.usage.retries for trace in episode.traces] == [0, 0, 0]
    assert server.stats()["by_fault"] == {name: 3}


async def test_a_worker_that_fails_is_an_outcome_and_the_organizer_goes_on(server: FaultServer) -> None:
    """The workers' conversations break beyond repair; the organizer's text is long under way."""
    script = {
        "organizer": "<FORK-1>a</FORK-1> wait <JOIN-1> <ANSWER>alone</ANSWER>",
        "workers": {"a": "never <RETURN>seen</RETURN>"},
    }
    faults = {"name": "no_quota", "times": 1, "roles": ["worker"]}
    episode = await think_at(server, "flags", {"script": script, "faults": faults})
    assert episode.answer == "alone"
    assert episode.traces[1].outcome is Outcome.ENGINE_ERROR
    assert "(no result)</JOIN-1>" in [each.text for each in episode.traces[0].segments]


async def test_a_refused_connection_is_told_before_anything_is_spent() -> None:
    engine = load_engine("openai:m", {"base_url": "http://127.0.0.1:9/v1", "key": "", "retries": FAST})
    with pytest.raises(
        EngineError, match=r"openai:m at http://127.0.0.1:9/v1: .*refused.*is the server running"
    ):
        async with engine:
            pass


async def test_of_several_servers_a_dead_one_is_left_out(server: FaultServer) -> None:
    engine = engine_at(server, "flags", base_url=["http://127.0.0.1:9/v1", server.url])
    async with Organization(engine) as organization:
        assert (await organization.think(QUERY)).answer == "48"


async def test_a_server_that_dies_is_left_for_another(server: FaultServer) -> None:
    """One lost server does not lose a thought: its agents move."""
    with FaultServer() as second:
        second.configure({"script": SCRIPT, "query": QUERY, "owned_by": "vllm", "delay": 0.05})
        engine = engine_at(server, "flags", base_url=[second.url, server.url])
        async with Organization(engine) as organization, organization.stream(QUERY) as events:
            kinds: list[str] = []
            async for event in events:
                if len(kinds) == 12:
                    second.__exit__()
                kinds.append(type(event).__name__)
                if type(event).__name__ == "Finished":
                    assert event.answer == "48"  # type: ignore[union-attr]
    assert kinds[-1] == "Finished"
    assert server.stats()["mismatches"] == []


async def test_the_deadline_ends_a_hanging_thought(server: FaultServer) -> None:
    from asyncthink import Limits

    engine = engine_at(server, "flags", {"faults": {"name": "hang_before_headers", "times": 1000}})
    async with Organization(engine, limits=Limits(deadline=0.3)) as organization:
        episode = await organization.think(QUERY)
    assert (episode.stop_reason, episode.cause) == (StopReason.BUDGET, "the limit of 0.3 seconds is reached")
    assert server.stats()["open"] == 0


async def test_a_thought_that_is_cancelled_leaves_no_request_open(server: FaultServer) -> None:
    engine = engine_at(server, "flags", {"delay": 0.05})
    async with Organization(engine) as organization:
        with anyio.move_on_after(0.3) as scope:
            await organization.think(QUERY)
        assert scope.cancelled_caught
        await anyio.sleep(0.3)
        assert server.stats()["open"] == 0
        assert server.stats()["aborted"] > 0


async def test_unjoined_workers_are_stopped_at_the_server(server: FaultServer) -> None:
    script = {"organizer": "<FORK-1>a</FORK-1> <ANSWER>no need</ANSWER>", "workers": {"a": "word " * 2000}}
    async with Organization(engine_at(server, "flags", {"script": script, "delay": 0.02})) as organization:
        episode = await organization.think(QUERY)
        assert episode.traces[1].outcome is Outcome.UNJOINED
        await anyio.sleep(0.3)
        assert server.stats()["open"] == 0


async def test_fewer_requests_at_a_time_where_the_server_asks_for_it(server: FaultServer) -> None:
    engine = engine_at(server, "flags", {"faults": {"name": "rate_limit_ms", "times": 1}}, max_concurrency=64)
    async with Organization(engine) as organization:
        async with anyio.create_task_group() as group:
            for seed in range(20):
                group.start_soon(lambda seed=seed: organization.think(QUERY, seed=seed))
        assert engine.servers[0].at_a_time < 64
        before = engine.servers[0].at_a_time
        for _ in range(3 * before):
            await organization.think(QUERY)
        assert engine.servers[0].at_a_time > before
