"""Legal action sequences, drawn at random: when an organizer forks, thinks and joins.

Two shapes are what a teacher writes when it is left alone (arXiv 2510.26658, cold start): fork-join pairs, and all
forks before all joins. Random sequences are what keeps a policy from starting with only these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from random import Random
from typing import Any, TypeAlias


class Structure(StrEnum):
    """Families of action sequences."""

    RANDOM = "random"
    """Any legal one, own thinking among it."""
    SEQUENTIAL = "sequential"
    """No fork."""
    PAIRS = "pairs"
    """Each fork is joined at once."""
    WAVES = "waves"
    """As many forks as there are workers, then all of their joins, and again."""


class Step(StrEnum):
    """What an organizer does next."""

    FORK = "fork"
    THINK = "think"
    JOIN = "join"


@dataclass(slots=True)
class Shape:
    """One organizer's inclinations, drawn once for a trace."""

    structure: Structure
    workers: int
    """c-1; without any, every structure is sequential."""
    think: float
    """Probability of a search of its own, where it may fork or join as well."""
    fork: float
    """Probability of a fork, where it may join as well: with 1 all workers are kept at work."""
    oldest: float = 0.0
    """Probability that a join is of whoever has waited longest; else it is of anyone."""
    joining: bool = False
    """In waves: whether the workers at work are being joined."""

    @classmethod
    def draw(
        cls, structure: Structure, capacity: int, random: Random, own_thinking: float, busy: float = 0.0
    ) -> Shape:
        """Draw the inclinations: to think, up to `own_thinking`, and to fork, from `busy` up to 1."""
        think, fork = random.uniform(0, own_thinking), random.uniform(busy, 1)
        return cls(
            structure, capacity - 1, think, fork, oldest=busy if structure is Structure.RANDOM else 1.0
        )

    def next(self, random: Random, *, waiting: bool, at_work: int) -> Step:
        """Draw the next step.

        Args:
            random: where chance comes from.
            waiting: whether a part is left that nobody has looked at; if not, somebody must be at work.
            at_work: workers that were not joined yet.
        """
        if not at_work and (self.workers == 0 or self.structure is Structure.SEQUENTIAL):
            return Step.THINK
        if not waiting or (at_work and self.structure is Structure.PAIRS):
            return Step.JOIN
        if self.structure in (Structure.PAIRS, Structure.WAVES):
            self.joining = at_work == self.workers or (self.joining and at_work > 0)
            return Step.JOIN if self.joining else Step.FORK
        fork = 1.0 if not at_work else 0.0 if at_work == self.workers else self.fork
        chances = {
            Step.THINK: self.think,
            Step.FORK: (1 - self.think) * fork,
            Step.JOIN: (1 - self.think) * (1 - fork),
        }
        return random.choices(list(chances), list(chances.values()))[0]

    def joined(self, waiting: Sequence[int], random: Random) -> int:
        """Draw which of the forks that wait, in the order in which they were made, is joined."""
        return waiting[0] if random.random() < self.oldest else random.choice(waiting)


Moves: TypeAlias = tuple[str, ...]
"""An organizer's forks and joins in order: `F2` is the fork of worker 2, `J2` its join."""


class Family(StrEnum):
    """What a sequence of forks and joins looks like; the second and third are a teacher's own habits."""

    SEQUENTIAL = "sequential"
    """No fork."""
    PAIRS = "fork-join-pairs"
    """Each fork is joined at once; a single fork among them."""
    FORKS_FIRST = "forks-first"
    """Several forks, and none behind a join."""
    MIXED = "mixed"
    """Any other."""


class Likeness(StrEnum):
    """How a sequence that was written compares with the one that was asked for."""

    AS_ASKED = "as_asked"
    REORDERED = "reordered"
    """The same forks and joins in another order."""
    OTHER = "other"


def legal_sequence(random: Random, *, forks: int, capacity: int) -> Moves:
    """Draw a sequence of so many forks, each joined, with never more than capacity-1 waiting to be joined.

    Forks are numbered as they come; all such sequences are equally likely.

    Raises:
        ValueError: without workers nothing can be forked.
    """
    workers = capacity - 1
    if forks and workers < 1:
        raise ValueError(f"with a capacity of {capacity} there is no worker for {forks} forks")
    moves: list[str] = []
    at_work: list[int] = []
    forked = 0
    while forked < forks or at_work:
        ways = _ways(forks - forked, len(at_work), workers)
        if random.randrange(ways) < _forking(forks - forked, len(at_work), workers):
            forked += 1
            at_work.append(forked)
            moves.append(f"F{forked}")
        else:
            moves.append(f"J{at_work.pop(random.randrange(len(at_work)))}")
    return tuple(moves)


@cache
def _ways(left: int, at_work: int, workers: int) -> int:
    """Count the legal ways to go on with so many forks left and workers not yet joined."""
    if not left and not at_work:
        return 1
    joining = at_work * _ways(left, at_work - 1, workers) if at_work else 0
    return _forking(left, at_work, workers) + joining


def _forking(left: int, at_work: int, workers: int) -> int:
    """Count those of them that begin with a fork."""
    return _ways(left - 1, at_work + 1, workers) if left and at_work < workers else 0


def family(moves: Moves) -> Family:
    """Return what a legal sequence looks like."""
    steps = "".join(move[0] for move in moves)
    if "F" not in steps:
        return Family.SEQUENTIAL
    if steps == "FJ" * (len(steps) // 2):
        return Family.PAIRS
    return Family.MIXED if "JF" in steps else Family.FORKS_FIRST


def likeness(asked: Moves, written: Moves) -> Likeness:
    """Compare two sequences, whatever numbers the forks have that were written."""
    numbers: dict[str, int] = {}
    for move in written:
        numbers.setdefault(move[1:], len(numbers) + 1)
    renumbered = tuple(f"{move[0]}{numbers[move[1:]]}" for move in written)
    if renumbered == asked:
        return Likeness.AS_ASKED
    return Likeness.REORDERED if sorted(renumbered) == sorted(asked) else Likeness.OTHER


@dataclass(kw_only=True, slots=True)
class StructureCounts:
    """What was asked of a teacher, and what it made of it."""

    planned: Counter[str] = field(default_factory=Counter[str])
    """Families of all plans."""
    kept: Counter[str] = field(default_factory=Counter[str])
    """Families of the kept traces."""
    became: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    """Family of a plan -> families of the traces that were kept for it."""
    likeness: Counter[str] = field(default_factory=Counter[str])
    """How kept traces compare with their plans."""
    forks: Counter[int] = field(default_factory=Counter[int])
    """Forks in a kept trace -> traces."""
    different: set[Moves] = field(default_factory=set[Moves])
    """The sequences of kept traces."""

    def add(self, plan: Moves | None, moves: Moves | None) -> None:
        """Count a plan, None for none, and the kept trace, None for none."""
        planned = None if plan is None else family(plan)
        if planned is not None:
            self.planned[planned] += 1
        if moves is None:
            return
        self.kept[family(moves)] += 1
        self.forks[sum(move.startswith("F") for move in moves)] += 1
        self.different.add(moves)
        if plan is not None and planned is not None:
            self.likeness[likeness(plan, moves)] += 1
            self.became.setdefault(planned, Counter())[family(moves)] += 1

    def told(self) -> dict[str, Any]:
        """Return them as plain values, the most frequent first."""
        return {
            "likeness": {name.value: self.likeness[name] for name in Likeness} if self.planned else {},
            "families_planned": dict(self.planned.most_common()),
            "families_kept": dict(self.kept.most_common()),
            "families_kept_by_plan": {name: dict(found.most_common()) for name, found in self.became.items()},
            "different": len(self.different),
            "forks": {str(count): self.forks[count] for count in sorted(self.forks)},
        }
