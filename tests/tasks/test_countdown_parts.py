"""Countdown in parts: what a sub-query says, and what is taken of whatever comes back for it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import combinations
from random import Random

import pytest

from asyncthink.tasks import Countdown, CountdownProblem, Split
from asyncthink.tasks.base import SubQuery
from asyncthink.tasks.countdown_parts import (
    CountdownDivider,
    CountdownHarvest,
    candidates,
    joined_text,
    search,
)
from tests.tasks.countdown_arithmetic import (
    Said,
    evaluated,
    form,
    leading,
    random_problem,
    said,
    used_in,
)

EXAMPLE = CountdownProblem(numbers=(2, 3, 5, 7), target=28)


def part_of(query: str) -> SubQuery:
    return next(part for part in CountdownDivider().parts(EXAMPLE) if part.query == query)


def test_a_countdown_part_in_both_languages() -> None:
    part = part_of(" 7 * 2 3 5 > 4")
    assert part.before == " ?"
    assert part.sentence == (
        "Using each of the numbers 2, 3, 5 exactly once with + - * / and brackets, find up to 4 different "
        "expressions X that equal 4. Write them, each as 7 * ( X ) with X in full, with semicolons between them, or the "
        "word none if there is none."
    )
    turned = part_of(" 7 _- 2 3 5 > 35")
    assert "each as ( X ) - 7 with" in turned.sentence
    pairs = part_of(" 2 5 | 3 7 > 28")
    assert pairs.before == " ?"
    assert "numbers 2, 5, 3, 7 exactly once" in pairs.sentence and " X " not in pairs.sentence
    assert "combining 2 and 5 with each other and 3 and 7 too, find" in pairs.sentence
    assert "that equal 28. Write them, with semicolons" in pairs.sentence


def harvest(text: str | None, part: SubQuery | None = None, wanted: int = 4) -> CountdownHarvest:
    made = CountdownHarvest(wanted=wanted)
    made.add(part or part_of(" 7 * 2 3 5 > 4"), text)
    return made


@pytest.mark.parametrize(
    ("returned", "answer"),
    [
        (" 7 * ( 2 + 5 - 3 )", "\n 7 * ( 2 + 5 - 3 )\n"),
        ("7*(2+5-3) = 28", "\n 7 * ( 2 + 5 - 3 )\n"),
        ("7*(2+(5-3));(5-3+2)*7", "\n 7 * ( 2 + 5 - 3 )\n"),
        ("nonsense; 2 * 3 * 5 \n\n7*(2+5-3)", "\n 2 * 3 * 5\n 7 * ( 2 + 5 - 3 )\n"),
        (" none", "\n none\n"),
        ("", "\n none\n"),
        (None, "\n none\n"),
        ("<ANSWER>2+5-3</ANSWER>", "\n none\n"),
        ("1;2;3;4;5;6", "\n 1\n 2\n 3\n 4\n"),
    ],
)
def test_what_is_taken_of_a_return(returned: str | None, answer: str) -> None:
    assert harvest(returned).answer() == answer


def test_what_is_noted_of_returns() -> None:
    made, part = CountdownHarvest(wanted=4), part_of(" 7 * 2 3 5 > 4")
    noted = [
        made.add(part, text) for text in ("7*(2+5-3); nonsense; 2*3*5", None, " none", "(5-3+2)*7;1;30;1*2")
    ]
    assert noted == [" 1 2", "", "", " 2 3 4 5"], "how many are known after each that can be read"


def test_of_one_return_only_so_many_expressions_are_read() -> None:
    many = ";".join(map(str, range(1, 30)))
    assert len(harvest(many, wanted=99).found) == 8
    assert harvest(many).done and not harvest("1;2;3").done
    assert len(harvest(";" * 20 + "5", wanted=99).found) == 0


def hostile() -> Iterator[str]:
    yield from ("1+" * 5_000_000, ";" * 10_000_000, "\n" * 10_000_000, "(" * 10_000_000, "7" * 10_000_000)
    yield from ("<ANSWER>" * 1_000_000, "</JOIN-1><FORK-1>x</FORK-1>;2+5-3", "<RETURN>2+5-3</RETURN>")
    yield from ("٢+٥-٣", "２+５-３", "2+5−3", "\u202e2+5-3", "2+5-3\x00", "\x1b[31m2+5-3", "\ud800", "²")
    yield from (
        "2 ) * ( 5",
        "2 ) + 9**9**9 ; ( 3",
        ") ( ) (",
        "=" * 1000,
        "2=3=4;=;= 5",
        "2 3; 2..3; .5; 1e5; 0x1c",
    )
    yield from ("/".join(["999983"] * 28) + ";" + "*".join(["999983"] * 28), "(" * 95 + "2" + ")" * 95)
    yield from ("1/0; 1/(2-2)", "__import__('os').system('true')", " ;".join(["((((((1+2))))))/7"] * 500))
    rng = Random(4)
    for _ in range(150):
        yield "".join(
            rng.choice("0123456789+-*/() ;=\n\t<>ANSWER") for _ in range(rng.choice([9, 90, 900, 9000]))
        )


def test_hostile_returns_cost_little_and_become_nothing_but_arithmetic() -> None:
    parts = [part_of(" 7 * 2 3 5 > 4"), part_of(" 2 5 | 3 7 > 28")]
    slowest = 0.0
    for text in hostile():
        for part in parts:
            began = time.process_time()
            answer = harvest(text, part).answer()
            slowest = max(slowest, time.process_time() - began)
            assert re.fullmatch(r"[0-9+*/() \t\n-]*|\n none\n", answer), text[:80]
            assert len(answer) < 1000 and answer.count("\n") <= 5
    assert slowest < 0.05


def test_a_perfect_worker_finds_all_that_the_language_can_say() -> None:
    part = part_of(" 7 * 2 3 5 > 4")
    by_hand = harvest("7*(2+(5-3)); 7*(2*(5-3)); 7*(3+5)/2", part)
    assert CountdownDivider().perfect(EXAMPLE, part) == frozenset(by_hand.found)
    assert joined_text(search(" 7 + 2 3 5 > 97")[1]) == " none"


def test_whatever_a_perfect_worker_finds_is_right() -> None:
    task, divider = Countdown(), CountdownDivider()
    for index in range(20):
        problem = task.problem(Split.DEV, 2, index)
        for part in divider.parts(problem):
            made = divider.harvest(problem)
            made.add(part, joined_text(search(part.query)[1]))
            judged = task.check(problem, made.answer()).parts
            assert all(one.correct for one in judged) or not made.found


def test_two_to_five_numbers_can_be_divided() -> None:
    for count in (2, 3, 4, 5):
        assert CountdownDivider().refusal(CountdownProblem(numbers=(2,) * count, target=20)) is None
    six = CountdownProblem(numbers=(1, 2, 3, 4, 5, 6), target=20)
    assert CountdownDivider().refusal(six) == "countdown is divided with up to 5 numbers, not with 6"


# Which parts there are


def test_all_parts_of_three_numbers_by_hand() -> None:
    found = candidates(CountdownProblem(numbers=(2, 3, 8), target=14))
    assert [part.query for part in found] == [
        " 2 3 8 > 14",
        *(" 2 + 3 8 > 12", " 2 _- 3 8 > 16", " 2 * 3 8 > 7", " 2 _/ 3 8 > 28"),
        *(" 3 + 2 8 > 11", " 3 _- 2 8 > 17", " 3 _/ 2 8 > 42"),
        *(" 8 + 2 3 > 6", " 8 _- 2 3 > 22", " 8 _/ 2 3 > 112"),
    ]


def test_two_numbers_are_one_part() -> None:
    (part,) = candidates(CountdownProblem(numbers=(4, 6), target=24))
    assert part.query == " 4 6 > 24"


def test_a_part_of_five_numbers_peels_two_off_the_outer_one_first() -> None:
    queries = {part.query for part in candidates(CountdownProblem(numbers=(2, 3, 5, 7, 11), target=91))}
    assert {" 7 * 11 + 2 3 5 > 2", " 11 _- 3 * 2 5 7 > 34", " 7 _- 2 _/ 3 5 11 > 196"} <= queries
    assert search(" 7 * 11 + 2 3 5 > 4")[1] == [
        " 7 * ( 11 + 2 + 5 - 3 )",
        " 7 * ( 11 + 2 * ( 5 - 3 ) )",
        " 7 * ( 11 + ( 3 + 5 ) / 2 )",
    ]
    assert search(" 7 _- 2 _/ 3 5 11 > 88")[1] == [" 11 * ( 3 + 5 ) / 2 - 7"]


def expected(numbers: tuple[int, ...], target: int) -> set[Said]:
    """Return what parts must say, by the docstring of countdown_parts."""
    whole = Said((), (tuple(sorted(numbers)),), target)
    if len(numbers) == 2:
        return {whole}
    found = {whole} if len(numbers) == 3 else set[Said]()
    for place, number in enumerate(numbers):
        rest = numbers[:place] + numbers[place + 1 :]
        for operator, reach in leading(number, target):
            inner = expected(rest, reach) if len(rest) == 4 else {Said((), (tuple(sorted(rest)),), reach)}
            found |= {
                Said(((number, operator), *one.peeled), one.numbers, one.goal)
                for one in inner
                if len(one.numbers) == 1
            }
    if len(numbers) == 4:
        for first in combinations(range(4), 2):
            pairs = [[numbers[p] for p in range(4) if (p in first) is side] for side in (True, False)]
            found.add(Said((), tuple(sorted(tuple(sorted(pair)) for pair in pairs)), target))
    return found


@pytest.mark.parametrize(("size", "problems"), [(2, 20), (3, 60), (4, 60), (5, 15)])
def test_there_is_a_part_for_every_legal_split_and_no_other(size: int, problems: int) -> None:
    random = Random(size)
    for _ in range(problems):
        problem = random_problem(random, size)
        found = candidates(problem)
        assert {said(part.query) for part in found} == expected(problem.numbers, problem.target)
        assert len({part.query for part in found}) == len(found)
        if len(set(problem.numbers)) == size:
            assert len({said(part.query) for part in found}) == len(found), "each once"


@pytest.mark.parametrize(("size", "problems"), [(2, 60), (3, 60), (4, 30), (5, 12)])
def test_what_a_perfect_worker_finds_makes_the_target_of_the_whole(size: int, problems: int) -> None:
    random, solved = Random(10 + size), 0
    for _ in range(problems):
        problem = random_problem(random, size)
        for part in candidates(problem):
            found = search(part.query)[1]
            for one in found:
                assert evaluated(one) == problem.target, (part, one)
                assert used_in(one) == sorted(problem.numbers), (part, one)
            assert CountdownDivider().perfect(problem, part) == set(map(form, found))
            solved += bool(found)
    assert solved > 30


@pytest.mark.parametrize(("size", "share"), [(3, 1.0), (4, 0.9), (5, 0.9)])
def test_the_parts_together_find_a_solution_of_nearly_every_problem(size: int, share: float) -> None:
    """All of them, but for those that need a fraction on the way or more than 400."""
    random, solved = Random(20 + size), 0
    for _ in range(20):
        problem = random_problem(random, size)
        solved += any(search(part.query)[1] for part in candidates(problem))
    assert solved >= 20 * share
