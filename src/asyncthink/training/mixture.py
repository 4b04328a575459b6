"""The data of format fine-tuning: ingredients of a recipe -> examples, shard by shard.

The examples of a shard are a function of (seed, shard), so that a killed run goes on with the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from asyncthink.errors import UsageError
from asyncthink.tasks import Asked, get_task
from asyncthink.tasks.base import Split
from asyncthink.tasks.countdown import Countdown, CountdownProblem, forms_by_target, split_of
from asyncthink.tasks.sudoku import BLANKS
from asyncthink.training.recipe import DataRecipe, Kind
from asyncthink.training.synthesis import (
    Example,
    guess_example,
    organizer_example,
    read_examples,
    worker_example,
)

SHARD = 6144
"""Examples in a shard: within one, they are grouped by length."""
TRIES = 3000
"""Number sets that are looked at for one problem."""
ENUMERATED = 4
"""Most numbers whose solutions are counted; with more, hardly a target has too few."""


def draw(shares: Mapping[str, float], random: Random) -> int:
    """Draw one of the whole numbers that are the keys, by their shares."""
    return int(random.choices(list(shares), list(shares.values()))[0])


class TrainProblems:
    """Draws problems of the train split, remembering what was solved once."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, ...], Counter[int]] = {}

    def __call__(self, data: DataRecipe, random: Random) -> Asked:
        """Draw one problem."""
        task = get_task(data.task)
        if isinstance(task, Countdown):
            wanted = 1 if data.kind is Kind.WORKER else draw(data.wanted, random)
            return Asked(task, self.countdown(task, draw(data.numbers, random), wanted, random))
        return Asked(task, task.problem(Split.TRAIN, random.getrandbits(48), 0))

    def countdown(self, task: Countdown, size: int, wanted: int, random: Random) -> CountdownProblem:
        """Draw numbers and a target with at least so many solutions."""
        for _ in range(TRIES):
            numbers = tuple(random.randint(1, task.largest) for _ in range(size))
            if split_of(numbers) is not Split.TRAIN:
                continue
            targets = self._targets(tuple(sorted(numbers)), wanted, random)
            if targets:
                return CountdownProblem(numbers=numbers, target=random.choice(targets), wanted=wanted)
        raise UsageError(
            f"hardly any target has {wanted} different expressions of {size} numbers: ask for fewer"
        )

    def _targets(self, numbers: tuple[int, ...], wanted: int, random: Random) -> list[int]:
        if len(numbers) > ENUMERATED:
            value = float(numbers[0])
            for number in random.sample(numbers[1:], len(numbers) - 1):
                value = random.choice([value + number, abs(value - number), value * number])
            return [int(value)] if 10 <= value <= 100 else []
        if numbers not in self._counts:
            self._counts[numbers] = forms_by_target(numbers)
        return sorted(target for target, count in self._counts[numbers].items() if count >= wanted)


class Mixture:
    """Draws examples as a recipe's ingredients say."""

    def __init__(self, data: Sequence[DataRecipe], seed: int) -> None:
        self.data, self.seed = data, seed
        self._problems = TrainProblems()
        self._files = {each.file: read_examples(each.file) for each in data if each.file is not None}

    def shard(self, number: int) -> Iterator[Example]:
        """Yield the examples of one shard."""
        random = Random(f"sft:{self.seed}:{number}")
        shares = [each.share for each in self.data]
        for data in random.choices(self.data, shares, k=SHARD):
            yield self._example(data, random)

    def _example(self, data: DataRecipe, random: Random) -> Example:
        if data.file is not None:
            return random.choice(self._files[data.file])
        asked = self._problems(data, random)
        if data.kind is Kind.WORKER:
            return worker_example(asked, random)
        capacity = draw(data.capacities, random)
        if data.kind is Kind.GUESS:
            return guess_example(asked, capacity, random)
        return organizer_example(
            asked,
            capacity,
            random,
            structure=data.structure,
            own_thinking=data.own_thinking,
            busy=data.busy,
            most_parts=data.most_parts,
            most_ticks=data.most_ticks,
        )


def limits(data: Sequence[DataRecipe]) -> dict[str, dict[str, Any]] | None:
    """Return what a model trained on this declares to know; None, which is anything, with traces from a file."""
    if any(each.kind is Kind.FILE for each in data):
        return None
    known: dict[str, dict[str, Any]] = {}
    counts = sorted({int(size) for each in data if each.task == "countdown" for size in each.numbers})
    if counts:
        declared = {"counts": counts, "largest": 20, "targets": [10, 100]}
        known = dict.fromkeys(("countdown", *(["countdown-paper"] if 5 in counts else [])), declared)
    if any(each.task == "sudoku" for each in data):
        known["sudoku"] = {"blanks": [min(BLANKS), max(BLANKS)]}
    return known
