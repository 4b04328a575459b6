"""What a task is: problems made from a seed, the sentence that asks one, and an exact check of the answer.

Checks are total and safe: any string may be passed as an answer. It is never executed, costs
milliseconds at most, and an answer that cannot be read scores 0 with the reason.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from asyncthink.errors import UnknownNameError, UsageError


class Split(StrEnum):
    """Which problems may be looked at: `test` is for final figures only."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


def split_of_text(text: str) -> Split:
    """Return the split of all problems with one canonical text: a tenth is test, a tenth dev, the rest train."""
    bucket = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return Split.TEST if bucket == 0 else Split.DEV if bucket == 1 else Split.TRAIN


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
    of: int = 1
    """How many answers were asked for, so that value * of of them are right."""
    parts: tuple[Part, ...] = ()
    reason: str = ""
    """Why the value is what it is, as a short sentence."""


P = TypeVar("P")
Q = TypeVar("Q", contravariant=True)


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

    def available(self, split: Split) -> int | None:
        """Return how many problems of its own a split has; None: as many as are asked for."""
        ...

    def problem(self, split: Split, seed: int, index: int) -> P:
        """Make problem number `index`, reproducible alone from (split, seed, index).

        Raises:
            UsageError: there are not so many.
        """
        ...

    def splits(self, problem: P) -> Collection[Split]:
        """Return the splits that a problem is of, whoever asks it; none where the task draws no problems."""
        ...

    def read(self, values: Mapping[str, Any]) -> P:
        """Make a problem from plain values, as a line of a problem file or a record holds them.

        Raises:
            UsageError: a value is missing, unknown, or makes no sense.
        """
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

    def pool(self, problem: P, answers: Sequence[str]) -> Score:
        """Judge what independent traces found together, as if the right ones could be picked out."""
        ...

    def outside(self, problem: P, limits: Mapping[str, Any]) -> str | None:
        """Return why a problem exceeds what a model declares it was trained on, or None."""
        ...


NONE = " none"
"""What a trained worker returns, and an organizer answers, that found nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubQuery:
    """One legal way to hand a part of a problem to a worker."""

    query: str
    """In the words of a model that was trained on the task."""
    prefix: str = ""
    """What such a model notes as an organizer of how the part belongs to the whole."""
    sentence: str
    """The same for any other model."""

    @property
    def before(self) -> str:
        """What a trained organizer writes before the fork; what follows is a line's end."""
        return f" ?{self.prefix}"


class Harvest(Protocol):
    """What an organizer has of the parts that came back."""

    @property
    def done(self) -> bool:
        """Whether it is enough to answer."""
        ...

    def add(self, part: SubQuery, returned: str | None) -> str:
        """Take in what a worker returned, None for nothing; return what an organizer notes of it."""
        ...

    def answer(self) -> str:
        """Return the answer that can be given now."""
        ...


class Divider(Protocol, Generic[Q]):
    """Divides problems into parts by a program, so that plans of forks can be made without a model."""

    def refusal(self, problem: Q) -> str | None:
        """Return why a problem cannot be divided, or None."""
        ...

    def parts(self, problem: Q) -> Sequence[SubQuery]:
        """Return every legal part, in a fixed order."""
        ...

    def search(self, part: SubQuery) -> tuple[str, str]:
        """Return what a trained worker that makes no mistake writes for a part, and what it returns."""
        ...

    def perfect(self, problem: Q, part: SubQuery) -> frozenset[object]:
        """Return what a worker would find for a part that makes no mistake; equal answers are equal values."""
        ...

    def harvest(self, problem: Q) -> Harvest:
        """Begin to collect what comes back."""
        ...


class OneAnswer(ABC, Generic[P]):
    """What tasks share whose problems have one answer."""

    @abstractmethod
    def check(self, problem: P, answer: str) -> Score:
        """Judge an answer exactly; each task has its own."""

    def merge(self, answers: Sequence[str]) -> str:
        """Return the answer that most traces gave, the earliest of equals."""
        return majority(answers)

    def pool(self, problem: P, answers: Sequence[str]) -> Score:
        """Judge the best of the answers."""
        scores = [self.check(problem, answer) for answer in answers]
        return max(scores, key=lambda score: score.value, default=Score(value=0.0, reason="no answer"))

    def makes(self, problem: P) -> bool:
        """Return whether `problem` draws such ones: no other task has this one's sentence."""
        del problem
        return True

    def outside(self, problem: P, limits: Mapping[str, Any]) -> str | None:
        """Return what a model's limits do not allow: a model that declares the task knows all of it."""
        del problem, limits
        return None


def majority(answers: Sequence[str]) -> str:
    """Return the answer that most traces gave, the earliest of equals."""
    return Counter(answer.strip() for answer in answers).most_common(1)[0][0]


def columns(values: Mapping[str, Any], needed: Sequence[str], optional: Collection[str] = ()) -> None:
    """Make sure that a problem's values have the names they should have.

    Raises:
        UsageError: one is missing.
        UnknownNameError: one is not known; the nearest is offered.
    """
    known = [*needed, *optional]
    for name in values:
        if name not in known:
            raise UnknownNameError("column", name, known)
    for name in needed:
        if name not in values:
            raise UsageError(f"the column {name!r} is missing: a problem has {', '.join(needed)}")
