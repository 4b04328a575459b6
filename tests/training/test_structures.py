"""Shapes: which step an organizer may take next, and what the families of action sequences look like."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from asyncthink.training.structures import Shape, Step, Structure

CAPACITIES = [1, 2, 3, 4, 8, 9999]


def walk(shape: Shape, random: Random, parts: int) -> str:
    """Follow a shape until every part was looked at and every worker joined; every step must be possible."""
    steps, at_work = "", 0
    while parts or at_work:
        step = shape.next(random, waiting=parts > 0, at_work=at_work)
        steps += step.name[0]
        if step is Step.JOIN:
            assert at_work, f"{steps}: nobody is at work"
            at_work -= 1
        else:
            assert parts, f"{steps}: no part is left"
            parts -= 1
            at_work += step is Step.FORK
        assert at_work <= shape.workers, f"{steps}: more than c-1 at work"
    return steps


def drawn(structure: Structure, capacity: int, seed: int, parts: int, own_thinking: float = 0.5) -> str:
    random = Random(seed)
    return walk(Shape.draw(structure, capacity, random, own_thinking), random, parts)


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("structure", list(Structure))
def test_every_step_is_legal_and_every_worker_is_joined(structure: Structure, capacity: int) -> None:
    for seed in range(60):
        steps = drawn(structure, capacity, seed, parts=seed % 13)
        assert steps.count("F") == steps.count("J")
        assert steps.count("F") + steps.count("T") == seed % 13


@pytest.mark.parametrize(
    ("structure", "capacity", "parts", "expected"),
    [
        ("pairs", 2, 3, "FJFJFJ"),
        ("pairs", 4, 4, "FJFJFJFJ"),
        ("pairs", 9, 1, "FJ"),
        ("waves", 4, 5, "FFFJJJFFJJ"),
        ("waves", 4, 6, "FFFJJJFFFJJJ"),
        ("waves", 3, 5, "FFJJFFJJFJ"),
        ("waves", 2, 3, "FJFJFJ"),
        ("waves", 9, 5, "FFFFFJJJJJ"),
        ("sequential", 4, 5, "TTTTT"),
        *((structure, 1, 3, "TTT") for structure in Structure),
        *((structure, 4, 0, "") for structure in Structure),
    ],
)
def test_fixed_shapes_by_hand(structure: str, capacity: int, parts: int, expected: str) -> None:
    assert {drawn(Structure(structure), capacity, seed, parts) for seed in range(20)} == {expected}


def test_a_wave_begins_only_when_all_of_the_last_were_joined() -> None:
    shape, random = Shape.draw(Structure.WAVES, 4, Random(0), 0.5), Random(1)

    def after(at_work: int, waiting: bool = True) -> Step:
        return shape.next(random, waiting=waiting, at_work=at_work)

    assert [after(0), after(1), after(2)] == [Step.FORK] * 3
    assert [after(3), after(2), after(1)] == [Step.JOIN] * 3
    assert [after(0), after(1)] == [Step.FORK] * 2
    assert after(2, waiting=False) is Step.JOIN


def test_random_shapes_are_all_there_are() -> None:
    """With two workers and three parts; joins of any worker are one letter here."""
    found = Counter(drawn(Structure.RANDOM, 3, seed, parts=3, own_thinking=1.0) for seed in range(4000))
    assert set(found) == all_walks(workers=2, parts=3, at_work=0)
    assert len(found) == 1 + 6 + 10 + 4, "with no, one, two and three forks"
    assert min(found.values()) >= 8, found


def all_walks(workers: int, parts: int, at_work: int) -> set[str]:
    """Write down every legal sequence."""
    if not parts and not at_work:
        return {""}
    steps = {"T": (parts - 1, at_work), "F": (parts - 1, at_work + 1), "J": (parts, at_work - 1)}
    return {
        step + rest
        for step, (left, busy) in steps.items()
        if left >= 0 and 0 <= busy <= workers
        for rest in all_walks(workers, left, busy)
    }


def test_random_shapes_hold_the_fixed_ones_and_many_more() -> None:
    found = Counter(drawn(Structure.RANDOM, 4, seed, parts=6, own_thinking=0.1) for seed in range(4000))
    assert len(found) > 400
    assert {"FFFJJJFFFJJJ", "FJFJFJFJFJFJ"} <= set(found)
    assert max(found.values()) < 500, "none is the usual one"


def test_inclinations_are_drawn_within_their_limits() -> None:
    shapes = [Shape.draw(Structure.RANDOM, 5, Random(seed), 0.25) for seed in range(500)]
    for values, low, high in (
        ([shape.fork for shape in shapes], 0, 1),
        ([shape.think for shape in shapes], 0, 0.25),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert {shape.workers for shape in shapes} == {4}
    assert all(Shape.draw(Structure.RANDOM, 5, Random(seed), 0.0).think == 0 for seed in range(20))


def test_a_busy_organizer_forks_where_it_may_and_joins_who_waited_longest() -> None:
    busy = [Shape.draw(Structure.RANDOM, 5, Random(seed), 0.0, 0.8) for seed in range(500)]
    assert 0.8 <= min(shape.fork for shape in busy) < 0.81
    assert {shape.oldest for shape in busy} == {0.8}
    random = Random(4)
    joined = Counter(busy[0].joined([5, 2, 9], random) for _ in range(6000))
    assert joined[5] == pytest.approx(6000 * (0.8 + 0.2 / 3), abs=100)
    assert joined[2] == pytest.approx(6000 * 0.2 / 3, abs=75)
    idle = Shape.draw(Structure.RANDOM, 5, Random(0), 0.0)
    assert Counter(idle.joined([5, 2, 9], random) for _ in range(6000))[5] == pytest.approx(2000, abs=150)
    for structure in (Structure.PAIRS, Structure.WAVES):
        fixed = Shape.draw(structure, 5, Random(0), 0.0)
        assert {fixed.joined([5, 2, 9], random) for _ in range(200)} == {5}


def test_steps_are_as_frequent_as_the_inclinations_say() -> None:
    shape, random = Shape(Structure.RANDOM, 4, think=0.2, fork=0.75), Random(3)
    some = Counter(shape.next(random, waiting=True, at_work=2) for _ in range(4000))
    assert abs(some[Step.THINK] - 800) < 100 and abs(some[Step.FORK] - 2400) < 150
    assert abs(some[Step.JOIN] - 800) < 100
    full = Counter(shape.next(random, waiting=True, at_work=4) for _ in range(4000))
    assert full.keys() == {Step.THINK, Step.JOIN} and abs(full[Step.THINK] - 800) < 100
    idle = Counter(shape.next(random, waiting=True, at_work=0) for _ in range(4000))
    assert idle.keys() == {Step.THINK, Step.FORK} and abs(idle[Step.THINK] - 800) < 100
    assert {shape.next(random, waiting=False, at_work=2) for _ in range(50)} == {Step.JOIN}
