"""A countdown worker's search: right, and all there is, by arithmetic that is done again here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest

from asyncthink.tasks.countdown_parts import LARGEST, RETURNED, candidates, peels, search
from asyncthink.tasks.expressions import Form
from tests.tasks.countdown_arithmetic import (
    evaluated,
    form,
    leading,
    pair_forms,
    random_problem,
    said,
    used_in,
)

LINE = re.compile(r" (?P<head>[^|]+) \| (?P<pair>\d+ \d+) =(?P<values>(?: \d+)*) :(?P<claims>.*)\n")
CLAIM = re.compile(r" (?P<operator>\+|-|_-|\*|/|_/) (?P<rest>\d+)(?P<hits>(?: \([^)]*\))*)")


def sub_queries(*sizes: int) -> Iterator[str]:
    """Yield parts of random problems of so many numbers, and a few of one's own choice."""
    random = Random(3)
    for size in sizes:
        for _ in range(30):
            pool = candidates(random_problem(random, size))
            yield from (one.query for one in random.sample(pool, min(4, len(pool))))
    yield from (" 1 1 1 > 0", " 3 3 | 2 2 > 5", " 4 4 | 4 4 > 1", " 1 2 3 > 400", " 5 5 5 > 5", " 2 2 2 > 4")
    yield from (" 20 20 | 1 1 > 400", " 1 1 | 1 1 > 10")


@dataclass(frozen=True)
class Line:
    """One line of a search, as it stands in the text."""

    spelled: str
    """The head's expression."""
    value: int
    pair: tuple[int, int]
    claims: tuple[tuple[str, int, tuple[str, ...]], ...]
    """Operator, what must be reached, the expressions that do."""


def lines_of(text: str) -> Iterator[Line]:
    for line in text.splitlines(keepends=True):
        parts = LINE.fullmatch(line)
        assert parts, line
        spelled, _, stated = parts["head"].rpartition(" = ")
        claims = list(CLAIM.finditer(parts["claims"]))
        assert "".join(claim[0] for claim in claims) == parts["claims"]
        a, b = map(int, parts["pair"].split())
        listed = list(map(int, parts["values"].split()))
        assert listed[:1] == [a + b] and sorted(listed) == sorted(
            value for value, forms in pair_forms(a, b).items() for _ in forms
        ), line
        found = tuple(
            (claim["operator"], int(claim["rest"]), tuple(re.findall(r"\([^)]*\)", claim["hits"])))
            for claim in claims
        )
        yield Line(spelled or stated, int(stated), (a, b), found)


def numbers_of(query: str) -> str:
    """Return what is left of the numbers once some are peeled off."""
    return re.sub(r"^( \d+ (_[-/]|[-+*/]))+", "", query.partition(" >")[0])


def heads_of(numbers: str) -> set[tuple[Form, tuple[int, ...]]]:
    """Return (head, remaining pair) for each line that a search must have."""
    first, bar, second = numbers.partition(" |")
    left = [int(number) for number in first.split()]
    if not bar:
        return {(form(str(left[p])), tuple(sorted(left[:p] + left[p + 1 :]))) for p in range(3)}
    right = tuple(sorted(map(int, second.split())))
    return {(head, right) for heads in pair_forms(left[0], left[1]).values() for head in heads}


def test_a_search_is_right_and_exhaustive() -> None:
    several = 0
    for query in sub_queries(3, 4, 5):
        part, numbers = said(query), numbers_of(query)
        if len(numbers.split()) == 2:
            continue
        text, found = search(query)
        lines = list(lines_of(text))
        assert {(form(line.spelled), tuple(sorted(line.pair))) for line in lines} == heads_of(numbers), query
        assert len({line.spelled for line in lines}) == len(lines), "no line stands there twice"
        hits: list[Form] = []
        for line in lines:
            assert evaluated(line.spelled) == line.value
            assert {(operator, rest) for operator, rest, _ in line.claims} == leading(line.value, part.goal)
            for operator, rest, expressions in line.claims:
                assert set(map(form, expressions)) == pair_forms(*line.pair).get(rest, set()), (query, line)
                assert len(set(expressions)) == len(expressions)
                hits += [form(part.whole(combined(operator, line.spelled, hit))) for hit in expressions]
                several += len(expressions) > 1
        assert [form(one) for one in found] == list(dict.fromkeys(hits))[:RETURNED], query
    assert several > 2


def combined(operator: str, head: str, hit: str) -> str:
    if operator.startswith("_"):
        return f"{hit} {operator[1:]} ({head})"
    return f"({head}) {operator} {hit}"


def test_a_search_of_two_numbers_is_right_and_exhaustive() -> None:
    random, solved = Random(7), 0
    for _ in range(300):
        a, b = random.randint(1, 20), random.randint(1, 20)
        reached = pair_forms(a, b)
        goal = random.choice([*reached, random.randint(0, LARGEST)])
        text, found = search(f" {a} {b} > {goal}")
        values = text.partition("=")[2].partition(" :")[0].split()
        assert sorted(map(int, values)) == sorted(one for one, forms in reached.items() for _ in forms)
        assert text == f" {a} {b} = {' '.join(values)} :{''.join(f' ({one} )' for one in found)}\n"
        assert set(map(form, found)) == reached.get(goal, set()) and len(set(found)) == len(found)
        assert all(evaluated(one) == goal and used_in(one) == sorted((a, b)) for one in found)
        solved += bool(found)
    assert 200 < solved < 300


def test_what_is_found_is_different_and_solves_the_query() -> None:
    solved = 0
    for query in sub_queries(3, 4, 5):
        part, found = said(query), search(query)[1]
        assert len(found) <= RETURNED and len(set(map(form, found))) == len(found)
        reached = evaluated(part.whole(str(part.goal)))
        for expression in found:
            assert evaluated(expression) == reached, query
            assert used_in(expression) == part.used, query
        solved += bool(found)
    assert solved > 60


def test_a_peel_keeps_within_reach_by_hand() -> None:
    assert dict(peels(7, 56)) == {"+": 49, "_-": 63, "*": 8, "_/": 392}
    assert dict(peels(7, 58)) == {"+": 51, "_-": 65}, "58 * 7 is more than 400"
    assert dict(peels(20, 4)) == {"-": 16, "_-": 24, "/": 5, "_/": 80}
    assert dict(peels(4, 4)) == {"+": 0, "-": 0, "_-": 8, "*": 1, "/": 1, "_/": 16}
    assert dict(peels(5, 0)) == {"-": 5, "_-": 5, "*": 0, "_/": 0}
    assert peels(0, 10) == (("+", 10), ("_-", 10))


@pytest.mark.parametrize("goal", [0, 1, 7, 60, 399, 400])
def test_a_peel_is_any_that_leads_to_the_goal(goal: int) -> None:
    for head in range(1, 21):
        found = peels(head, goal)
        assert set(found) == leading(head, goal) and len(set(found)) == len(found)


def test_three_numbers_by_hand() -> None:
    # 5 - (3 - 2) is 2 + (5 - 3) in another spelling, and so is (2 + 5) - 3: returned once
    assert search(" 2 3 5 > 4") == (
        " 2 | 3 5 = 8 2 15 : + 2 ( 5 - 3 ) _- 6 * 2 ( 5 - 3 ) _/ 8 ( 3 + 5 )\n"
        " 3 | 2 5 = 7 3 10 : + 1 _- 7 ( 2 + 5 ) _/ 12\n"
        " 5 | 2 3 = 5 1 6 : - 1 ( 3 - 2 ) _- 9 _/ 20\n",
        [" 2 + 5 - 3", " 2 * ( 5 - 3 )", " ( 3 + 5 ) / 2"],
    )


def test_all_different_expressions_over_a_pair_by_hand() -> None:
    # 2 + 2 and 2 * 2 are both 4; equal heads have one line
    assert search(" 2 2 2 > 8") == (
        " 2 | 2 2 = 4 0 4 1 : + 6 _- 10 * 4 ( 2 + 2 ) ( 2 * 2 ) _/ 16\n",
        [" 2 * ( 2 + 2 )", " 2 * 2 * 2"],
    )
    assert search(" 2 2 | 3 5 > 12") == (
        " 2 + 2 = 4 | 3 5 = 8 2 15 : + 8 ( 3 + 5 ) _- 16 * 3 _/ 48\n"
        " 2 - 2 = 0 | 3 5 = 8 2 15 : + 12 _- 12\n"
        " 2 * 2 = 4 | 3 5 = 8 2 15 : + 8 ( 3 + 5 ) _- 16 * 3 _/ 48\n"
        " 2 / 2 = 1 | 3 5 = 8 2 15 : + 11 _- 13 * 12 _/ 12\n",
        [" 2 + 2 + 3 + 5", " 2 * 2 + 3 + 5"],
    )
    assert search(" 2 2 > 4") == (" 2 2 = 4 0 4 1 : ( 2 + 2 ) ( 2 * 2 )\n", [" 2 + 2", " 2 * 2"])
    assert search(" 2 6 > 3") == (" 2 6 = 8 4 12 3 : ( 6 / 2 )\n", [" 6 / 2"])
    assert search(" 2 6 > 5") == (" 2 6 = 8 4 12 3 :\n", [])


def test_a_search_that_finds_nothing_by_hand() -> None:
    assert search(" 3 3 | 2 9 > 97") == (
        " 3 + 3 = 6 | 2 9 = 11 7 18 : + 91 _- 103\n"
        " 3 - 3 = 0 | 2 9 = 11 7 18 : + 97 _- 97\n"
        " 3 * 3 = 9 | 2 9 = 11 7 18 : + 88 _- 106\n"
        " 3 / 3 = 1 | 2 9 = 11 7 18 : + 96 _- 98 * 97 _/ 97\n",
        [],
    )
