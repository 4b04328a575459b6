"""Countdown: canonical forms, the split, the exact check, and answers that attack it."""

from __future__ import annotations

import hashlib
import random
import time

import pytest

from asyncthink.errors import UsageError
from asyncthink.tasks import Countdown, CountdownProblem, Split, get_task, recognise
from asyncthink.tasks.countdown import forms_by_target, parse_numbers, split_of
from asyncthink.tasks.expressions import all_forms, canonical, evaluate, read

EXAMPLE = CountdownProblem(numbers=(2, 3, 5, 7), target=28)


def form(text: str) -> object:
    tree = read(text)
    assert not isinstance(tree, str), tree
    return canonical(tree)


@pytest.mark.parametrize(("numbers", "count"), [((7, 11), 6), ((7, 11, 29), 68), ((7, 11, 29, 83), 1170)])
def test_generic_numbers_have_as_many_forms_as_counted_by_hand(numbers: tuple[int, ...], count: int) -> None:
    assert len(all_forms(numbers, identities=False)) == count


def test_the_two_identities_merge_forms() -> None:
    assert len(all_forms((7, 1), identities=False)) == 6
    assert len(all_forms((7, 1))) == 5
    assert form("7*1") == form("7/1")
    assert form("7+(3-3)") == form("7-(3-3)")
    assert form("7*(3-2)") == form("7/(3-2)")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(5-2)*(7-3)", "(2-5)*(3-7)"),
        ("2+3+5", "5+(3+2)"),
        ("2*(3*5)", "5*2*3"),
        ("7-(5-3)", "7+3-5"),
        ("8/(4/2)", "8*2/4"),
        ("3-5", "0+3-5-0"),
    ],
)
def test_the_same_expression_in_two_spellings(one: str, other: str) -> None:
    if "0" in other:
        assert evaluate(read(one)) == evaluate(read(other))  # type: ignore[arg-type]
        assert form(one) != form(other)
    else:
        assert form(one) == form(other)


def test_different_expressions_of_one_value_stay_different() -> None:
    assert form("2+2") != form("2*2")
    assert form("(2+4)*3") != form("2*3+4*3")


def test_equal_forms_have_equal_values() -> None:
    for forms in (all_forms((3, 5, 8, 9)), all_forms((1, 1, 6, 12))):
        keys = {(one.sign, one.body) for one in forms}
        assert len(keys) == len(forms)


def test_split_is_the_binding_hash() -> None:
    assert split_of((5, 2, 8, 3)) is split_of((2, 3, 5, 8))
    for numbers in ((2, 3, 5, 8), (1, 1, 1, 1), (20, 19, 18, 17), (4, 9, 9, 12)):
        text = ",".join(str(n) for n in sorted(numbers))
        bucket = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % 10
        expected = {0: Split.TEST, 1: Split.DEV}.get(bucket, Split.TRAIN)
        assert split_of(numbers) is expected


@pytest.mark.parametrize("split", list(Split))
def test_problems_are_reproducible_alone_and_solvable(split: Split) -> None:
    task = Countdown()
    problems = [task.problem(split, 3, index) for index in range(12)]
    assert problems[7] == task.problem(split, 3, 7)
    assert len(set(problems)) > 10
    for problem in problems:
        assert split_of(problem.numbers) is split
        assert forms_by_target(problem.numbers)[problem.target] >= 4
        assert 10 <= problem.target <= 100 and max(problem.numbers) <= 20


def test_the_paper_preset_draws_five_numbers() -> None:
    problem = get_task("countdown-paper").problem(Split.DEV, 0, 0)
    assert len(problem.numbers) == 5
    assert forms_by_target(problem.numbers)[problem.target] >= 4


def test_sentence_is_read_back() -> None:
    task = Countdown()
    for wanted in (1, 2, 4):
        problem = CountdownProblem(numbers=(2, 3, 5, 7), target=28, wanted=wanted)
        assert task.parse(task.prompt(problem)) == problem
    assert recognise("Is 2027 prime?") is None
    known = recognise("using the numbers 2, 3, 5 and 7 find 4 different expressions that make 28")
    assert known and known.problem == EXAMPLE


@pytest.mark.parametrize(
    "sentence",
    [
        "Using the numbers 2, 3, 5, 0, find 4 different expressions that equal 28.",
        "Using the numbers 2, 3, 5, 7, find 9 different expressions that equal 28.",
        "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 0.",
        "Using the numbers 1, 1, 1, 1, 1, 1, 1, find 4 different expressions that equal 10.",
    ],
)
def test_values_that_make_no_sense_are_an_error(sentence: str) -> None:
    with pytest.raises(UsageError):
        recognise(sentence)


@pytest.mark.parametrize("numbers", ["", "2,x", "2;3", "2,-3", "2.5,3", "٣,4", "1e3,2"])
def test_numbers_that_cannot_be_read_are_an_error(numbers: str) -> None:
    with pytest.raises(UsageError):
        parse_numbers(numbers, 24)


def test_check_judges_each_of_the_first_four_lines() -> None:
    answer = "7*(2+5-3)\n\n 5*(7-2)+3 = 28\n7*((3+5)-2*2)\n(5-3)*(2*7) = 27\n(3+5)*7/2"
    score = Countdown().check(EXAMPLE, answer)
    assert [part.correct for part in score.parts] == [True, True, False, False]
    assert score.value == 0.5
    assert "each number" in score.parts[2].reason and "claims" in score.parts[3].reason


def test_unreadable_lines_use_up_places() -> None:
    score = Countdown().check(EXAMPLE, "I think\nthat\nmaybe\nthis\n7*(2+5-3)")
    assert score.value == 0


def test_a_repeated_expression_counts_once() -> None:
    score = Countdown().check(EXAMPLE, "7*(2+5-3)\n(5-3+2)*7\n(2-3+5)*7\n5*(7-2)+3")
    assert score.value == 0.5
    assert score.parts[1].reason == "the same as an earlier one"


def test_merge_prefers_what_most_traces_found() -> None:
    merged = Countdown().merge(["1+2\n3*4", "5*6\n4*3", "7*8\n2+1\n4 * 3"])
    assert merged.split("\n")[:2] == ["3*4", "1+2"]
    assert len(merged.split("\n")) == 4


def hostile_answers() -> list[str]:
    shapes = [
        "9**9**9",
        "__import__('os').system('touch /tmp/owned')",
        "eval('28')",
        "(" * 5000 + "28" + ")" * 5000,
        "(" * 99 + "2" + ")" * 99,
        "28",
        "7*4",
        "2+3+5+7+11",
        "9" * 5000,
        "-2*3+5*7-1",
        "2 3 5 7",
        "23+5-7",
        "7*(5-3)*2 # comment",
        "7*(2+5-3);28",
        "7\\times(2+5-3)",
        "7*(2+5−3)",
        "７*(2+5-3)",
        "7*(2+5-3)=28=28",
        "7*(2+5-3) = 28.0",
        "lambda: 28",
        "2**3*5-7",
        "7//2*5+3",
        "1/0",
        "7/(2+3-5)",
        "0x1c",
        "2e1+5+3",
        "True*28",
        "",
        "\x00\x1b[31m",
        "+" * 10_000,
        "1+" * 5_000_000,
        "\n" * 10_000_000,
        "‮7*4",
        "{{7*4}}",
        "<ANSWER>7*4</ANSWER>",
    ]
    rng = random.Random(1)
    alphabet = "0123456789+-*/() \n=.eE_x**//"
    while len(shapes) < 200:
        shapes.append("".join(rng.choice(alphabet) for _ in range(rng.choice([5, 40, 400, 40_000]))))
    return shapes


def test_hostile_answers_cost_little_and_earn_nothing() -> None:
    task = Countdown()
    slowest = 0.0
    for answer in hostile_answers():
        began = time.process_time()
        score = task.check(EXAMPLE, answer)
        slowest = max(slowest, time.process_time() - began)
        assert score.value == 0, answer[:80]
    assert slowest < 0.05


def test_of_two_presets_the_one_that_makes_such_problems_is_meant() -> None:
    for name in ("countdown", "countdown-paper"):
        task = get_task(name)
        known = recognise(task.prompt(task.problem(Split.DEV, 0, 0)))
        assert known is not None and known.task.name == name
    three = recognise("Using the numbers 1, 2, 3, find 4 different expressions that equal 6.")
    assert three is not None and three.task.name == "countdown"
