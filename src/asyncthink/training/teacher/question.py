"""What is asked: problems of the train split, and for each the moves that its organizer is to make."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from asyncthink.errors import UsageError
from asyncthink.tasks import Asked, get_task
from asyncthink.tasks.base import Split
from asyncthink.training.structures import Moves, legal_sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the traces of a file have in common.

    Raises:
        UsageError: the task is not known, or makes no problems to learn from.
    """

    model: str
    """A model's name, or `program`."""
    task: str
    capacity: int
    seed: int = 0
    """Of the problems, the plans and the sampling."""
    max_forks: int = 4
    """A plan has 1 to so many forks; none where the capacity leaves no worker."""
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 4096
    """Of a reply."""

    def __post_init__(self) -> None:
        if get_task(self.task).available(Split.TRAIN) is not None:
            raise UsageError(f"{self.task} makes no problems to learn from: name another task")


def train_problem(settings: Settings, index: int) -> Asked:
    """Return a problem of the train split."""
    task = get_task(settings.task)
    return Asked(task, task.problem(Split.TRAIN, settings.seed, index))


def plan_of(settings: Settings, index: int) -> Moves:
    """Draw the moves that the teacher is asked for."""
    random = random_of(settings, index)
    forks = random.randint(1, settings.max_forks) if settings.capacity > 1 else 0
    return legal_sequence(random, forks=forks, capacity=settings.capacity)


def random_of(settings: Settings, index: int) -> Random:
    """Return where the chance of one question comes from."""
    return Random(f"synth:{settings.task}:{settings.seed}:{index}")
