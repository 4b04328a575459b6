"""Latency at equal accuracy: the least caps on T under which two contenders are right as often."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asyncthink.episodes.record import Value
from asyncthink.evaluation.rows import Row, worth
from asyncthink.evaluation.statistics import Bootstrap, Estimate, Reals, interval

MOST_CAPS = 400
"""Caps on T that are tried to find where methods are equally accurate."""
SHARE = 0.9
"""Of the lesser accuracy: at the whole of it, one contender's cap would be the length of its very longest right episode."""
NEVER = 0.025
"""Where in a larger share of the draws one of the two is never right, nothing is said of how much shorter."""


class Equal(Value, frozen=True, kw_only=True):
    """How long two contenders need for one accuracy: `SHARE` of what the less accurate of them has in the end."""

    first: str
    second: str
    all_correct: float
    first_cap: int
    """The least cap on T under which it is as accurate as that."""
    second_cap: int
    shorter: Estimate | None
    """Share by which the first one's cap is below the second's; None where one of the two is right too seldom to tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reach:
    """How accurate a contender is under rising caps on T."""

    caps: Reals
    """[caps]"""
    mean: Reals
    """[caps]"""
    draws: Reals
    """[caps, resamples]"""

    @classmethod
    def of(cls, rows: Sequence[Row], pooled: bool, bootstrap: Bootstrap) -> _Reach:
        costs = np.unique([step.cost for row in rows for step in row.by_ticks])
        caps = costs[
            np.unique(np.linspace(0, len(costs) - 1, min(len(costs), MOST_CAPS)).round().astype(int))
        ]
        found = [
            [(row.problem, float(worth(row.by_ticks, cap, pooled=pooled) == 1.0)) for row in rows]
            for cap in caps
        ]
        mean = np.array([sum(value for _, value in pairs) / len(pairs) for pairs in found])
        draws = np.array([bootstrap.draws(pairs) for pairs in found])
        return cls(caps=caps.astype(np.float64), mean=mean, draws=draws)

    def cap(self, level: float) -> float:
        return float(self.caps[np.argmax(self.mean >= level)])

    def drawn_caps(self, levels: Reals) -> Reals:
        """Return the cap of each draw for that draw's level, both [resamples]."""
        return self.caps[np.argmax(self.draws >= levels, axis=0)]


def equals(contenders: Iterable[tuple[str, Sequence[Row], bool]], bootstrap: Bootstrap) -> Iterator[Equal]:
    """Compare the first contender with each other one.

    Args:
        contenders: name, rows, and whether the pooled union is meant.
        bootstrap: draws of the problems.
    """
    found = [(name, rows, _Reach.of(rows, pooled, bootstrap)) for name, rows, pooled in contenders]
    for name, rows, theirs in found[1:]:
        first, own, ours = found[0]
        level = SHARE * min(ours.mean[-1], theirs.mean[-1])
        levels = SHARE * np.minimum(ours.draws[-1], theirs.draws[-1])
        if level <= 0:
            continue
        never = levels <= 0
        shorter = 1 - ours.drawn_caps(levels) / np.maximum(theirs.drawn_caps(levels), 1)
        low, high = interval(np.where(never, np.nan, shorter))
        caps = ours.cap(level), theirs.cap(level)
        rests_on = {row.problem for row in (*own, *rows)}
        yield Equal(
            first=first,
            second=name,
            all_correct=float(level),
            first_cap=int(caps[0]),
            second_cap=int(caps[1]),
            shorter=None
            if never.mean() > NEVER
            else Estimate(
                mean=1 - caps[0] / max(caps[1], 1),
                low=low,
                high=high,
                problems=len(rests_on),
                samples=len(own) + len(rows),
            ),
        )
