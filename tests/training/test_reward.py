"""What an episode is paid: every term worked out by hand, and the whole by the other clock on sampled episodes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from ticks import simulate

from asyncthink.episodes import Episode, Outcome, Role, Trace, measure
from asyncthink.runtime.budget import Limits
from asyncthink.training.reward import Reward, RewardRecipe, reward_of

from .rl_cases import EXAMPLE, chain_world, scripted

HALF = "<ANSWER>\n7*(2+5-3)\n5*(7-2)+3\n</ANSWER>"
"""Two of four; four tokens."""
NOTHING = "<ANSWER>\n7*4\n28\n</ANSWER>"
FORKS = [f"<FORK-{i}>{i}</FORK-{i}>" for i in range(1, 5)]
"""Three tokens each."""
TEN = {"*": "1 2 3 4 5 6 7 <RETURN>r</RETURN>"}


def paid(episode: Episode, **recipe: float | bool) -> Reward:
    return reward_of(episode, EXAMPLE, measure(episode), RewardRecipe(**recipe))  # type: ignore[arg-type]


def one_fork(answer: str = HALF, capacity: int = 2) -> Episode:
    """T = 3 fork + 10 worker + 4 answer = 17; the agents work 8 + 10 ticks: eta/c = 18 / 17 / c."""
    return scripted(f"{FORKS[0]} <JOIN-1> {answer}", TEN, capacity=capacity)


def test_accuracy_and_concurrency_add_up() -> None:
    share = 18 / 17 / 2
    plain = paid(one_fork(), concurrency=0.0)
    assert (plain.total, plain.accuracy, plain.leverage) == (0.5, 0.5, 0.0)
    assert plain.concurrency == pytest.approx(share / 0.85, abs=1e-15)
    assert paid(one_fork()).total == pytest.approx(0.5 + 0.2 * share / 0.85, abs=1e-15)
    assert paid(one_fork(), concurrency=2.0).total == pytest.approx(0.5 + 2 * share / 0.85, abs=1e-15)
    assert paid(one_fork(capacity=4)).total == pytest.approx(0.5 + 0.2 * (share / 2) / 0.85, abs=1e-15)
    assert paid(one_fork(NOTHING)).total == pytest.approx(0.2 * share / 0.85, abs=1e-15)


@pytest.mark.parametrize(
    ("tau", "expected"), [(1.0, 9 / 17), (0.53, 9 / 17 / 0.53), (0.529, 1.0), (0.1, 1.0)]
)
def test_concurrency_above_tau_is_not_paid(tau: float, expected: float) -> None:
    assert paid(one_fork(), tau=tau).concurrency == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("capacity", [1, 2, 3, 4, 8])
def test_who_thinks_alone_has_one_agent_of_c(capacity: int) -> None:
    for episode in (
        scripted(f"1 2 3 {HALF}", method="sequential", capacity=capacity),
        scripted(f"1 2 3 {HALF}", capacity=capacity),
    ):
        expected = min(1 / capacity, 0.85) / 0.85
        assert paid(episode).concurrency == pytest.approx(expected, abs=1e-15)
        assert paid(episode).total == pytest.approx(0.5 + 0.2 * expected, abs=1e-15)


def test_an_idle_fork_buys_nothing() -> None:
    alone = scripted(f"1 2 3 {HALF}", capacity=4)
    idle = scripted(f"{FORKS[0]} {HALF}", TEN, capacity=4)
    assert measure(idle).critical_path == measure(alone).critical_path
    assert paid(idle) == paid(alone)


@pytest.mark.parametrize(
    "text",
    [
        f"{FORKS[0]} {FORKS[1]} <JOIN-2> <JOIN-1> {HALF}",  # two workers, one slot
        f"{FORKS[0]} {FORKS[0]} <JOIN-1> {HALF}",
        f"<JOIN-1> {HALF}",
        f"<FORK-x> {HALF}",
        f"{FORKS[0]} <JOIN-1> 7*(2+5-3)",
    ],
    ids=["pool overflow", "duplicate fork", "unknown join", "malformed tag", "no answer"],
)
def test_a_format_error_overrides_everything(text: str) -> None:
    episode = scripted(text, TEN, capacity=2)
    assert episode.faults
    accuracy = 0.0 if "no_answer" in episode.format_errors else 0.5
    for more in ({}, {"gated": True}, {"concurrency": 9.0}, {"leverage": 9.0}):
        found = paid(episode, format_error=-0.75, **more)
        assert (found.total, found.accuracy, found.concurrency) == (-0.75, accuracy, 0.0)
    assert paid(episode).total == -0.25


def test_an_episode_that_the_cap_on_t_cuts_off_has_no_answer() -> None:
    script = f"{FORKS[0]} <JOIN-1> {HALF}"
    cut = scripted(script, TEN, capacity=2, limits=Limits(max_critical_path=16))
    assert cut.answer is None and paid(cut) == Reward(
        total=-0.25, accuracy=0.0, concurrency=0.0, leverage=0.0
    )
    whole = scripted(script, TEN, capacity=2, limits=Limits(max_critical_path=17))
    assert paid(whole) == paid(one_fork())


def test_the_gate_multiplies_concurrency_by_accuracy() -> None:
    term = 0.2 * (9 / 17) / 0.85
    assert paid(one_fork(), gated=True).total == pytest.approx(0.5 + 0.5 * term, abs=1e-15)
    assert paid(one_fork(NOTHING), gated=True).total == 0.0
    assert paid(one_fork(NOTHING), gated=True).concurrency == paid(one_fork(NOTHING)).concurrency


J1, J2, J3 = "<JOIN-1>", "<JOIN-2>", "<JOIN-3>"
F1, F2, F3, F4 = FORKS


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("1 2 3", 0.0),
        (f"{F1} {F2} {F3}", 0.0),
        (f"{F1} {F2} {J1} {J2}", 0.0),
        (f"{F1} {J1} {F2} {J2}", 1 / 2),
        (f"{F1} {J1} {F2} {J2} {F3} {J3}", 2 / 3),
        (f"{F1} {F2} {J2} {F3} {F4} {J3}", 2 / 4),
        (f"{F1} {J1} {F2} {F3} {F4}", 3 / 4),
    ],
)
def test_leverage_is_the_share_of_forks_behind_a_join(text: str, share: float) -> None:
    episode = scripted(f"{text} {HALF}", TEN, capacity=8)
    assert not episode.faults
    found, without = paid(episode, leverage=0.3), paid(episode)
    assert found.leverage == without.leverage == pytest.approx(share, abs=1e-15)
    assert found.total == pytest.approx(without.total + 0.3 * share, abs=1e-15)


def test_a_fork_below_a_worker_is_no_leverage_of_the_organizer() -> None:
    episode = one_fork()
    below = Trace(
        path="0/1/1", role=Role.WORKER, query="q", outcome=Outcome.RETURNED, forked_at=99, joined_at=100
    )
    assert paid(replace(episode, traces=(*episode.traces, below))).leverage == 0.0


def test_parallel_thinking_is_paid_for_the_vote_or_for_the_pool() -> None:
    """The vote takes the first four different lines, of which one is right; the pool finds both right ones."""
    texts = [
        "<ANSWER>\n1\n2\n3\n7*(2+5-3)\n</ANSWER>",
        "<ANSWER>\n4\n5\n6\n5*(7-2)+3\n</ANSWER>",
        "1 2 3 4 5 6",
    ]
    episode = scripted(texts, method="parallel", capacity=3)
    assert not episode.faults and measure(episode).concurrency == 1.0
    assert paid(episode) == Reward(total=0.25 + 0.2, accuracy=0.25, concurrency=1.0, leverage=0.0)
    assert paid(episode, pooled=True) == Reward(total=0.5 + 0.2, accuracy=0.5, concurrency=1.0, leverage=0.0)


def test_sampled_episodes_are_paid_as_the_other_clock_says() -> None:
    recipe = RewardRecipe(concurrency=0.5, tau=0.6, format_error=-2.0)
    seen: set[bool] = set()
    for capacity in (2, 3, 4):
        for one in chain_world(capacity).rollouts:
            seen.add(bool(one.episode.faults))
            active = simulate(one.episode).active
            eta = sum(active) / len(active)
            expected = -2.0 if one.episode.faults else 0.5 * min(eta / capacity / 0.6, 1.0)
            total = reward_of(one.episode, one.asked, one.metrics, recipe).total
            assert total == pytest.approx(expected, abs=1e-12)
    assert seen == {True, False}
