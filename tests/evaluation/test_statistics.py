"""Estimates by hand, and whether their intervals hold what they promise where samples are no independent ones."""

from __future__ import annotations

from itertools import permutations
from math import isclose
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncthink.evaluation.statistics import RESAMPLES, Bootstrap, Estimate, organisation_gain, quantiles

Pairs = list[tuple[str, float]]
Reals = npt.NDArray[np.float64]
VALUES = st.floats(-1e6, 1e6)


def pairs(problem: str, *values: float) -> Pairs:
    return [(problem, value) for value in values]


def test_the_mean_is_over_samples_and_the_interval_over_problems() -> None:
    found = Bootstrap(["a", "b"]).estimate([*pairs("a", 1, 1, 1), *pairs("b", 0)])
    assert found is not None
    # Draws are aa, ab, ba and bb: a quarter each has mean 1 and mean 0, the rest (3 + 0) / (3 + 1).
    assert (found.mean, found.low, found.high) == (0.75, 0.0, 1.0)
    assert (found.problems, found.samples) == (2, 4)


def test_each_draw_takes_all_samples_of_a_problem_as_often_as_the_problem() -> None:
    values = [*pairs("a", 1, 1, 1), *pairs("b", 0)]
    means = Bootstrap(["a", "b"]).draws(values)
    found, counts = np.unique(means, return_counts=True)
    assert found.tolist() == [0.0, 0.75, 1.0]
    assert counts.sum() == RESAMPLES
    assert np.allclose(counts / RESAMPLES, [0.25, 0.5, 0.25], atol=0.04)


def test_one_problem_leaves_no_width_and_no_value_no_estimate() -> None:
    bootstrap = Bootstrap(["a"])
    found = bootstrap.estimate(pairs("a", 0, 1, 1))
    assert found == Estimate(mean=2 / 3, low=2 / 3, high=2 / 3, problems=1, samples=3)
    assert bootstrap.estimate([]) is None
    assert Bootstrap([]).estimate([]) is None


def test_problems_without_a_value_are_left_out_of_mean_and_draws() -> None:
    keys = [str(n) for n in range(10)]
    bootstrap = Bootstrap(keys)
    found = bootstrap.estimate([*pairs("3", 2), *pairs("7", 4)])
    assert found is not None
    assert (found.mean, found.low, found.high, found.problems) == (3.0, 2.0, 4.0, 2)
    # A draw has neither of the two with probability 0.8 ** 10.
    assert isclose(np.isnan(bootstrap.draws(pairs("3", 2) + pairs("7", 4))).mean(), 0.8**10, abs_tol=0.03)


def test_a_value_of_an_unknown_problem_is_an_error() -> None:
    with pytest.raises(KeyError, match="c"):
        Bootstrap(["a", "b"]).estimate(pairs("c", 1))


def test_a_difference_counts_each_problem_once_and_only_where_both_tried_it() -> None:
    bootstrap = Bootstrap(["a", "b", "c", "d"])
    first = [*pairs("a", 1, 1, 0, 0), *pairs("b", 1), *pairs("c", 0)]
    second = [*pairs("a", 0), *pairs("b", 0, 1), *pairs("d", 1)]
    found = bootstrap.difference(first, second)
    assert found is not None
    # a: 0.5 - 0, b: 1 - 0.5; c and d have no partner. Over samples it would be 4/6 - 2/4.
    assert (found.mean, found.low, found.high, found.problems) == (0.5, 0.5, 0.5, 2)
    assert found.clear
    back = bootstrap.difference(second, first)
    assert back is not None
    assert (back.mean, back.low, back.high, back.p_value) == (-0.5, -0.5, -0.5, found.p_value)
    assert bootstrap.difference(pairs("c", 1), pairs("d", 1)) is None
    assert bootstrap.difference([], second) is None


def test_pairing_finds_a_small_lead_under_a_large_spread_of_problems() -> None:
    keys = [str(n) for n in range(20)]
    bootstrap = Bootstrap(keys)
    worse: Pairs = [(key, float(n)) for n, key in enumerate(keys)]
    better = [(key, value + (0.5 if int(key) % 4 else -0.25)) for key, value in worse]
    found = bootstrap.difference(better, worse)
    assert found is not None
    assert found.mean == 0.3125 and found.clear
    one, other = bootstrap.estimate(better), bootstrap.estimate(worse)
    assert one is not None and other is not None
    assert one.low < other.high, "unpaired, the two cannot be told apart"


def test_the_p_value_is_at_least_one_resample_and_at_most_1() -> None:
    bootstrap = Bootstrap(["a", "b"])
    always = bootstrap.difference([*pairs("a", 1), *pairs("b", 1)], [*pairs("a", 0), *pairs("b", 0)])
    never = bootstrap.difference([*pairs("a", 1), *pairs("b", 0)], [*pairs("a", 0), *pairs("b", 1)])
    assert always is not None and never is not None
    assert always.p_value == 1 / RESAMPLES
    assert never.p_value == 1.0 and never.mean == 0 and not never.clear


def test_the_p_value_is_twice_the_share_of_draws_on_the_other_side() -> None:
    bootstrap = Bootstrap(["a", "b"])
    found = bootstrap.difference([*pairs("a", 3), *pairs("b", -1)], [*pairs("a", 0), *pairs("b", 0)])
    assert found is not None
    # bb alone, a quarter of the draws, has the other sign; (3 - 1) / 2 has not.
    assert (found.low, found.high, found.clear) == (-1, 3, False)
    assert isclose(found.p_value, 0.5, abs_tol=0.06)


def test_draws_without_any_pair_speak_for_neither_side() -> None:
    keys = [str(n) for n in range(50)]
    values = [*pairs("0", 3), *pairs("1", -1)]
    found = Bootstrap(keys).difference(values, [*pairs("0", 0), *pairs("1", 0)])
    assert found is not None
    # Of a draw's copies of 0 and 1, at most a quarter may be of 0 for its mean to be 0 or less. About
    # 0.96 ** 50 = 13 % of the draws have neither and must not make the share smaller.
    means = Bootstrap(keys).draws(values)
    kept = means[~np.isnan(means)]
    assert 0.1 < 1 - len(kept) / RESAMPLES < 0.16
    assert found.p_value == 2 * float((kept <= 0).mean())


def test_an_arm_less_itself_is_exactly_nothing() -> None:
    rng = np.random.default_rng(3)
    keys = [str(n) for n in range(30)]
    values = [(key, float(value)) for key in keys for value in rng.normal(size=3)]
    found = Bootstrap(keys).difference(values, values)
    assert found is not None
    assert (found.mean, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert not found.clear


def test_the_order_of_samples_is_no_difference() -> None:
    thirds = (2 / 3, 1.0, 1.0, 1.0, 1.0, 1.0)
    sums = {sum(order) for order in permutations(thirds)}
    assert len(sums) == 2, "these sums differ in their last bit, depending on the order"
    bootstrap = Bootstrap(["a"])
    found = bootstrap.difference(pairs("a", *thirds), pairs("a", *thirds[::-1]))
    assert found is not None
    assert (found.mean, found.low, found.high, found.clear) == (0, 0, 0, False)


def test_everything_is_resampled_with_the_same_draws() -> None:
    keys = [str(n) for n in range(12)]
    bootstrap, again = Bootstrap(keys), Bootstrap(keys)
    first: Pairs = [(key, float(int(key) ** 2)) for key in keys]
    second: Pairs = [(key, float(int(key))) for key in keys]
    both = bootstrap.draws([(key, value + int(key)) for key, value in first])
    assert np.allclose(bootstrap.draws(first) + bootstrap.draws(second), both)
    assert again.estimate(first) == bootstrap.estimate(first)
    assert again.difference(first, second) == bootstrap.difference(first, second)
    other = Bootstrap(keys, seed=1).estimate(first)
    assert other is not None and other != bootstrap.estimate(first)


def test_the_number_of_resamples_is_the_callers() -> None:
    few = Bootstrap(["a", "b"], resamples=40)
    assert len(few.draws(pairs("a", 1))) == 40
    found = few.difference([*pairs("a", 1), *pairs("b", 1)], [*pairs("a", 0), *pairs("b", 0)])
    assert found is not None and found.p_value == 1 / 40


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=8), st.randoms())
def test_the_order_of_rows_changes_nothing_that_can_be_seen(
    groups: list[list[float]], random: Random
) -> None:
    keys = [str(n) for n in range(len(groups))]
    values = [(key, value) for key, group in zip(keys, groups, strict=True) for value in group]
    mixed = list(values)
    random.shuffle(mixed)
    bootstrap = Bootstrap(keys, resamples=100)
    one, other = bootstrap.estimate(values), bootstrap.estimate(mixed)
    assert one is not None and other is not None
    assert np.allclose((one.mean, one.low, one.high), (other.mean, other.low, other.high), atol=1e-6)
    flat = [value for _, value in values]
    slack = 1e-6
    assert min(flat) - slack <= one.low <= one.high <= max(flat) + slack
    assert isclose(one.mean, sum(flat) / len(flat), rel_tol=1e-9, abs_tol=slack)


def over_samples(values: Reals, weights: Reals) -> tuple[float, float]:
    """The interval that would be right if all samples were independent."""
    low, high = np.percentile(weights @ values / len(values), [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize("unequal", [False, True])
def test_the_interval_covers_the_mean_where_one_over_samples_does_not(unequal: bool) -> None:
    """300 evaluations of 40 problems: a problem's own level spreads twice as much as the samples on it."""
    rng = np.random.default_rng(1)
    keys = [str(n) for n in range(40)]
    sizes = [2 + n % 7 if unequal else 5 for n in range(40)]
    bootstrap = Bootstrap(keys)
    weights = rng.multinomial(sum(sizes), [1 / sum(sizes)] * sum(sizes), size=RESAMPLES).astype(np.float64)
    covered = naive = 0
    for _ in range(300):
        levels = rng.normal(0.4, 1.0, size=40)
        samples = [rng.normal(level, 0.5, size=n) for level, n in zip(levels, sizes, strict=True)]
        values = [(key, float(x)) for key, group in zip(keys, samples, strict=True) for x in group]
        found = bootstrap.estimate(values)
        assert found is not None
        covered += found.low <= 0.4 <= found.high
        low, high = over_samples(np.concatenate(samples), weights)
        naive += low <= 0.4 <= high
    assert 0.90 <= covered / 300 <= 0.98
    assert naive / 300 < 0.75


def test_the_interval_of_a_difference_covers_it_and_is_right_about_clear_ones() -> None:
    rng = np.random.default_rng(2)
    keys = [str(n) for n in range(40)]
    bootstrap = Bootstrap(keys)
    covered = false_alarms = 0
    for _ in range(300):
        hard = rng.normal(0, 3, size=40)
        gaps = rng.normal(0.0, 0.4, size=40)
        first = [
            (key, float(h + g + e)) for key, h, g in zip(keys, hard, gaps, strict=True) for e in noise(rng)
        ]
        second = [(key, float(h + e)) for key, h in zip(keys, hard, strict=True) for e in noise(rng)]
        found = bootstrap.difference(first, second)
        assert found is not None
        covered += found.low <= 0 <= found.high
        false_alarms += found.p_value < 0.05
    assert 0.90 <= covered / 300 <= 0.98
    assert 0.02 <= false_alarms / 300 <= 0.10


def noise(rng: np.random.Generator) -> list[float]:
    return [float(each) for each in rng.normal(0, 0.3, size=3)]


KEYS = [str(n) for n in range(8)]


def level(value: float, keys: list[str] = KEYS) -> Pairs:
    return [(key, value) for key in keys]


@pytest.mark.parametrize(
    ("policy", "gain"), [(0.2, 0.0), (0.5, 0.5), (0.8, 1.0), (0.05, -0.25), (0.95, 1.25)]
)
def test_organisation_gain_by_hand(policy: float, gain: float) -> None:
    found = organisation_gain(Bootstrap(KEYS), level(policy), level(0.2), level(0.8))
    assert found is not None and found.low is not None and found.high is not None
    assert np.allclose((found.mean, found.low, found.high), gain)


def test_the_gain_is_a_ratio_of_means_over_the_same_draws() -> None:
    policy = [(key, float(int(key) % 2)) for key in KEYS]
    found = organisation_gain(Bootstrap(KEYS), policy, level(0.0), policy)
    assert found is not None
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_there_is_no_gain_without_all_three_or_without_a_lead_of_the_oracle() -> None:
    bootstrap = Bootstrap(KEYS)
    half, full = level(0.5), level(1.0)
    assert organisation_gain(bootstrap, [], half, full) is None
    assert organisation_gain(bootstrap, half, [], full) is None
    assert organisation_gain(bootstrap, half, half, []) is None
    assert organisation_gain(bootstrap, full, half, half) is None
    assert organisation_gain(bootstrap, full, half, level(0.4)) is None


def test_a_lead_that_is_not_clear_leaves_the_interval_out() -> None:
    oracle = [(key, 1.0 if key in "012" else -0.5) for key in KEYS]
    found = organisation_gain(Bootstrap(KEYS), level(0.25), level(0.0), oracle)
    assert found is not None
    # The oracle's mean is (3 - 2.5) / 8 = 1/16.
    assert (found.mean, found.low, found.high) == (4.0, None, None)


def test_draws_in_which_the_oracle_does_not_lead_are_left_out() -> None:
    """Its lead over chance is 1 on three problems of eight and nothing elsewhere: (5/8) ** 8 of the draws have none."""
    oracle = [(key, 1.0 if key in "012" else 0.0) for key in KEYS]
    bootstrap = Bootstrap(KEYS)
    assert 0.01 < float((bootstrap.draws(oracle) == 0).mean()) < 0.025
    found = organisation_gain(bootstrap, level(0.375), level(0.0), oracle)
    assert found is not None and found.low is not None and found.high is not None
    assert found.mean == 1.0
    # 0.375 over the oracle's mean in a draw, from 1/8 (gain 3) up to nearly 1.
    assert 0.375 < found.low < 1 < found.high <= 3


def test_the_gain_is_over_problems_that_all_three_tried() -> None:
    """Where hard problems of one arm are still missing, its mean must not be held against the others' whole one."""
    easy, hard = KEYS[:4], KEYS[4:]
    random = [*level(0.6, easy), *level(0.0, hard)]
    oracle = [*level(1.0, easy), *level(0.2, hard)]
    found = organisation_gain(Bootstrap(KEYS), level(0.6, easy), random, oracle)
    assert found is not None
    assert found.mean == 0.0
    assert organisation_gain(Bootstrap(KEYS), level(0.6, easy), level(0.6, hard), oracle) is None


def test_quantiles_by_hand() -> None:
    assert quantiles([1, 2, 3, 4, 5]) == {"0.1": 1.4, "0.25": 2.0, "0.5": 3.0, "0.75": 4.0, "0.9": 4.6}
    assert quantiles([7.0], (0.025, 1.0)) == {"0.025": 7.0, "1": 7.0}
