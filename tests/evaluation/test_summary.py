"""Summaries: every kind of figure worked out by hand on a few rows, and what happens where there is nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from asyncthink.evaluation.rows import Row, Step, worth
from asyncthink.evaluation.statistics import RESAMPLES
from asyncthink.evaluation.summary import (
    BUDGETS,
    CURVE_POINTS,
    MEASURES,
    Arm,
    JoinCost,
    Match,
    Summary,
    summarise,
)
from tests.evaluation.rows_world import random_summary, row


def of(rows: Sequence[Row], problems: Sequence[str], arms: Sequence[str], samples: int = 1) -> Summary:
    return summarise("countdown", rows, problems, arms, samples)


def only(rows: Sequence[Row], problems: Sequence[str] = ("a", "b"), samples: int = 1) -> Arm:
    """The summary of one arm."""
    (arm,) = of(rows, problems, ["asyncthink"], samples).arms
    return arm


def measured(one: Row, **changes: Any) -> Row:
    return replace(one, metrics=replace(one.metrics, **changes))


def test_a_score_under_a_budget_is_that_of_the_last_step_it_pays_for() -> None:
    steps = (Step(cost=3, score=0.5), Step(cost=5, score=1.0), Step(cost=9, score=0.25))
    budgets = (0, 2, 2.9, 3, 4, 5, 8.5, 9, 10**9, float("inf"))
    assert [worth(steps, each) for each in budgets] == [0, 0, 0, 0.5, 0.5, 1, 1, 0.25, 0.25, 0.25]
    assert worth((), 10) == 0
    assert worth((Step(cost=0, score=0.75),), 0) == 0.75


NOTHING = replace(
    measured(row(problem="a", errors=["no_answer"], ticks=0, tokens=0), sequential_tokens=0, lower_bound=0),
    pooled=None,
)
UNDEFINED = {"pooled_score", "pooled_all_correct", "requests", "retries", "cached_share", "cost"}


def test_what_is_undefined_for_an_episode_is_none() -> None:
    assert {name for name, measure in MEASURES.items() if measure(row()) is None} == UNDEFINED
    found = {name for name, measure in MEASURES.items() if measure(NOTHING) is None}
    assert found == UNDEFINED | {"concurrency", "saved", "over_bound"}
    served = measured(row(pooled=3), requests=5, retries=0, input_tokens=80, cached_tokens=20, cost=0.5)
    values = {name: MEASURES[name](served) for name in UNDEFINED}
    assert values == {
        "pooled_score": 0.75,
        "pooled_all_correct": 0.0,
        "requests": 5,
        "retries": 0,
        "cached_share": 0.25,
        "cost": 0.5,
    }


def test_measures_of_one_row_by_hand() -> None:
    one = measured(
        row(correct=3, ticks=100, tokens=150, waits=(10, 5)), sequential_tokens=125, lower_bound=80
    )
    expected = {
        "score": 0.75,
        "all_correct": 0.0,
        "answered": 1.0,
        "valid": 1.0,
        "critical_path": 100,
        "critical_path_with_inserted": 110,
        "concurrency": 0.5,
        "saved": 0.2,
        "over_bound": 1.25,
        "waited": 15,
        "joins": 2,
        "forks": 2,
        "lost_workers": 0,
        "failed_workers": 0,
        "wall_seconds": 2.0,
    }
    assert {name: MEASURES[name](one) for name in expected} == expected
    assert MEASURES["saved"](measured(one, sequential_tokens=80)) == -0.25, (
        "waiting can cost more than one alone"
    )


def test_measures_that_are_undefined_everywhere_are_left_out() -> None:
    arm = only([row(problem="a"), row(problem="b")])
    assert set(arm.measures) == (set(MEASURES) - UNDEFINED) | {f"at_least_{k}" for k in (1, 2, 3, 4)}
    nothing = only([NOTHING])
    assert not {"concurrency", "saved", "over_bound"} & set(nothing.measures)
    assert set(nothing.quantiles) == {"critical_path", "decoded_tokens", "forks"}
    assert nothing.concurrency == ()


def test_an_undefined_value_is_left_out_of_a_mean_and_not_counted_as_0() -> None:
    paid = measured(row(problem="a"), requests=4, retries=1, cost=0.5)
    arm = only([paid, row(problem="b")])
    assert (arm.measures["cost"].mean, arm.measures["cost"].samples) == (0.5, 1)
    assert arm.measures["retries"].mean == 1


def test_eta_is_over_valid_episodes_only() -> None:
    rows = [
        row(problem="a", concurrency=0.3),
        row(problem="a", sample=1, concurrency=0.5),
        row(problem="b", concurrency=0.9, errors=["pool_overflow"]),
    ]
    arm = only(rows, samples=2)
    assert arm.concurrency == (0.3, 0.5)
    assert arm.measures["concurrency"].mean == 0.4
    assert (arm.measures["concurrency"].problems, arm.measures["concurrency"].samples) == (1, 2)
    assert arm.quantiles["concurrency"]["0.5"] == 0.4
    assert arm.measures["valid"].mean == 2 / 3
    assert arm.measures["critical_path"].samples == 3


def test_counts_of_an_arm_by_hand() -> None:
    rows = [
        row(problem="a", forks=2, errors=["malformed_tag", "no_answer"]),
        row(problem="a", sample=1, forks=10),
        row(problem="b", forks=2, errors=["malformed_tag"]),
    ]
    arm = only(rows, samples=3)
    assert (arm.episodes, arm.missing) == (3, 3)
    assert arm.forks == {"2": 2, "10": 1}
    assert list(arm.forks) == ["2", "10"], "in order of the number"
    assert arm.format_errors == {"malformed_tag": 2, "no_answer": 1}
    assert arm.stops == {"answer": 2, "budget": 1}
    assert (arm.method, arm.model, arm.capacity) == ("asyncthink", "embedded", 4)
    assert arm.quantiles["forks"] == {"0.1": 2, "0.25": 2, "0.5": 2, "0.75": 6, "0.9": pytest.approx(8.4)}


def test_at_least_k_are_right_of_the_answer_and_of_the_pooled_ones() -> None:
    rows = [row(problem="a", correct=1, pooled=3), row(problem="b", correct=3, pooled=4)]
    found = {name: estimate.mean for name, estimate in only(rows).measures.items() if "at_least" in name}
    assert found == {
        "at_least_1": 1.0,
        "at_least_2": 0.5,
        "at_least_3": 0.5,
        "at_least_4": 0.0,
        "pooled_at_least_1": 1.0,
        "pooled_at_least_2": 1.0,
        "pooled_at_least_3": 1.0,
        "pooled_at_least_4": 0.5,
    }


def test_at_least_k_goes_up_to_the_most_that_a_problem_asks_for() -> None:
    mixed = of(
        [row(problem="a", asked=1, correct=1), row(problem="b", asked=3, correct=3)], "ab", ["asyncthink"]
    )
    assert mixed.asked == 3
    assert mixed.arms[0].measures["at_least_3"].mean == 0.5
    single = of([row(problem="a", asked=1, correct=1)], "a", ["asyncthink"])
    assert single.asked == 1 and "at_least_1" not in single.arms[0].measures


def test_join_costs_by_hand() -> None:
    rows = [row(problem="a", waits=(10, 0, 6)), row(problem="b", waits=(20, 4)), row(problem="b", waits=())]
    assert only(rows, samples=2).joins == (
        JoinCost(join=1, episodes=2, waited=15.0, share=0.75),
        JoinCost(join=2, episodes=2, waited=2.0, share=0.1),
        JoinCost(join=3, episodes=1, waited=6.0, share=0.15),
    )
    assert only([row(problem="a", waits=())]).joins == ()
    # Joins that never waited are there all the same.
    assert only([row(problem="a", waits=(0,))]).joins == (
        JoinCost(join=1, episodes=1, waited=0.0, share=0.0),
    )


def stepped(arm: str, problem: str, *pairs: tuple[int, float]) -> Row:
    """A parallel row with several steps of ticks; the last one is what it scores and costs."""
    last, score = pairs[-1]
    one = row(arm, problem, method="parallel", correct=round(4 * score), ticks=last, tokens=3 * last, forks=3)
    return replace(one, by_ticks=tuple(Step(cost=cost, score=each) for cost, each in pairs))


def matches() -> dict[tuple[str, int], Match]:
    rows = [
        row("asyncthink", "a", correct=4, ticks=100, tokens=150, forks=1),
        row("asyncthink", "b", correct=2, ticks=201, tokens=250, forks=4),
        stepped("parallel", "a", (90, 0.5), (160, 1.0)),
        stepped("parallel", "b", (140, 0.75), (300, 0.25)),
    ]
    return {
        (each.budget_of, each.budget): each for each in of(rows, "ab", ["asyncthink", "parallel"]).matches
    }


def test_all_arms_stand_under_the_median_of_each() -> None:
    found = matches()
    # Medians of T are 150.5, cut to whole ticks, and 230; of tokens 200 and 690; of workers 2.5 and 3.
    assert set(found) == {
        ("critical_path", 150),
        ("critical_path", 230),
        ("decoded_tokens", 200),
        ("decoded_tokens", 690),
        ("workers", 2),
        ("workers", 3),
    }
    assert {key: match.arm for key, match in found.items() if match.arm == "asyncthink"} == {
        ("critical_path", 150): "asyncthink",
        ("decoded_tokens", 200): "asyncthink",
        ("workers", 2): "asyncthink",
    }


def test_what_arms_score_under_a_matched_budget() -> None:
    found = matches()
    tight, loose = found["critical_path", 150], found["critical_path", 230]
    # Under 150 ticks asyncthink has problem a only, parallel its first step of each; under 230 both have more.
    assert {name: estimate.mean for name, estimate in tight.scores.items()} == {
        "asyncthink": 0.5,
        "parallel": 0.625,
    }
    assert {name: estimate.mean for name, estimate in tight.all_correct.items()} == {
        "asyncthink": 0.5,
        "parallel": 0,
    }
    assert {name: estimate.mean for name, estimate in loose.scores.items()} == {
        "asyncthink": 0.75,
        "parallel": 0.875,
    }
    assert {name: estimate.mean for name, estimate in loose.all_correct.items()} == {
        "asyncthink": 0.5,
        "parallel": 0.5,
    }
    few = found["workers", 2]
    assert {name: estimate.mean for name, estimate in few.scores.items()} == {
        "asyncthink": 0.5,
        "parallel": 0.0,
    }
    assert (tight.scores["asyncthink"].low, tight.scores["asyncthink"].high) == (0.0, 1.0)


def test_the_pooled_union_is_matched_beside_the_vote() -> None:
    steps = (Step(cost=90, score=0.5, pooled=0.5), Step(cost=160, score=0.25, pooled=1.0))
    voted = row("parallel", "a", method="parallel", correct=1, pooled=4, ticks=160)
    rows = [row("asyncthink", "a", ticks=200), replace(voted, by_ticks=steps)]
    found = of(rows, "a", ["asyncthink", "parallel"])
    match = next(each for each in found.matches if (each.budget_of, each.budget) == ("critical_path", 160))
    assert {name: estimate.mean for name, estimate in match.scores.items()} == {
        "asyncthink": 0.0,
        "parallel": 0.25,
        "parallel (pooled)": 1.0,
    }
    curves = {arm.name: arm.pooled_curves for arm in found.arms}
    assert curves["asyncthink"] == {}
    under = {point.budget: point.score.mean for point in curves["parallel"]["critical_path"]}
    assert {cap: score for cap, score in under.items() if cap in (85, 100, 199)} == {85: 0, 100: 0.5, 199: 1}
    # Equally accurate from 200 and from 160 ticks on; the vote is never completely right.
    assert [(one.second, one.first_cap, one.second_cap) for one in found.equals] == [
        ("parallel (pooled)", 200, 160)
    ]


def test_the_caps_at_which_two_methods_are_equally_accurate() -> None:
    rows = [
        *(row("one", key, ticks=ticks) for key, ticks in zip("abcd", (10, 20, 40, 80), strict=True)),
        *(row("two", key, ticks=ticks) for key, ticks in zip("abc", (100, 200, 300), strict=True)),
        row("two", "d", correct=3, ticks=5),
        row("three", "a", correct=0),
    ]
    found = of(rows, "abcd", ["one", "two", "three"]).equals
    # Both have three of four: the first one from 40 ticks on, the second from 300.
    assert [(one.first, one.second, one.all_correct) for one in found] == [("one", "two", 0.9 * 0.75)]
    assert (found[0].first_cap, found[0].second_cap) == (40, 300)
    assert found[0].shorter
    assert found[0].shorter.mean == pytest.approx(1 - 40 / 300)
    # Without problem c it is 20 of 200, without b and c 10 of 100.
    assert (found[0].shorter.low, found[0].shorter.high) == pytest.approx((1 - 40 / 300, 0.9))
    backwards = of(rows, "abcd", ["two", "one"]).equals[0]
    assert (backwards.first_cap, backwards.second_cap) == (300, 40)


def test_the_last_right_episodes_do_not_say_how_long_a_method_needs() -> None:
    keys = [str(number) for number in range(20)]
    rows = [
        *(row("one", key, ticks=10 + place) for place, key in enumerate(keys)),
        *(row("two", key, ticks=100 + place if place < 19 else 1000) for place, key in enumerate(keys)),
    ]
    (found,) = of(rows, keys, ["one", "two"]).equals
    # Eighteen of twenty.
    assert (found.first_cap, found.second_cap) == (27, 117)
    rare = [
        *(row("one", key) for key in keys),
        row("two", "0"),
        *(row("two", key, correct=0) for key in keys[1:]),
    ]
    (found,) = of(rare, keys, ["one", "two"]).equals
    assert found.shorter is None, "in a third of the draws it is never right"


def test_arms_with_one_median_share_a_match() -> None:
    rows = [row("one", "a", ticks=50, tokens=60, forks=0), row("two", "a", ticks=50, tokens=70, forks=0)]
    found = of(rows, "a", ["one", "two"]).matches
    assert [(each.budget_of, each.budget, each.arm) for each in found] == [
        ("critical_path", 50, "one"),
        ("decoded_tokens", 60, "one"),
        ("decoded_tokens", 70, "two"),
        ("workers", 0, "one"),
    ]


def test_curves_rise_from_nothing_to_the_whole_score() -> None:
    rows = [row(problem="a", correct=4, ticks=80), row(problem="b", correct=2, ticks=40)]
    points = only(rows).curves["critical_path"]
    assert [point.budget for point in points] == sorted(
        {round(79 * i / CURVE_POINTS) for i in range(CURVE_POINTS + 1)}
    )
    by_budget = {point.budget: (point.score.mean, point.all_correct.mean) for point in points}
    assert by_budget[0] == (0, 0) and by_budget[38] == (0, 0)
    assert by_budget[40] == (0.25, 0)
    assert set(only(rows).curves) == set(BUDGETS)


def test_arms_have_one_grid_so_that_their_curves_can_be_compared() -> None:
    rows = [row("one", "a", ticks=10), row("two", "a", ticks=400)]
    first, second = of(rows, "a", ["one", "two"]).arms
    budgets = [[point.budget for point in arm.curves["critical_path"]] for arm in (first, second)]
    assert budgets[0] == budgets[1] and budgets[0][-1] > 390
    assert first.curves["critical_path"][-1].score.mean == 1.0


def test_the_others_are_compared_with_the_first_on_problems_of_both() -> None:
    rows = [
        row("one", "a", correct=4, ticks=100),
        row("one", "b", correct=0, ticks=100),
        row("two", "a", correct=2, ticks=130),
        row("three", "b", correct=4, ticks=50, asked=4),
    ]
    found = of(rows, "ab", ["one", "two", "three"]).comparisons
    means = {(each.first, each.second, each.measure): each.difference.mean for each in found}
    assert means == {
        ("one", "two", "all_correct"): 1.0,
        ("one", "two", "score"): 0.5,
        ("one", "two", "critical_path"): -30.0,
        ("one", "two", "decoded_tokens"): 0.0,
        ("one", "two", "wall_seconds"): 0.0,
        ("one", "three", "all_correct"): -1.0,
        ("one", "three", "score"): -1.0,
        ("one", "three", "critical_path"): 50.0,
        ("one", "three", "decoded_tokens"): 0.0,
        ("one", "three", "wall_seconds"): 0.0,
    }
    assert all(each.difference.problems == 1 for each in found)


def test_one_answer_has_no_score_beside_it() -> None:
    rows = [row(arm, "a", asked=1, correct=1) for arm in ("one", "two")]
    assert "score" not in {each.measure for each in of(rows, "a", ["one", "two"]).comparisons}


def test_missing_trials_are_counted_and_arms_without_any_are_named() -> None:
    rows = [row("two", key, sample, ticks=10) for key, sample in (("a", 0), ("a", 1), ("b", 0))]
    found = of(rows, ["a", "b", "c"], ["one", "two", "three"], samples=2)
    assert [arm.name for arm in found.arms] == ["two"]
    assert found.absent == ("one", "three")
    assert (found.arms[0].episodes, found.arms[0].missing) == (3, 3)
    assert found.arms[0].measures["score"].problems == 2
    assert found.comparisons == () and found.gains == {}
    assert {match.arm for match in found.matches} == {"two"}
    assert (found.problems, found.samples, found.resamples) == (3, 2, RESAMPLES)


def test_where_the_first_arm_is_absent_the_next_one_is_compared_with() -> None:
    rows = [row(arm, "a") for arm in ("two", "three")]
    found = of(rows, "a", ["one", "two", "three"]).comparisons
    assert {(each.first, each.second) for each in found} == {("two", "three")}


def test_no_rows_at_all() -> None:
    found = of([], ["a", "b"], ["one", "two"])
    assert (found.arms, found.comparisons, found.matches, found.gains) == ((), (), (), {})
    assert (found.absent, found.asked) == (("one", "two"), 1)
    nothing = of([], [], ["one"])
    assert (nothing.problems, nothing.resamples, nothing.absent) == (0, 0, ("one",))


TRIO = ("asyncthink", "random-forks", "oracle-forks")


def trio(correct: Sequence[int], **changes: Any) -> list[Row]:
    """The three arms with so many right answers of 4 on each of two problems."""
    counts = zip(TRIO, correct, strict=True)
    return [row(arm, problem, correct=count, **changes) for arm, count in counts for problem in "ab"]


def test_the_organisation_gain_of_the_model_between_chance_and_oracle() -> None:
    gains = of(trio([3, 2, 4]), "ab", TRIO).gains
    assert gains["score"].mean == 0.5 and gains["all_correct"].mean == 0.0
    assert (gains["score"].low, gains["score"].high) == (0.5, 0.5)
    # Nobody has all right, so the oracle has no lead there and there is no gain.
    assert {name.partition(" ")[0] for name in of(trio([3, 1, 3]), "ab", TRIO).gains} == {"score"}
    assert of(trio([3, 4, 4]), "ab", TRIO).gains == {}


def test_gains_under_the_median_t_of_each_arm() -> None:
    ticks = {"asyncthink": 100, "random-forks": 200, "oracle-forks": 50}
    rows = [replace(one, by_ticks=(Step(cost=ticks[one.arm], score=one.score),)) for one in trio([3, 2, 4])]
    found = {name: gain.mean for name, gain in of(rows, "ab", TRIO).gains.items()}
    assert found == {
        "score": 0.5,
        "score at T <= 50": 0.0,
        "score at T <= 100": 0.75,
        "score at T <= 200": 0.5,
        "all_correct": 0.0,
        "all_correct at T <= 50": 0.0,
        "all_correct at T <= 100": 0.0,
        "all_correct at T <= 200": 0.0,
    }


def test_gains_need_the_three_arms_over_the_same_workers() -> None:
    rows = trio([3, 2, 4])
    for absent in TRIO:
        assert of([one for one in rows if one.arm != absent], "ab", TRIO).gains == {}
    named = [replace(one, arm="mine") if one.arm == "asyncthink" else one for one in rows]
    assert of(named, "ab", ["mine", *TRIO[1:]]).gains == {}
    other = [replace(one, model="another") if one.arm == "oracle-forks" else one for one in rows]
    assert of(other, "ab", TRIO).gains == {}
    wider = [replace(one, capacity=8) if one.arm == "asyncthink" else one for one in rows]
    assert of(wider, "ab", TRIO).gains == {}


def test_a_summary_is_the_same_whatever_the_order_of_rows_and_can_be_written() -> None:
    found = random_summary(3, problems=8)
    assert random_summary(3, problems=8) == found
    line = msgspec.json.encode(found)
    assert msgspec.json.decode(line, type=Summary) == found
    rows = [
        row(problem=key, sample=sample, correct=sample, ticks=70 + sample)
        for key in "ab"
        for sample in range(3)
    ]
    assert only(rows, samples=3) == replace(
        only(rows[::-1], samples=3), concurrency=only(rows, samples=3).concurrency
    )
