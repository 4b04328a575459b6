"""Timelines on the wall clock: where every token took the same time they are those of the virtual clock, else still whole."""

from __future__ import annotations

from random import Random

import msgspec

from asyncthink.episodes import Episode, schedule
from asyncthink.viewer.timeline import Activity, Base, Timeline, timeline
from tests.episodes.episode_worlds import episode, organizer, random_episode, worker

TICK = 5_000
"""Microseconds."""


def timed(one: Episode, random: Random | None = None) -> Episode:
    """Give each agent the wall times that its ticks say, or with `random` ones that are off by something."""
    turns, total = schedule(one).turns, timeline(one).length

    def seconds(tick: int | None) -> float | None:
        late = random.uniform(0, 3) if random else 0
        return None if tick is None else (tick + late) * TICK / 1e6

    traces = tuple(
        msgspec.structs.replace(
            trace,
            wall_start=seconds(turns[trace.path].start),
            wall_end=seconds(total if turns[trace.path].end is None else turns[trace.path].end),
        )
        for trace in one.traces
    )
    return msgspec.structs.replace(one, traces=traces, wall_seconds=total * TICK / 1e6)


def assert_whole(view: Timeline) -> None:
    tick = 0
    for piece in view.critical:
        assert piece.start == tick < piece.end
        tick = piece.end
    assert tick == view.total


def lane_end(view: Timeline, path: str) -> int:
    lane = next(each for each in view.lanes if each.path == path)
    busy = (Activity.DECODING, Activity.WAITING, Activity.WASTED)
    return max(s.end for s in lane.spans if s.activity in busy)


def test_even_tokens_give_the_virtual_clock() -> None:
    compared = 0
    for one in map(random_episode, map(Random, range(700))):
        if any(trace.ticks is not None for trace in one.traces):
            continue
        ticks, view = timeline(one), timeline(timed(one), Base.WALL)
        assert_whole(view)
        assert view.base is Base.WALL and abs(view.total - ticks.total * TICK) <= 1
        for lane, other in zip(ticks.lanes, view.lanes, strict=True):
            work = [(s.start * TICK, s.end * TICK) for s in lane.spans if s.activity is Activity.DECODING]
            found = [(s.start, s.end) for s in other.spans if s.activity is Activity.DECODING]
            if schedule(one).turns[lane.path].end is None:
                continue  # how long it worked is not on the virtual clock
            if any(
                s.activity is Activity.WAITING and s.end == lane_end(ticks, lane.path) for s in lane.spans
            ):
                continue  # it ended with a wait, which says nothing of its pace
            assert len(work) == len(found), (lane.path, work, found)
            for a, b in zip(work, found, strict=True):
                assert abs(a[0] - b[0]) <= 200 and abs(a[1] - b[1]) <= 200
                compared += 1
    assert compared > 500


def test_any_times_give_a_whole_path() -> None:
    for seed in range(400):
        view = timeline(timed(random_episode(Random(seed)), Random(seed)), Base.WALL)
        assert_whole(view)
        for lane in view.lanes:
            assert all(s.start < s.end for s in lane.spans)
            assert all(a.end <= b.start for a, b in zip(lane.spans, lane.spans[1:], strict=False))


def test_no_time_at_all() -> None:
    one = episode(3, organizer(4, 2), worker("0/1", 3, 1, 4), worker("0/2", 5, 2, 4))
    still = msgspec.structs.replace(one, wall_seconds=0.0)
    view = timeline(still, Base.WALL)
    assert view.total == view.length == 0 and view.critical == ()


def test_a_join_waits_for_its_worker_s_end() -> None:
    """The organizer forks at 1 s, joins, waits until 3 s for the worker, and ends at 4 s."""
    one = episode(2, organizer(2, 1), worker("0/1", 8, 1, 2))
    organizer_trace, worker_trace = one.traces
    one = msgspec.structs.replace(
        one,
        traces=(
            msgspec.structs.replace(organizer_trace, wall_start=0.0, wall_end=4.0),
            msgspec.structs.replace(worker_trace, wall_start=1.0, wall_end=3.0),
        ),
        wall_seconds=4.0,
    )
    view = timeline(one, Base.WALL)
    assert [(p.path, p.start, p.end) for p in view.critical] == [
        ("0", 0, 1_000_000),
        ("0/1", 1_000_000, 3_000_000),
        ("0", 3_000_000, 4_000_000),
    ]
    waits = [(s.start, s.end) for s in view.lanes[0].spans if s.activity is Activity.WAITING]
    assert waits == [(2_000_000, 3_000_000)]
