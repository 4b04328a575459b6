"""What every engine promises; see conftest.py for the list of engines."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from engine_worlds import PATIENCE, begin, collect, ids_of, is_about, text_of

from asyncthink.engines.base import Chunk, Engine, Sampling, Session

pytestmark = pytest.mark.anyio
EngineFactory = Callable[[], Engine]


async def test_chunks_carry_what_the_capabilities_say(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        session = begin(engine)
        chunks = await collect(session, 6)
        assert is_about(chunks, 6)
        for chunk in [session.prompt, *chunks, session.insert(" 7")]:
            assert (chunk.token_ids is not None) == engine.capabilities.token_ids
            if chunk.token_ids is not None:
                assert chunk.exact
                assert len(chunk.token_ids) == chunk.n_tokens
        assert all((chunk.logprobs is None) == (chunk.token_ids is None) for chunk in chunks)
        assert engine.name


async def test_the_prompt_holds_the_query(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        assert "17 + 3" in begin(engine, "17 + 3").prompt.text


async def test_max_tokens_ends_a_block_and_the_next_goes_on(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        whole, parts = begin(engine, path="0/1"), begin(engine, path="0/2")
        expected: list[Chunk] = []
        found: list[Chunk] = []

        async def run(session: Session, counts: list[int], chunks: list[Chunk]) -> None:
            for count in counts:
                chunks += await collect(session, count)
            session.close()

        async with anyio.create_task_group() as agents:
            agents.start_soon(run, whole, [8], expected)
            agents.start_soon(run, parts, [3, 0, 1, 4], found)
        assert is_about(found, 8)
        if engine.capabilities.continues:  # else the next block is a turn of its own
            assert text_of(found) == text_of(expected)


async def test_a_stop_string_ends_a_block_and_is_kept(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        session = begin(engine)
        free = await collect(session, 8)
        session.close()
        stop = text_of(free[2:5])[1:-1]
        again = begin(engine)
        text = text_of(await collect(again, 8, stops=["never", stop]))
        assert stop in text
        assert text_of(free).startswith(text)
        again.close()


async def test_seeds_repeat(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        texts: list[str] = []
        for _ in range(2):
            session = begin(engine)
            texts.append(text_of(await collect(session, 10, Sampling(seed=3))))
            session.close()
        assert texts[0] == texts[1]


async def test_agents_move_in_lockstep(engine_factory: EngineFactory) -> None:
    """Nobody is more than a token ahead of anybody who is awake."""
    async with engine_factory() as engine:
        if not engine.capabilities.lockstep:
            pytest.skip("its agents do not wait for one another")
        sessions = [begin(engine, path=f"0/{number}") for number in range(4)]
        counts = [0] * len(sessions)

        async def run(number: int) -> None:
            async with sessions[number].decode([], 9, Sampling(temperature=0)) as chunks:
                async for _ in chunks:
                    counts[number] += 1
                    assert max(counts) - min(counts) <= 1
                    for _ in range(number):  # some are slower than others
                        await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as agents:
            for number in range(len(sessions)):
                agents.start_soon(run, number)
        assert counts == [9] * 4


async def test_who_rests_is_not_waited_for(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        first, second = begin(engine, path="0/1"), begin(engine, path="0/2")
        first.rest()
        with anyio.fail_after(PATIENCE):
            assert is_about(await collect(second, 5), 5)
        second.rest()
        first.wake()
        with anyio.fail_after(PATIENCE):
            assert is_about(await collect(first, 5), 5)
        first.close()
        first.close()
        second.close()


async def test_leaving_early_and_closing_let_the_others_go_on(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        early, late = begin(engine, path="0/1"), begin(engine, path="0/2")

        async def leave() -> None:
            async with early.decode([], 9, Sampling(temperature=0)) as chunks:
                async for _ in chunks:
                    break
            early.insert(" 5")
            early.close()

        async with anyio.create_task_group() as agents:
            agents.start_soon(leave)
            with anyio.fail_after(PATIENCE):
                assert is_about(await collect(late, 9), 9)


@pytest.mark.parametrize("after", range(5))
async def test_a_cancelled_agent_does_not_disturb_the_others(
    engine_factory: EngineFactory, after: int
) -> None:
    async with engine_factory() as engine:
        alone = begin(engine, path="0/2")
        expected = await collect(alone, 9)
        alone.close()
        lost, kept = begin(engine, path="0/1"), begin(engine, path="0/2")
        chunks: list[str] = []

        async def run(scope: anyio.CancelScope) -> None:
            with scope:
                await collect(lost, 9)
            lost.close()

        async with anyio.create_task_group() as agents:
            scope = anyio.CancelScope()
            agents.start_soon(run, scope)
            with anyio.fail_after(PATIENCE):
                async with kept.decode([], 9, Sampling(temperature=0)) as stream:
                    async for chunk in stream:
                        chunks.append(chunk.text)
                        if len(chunks) == after + 1:
                            scope.cancel()
        assert "".join(chunks) == text_of(expected)


async def test_cancelling_everybody_leaves_a_working_engine(engine_factory: EngineFactory) -> None:
    async with engine_factory() as engine:
        sessions = [begin(engine, path=f"0/{number}") for number in range(3)]
        async with anyio.create_task_group() as agents:
            for session in sessions:
                agents.start_soon(collect, session, 10_000)
            await anyio.sleep(0.01)
            agents.cancel_scope.cancel()
        for session in sessions:
            session.close()
        with anyio.fail_after(PATIENCE):
            assert is_about(await collect(begin(engine), 5), 5)


async def test_an_engine_can_be_entered_again(engine_factory: EngineFactory) -> None:
    engine = engine_factory()
    found: list[tuple[str, list[int]]] = []
    for _ in range(2):
        async with engine:
            chunks = await collect(begin(engine), 4)
            found.append((text_of(chunks), ids_of(chunks)))
    assert found[0] == found[1]
