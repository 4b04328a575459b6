"""Group-relative advantages: one for each episode, shared by every trained token of all its rows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TypeAlias

EPSILON = 1e-4
"""Added to the standard deviation, where it is divided by."""
Worth: TypeAlias = float | Sequence[float]
"""A row's advantage, or that of each of its trained tokens."""


def advantages(rewards: Sequence[float], *, normalise: bool = False) -> list[float]:
    """Return r - mean(r) for the episodes of one problem.

    The mean is over episodes: one with more workers, and so more rows, weighs no more than another.

    Args:
        rewards: of the episodes that tried the same problem.
        normalise: divide by the group's standard deviation (of a sample), as GRPO does. Off by default: where a
            whole group is right, the concurrency term is the only difference left, and dividing blows it up.
    """
    mean = fmean(rewards)
    centred = [reward - mean for reward in rewards]
    if not normalise or len(rewards) < 2:
        return centred
    scale = stdev(rewards) + EPSILON
    return [each / scale for each in centred]
