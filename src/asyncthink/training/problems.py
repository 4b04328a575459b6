"""The problems of a reinforcement learning, by number: a task's own of the train split, or somebody's data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random

from asyncthink.errors import UsageError
from asyncthink.evaluation.problems import Question, drawn, from_file, stored
from asyncthink.extras import require
from asyncthink.tasks import NEEDS, Asked, get_task
from asyncthink.tasks.base import Split, Task
from asyncthink.training.rl_recipe import RLRecipe


class Problems:
    """Which problem a number stands for, from 0: a function of (seed, number) alone.

    Given ones come in an order that the seed shuffles, and when all were there in another one.

    Args:
        task: whose problems they are.
        seed: of the run.
        given: all that there are; none: as many as are asked for, made by the task.
    """

    def __init__(self, task: Task[object], seed: int, given: Sequence[Question] = ()) -> None:
        self.task, self.seed, self.given = task, seed, given
        self._order = lru_cache(maxsize=2)(
            self._shuffled
        )  # a step may begin in one epoch and end in the next

    def __call__(self, number: int) -> Asked:
        """Return the problem with that number."""
        if not self.given:
            return Asked(self.task, self.task.problem(Split.TRAIN, self.seed, number))
        epoch, place = divmod(number, len(self.given))
        return self.given[self._order(epoch)[place]].asked

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.given)))
        Random(f"problems:{self.seed}:{epoch}").shuffle(order)
        return order

    @property
    def inputs(self) -> dict[str, bytes]:
        """What a run begins with beside its checkpoint, by the recipe's name."""
        return {"rollout.data": stored(self.given)} if self.given else {}


def _refuse(question: Question, source: str) -> None:
    """Refuse a problem that figures are measured on."""
    asked = question.asked
    if others := sorted(set(asked.task.splits(asked.problem)) - {Split.TRAIN}):
        raise UsageError(
            f"{source}: problem {question.key} is of the {' and the '.join(others)} split, and no training may see it: "
            "leave it out"
        )


def problems_of(recipe: RLRecipe) -> Problems:
    """Return the problems of a run.

    Raises:
        UsageError: they cannot be read, or there are fewer than the run's steps use.
        MissingExtraError: the task's check, or the reader of a data set, is not installed.
    """
    rollout, task = recipe.rollout, get_task(recipe.rollout.task)
    if needed := NEEDS.get(task.name):
        require(needed, f"the task {task.name}")
    if rollout.data is not None:
        given = from_file(task.name, rollout.data, None)
    elif (there := task.available(Split.TRAIN)) is None:
        return Problems(task, recipe.seed)
    elif there:
        given = drawn(task.name, Split.TRAIN, recipe.seed, there)
    else:
        raise UsageError(f"{task.name} brings no problems of its own: name some in rollout.data")
    for question in given:
        _refuse(question, rollout.data or task.name)
    used = recipe.update.steps * rollout.problems
    if used > len(given) * rollout.epochs:
        raise UsageError(
            f"{recipe.update.steps} steps of {rollout.problems} problems need {used:,}, and "
            f"{rollout.data or task.name} has {len(given):,}: to use each up to so many times, "
            f"rollout.epochs = {-(-used // len(given))}"
        )
    return Problems(task, recipe.seed, given)
