"""The virtual clock: exact values by hand, and two implementations that agree."""

from __future__ import annotations

from random import Random

import pytest
from ticks import simulate

from asyncthink.episodes import Episode, Outcome, schedule

from .episode_worlds import decoded, episode, inserted, organizer, random_episode, worker


def starts(one: Episode) -> dict[str, int | None]:
    return {path: turn.start for path, turn in schedule(one).turns.items()}


def waits(one: Episode) -> list[tuple[str, int, int]]:
    return [(join.path, join.arrived, join.waited) for join in schedule(one).joins]


def work(one: Episode) -> int:
    return sum(schedule(one).active())


def test_sequential() -> None:
    plan = schedule(episode(4, organizer(10)))
    assert (plan.total, plan.active(), plan.joins, plan.overflows) == (10, [1] * 10, (), ())


def test_fork_then_join_at_once_is_sequential() -> None:
    plan = schedule(episode(2, organizer(10), worker("0/1", 6, 4, 4)))
    assert plan.total == 16
    assert plan.active() == [1] * 16
    assert plan.turns["0"].spans == ((0, 4), (10, 16))


def test_the_join_tag_itself_overlaps() -> None:
    plan = schedule(episode(2, organizer(10), worker("0/1", 6, 4, 5)))
    assert plan.total == 15
    assert plan.active() == [1] * 4 + [2] + [1] * 10


def test_late_and_early_joins_interleaved() -> None:
    one = episode(3, organizer(20), worker("0/1", 5, 3, 14), worker("0/2", 9, 6, 10))
    plan = schedule(one)
    assert plan.total == 25
    assert starts(one) == {"0": 0, "0/1": 3, "0/2": 6}
    assert (plan.turns["0/1"].end, plan.turns["0/2"].end) == (8, 15)
    assert waits(one) == [("0/2", 10, 5), ("0/1", 19, 0)]
    assert plan.turns["0"].spans == ((0, 10), (15, 25))
    assert plan.active() == [1] * 3 + [2] * 3 + [3] * 2 + [2] * 2 + [1] * 15
    assert plan.overflows == ()


def test_a_full_pool_queues_the_worker_and_overflows() -> None:
    one = episode(2, organizer(12), worker("0/1", 6, 2, 5), worker("0/2", 3, 4, 7))
    plan = schedule(one)
    assert plan.total == 16
    assert starts(one) == {"0": 0, "0/1": 2, "0/2": 8}
    assert waits(one) == [("0/1", 5, 3), ("0/2", 10, 1)]
    assert plan.overflows == ("0/2",)


def test_first_come_first_served() -> None:
    one = episode(3, organizer(9), *(worker(f"0/{i}", n, i) for i, n in ((1, 9), (2, 4), (3, 2), (4, 1))))
    assert starts(one) == {"0": 0, "0/1": 1, "0/2": 2, "0/3": 6, "0/4": 8}
    assert schedule(one).overflows == ("0/3", "0/4")


@pytest.mark.parametrize(("second", "overflows", "start"), [(4, ("0/2",), 5), (5, (), 5), (6, (), 6)])
def test_a_slot_is_free_from_the_tick_of_the_return(
    second: int, overflows: tuple[str, ...], start: int
) -> None:
    one = episode(2, organizer(12), worker("0/1", 3, 2), worker("0/2", 3, second))
    assert schedule(one).overflows == overflows
    assert starts(one)["0/2"] == start


def test_a_waiting_organizer_does_not_age_in_tokens_but_in_ticks() -> None:
    one = episode(3, organizer(8), worker("0/1", 10, 1, 3), worker("0/2", 4, 2), worker("0/3", 2, 4, 5))
    assert starts(one) == {"0": 0, "0/1": 1, "0/2": 2, "0/3": 12}
    assert waits(one) == [("0/1", 3, 8), ("0/3", 13, 1)]
    assert schedule(one).total == 17
    assert schedule(one).overflows == ()


def test_unjoined_workers_count_neither_in_time_nor_among_the_active() -> None:
    one = episode(3, organizer(10), worker("0/1", 50, 2), worker("0/2", 4, 3, 7))
    assert schedule(one).total == 10
    assert work(one) == 14
    assert not schedule(one).turns["0/1"].counted


@pytest.mark.parametrize("outcome", [Outcome.UNJOINED, Outcome.CANCELLED])
def test_a_worker_that_never_ended_holds_its_slot(outcome: Outcome) -> None:
    one = episode(2, organizer(10), worker("0/1", 1, 2, outcome=outcome), worker("0/2", 3, 6))
    plan = schedule(one)
    assert plan.overflows == ("0/2",)
    assert (plan.turns["0/1"].start, plan.turns["0/1"].end) == (2, None)
    assert (plan.turns["0/2"].start, plan.turns["0/2"].end) == (None, None)
    assert schedule(episode(2, organizer(10), worker("0/1", 1, 2), worker("0/2", 3, 6))).overflows == ()


def test_a_join_that_was_broken_off_counts_as_far_as_it_went() -> None:
    one = episode(2, organizer(5), worker("0/1", 8, 2, 5, outcome=Outcome.CANCELLED))
    assert schedule(one).total == 10


@pytest.mark.parametrize(("lengths", "total"), [((7, 9, 4), 9), ((9, 7, 4), 9), ((0, 3, 3), 3), ((5,), 5)])
def test_parallel_takes_as_long_as_its_longest_trace(lengths: tuple[int, ...], total: int) -> None:
    root, *others = lengths
    children = [worker(f"0/{i}", n, 0, root) for i, n in enumerate(others, 1)]
    one = episode(len(lengths), organizer(root), *children, method="parallel")
    assert (schedule(one).total, work(one), schedule(one).overflows) == (total, sum(lengths), ())


def test_capacity_one_never_starts_a_worker() -> None:
    one = episode(1, organizer(10), worker("0/1", 0, 2, 5, outcome=Outcome.UNJOINED), worker("0/2", 0, 4))
    plan = schedule(one)
    assert (plan.total, plan.overflows) == (10, ("0/1", "0/2"))
    assert waits(one) == [("0/1", 5, 0)]
    assert starts(one) == {"0": 0, "0/1": None, "0/2": None}


def test_a_sub_organizer_has_a_pool_and_a_critical_path_of_its_own() -> None:
    one = episode(2, organizer(10), worker("0/1", 6, 2, 5), worker("0/1/1", 10, 1, 4))
    plan = schedule(one)
    assert starts(one) == {"0": 0, "0/1": 2, "0/1/1": 3}
    assert plan.turns["0/1"].spans == ((2, 6), (13, 15))
    assert waits(one) == [("0/1", 5, 10), ("0/1/1", 6, 7)]
    assert (plan.total, work(one), plan.overflows) == (20, 26, ())


def test_workers_below_an_unjoined_worker_are_not_counted() -> None:
    one = episode(2, organizer(10), worker("0/1", 6, 2), worker("0/1/1", 3, 1, 4))
    assert [turn.counted for turn in schedule(one).turns.values()] == [True, False, False]
    assert work(one) == 10


def test_a_tool_takes_the_ticks_it_reports() -> None:
    one = episode(2, organizer(6), worker("0/1", 0, 2, 3, ticks=7))
    assert (schedule(one).total, work(one)) == (12, 13)


def test_inserted_tokens_cost_ticks_in_the_second_figure_only() -> None:
    root = organizer(5, inserted(4), 5)
    one = episode(2, root, worker("0/1", 3, 2, 5), worker("0/2", 1, 8, 9))
    assert schedule(one).total == 10
    late = schedule(one, with_inserted=True)
    assert late.total == 14
    assert late.turns["0/2"].start == 12
    assert late.turns["0"].spans == ((0, 14),)


def test_forks_come_before_a_join_that_the_same_chunk_completes() -> None:
    one = episode(3, organizer(9), worker("0/1", 5, 4, 6), worker("0/2", 2, 6, 8))
    assert starts(one) == {"0": 0, "0/1": 4, "0/2": 6}
    assert waits(one) == [("0/1", 6, 3), ("0/2", 11, 0)]


def test_nothing_decoded_takes_no_time() -> None:
    plan = schedule(episode(4, organizer()))
    assert (plan.total, plan.active()) == (0, [])
    assert schedule(episode(4)).total == 0


@pytest.mark.parametrize(("with_inserted", "seeds"), [(False, range(20_000)), (True, range(20_000, 24_000))])
def test_recursion_and_simulation_agree(with_inserted: bool, seeds: range) -> None:
    for seed in seeds:
        one = random_episode(Random(seed))
        plan, seen = schedule(one, with_inserted=with_inserted), simulate(one, with_inserted=with_inserted)
        assert plan.total == seen.total, seed
        assert plan.active() == seen.active, seed
        assert {path: turn.start for path, turn in plan.turns.items()} == seen.starts, seed
        assert set(plan.overflows) == seen.overflows, seed


def test_bounds_hold_without_overflow() -> None:
    for one in map(random_episode, map(Random, range(2_000))):
        plan = schedule(one)
        assert plan.total == plan.turns["0"].end
        assert sum(join.waited for join in plan.joins if join.path.count("/") == 1) == plan.total - sum(
            b - a for a, b in plan.turns["0"].spans
        )
        if not plan.overflows:
            assert all(plan.active())
        if all(trace.path.count("/") < 2 for trace in one.traces):
            assert max(plan.active(), default=0) <= one.capacity


def test_chunks_of_any_size_give_the_same_clock() -> None:
    whole = episode(2, organizer(10), worker("0/1", 6, 2, 5))
    pieces = episode(2, organizer(*[decoded(1)] * 10), worker("0/1", 6, 2, 5))
    assert schedule(whole) == schedule(pieces)
