"""Means with intervals, where several samples belong to one problem.

Samples of one problem are not independent: what is resampled is problems, each with all of its samples (the
clustered bootstrap; Efron & Tibshirani 1993, Cameron, Gelbach & Miller 2008). An estimate is the mean over all
samples; its interval is the 2.5th to the 97.5th percentile over the resamples. Every measure of every method is
resampled with the same draws of problems, so the difference of two methods is paired by problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from asyncthink.episodes.record import Value

RESAMPLES = 2000
Reals = npt.NDArray[np.float64]


class Estimate(Value, frozen=True, kw_only=True):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    problems: int
    """Clusters that it rests on. With fewer than about ten, the interval is too narrow."""
    samples: int


class Difference(Value, frozen=True, kw_only=True):
    """How much more one method has than another, over the problems that both tried."""

    mean: float
    low: float
    high: float
    problems: int
    p_value: float
    """Two-sided, from the resamples: how often the difference has the other sign, at least 1 / resamples."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


class Bootstrap:
    """Draws of problems, made once and used for everything that is compared.

    Args:
        problems: keys of all problems, in a fixed order.
        resamples: how many draws.
        seed: of the draws.
    """

    def __init__(self, problems: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.place = {key: i for i, key in enumerate(problems)}
        n = max(1, len(problems))
        random = np.random.default_rng(seed)
        self._draws: Reals = random.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)

    def estimate(self, values: Sequence[tuple[str, float]]) -> Estimate | None:
        """Estimate the mean of (problem, value) pairs; None where there are none."""
        if not values:
            return None
        sums, counts = self._clusters(values)
        low, high = interval(self._means(sums, counts))
        return Estimate(
            mean=float(sums.sum() / counts.sum()),
            low=low,
            high=high,
            problems=int((counts > 0).sum()),
            samples=len(values),
        )

    def difference(
        self, first: Sequence[tuple[str, float]], second: Sequence[tuple[str, float]]
    ) -> Difference | None:
        """Estimate first - second, paired by problem: each problem's mean counts once; None without a pair."""
        sums, counts = self._clusters(first)
        other_sums, other_counts = self._clusters(second)
        both = (counts > 0) & (other_counts > 0)
        if not both.any():
            return None
        gaps = np.zeros(len(both))
        gaps[both] = sums[both] / counts[both] - other_sums[both] / other_counts[both]
        gaps = gaps.round(12)  # thirds that are added in another order differ in their last bit
        means = self._means(gaps, both.astype(np.float64))
        means = means[~np.isnan(means)]
        low, high = interval(means)
        tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
        return Difference(
            mean=float(gaps[both].mean()),
            low=low,
            high=high,
            problems=int(both.sum()),
            p_value=min(1.0, max(2 * tail, 1 / len(means))),
        )

    def draws(self, values: Sequence[tuple[str, float]]) -> Reals:
        """Return the mean of every draw; NaN where a draw has none of these problems."""
        return self._means(*self._clusters(values))

    def _clusters(self, values: Sequence[tuple[str, float]]) -> tuple[Reals, Reals]:
        sums, counts = np.zeros(len(self.place)), np.zeros(len(self.place))
        for problem, value in values:
            sums[self.place[problem]] += value
            counts[self.place[problem]] += 1
        return sums, counts

    def _means(self, sums: Reals, counts: Reals) -> Reals:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self._draws @ sums) / (self._draws @ counts)


def interval(means: Reals) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of what draws gave, NaN left out."""
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


class Gain(Value, frozen=True, kw_only=True):
    """How much of what organisation can win was won."""

    mean: float
    """(policy - random) / (oracle - random) over the same workers. 0: the model organises no better than chance;
    1: as well as whoever knows what every worker will find."""
    low: float | None
    high: float | None
    """The 95 % interval; None where the oracle's lead over chance is itself not clear."""


def organisation_gain(
    bootstrap: Bootstrap,
    policy: Sequence[tuple[str, float]],
    random: Sequence[tuple[str, float]],
    oracle: Sequence[tuple[str, float]],
) -> Gain | None:
    """Return the organisation gain over the problems that all three tried.

    None where there are none, or the oracle does no better than chance. The interval leaves out the draws, one in
    forty at most, in which the oracle has no lead.
    """
    tried = [{key for key, _ in values} for values in (policy, random, oracle)]
    shared = tried[0] & tried[1] & tried[2]
    trio = [[pair for pair in values if pair[0] in shared] for values in (policy, random, oracle)]
    means = [estimate.mean for values in trio if (estimate := bootstrap.estimate(values))]
    if len(means) < 3 or means[2] <= means[1]:
        return None
    first, chance, best = map(bootstrap.draws, trio)
    lead = np.where(best > chance, best - chance, np.nan)
    clear = bool(np.nanpercentile(best - chance, 2.5) > 0)
    low, high = interval((first - chance) / lead) if clear else (None, None)
    return Gain(mean=(means[0] - means[1]) / (means[2] - means[1]), low=low, high=high)


def quantiles(
    values: Sequence[float], shares: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9)
) -> Mapping[str, float]:
    """Return quantiles of at least one value by their share, as in {"0.5": median}."""
    found = np.quantile(np.asarray(values, dtype=np.float64), shares)
    return {f"{share:g}": float(value) for share, value in zip(shares, found, strict=True)}
