"""Legal action sequences, drawn at random: when an organizer forks, thinks and joins.

Two shapes are what a teacher writes when it is left alone (arXiv 2510.26658, cold start): fork-join pairs, and all
forks before all joins. Random sequences are what keeps a policy from starting with only these.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random


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
    fork: float
    think: float
    join: float
    joining: bool = False
    """In waves: whether the workers at work are being joined."""

    @classmethod
    def draw(cls, structure: Structure, capacity: int, random: Random, own_thinking: float) -> Shape:
        """Draw the inclinations: 0.5 to 1 to fork, 0 to `own_thinking` to think, 0.1 to 0.6 to join."""
        fork, think, join = random.uniform(0.5, 1), random.uniform(0, own_thinking), random.uniform(0.1, 0.6)
        return cls(structure, capacity - 1, fork, think + 0.01, join)

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
        steps, chances = [Step.THINK], [self.think]
        if at_work < self.workers:
            steps.append(Step.FORK)
            chances.append(self.fork)
        if at_work:
            steps.append(Step.JOIN)
            chances.append(self.join)
        return random.choices(steps, chances)[0]
