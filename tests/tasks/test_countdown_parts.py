"""Countdown in parts: what a sub-query says, and what is taken of whatever comes back for it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from random import Random

import pytest

from asyncthink.tasks import Countdown, CountdownProblem, Split
from asyncthink.tasks.countdown_parts import (
    CountdownDivider,
    CountdownHarvest,
    CountdownPart,
    joined_text,
    search,
)

EXAMPLE = CountdownProblem(numbers=(2, 3, 5, 7), target=28)


def part_of(query: str) -> CountdownPart:
    return next(part for part in CountdownDivider().parts(EXAMPLE) if part.query == query)


def test_a_countdown_part_in_both_languages() -> None:
    part = part_of(" 2 3 5 > 4")
    assert (part.before, part.wrap) == (" ? 7 *", (" 7 * (", " )"))
    assert part.sentence == (
        "Using each of the numbers 2, 3, 5 exactly once with + - * / and brackets, write up to 4 different "
        "expressions that equal 4, with semicolons between them, or the word none if there is none."
    )
    pairs = part_of(" 2 5 | 3 7 > 28")
    assert (pairs.before, pairs.wrap) == (" ?", ("", ""))
    assert "numbers 2, 5, 3, 7 exactly once" in pairs.sentence
    assert "combining 2 and 5 with each other and 3 and 7 too, write" in pairs.sentence


def harvest(text: str | None, part: CountdownPart | None = None, wanted: int = 4) -> CountdownHarvest:
    made = CountdownHarvest(wanted=wanted)
    made.add(part or part_of(" 2 3 5 > 4"), text)
    return made


@pytest.mark.parametrize(
    ("returned", "answer"),
    [
        (" 2 + 5 - 3", "\n 7 * ( 2 + 5 - 3 )\n"),
        ("2+5-3 = 4", "\n 7 * (2+5-3 )\n"),
        ("2+5-3;5-3+2", "\n 7 * (2+5-3 )\n"),
        ("nonsense; 2 * 3 * 5 \n\n2+5-3", "\n 7 * ( 2 * 3 * 5 )\n 7 * (2+5-3 )\n"),
        (" none", "\n none\n"),
        ("", "\n none\n"),
        (None, "\n none\n"),
        ("<ANSWER>2+5-3</ANSWER>", "\n none\n"),
        ("1;2;3;4;5;6", "\n 7 * (1 )\n 7 * (2 )\n 7 * (3 )\n 7 * (4 )\n"),
    ],
)
def test_what_is_taken_of_a_return(returned: str | None, answer: str) -> None:
    assert harvest(returned).answer() == answer


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
    parts = [part_of(" 2 3 5 > 4"), part_of(" 2 5 | 3 7 > 28")]
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
    part = part_of(" 2 3 5 > 4")
    by_hand = harvest("2+(5-3); 2*(5-3); (3+5)/2", part)
    assert CountdownDivider().perfect(EXAMPLE, part) == frozenset(by_hand.found)
    assert joined_text(search(" 2 3 5 > 97")[1]) == " none"


def test_whatever_a_perfect_worker_finds_is_right() -> None:
    task, divider = Countdown(), CountdownDivider()
    for index in range(20):
        problem = task.problem(Split.DEV, 2, index)
        for part in divider.parts(problem):
            made = divider.harvest(problem)
            made.add(part, joined_text(search(part.query)[1]))
            judged = task.check(problem, made.answer()).parts
            assert all(one.correct for one in judged) or not made.found


def test_only_four_numbers_can_be_divided() -> None:
    assert CountdownDivider().refusal(EXAMPLE) is None
    for numbers in ((2, 3, 5), (1, 2, 3, 4, 5)):
        problem = CountdownProblem(numbers=numbers, target=20)
        said = f"countdown is divided with 4 numbers, not with {len(numbers)}"
        assert CountdownDivider().refusal(problem) == said
