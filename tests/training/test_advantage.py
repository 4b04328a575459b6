"""Advantages: relative to the group, over episodes and not rows, and shared by all rows of an episode."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncthink.training.advantage import advantages
from asyncthink.training.reward import Reward
from asyncthink.training.rows import rows
from asyncthink.training.step import weighed

from .rl_cases import chain_world

REWARDS = st.lists(st.floats(-10, 10), min_size=2, max_size=32)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0.0], [0.5, -0.5]),
        ([1.0, 0.0, 0.0, 0.0], [0.75, -0.25, -0.25, -0.25]),
        ([-0.25, 0.05, 1.1, 0.7], [-0.65, -0.35, 0.7, 0.3]),
        ([0.3, 0.3, 0.3], [0.0, 0.0, 0.0]),
        ([2.0], [0.0]),
    ],
)
def test_an_advantage_is_the_reward_less_the_mean(rewards: list[float], expected: list[float]) -> None:
    assert advantages(rewards) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        # Of a sample: variance (0.25 + 0.25) / 1, not / 2.
        ([1.0, 0.0], [0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4)]),
        ([3.0, 1.0, 1.0, 3.0], [(-1) ** (i in (1, 2)) / ((4 / 3) ** 0.5 + 1e-4) for i in range(4)]),
        ([0.3, 0.3, 0.3], [0.0, 0.0, 0.0]),
        ([2.0], [0.0]),
    ],
)
def test_normalised_by_the_deviation_of_a_sample(rewards: list[float], expected: list[float]) -> None:
    assert advantages(rewards, normalise=True) == pytest.approx(expected, abs=1e-14)


def test_a_small_difference_is_blown_up_by_dividing_only() -> None:
    """Why it is off by default: all are right, and speed alone makes the difference."""
    rewards = [1.15, 1.16, 1.15, 1.16]
    assert max(advantages(rewards)) == pytest.approx(0.005)
    assert max(advantages(rewards, normalise=True)) > 0.8


@settings(deadline=None)
@given(REWARDS, st.booleans(), st.floats(-5, 5))
def test_a_group_sums_to_zero_and_has_no_origin(rewards: list[float], normalise: bool, shift: float) -> None:
    found = advantages(rewards, normalise=normalise)
    assert sum(found) == pytest.approx(0, abs=1e-8)
    moved = advantages([reward + shift for reward in rewards], normalise=normalise)
    assert moved == pytest.approx(found, abs=1e-6)
    for one, other in combinations(range(len(rewards)), 2):
        assert (found[one] - found[other]) * (rewards[one] - rewards[other]) >= 0, "order is kept"


@pytest.mark.parametrize("normalise", [False, True])
def test_all_rows_of_an_episode_share_what_episodes_and_not_rows_are_compared_by(normalise: bool) -> None:
    rollouts = chain_world(3).rollouts
    groups = [rollouts[i : i + 8] for i in range(0, len(rollouts), 8)]
    totals = [[float((3 * i + j * j) % 5) for j in range(8)] for i in range(len(groups))]
    paid = [[Reward(total=t, accuracy=0, concurrency=0, leverage=0) for t in group] for group in totals]
    found, weights = weighed(groups, paid, normalise=normalise)
    assert found == [row for one in rollouts for row in rows(one.episode)]
    expected: dict[str, float] = {}
    for group, rewards in zip(groups, totals, strict=True):
        shared = advantages(rewards, normalise=normalise)
        expected |= {one.episode.id: share for one, share in zip(group, shared, strict=True)}
    assert weights == [expected[row.episode] for row in found]
    counts = {len(rows(one.episode)) for one in groups[0]}
    assert len(counts) > 1, "else a mean over rows would be the same"
    first = {one.episode.id for one in groups[0]}
    over_rows = [weight for row, weight in zip(found, weights, strict=True) if row.episode in first]
    assert abs(sum(over_rows)) > 0.01
