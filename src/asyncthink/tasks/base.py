"""What a task is: problems made from a seed, the sentence that asks one, and an exact check of the answer.

Checks are total and safe: any string may be passed as an answer. It is never executed, costs
milliseconds at most, and an answer that cannot be read scores 0 with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar


class Split(StrEnum):
    """Which problems may be looked at: `test` is for final figures only."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One judged piece of an answer, such as a line."""

    text: str
    """The piece as the model wrote it, cut to a readable length."""
    correct: bool
    reason: str
    """Why it counts or does not, as a short sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The result of a check."""

    value: float
    """In [0, 1]; for several answers the share that is right."""
    parts: tuple[Part, ...] = ()
    reason: str = ""
    """Why the value is what it is, as a short sentence."""


P = TypeVar("P")


class Task(Protocol, Generic[P]):
    """A family of problems of type P. Stateless, so that one instance serves everybody."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def capacity(self) -> int:
        """Agent pool capacity that the task is usually run with."""
        ...

    def problem(self, split: Split, seed: int, index: int) -> P:
        """Make problem number `index`, reproducible alone from (split, seed, index)."""
        ...

    def prompt(self, problem: P) -> str:
        """Return the problem as one sentence that a person would write."""
        ...

    def parse(self, sentence: str) -> P | None:
        """Read such a sentence; None when it is not one of this task's."""
        ...

    def makes(self, problem: P) -> bool:
        """Return whether `problem` draws such ones: of two tasks with one sentence, that one is meant."""
        ...

    def check(self, problem: P, answer: str) -> Score:
        """Judge an answer exactly; never raises on any text."""
        ...

    def merge(self, answers: Sequence[str]) -> str:
        """Combine the answers of independent traces into one, most voted first."""
        ...

    def outside(self, problem: P, limits: Mapping[str, Any]) -> str | None:
        """Return why a problem exceeds what a model declares it was trained on, or None."""
        ...
