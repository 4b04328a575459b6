"""Metrics, exact by hand."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from asyncthink.episodes import JoinWait, Metrics, Outcome, Segment, SegmentKind, Trace, measure

from .episode_worlds import episode, inserted, organizer, random_episode, worker


def test_every_measure_by_hand() -> None:
    root = organizer(Segment(kind=SegmentKind.PROMPT, text="p", n_tokens=7), 5, inserted(4), 5)
    idle = msgspec.structs.replace(worker("0/2", 6, 3, outcome=Outcome.UNJOINED), overrun_tokens=2)
    assert measure(episode(3, root, worker("0/1", 6, 2, 5), idle)) == Metrics(
        critical_path=13,
        critical_path_with_inserted=17,
        concurrency=16 / (13 * 3),
        active_per_tick=(1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1),
        span=13,
        lower_bound=10,
        decoded_tokens=22,
        wasted_tokens=6,
        sequential_tokens=16,
        inserted_tokens=4,
        prompt_tokens=7,
        overrun_tokens=2,
        forks=2,
        joins=1,
        waits=(JoinWait(path="0/1", waited=3),),
        wall_seconds=1.0,
        exact=True,
    )


@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_sequential_concurrency_is_exactly_one_in_c(capacity: int) -> None:
    assert measure(episode(capacity, organizer(10), method="sequential")).concurrency == 1 / capacity


@pytest.mark.parametrize("capacity", [2, 4])
def test_fork_then_join_at_once_is_exactly_one_in_c(capacity: int) -> None:
    traces = worker("0/1", 6, 4, 4), worker("0/2", 3, 9, 9)
    assert measure(episode(capacity, organizer(11), *traces)).concurrency == 1 / capacity


def test_equal_parallel_traces_fill_the_pool() -> None:
    children = [worker(f"0/{i}", 8, 0, 8) for i in (1, 2, 3)]
    assert measure(episode(4, organizer(8), *children, method="parallel")).concurrency == 1.0


def test_an_idle_fork_buys_no_concurrency() -> None:
    idle = worker("0/1", 100, 3)
    assert measure(episode(2, organizer(10), idle)).concurrency == 1 / 2


def test_nothing_decoded_is_nothing_concurrent() -> None:
    seen = measure(episode(4, organizer()))
    assert (seen.critical_path, seen.concurrency, seen.active_per_tick) == (0, 0.0, ())


def test_an_estimate_is_told() -> None:
    guess = Segment(kind=SegmentKind.DECODED, text="x", n_tokens=3, exact=False)
    assert not measure(episode(2, organizer(guess))).exact


def test_no_schedule_is_shorter_than_the_work_and_the_longest_text() -> None:
    queued = episode(2, organizer(5), worker("0/1", 10, 1, 3), worker("0/2", 10, 2, 4))
    seen = measure(queued)
    assert (seen.critical_path, seen.span, seen.lower_bound) == (22, 13, 13)
    busy = [worker(f"0/{i}", 10, 0, 1) for i in range(1, 7)]
    seen = measure(episode(3, organizer(2), *busy))
    assert (seen.span, seen.lower_bound) == (11, 21), "62 ticks of work on 3 agents"


def test_no_episode_is_below_its_bound() -> None:
    reached = 0
    for seed in range(1_000):
        one = random_episode(Random(seed))
        seen = measure(one)
        if all(trace.path.count("/") < 2 for trace in one.traces):
            assert seen.lower_bound <= seen.critical_path, seed
            reached += seen.lower_bound == seen.critical_path
    assert reached > 100


def test_work_is_what_was_active() -> None:
    for seed in range(1_000):
        one = random_episode(Random(seed))
        seen = measure(one)
        assert seen.decoded_tokens == seen.wasted_tokens + seen.sequential_tokens
        assert seen.critical_path <= seen.critical_path_with_inserted
        if all(_clear(trace) for trace in one.traces) and one.capacity > 1:
            assert sum(seen.active_per_tick) == seen.sequential_tokens, seed


def _clear(trace: Trace) -> bool:
    """It stands for the tokens that it decoded, and holds no slot for good."""
    return trace.ticks is None and trace.outcome not in (Outcome.UNJOINED, Outcome.CANCELLED)
