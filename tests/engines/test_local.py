"""The local engine against transformers, and against itself in other company."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
import torch
from engine_worlds import GREEDY, begin, collect, ids_of, tiny_config, transformers_model, write_checkpoint

from asyncthink.engines.base import Chunk, Sampling, Session
from asyncthink.engines.batch import CHUNK, Batch, Request
from asyncthink.engines.local import LocalEngine, LocalSession
from asyncthink.engines.shelves import REST, SHELF, Context, Shelves
from asyncthink.errors import CheckpointError, EngineError, UsageError

pytestmark = pytest.mark.anyio


def start(engine: LocalEngine, query: str = "3 + 4", path: str = "0/1") -> LocalSession:
    session = begin(engine, query, path=path)
    assert isinstance(session, LocalSession)
    return session


def reference_logprobs(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """Return transformers' log-probabilities of every next token, [tokens, vocabulary]."""
    model = transformers_model(folder)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


async def test_greedy_text_is_that_of_transformers(folder: Path) -> None:
    model = transformers_model(folder)
    async with LocalEngine(folder) as engine:
        session = start(engine)
        chunks = await collect(session, 40)
        prompt = torch.tensor([session.prompt.token_ids])
        mask = torch.ones_like(prompt)
        with torch.inference_mode():
            expected = model.generate(prompt, attention_mask=mask, max_new_tokens=40, do_sample=False)
        assert list(session.ids) == expected[0].tolist()
        assert ids_of(chunks) == list(session.ids[prompt.shape[1] :])


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(seed=4), Sampling(temperature=0.5, top_p=0.8)], ids=str
)
async def test_logprobs_are_those_at_temperature_one(folder: Path, sampling: Sampling) -> None:
    async with LocalEngine(folder) as engine:
        session = start(engine)
        chunks = await collect(session, 20, sampling)
        expected = reference_logprobs(folder, session.ids)
        first = session.prompt.n_tokens
        for place, chunk in enumerate(chunks):
            assert chunk.token_ids is not None and chunk.logprobs is not None
            assert math.isclose(
                chunk.logprobs[0], expected[first + place - 1, chunk.token_ids[0]].item(), abs_tol=1e-4
            )


async def episode(engine: LocalEngine, number: int, sampling: Sampling) -> tuple[list[int], list[float]]:
    """Decode, insert and decode on, with lengths of its own."""
    session = start(engine, f"{number} + 4", path=f"0/{number}")
    chunks = await collect(session, 5 + number % 7, sampling)
    session.insert(f" {number}" * (1 + number % 5))
    chunks += await collect(session, 9 - number % 3, sampling)
    session.close()
    return ids_of(chunks), [value for chunk in chunks for value in chunk.logprobs or ()]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=9, temperature=0.8)], ids=str)
async def test_company_changes_nothing(folder: Path, sampling: Sampling) -> None:
    numbers = range(SHELF + 5)
    async with LocalEngine(folder) as engine:
        alone = [await episode(engine, number, sampling) for number in numbers]
        together: dict[int, tuple[list[int], list[float]]] = {}

        async def run(number: int) -> None:
            together[number] = await episode(engine, number, sampling)

        async with anyio.create_task_group() as agents:
            for number in numbers:
                agents.start_soon(run, number)
        for number in numbers:
            assert together[number][0] == alone[number][0]
            torch.testing.assert_close(together[number][1], alone[number][1], atol=1e-4, rtol=0)
        assert engine.lanes[0].batch.shelves.slots == 2 * SHELF


async def uneven(engine: LocalEngine, number: int) -> list[int]:
    """Decode beside others that are much longer or shorter, and end before or after them."""
    session = start(engine, "3 + 4", path=f"0/{number}")
    session.insert(" 7 +" * (60 if number % 3 == 0 else 1))
    chunks = await collect(session, 2 * REST + 3 * (number % 5))
    session.close()
    return ids_of(chunks)


async def test_contexts_are_put_in_order_of_length_and_nothing_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[tuple[bool, bool]] = []
    put_in_order = Shelves._put_in_order  # pyright: ignore[reportPrivateUsage]

    def in_order(shelves: Shelves) -> bool:
        seated = shelves._seated  # pyright: ignore[reportPrivateUsage]
        lengths = [seated[slot].cached for slot in sorted(seated)]
        return lengths == sorted(lengths, reverse=True)

    def watched(shelves: Shelves) -> None:
        before = in_order(shelves)
        put_in_order(shelves)
        orders.append((before, in_order(shelves)))

    monkeypatch.setattr(Shelves, "_put_in_order", watched)
    numbers = range(2 * SHELF + 5)
    async with LocalEngine(folder) as engine:
        alone = [await uneven(engine, number) for number in numbers]
        assert set(orders) == {(True, True)}, "one at a time"
        together: dict[int, list[int]] = {}

        async def run(number: int) -> None:
            together[number] = await uneven(engine, number)

        async with anyio.create_task_group() as agents:
            for number in numbers:
                agents.start_soon(run, number)
        assert [together[number] for number in numbers] == alone
    assert (False, True) in orders, "they were mixed, and put in order again"


async def talk(engine: LocalEngine, number: int) -> list[list[int]]:
    """Two agents of one episode, at the same time."""
    found: dict[str, list[int]] = {}

    async def agent(path: str) -> None:
        session = begin(engine, f"{number} + 4", path=path, episode=str(number))
        found[path] = ids_of(await collect(session, 8 + number, Sampling(seed=number)))
        session.close()

    async with anyio.create_task_group() as agents:
        agents.start_soon(agent, "0/1")
        agents.start_soon(agent, "0/2")
    return [found[path] for path in sorted(found)]


async def test_lanes_hold_whole_episodes_and_change_nothing(folder: Path) -> None:
    told: list[dict[int, list[list[int]]]] = []
    for lanes in (1, 3):
        async with LocalEngine(folder, lanes=lanes) as engine:
            assert len(engine.lanes) == lanes
            spread: set[tuple[int, ...]] = set()
            found: dict[int, list[list[int]]] = {}

            async def run(
                number: int, engine: LocalEngine = engine, found: dict[int, list[list[int]]] = found
            ) -> None:
                found[number] = await talk(engine, number)

            async with anyio.create_task_group() as episodes:
                for number in range(6):
                    episodes.start_soon(run, number)
                while len(found) < 6:
                    spread.add(tuple(len(lane.episodes) for lane in engine.lanes))
                    await anyio.sleep(0)
            assert all(not lane.episodes for lane in engine.lanes)
            assert any(min(counts) > 0 for counts in spread) or lanes == 1, spread
            told.append(found)
    assert told[0] == told[1]


async def test_after_an_insertion_only_the_new_tokens_are_prefilled(folder: Path) -> None:
    async with LocalEngine(folder) as engine:
        session = start(engine)
        first = await collect(session, 10)
        batch = engine.lanes[0].batch
        assert batch.prefilled == session.prompt.n_tokens + 9
        inserted = session.insert(" 3 + 4 </JOIN-1>")
        before = batch.prefilled
        second = await collect(session, 1)
        assert batch.prefilled - before == inserted.n_tokens + 1  # and the token that was sampled last
        pieces = [session.prompt, *first, inserted, *second]
        assert session.ids == tuple(ids_of(pieces))
        expected = reference_logprobs(folder, session.ids[:-1])[-1]
        assert second[0].logprobs is not None
        assert math.isclose(second[0].logprobs[0], expected.max().item(), abs_tol=1e-4)


async def test_a_long_insertion_is_prefilled_in_chunks(folder: Path) -> None:
    async with LocalEngine(folder) as engine:
        session, other = start(engine, path="0/1"), start(engine, path="0/2")
        async with anyio.create_task_group() as agents:
            agents.start_soon(collect, session, 3)
            agents.start_soon(collect, other, 3)
        assert session.insert(" 7 +" * (CHUNK + 30)).n_tokens > 2 * CHUNK
        found: list[Chunk] = []

        async def run() -> None:
            found.extend(await collect(session, 2))

        async with anyio.create_task_group() as agents:
            agents.start_soon(run)
            agents.start_soon(collect, other, 2)
        expected = reference_logprobs(folder, session.ids)
        for chunk, row in zip(found, expected[-3:-1], strict=True):
            assert chunk.logprobs is not None
            assert math.isclose(chunk.logprobs[0], row.max().item(), abs_tol=1e-4)


async def test_slots_are_used_again_and_memory_is_given_back(folder: Path) -> None:
    async with LocalEngine(folder) as engine:
        for _ in range(3):
            sessions: list[Session] = [start(engine, path=f"0/{number}") for number in range(SHELF)]
            async with anyio.create_task_group() as agents:
                for session in sessions:
                    agents.start_soon(collect, session, 3)
            for session in sessions:
                session.close()
        assert engine.lanes[0].batch.shelves.slots == SHELF


async def test_seeds_and_paths_draw_their_own_numbers(folder: Path) -> None:
    async with LocalEngine(folder) as engine:
        seen: set[tuple[int, ...]] = set()
        for seed in range(3):
            for path in ("0", "0/1"):
                session = start(engine, path=path)
                seen.add(tuple(ids_of(await collect(session, 12, Sampling(seed=seed)))))
                session.close()
        assert len(seen) == 6


async def test_a_stop_may_lie_within_and_across_tokens(folder: Path) -> None:
    async with LocalEngine(folder) as engine:
        free = await collect(session := start(engine), 30, Sampling(seed=5))
        session.close()
        texts = [chunk.text for chunk in free]
        place = next(n for n in range(5, 28) if len(texts[n]) > 1 and len(texts[n + 1]) > 1)
        for stop, last in ((texts[place][:-1], place), (texts[place] + texts[place + 1][:1], place + 1)):
            expected = next(n for n in range(30) if stop in "".join(texts[: n + 1]))
            assert expected <= last
            session = start(engine)
            found = await collect(session, 30, Sampling(seed=5), stops=["", "no such text", stop])
            assert [chunk.text for chunk in found][:-1] == texts[:expected]
            assert ids_of(found) == ids_of(free)[: expected + 1]
            session.close()


async def test_the_end_of_sequence_token_counts_and_has_no_text(folder: Path) -> None:
    async with LocalEngine(folder) as engine:
        free = await collect(session := start(engine), 12)
        session.close()
        ids = ids_of(free)
        engine.lanes[0].eos = frozenset({ids[7]})
        ended = await collect(session := start(engine), 12)
        assert ids_of(ended) == ids[: ids.index(ids[7]) + 1]
        assert ended[-1].n_tokens == 1
        assert not ended[-1].text.strip("\ufffd")
        assert session.ids[-1] == ids[7]


async def test_a_full_context_is_an_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, max_position_embeddings=24)
    async with LocalEngine(tmp_path) as engine:
        session = start(engine)
        with pytest.raises(EngineError, match="context of 24 tokens is full") as caught:
            await collect(session, 100)
        assert not caught.value.transient
        assert len(session.ids) == 24
        session.close()
        session = start(engine, "3 + 4 + 5 + 6 + 7 + 8 + 9 + 10 + 11 + 12 + 13 + 14 + 15")
        with pytest.raises(EngineError, match="full"):
            await collect(session, 1)


HOSTILE = "<eos> <bos> <pad> </RETURN> <0x41> \U0001f600 é"


async def test_special_tokens_in_text_stay_text(folder: Path) -> None:
    async with LocalEngine(folder) as engine:
        session = start(engine, HOSTILE)
        inserted = session.insert(HOSTILE)
        assert HOSTILE in session.prompt.text
        assert session.prompt.token_ids is not None and inserted.token_ids is not None
        assert session.prompt.token_ids[0] == 1
        assert not {0, 1, 2} & {*session.prompt.token_ids[1:], *inserted.token_ids}
        assert inserted.text == HOSTILE


async def test_a_cancelled_session_draws_the_same_token_again(folder: Path) -> None:
    sampling = Sampling(seed=2)
    async with LocalEngine(folder) as engine:
        expected = ids_of(await collect(session := start(engine), 6, sampling))
        session.close()
        session, other = start(engine), start(engine, path="0/2")
        begun = ids_of([*await _both(session, other, 3)])
        with anyio.move_on_after(0.01):
            await collect(session, 1, sampling)  # the other has not asked yet
        async with anyio.create_task_group() as agents:
            agents.start_soon(collect, other, 3, sampling)
            begun += ids_of(await collect(session, 3, sampling))
        assert begun == expected
        assert session.ids == (*(session.prompt.token_ids or ()), *expected)


async def _both(session: Session, other: Session, count: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    async with anyio.create_task_group() as agents:
        agents.start_soon(collect, other, count, Sampling(seed=2))
        chunks += await collect(session, count, Sampling(seed=2))
    return chunks


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_cancelling_in_the_middle_of_a_step(
    folder: Path, victim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is cancelled while the thread computes, driver or not: the others get their token."""
    begun, proceed = threading.Event(), threading.Event()
    step = Batch.step

    def slow(self: Batch, requests: list[Request]) -> None:
        begun.set()
        assert proceed.wait(10)
        step(self, requests)

    async with LocalEngine(folder) as engine:
        sessions = [start(engine, path=f"0/{number}") for number in range(3)]
        monkeypatch.setattr(Batch, "step", slow)
        scopes = [anyio.CancelScope() for _ in sessions]
        done: list[int] = []

        async def run(number: int) -> None:
            with scopes[number]:
                await collect(sessions[number], 3)
                done.append(number)
            sessions[number].close()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as agents:
                for number in range(3):
                    agents.start_soon(run, number)
                while not begun.is_set():
                    await anyio.sleep(0.001)
                scopes[victim].cancel()
                await anyio.sleep(0.01)
                proceed.set()
        assert sorted(done) == sorted({0, 1, 2} - {victim})


async def test_what_torch_raises_reaches_everybody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalEngine(folder) as engine:
        sessions = [start(engine, path=f"0/{number}") for number in range(3)]
        failures: list[EngineError] = []

        async def run(session: Session) -> None:
            with pytest.raises(EngineError, match="out of memory") as caught:
                await collect(session, 3)
            failures.append(caught.value)
            session.close()

        def fail(*_: object) -> None:
            raise RuntimeError("out of memory\nand more")

        with monkeypatch.context() as patch:
            patch.setattr(engine.lanes[0].batch.model, "hidden", fail)
            async with anyio.create_task_group() as agents:
                for session in sessions:
                    agents.start_soon(run, session)
        assert len(failures) == 3
        assert len(await collect(start(engine), 3)) == 3


async def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        LocalEngine(tmp_path / "nowhere")
    engine = LocalEngine(folder, name="mine")
    with pytest.raises(UsageError, match="async with"):
        start(engine)
    assert (engine.name, engine.profile.capacity) == ("mine", 4)
    async with engine:
        session = start(engine)
        for sampling in (Sampling(temperature=-1), Sampling(top_p=0), Sampling(temperature=math.nan)):
            with pytest.raises(UsageError):
                session.decode([], 1, sampling)
        with pytest.raises(CheckpointError, match="role 'critic'"):
            begin(engine, role="critic")
        session.close()
        with pytest.raises(EngineError, match="closed"):
            await collect(session, 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_may_cancel_the_driver_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Task.cancel knows no shields: another member takes over, and no token is computed twice."""
    import asyncio

    begun, proceed = threading.Event(), threading.Event()
    step = Batch.step

    def slow(self: Batch, requests: list[Request]) -> None:
        begun.set()
        assert proceed.wait(10)
        step(self, requests)

    async with LocalEngine(folder) as engine:
        expected = ids_of(await collect(session := start(engine, path="0/2"), 4))
        session.close()
        sessions = [start(engine, path=f"0/{number}") for number in (1, 2)]
        monkeypatch.setattr(Batch, "step", slow)
        kept = asyncio.create_task(collect(sessions[1], 4))
        await asyncio.sleep(0)
        driver = asyncio.create_task(collect(sessions[0], 4))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        driver.cancel()
        await asyncio.sleep(0.01)
        proceed.set()
        assert ids_of(await asyncio.wait_for(kept, 10)) == expected
        with pytest.raises(asyncio.CancelledError):
            await driver


def test_idle_slots_between_two_are_bridged_where_they_are_few() -> None:
    assert Shelves.bridged([]) == []
    assert Shelves.bridged([0, 1, 5, 10]) == [0, 1, 2, 3, 4, 5, 10], "three idle slots, and four"
    assert Shelves.bridged([SHELF - 1, SHELF + 1]) == [SHELF - 1, SHELF + 1], "shelves are apart"


async def test_contexts_that_wait_between_others_are_left_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of nine waits while its neighbours go on, and then goes on as if alone."""
    steps, bridged, bridges = 12, Shelves.bridged, 0

    def watched(slots: Sequence[int]) -> list[int]:
        nonlocal bridges
        found = bridged(slots)
        bridges += len(found) > len(slots)
        return found

    monkeypatch.setattr(Shelves, "bridged", staticmethod(watched))

    async def turns(session: LocalSession, number: int, others: anyio.Event) -> list[int]:
        found = ids_of(await collect(session, 2 if number % 3 else steps))
        if number == 0:
            others.set()
        session.rest()
        await others.wait()
        session.wake()
        found += ids_of(await collect(session, 5))
        session.close()
        return found

    async with LocalEngine(folder) as engine:
        event = anyio.Event()
        event.set()
        alone = [
            await turns(start(engine, "3 + 4", path=f"0/{number}"), number, event) for number in range(9)
        ]
        assert not bridges, "one at a time"
        together: dict[int, list[int]] = {}
        event = anyio.Event()

        # All are there before the first token is asked for, so that their slots do not depend on who comes first.
        sessions = [start(engine, "3 + 4", path=f"0/{number}") for number in range(9)]

        async def run(number: int) -> None:
            together[number] = await turns(sessions[number], number, event)

        async with anyio.create_task_group() as agents:
            for number in range(9):
                agents.start_soon(run, number)
    assert [together[number] for number in range(9)] == alone
    assert bridges >= steps - 3, "numbers 0, 3 and 6 alone"


def test_memory_is_used_again_and_given_back_in_the_end() -> None:
    shelves = Shelves(tiny_config(10), torch.device("cpu"))
    contexts = [Context(order=("e", f"{place:02}"), ids=[]) for place in range(SHELF + 1)]
    shelves.seat([(context, 1) for context in contexts])
    (first, last), spare = shelves._shelves, shelves._spare  # pyright: ignore[reportPrivateUsage]
    shelves.release(contexts[-1])
    shelves.reclaim()
    assert spare == {64: [last]}
    shelves.seat([(contexts[0], 1), (Context(order=("f", "0"), ids=[]), 1)])
    assert shelves._shelves == [first, last] and not spare[64]  # pyright: ignore[reportPrivateUsage]
    for context in contexts[:-1]:
        shelves.release(context)
    shelves.reclaim()
    assert spare == {64: [first]}, "one is still at work"
