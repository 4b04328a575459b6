"""Timelines of random records: the critical path is whole, and lanes say what the clock says."""

from __future__ import annotations

from random import Random
from typing import Any

import anyio
import pytest

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Episode, Outcome, measure, schedule
from asyncthink.runtime.organization import Organization
from asyncthink.viewer.canvas import draw
from asyncthink.viewer.timeline import Activity, Arrow, Piece, Span, Timeline, timeline
from tests.episodes.episode_worlds import episode, organizer, random_episode, worker

WORK = (Activity.DECODING, Activity.WASTED)


def pieces(view: Timeline) -> list[tuple[str, int, int]]:
    return [(piece.path, piece.start, piece.end) for piece in view.critical]


def lane(view: Timeline, path: str) -> list[tuple[Activity, int, int]]:
    spans: tuple[Span, ...] = next(one.spans for one in view.lanes if one.path == path)
    return [(span.activity, span.start, span.end) for span in spans]


def assert_whole(one: Episode, view: Timeline) -> None:
    """The pieces tile the ticks 0 to T, and each is work of its agent."""
    tick = 0
    turns = schedule(one).turns
    for piece in view.critical:
        assert piece.start == tick < piece.end
        tick = piece.end
        assert any(a <= piece.start and piece.end <= b for a, b in turns[piece.path].spans)
    assert tick == measure(one).critical_path == view.total


def test_the_critical_path_is_whole_in_random_records() -> None:
    queues = 0
    for one in map(random_episode, map(Random, range(2000))):
        view = timeline(one)
        assert_whole(one, view)
        queues += any(_siblings(a, b) for a, b in zip(view.critical, view.critical[1:], strict=False))
    assert queues > 20, "paths through a queue are among them"


def test_lanes_are_the_schedule() -> None:
    for one in map(random_episode, map(Random, range(500))):
        view, plan = timeline(one), schedule(one)
        assert {each.path for each in view.lanes} == set(plan.turns)
        for each in view.lanes:
            turn = plan.turns[each.path]
            work = tuple((s.start, s.end) for s in each.spans if s.activity in WORK)
            assert work == turn.spans
            assert each.ticks == sum(b - a for a, b in turn.spans)
            assert all(s.start < s.end <= view.length for s in each.spans)
            assert all(a.end <= b.start for a, b in zip(each.spans, each.spans[1:], strict=False))
            assert turn.counted or not any(s.activity is Activity.DECODING for s in each.spans)


@pytest.mark.parametrize("width", [12, 80, 200])
def test_the_critical_path_is_drawn_in_every_column(width: int) -> None:
    for seed in range(80):
        view = timeline(random_episode(Random(seed)))
        if not view.total:
            continue
        rows = draw(view, {one.path: "" for one in view.lanes}, width, length=view.total, ascii_only=True)
        columns = [{row.plain[x : x + 1] for row in rows[1:]} for x in range(2, max(width, 12))]
        assert all(column & {"=", "+"} for column in columns)


def test_waits_queues_and_waste() -> None:
    one = episode(
        2,
        organizer(20),
        worker("0/1", 6, 4, 5),
        worker("0/2", 9, 6, 20),
        worker("0/3", 3, 7, 19),
        worker("0/4", 8, 20, outcome=Outcome.UNJOINED),
    )
    view = timeline(one)
    assert lane(view, "0")[:2] == [(Activity.DECODING, 0, 5), (Activity.WAITING, 5, 10)]
    assert lane(view, "0/3") == [
        (Activity.QUEUED, 12, 20),
        (Activity.DECODING, 20, 23),
        (Activity.READY, 23, 24),
    ]
    assert lane(view, "0/4")[-1][0] is Activity.WASTED
    assert view.forks[0] == Arrow(source="0", target="0/1", tick=4)
    assert view.joins[0] == Arrow(source="0/1", target="0", tick=10, waited=5)
    assert view.length > view.total == 25


def test_the_path_goes_through_the_queue() -> None:
    view = timeline(episode(2, organizer(10), worker("0/1", 20, 2), worker("0/2", 5, 4, 10)))
    assert pieces(view) == [("0", 0, 2), ("0/1", 2, 22), ("0/2", 22, 27)]


def test_a_worker_that_never_starts_is_queued_until_it_is_joined() -> None:
    view = timeline(episode(1, organizer(10), worker("0/1", 3, 2, 6), worker("0/2", 3, 8)))
    assert lane(view, "0/1") == [(Activity.QUEUED, 2, 6)]
    assert lane(view, "0/2") == [(Activity.QUEUED, 8, 10)]
    assert pieces(view) == [("0", 0, 10)]


def test_nobody_decoded() -> None:
    view = timeline(episode(4, organizer(0)))
    assert (view.total, view.length, view.critical) == (0, 0, ())


@pytest.mark.parametrize("method", ["asyncthink", "parallel", "sequential"])
def test_thoughts_of_a_scripted_engine(method: str) -> None:
    async def think_all() -> list[Episode]:
        return [await _think(Random(seed), method) for seed in range(40)]

    for one in anyio.run(think_all):
        view = timeline(one)
        assert_whole(one, view)
        assert (len(view.lanes) > 1) is (len(one.traces) > 1)


async def _think(rng: Random, method: str) -> Episode:
    def words() -> str:
        return "w " * rng.choice((0, 1, 3, 9))

    organizers: list[str] = []
    for _ in range(3):
        indices = range(1, rng.randint(1, 5) + 1)
        text = "".join(f"{words()}<FORK-{i}>{rng.randint(1, 4)}</FORK-{i}>" for i in indices)
        text += "".join(f"{words()}<JOIN-{i}>" for i in rng.sample(indices, rng.randint(0, len(indices))))
        organizers.append(words() + (text if method == "asyncthink" else "") + "<ANSWER>a</ANSWER>")
    script: dict[str, Any] = {
        "organizer": organizers if method == "parallel" else organizers[0],
        "workers": {str(n): words() + "<RETURN>r</RETURN>" for n in range(4)},
    }
    async with Organization(ScriptedEngine(script), method=method, capacity=rng.randint(2, 4)) as them:
        return await them.think("q")


def _siblings(a: Piece, b: Piece) -> bool:
    return a.path.count("/") == b.path.count("/") and a.path.rpartition("/")[0] == b.path.rpartition("/")[0]


def test_a_refused_worker_is_not_queued() -> None:
    refused = worker("0/2", 0, 4, 9, outcome=Outcome.REFUSED)
    view = timeline(episode(2, organizer(10), worker("0/1", 20, 2), refused))
    assert lane(view, "0/2") == []
    assert pieces(view) == [("0", 0, 10)]
