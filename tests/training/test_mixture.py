"""The data of fine-tuning: shares, capacities, the train split, and the same examples however they are drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from asyncthink.errors import UsageError
from asyncthink.tasks import DIVIDERS, Asked, CountdownProblem, Split, SudokuProblem, get_task, recognise
from asyncthink.tasks.countdown import forms_by_target, split_of
from asyncthink.tasks.sudoku import completions
from asyncthink.tasks.sudoku import split_of as split_of_grid
from asyncthink.training import mixture
from asyncthink.training.mixture import Mixture, TrainProblems, draw, limits
from asyncthink.training.recipe import DataRecipe, Kind, load_recipe
from asyncthink.training.structures import Structure
from asyncthink.training.synthesis import Example, Piece
from tests.training.sft_world import quick_forms
from tests.training.trace_reader import read_back

TASK: Any = get_task("countdown")
FILED = [
    Example(role="organizer", query=f"q{i}", capacity=7, pieces=(Piece(text="x", trained=True),))
    for i in range(3)
]


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "SHARD", 40)
    monkeypatch.setattr(mixture, "forms_by_target", quick_forms)


def one(share: float = 1.0, **changes: Any) -> DataRecipe:
    return DataRecipe(share=share, **changes)


ALL_KINDS = [
    one(3.0, capacities={"1": 1.0, "3": 3.0}, wanted={"1": 1.0, "4": 1.0}),
    one(1.0, numbers={"3": 1.0}, wanted={"1": 1.0}, structure=Structure.SEQUENTIAL),
    one(1.0, numbers={"5": 1.0}, structure=Structure.WAVES, most_parts=6),
    one(2.0, kind=Kind.WORKER, numbers={"3": 1.0, "4": 1.0, "5": 1.0}),
    one(1.0, kind=Kind.GUESS, numbers={"3": 1.0}, wanted={"1": 1.0}, capacities={"2": 1.0}),
    one(1.0, task="sudoku", capacities={"5": 1.0}),
    one(1.0, kind=Kind.WORKER, task="sudoku"),
]


def examples(
    data: Sequence[DataRecipe], count: int, monkeypatch: pytest.MonkeyPatch, seed: int = 0
) -> list[Example]:
    monkeypatch.setattr(mixture, "SHARD", count)
    return list(Mixture(data, seed).shard(0))


def asked_by(example: Example) -> Asked:
    found = recognise(example.query)
    assert found is not None
    return found


# Draws


def test_a_draw_follows_the_shares_whatever_their_sum() -> None:
    random = Random(1)
    found = Counter(draw({"1": 2.0, "40": 6.0, "3": 2.0}, random) for _ in range(5000))
    assert found.keys() == {1, 3, 40}
    assert abs(found[40] - 3000) < 150 and abs(found[1] - 1000) < 120


def test_ingredients_have_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    def organizer(*_: object, structure: Structure, **__: object) -> object:
        return "organizer", structure

    def worker(asked: Asked, _: Random) -> object:
        return "worker", asked.task.name

    def guess(asked: Asked, *_: object) -> object:
        return "guess", asked.task.name

    for name, made in (("organizer", organizer), ("worker", worker), ("guess", guess)):
        monkeypatch.setattr(mixture, f"{name}_example", made)
    found = Counter[Any](examples(ALL_KINDS, 4000, monkeypatch))
    shares = {
        ("organizer", Structure.RANDOM): 4,  # of countdown and of sudoku
        ("organizer", Structure.SEQUENTIAL): 1,
        ("organizer", Structure.WAVES): 1,
        ("worker", "countdown"): 2,
        ("worker", "sudoku"): 1,
        ("guess", "countdown"): 1,
    }
    assert found.keys() == shares.keys()
    assert all(abs(found[name] - 400 * share) < 90 for name, share in shares.items()), found


def test_capacities_wanted_and_numbers_have_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    data = one(
        numbers={"3": 1.0, "4": 3.0},
        wanted={"1": 3.0, "2": 1.0},
        capacities={"1": 1.0, "3": 2.0, "8": 1.0},
        kind=Kind.GUESS,
    )
    found = examples([data], 600, monkeypatch)
    problems = [asked_by(example).problem for example in found]
    sizes = Counter(len(problem.numbers) for problem in problems)
    wanted = Counter(problem.wanted for problem in problems)
    capacities = Counter(example.capacity for example in found)
    assert sizes.keys() == {3, 4} and abs(sizes[4] - 450) < 50
    assert wanted.keys() == {1, 2} and abs(wanted[1] - 450) < 50
    assert capacities.keys() == {1, 3, 8} and abs(capacities[3] - 300) < 50


def test_an_ingredient_makes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: dict[Structure, str] = {Structure.PAIRS: "", Structure.WAVES: "", Structure.SEQUENTIAL: ""}
    for structure in shapes:
        data = one(structure=structure, capacities={"3": 1.0}, most_parts=5)
        for example in examples([data], 12, monkeypatch):
            trace = read_back(asked_by(example), 3, example)
            assert len(trace.taken) <= 5
            shapes[structure] += trace.shape
    assert set(shapes[Structure.SEQUENTIAL]) == set("TA")
    assert set(shapes[Structure.PAIRS].replace("FJ", "")) == {"A"}
    assert "FFJJ" in shapes[Structure.WAVES] and "FFF" not in shapes[Structure.WAVES]
    thoughts = [
        sum(
            read_back(asked_by(example), 4, example).shape.count("T")
            for example in examples([one(own_thinking=thinking)], 30, monkeypatch)
        )
        for thinking in (0.0, 2.0)
    ]
    assert thoughts[0] < 30 < 100 < thoughts[1]
    idling = [
        sum(
            re.search("JJ.*F", read_back(asked_by(example), 4, example).shape) is not None
            for example in examples([one(own_thinking=0.0, busy=busy)], 30, monkeypatch)
        )
        for busy in (0.0, 1.0)
    ]
    assert idling[0] > 10 and idling[1] == 0, "with all workers at work a join is followed by a fork"


def test_workers_and_guesses_are_of_the_problems_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Asked] = []
    ask = TrainProblems.__call__

    def spy(self: TrainProblems, data: DataRecipe, random: Random) -> Asked:
        drawn.append(ask(self, data, random))
        return drawn[-1]

    monkeypatch.setattr(TrainProblems, "__call__", spy)
    found = examples(ALL_KINDS, 60, monkeypatch)
    assert {example.role for example in found} == {"organizer", "worker"}
    for example, asked in zip(found, drawn, strict=True):
        if example.role == "worker":
            parts = DIVIDERS[asked.task.name].parts(asked.problem)
            assert example.query in {part.query for part in parts}
        else:
            assert asked.task.parse(example.query) == asked.problem


# Problems


def of_train(problem: CountdownProblem | SudokuProblem) -> bool:
    if isinstance(problem, CountdownProblem):
        return split_of(problem.numbers) is Split.TRAIN
    return {split_of_grid(grid) for grid in completions(problem.grid)} == {Split.TRAIN}


def test_problems_are_of_the_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    problems, random = TrainProblems(), Random(0)
    for data in ALL_KINDS:
        drawn = [problems(data, random) for _ in range(60)]
        assert {asked.task.name for asked in drawn} == {data.task}
        assert all(of_train(asked.problem) for asked in drawn)
        assert len({asked.problem for asked in drawn}) > 55
        if data.task == "countdown":
            sizes = {len(asked.problem.numbers) for asked in drawn}
            assert sizes == set(map(int, data.numbers))
            wanted = {asked.problem.wanted for asked in drawn}
            assert wanted == ({1} if data.kind is Kind.WORKER else set(map(int, data.wanted)))


def test_numbers_are_drawn_from_the_whole_range_in_any_order() -> None:
    problems, random = TrainProblems(), Random(1)
    for size in ("2", "3", "4", "5"):
        data = one(numbers={size: 1.0}, wanted={"1": 1.0})
        drawn = [problems(data, random).problem for _ in range(300)]
        assert {number for problem in drawn for number in problem.numbers} == set(range(1, 21))
        assert any(list(problem.numbers) != sorted(problem.numbers) for problem in drawn)
        assert all(10 <= problem.target <= 100 for problem in drawn)


def test_targets_have_as_many_solutions_as_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(numbers: tuple[int, ...]) -> Counter[int]:
        return Counter({24: 3, 30: 2, 60 + min(numbers): 9})

    monkeypatch.setattr(mixture, "forms_by_target", counts)
    problems, random = TrainProblems(), Random(0)
    found = {
        wanted: Counter(
            problem.target if problem.target in (24, 30) else problem.target - min(problem.numbers)
            for problem in (problems.countdown(TASK, 4, wanted, random) for _ in range(300))
        )
        for wanted in (2, 3, 4)
    }
    assert {wanted: set(targets) for wanted, targets in found.items()} == {
        2: {24, 30, 60},
        3: {24, 60},
        4: {60},
    }
    assert min(found[2].values()) > 60


@pytest.mark.parametrize("size", [3, 4])
def test_a_real_problem_has_enough_solutions(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(mixture, "forms_by_target", forms_by_target)
    problems, random = TrainProblems(), Random(1)
    for wanted in (1, 2):
        problem = problems.countdown(TASK, size, wanted, random)
        assert split_of(problem.numbers) is Split.TRAIN and problem.wanted == wanted
        assert forms_by_target(problem.numbers)[problem.target] >= wanted


def test_five_numbers_can_reach_their_target() -> None:
    problems, random = TrainProblems(), Random(2)
    divider, solved = DIVIDERS["countdown"], 0
    for _ in range(12):
        problem = problems.countdown(TASK, 5, 4, random)
        solved += any(divider.perfect(problem, part) for part in divider.parts(problem))
    assert solved == 12


def test_an_impossible_request_is_told_in_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        list(Mixture([one(numbers={"2": 1.0})], 0).shard(0))
    assert str(caught.value) == "hardly any target has 4 different expressions of 2 numbers: ask for fewer"


# Shards


def test_a_shard_does_not_depend_on_what_was_drawn_before() -> None:
    warm = Mixture(ALL_KINDS, 3)
    first = list(warm.shard(0))
    assert len(first) == 40
    second = list(warm.shard(1))
    assert list(warm.shard(0)) == first == list(Mixture(ALL_KINDS, 3).shard(0))
    assert list(Mixture(ALL_KINDS, 3).shard(1)) == second != first


def test_a_shard_is_the_same_drawn_at_once_and_one_by_one() -> None:
    made = Mixture(ALL_KINDS, 3)
    by_turns = zip(made.shard(0), made.shard(1), strict=True)
    first, second = (list(each) for each in zip(*by_turns, strict=True))
    assert first == list(Mixture(ALL_KINDS, 3).shard(0))
    assert second == list(Mixture(ALL_KINDS, 3).shard(1))


def test_shards_and_seeds_have_examples_of_their_own() -> None:
    made = Mixture(ALL_KINDS, 3)
    shards = [list(islice(made.shard(number), 20)) for number in range(3)]
    shards.append(list(islice(Mixture(ALL_KINDS, 4).shard(0), 20)))
    queries = [{example.query for example in shard} for shard in shards]
    for place, some in enumerate(queries):
        assert len(some) > 15
        for others in queries[:place]:
            assert len(some & others) < 5


# Files


def test_examples_of_a_file_are_mixed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(example) + b"\n" for example in FILED))
    data = [one(1.0, kind=Kind.FILE, file=str(file)), one(1.0, kind=Kind.WORKER, task="sudoku")]
    found = Counter(
        example.query if example in FILED else "made" for example in examples(data, 600, monkeypatch)
    )
    assert found.keys() == {"q0", "q1", "q2", "made"}
    assert abs(found["made"] - 300) < 50 and min(found.values()) > 60


def test_a_file_is_read_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Mixture([one(), one(kind=Kind.FILE, file=str(tmp_path / "none.jsonl"))], 0)


# What a model declares


def test_what_is_declared_is_what_was_seen() -> None:
    declared = {"counts": [3, 4, 5], "largest": 20, "targets": [10, 100]}
    assert limits(ALL_KINDS) == {
        "countdown": declared,
        "countdown-paper": declared,
        "sudoku": {"blanks": [4, 9]},
    }
    assert limits([one(numbers={"4": 1.0, "3": 2.0})]) == {
        "countdown": {"counts": [3, 4], "largest": 20, "targets": [10, 100]}
    }
    assert limits([one(task="sudoku")]) == {"sudoku": {"blanks": [4, 9]}}
    assert limits([one(), one(kind=Kind.FILE, file="traces.jsonl")]) is None, "a file may hold anything"


def test_nothing_that_is_drawn_is_outside_of_what_is_declared() -> None:
    problems, random = TrainProblems(), Random(4)
    for data in ALL_KINDS:
        known = limits([data])
        assert known is not None
        for _ in range(40):
            asked = problems(data, random)
            assert asked.task.outside(asked.problem, known[asked.task.name]) is None


def test_the_base_model_hardly_sees_a_fork_and_only_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_recipe("recipes/embedded-base.toml").data
    forking = [
        each for each in data if each.kind is Kind.ORGANIZER and each.structure is not Structure.SEQUENTIAL
    ]
    assert 0 < sum(each.share for each in forking) < 0.01 * sum(each.share for each in data)
    for example in examples(forking, 20, monkeypatch):
        trace = read_back(asked_by(example), example.capacity, example)
        assert set(trace.shape.replace("FJ", "")) == {"A"} and trace.shape != "A"
