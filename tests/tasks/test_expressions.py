"""Canonical forms: what is the same and what is not, by hand, and by rewriting thousands of expressions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import reduce
from itertools import combinations, product
from random import Random
from typing import Any

import pytest

from asyncthink.tasks.expressions import (
    Expression,
    Form,
    all_forms,
    canonical,
    evaluate,
    numbers_in,
    read,
    spelled,
)

REGROUPING = ("associativity", "a minus", "an over", "two minuses")
IDENTITIES = ("commutativity", "value 0", "value 1")


def form(text: str) -> Form:
    tree = read(text)
    assert not isinstance(tree, str), tree
    made = canonical(tree)
    assert made is not None
    return made


def exactly(text: str) -> Fraction:
    """Let Python compute it."""
    value: Fraction = eval(re.sub(r"\d+", r"Fraction(\g<0>)", text), {"Fraction": Fraction})
    return value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Dividing by 1 is multiplying by it, wherever the 1 comes to light.
        ("6/(1/11)", "6*11*1"),
        ("6/(1/11)", "6*11/1"),
        ("8/(4/1)", "8*1/4"),
        ("8/(4/(1/2))", "8/4*1/2"),
        ("12/(3*(5-4))", "12/3*(5-4)"),
        ("12/((5-4)/3)", "12*3/(5-4)"),
        ("7/(8/(2*4))", "7*(8/(2*4))"),
        # -1 is 1 with a sign, and the sign is pulled out.
        ("3/(10-11)", "3*(10-11)"),
        ("12/(3*(4-5))", "12/3*(4-5)"),
        ("5/(6*(2+2-3))", "5/6*(2+2-3)"),
        ("5/(6*(3-2-2))", "5/6/(3-2-2)"),
        ("(3-9)/(5-6)", "(9-3)*(6-5)"),
        # Subtracting 0 is adding it.
        ("9-(3-3)", "9+(3-3)"),
        ("9-(2-3*(4-4))", "9-2-3*(4-4)"),
        ("9-(2-3*(4-4))", "9-2+3*(4-4)"),
        ("(2-9)*(3-0)", "(9-2)*(0-3)"),
        ("10-(2+3-5)", "10+2+3-5"),
        # A product of value 0 has no sign.
        ("(2-5)*(3-3)", "(5-2)*(3-3)"),
        ("7-(2-5)*(3-3)", "7+(5-2)*(3-3)"),
        # Groups and orders.
        ("1-(2-(3-(4-5)))", "5+1+3-(4+2)"),
        ("2/(3/(5/(7/11)))", "(11*5)*2/7/3"),
        ("(2-3)*(5-7)*(11-13)", "(3-2)*(13-11)*(5-7)"),
        ("20-(2-3)*(5-7)", "20-(7-5)*(3-2)"),
        ("20-(2-3)*(7-5)", "20+(3-2)*(7-5)"),
    ],
)
def test_the_same_by_hand(one: str, other: str) -> None:
    assert exactly(one) == exactly(other)
    assert form(one) == form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2*2", "2+2"),
        ("4*3", "(2+2)*3"),
        ("2*3+2*5", "2*(3+5)"),
        ("8/(4-2)", "8-(4*1)"),
        ("(8-4)/2", "8/2-4/2"),
        ("6/3*2", "6-3+1"),
        ("7*(3-3)", "7-7"),
        ("7*1", "7"),
        ("7+0", "7"),
        # Rule 4 of docs/paper.md looks at the parts as they are bracketed.
        ("10-(2+3-5)", "10-2-3+5"),
        ("9/(2*3/6)", "9/2/3*6"),
        ("9/(2*3/6)", "9*(6/(2*3))"),
    ],
)
def test_different_by_hand_though_the_value_is_the_same(one: str, other: str) -> None:
    assert exactly(one) == exactly(other)
    assert form(one) != form(other)


def test_a_mirrored_difference_is_the_same_but_for_its_sign() -> None:
    for one, other in (("3/(10-11)", "3*(11-10)"), ("7*(2-5)", "7*(5-2)"), ("2+3-9", "9-(2+3)")):
        a, b = form(one), form(other)
        assert a.body == b.body and (a.sign, b.sign) in ((1, -1), (-1, 1))
        assert a.value[0] == -b.value[0] and a.value[1] == b.value[1]


# Random expressions, rewritten in one place


def bracketed(tree: Expression) -> str:
    return str(tree) if isinstance(tree, int) else f"({bracketed(tree[1])}{tree[0]}{bracketed(tree[2])})"


def random_tree(random: Random, leaves: int, largest: int) -> Expression:
    if leaves == 1:
        return random.randint(1, largest)
    left = random.randint(1, leaves - 1)
    sides = random_tree(random, left, largest), random_tree(random, leaves - left, largest)
    return (random.choice("+-*/"), *sides)


def at_the_root(tree: Expression) -> Iterator[tuple[str, Expression]]:
    """Yield what the rules of docs/paper.md make of an expression, with the rule; it divides by no zero."""
    if isinstance(tree, int):
        return
    op, a, b = tree
    if op in "+*":
        yield "commutativity", (op, b, a)
    right = evaluate(b)
    assert right is not None
    if op in "+-" and right[0] == 0:
        yield "value 0", ("-" if op == "+" else "+", a, b)
    if op in "*/" and (abs(right[0]), right[1]) == (1, 1):
        yield "value 1", ("/" if op == "*" else "*", a, b)
    if isinstance(b, int) or (op in "+-") is not (b[0] in "+-"):
        return
    low, c, d = b
    inverse = {"+": "-", "-": "+", "*": "/", "/": "*"}
    yield "associativity", (low if op in "+*" else inverse[low], (op, a, c), d)
    if low == "-":
        yield "a minus", (inverse[op], a, ("-", d, c))
    if low == "/" and evaluate(c) != (0, 1):
        yield "an over", (inverse[op], a, ("/", d, c))


def two_minuses(tree: Expression) -> Iterator[tuple[str, Expression]]:
    """Yield a product of differences with both turned round."""
    if isinstance(tree, int) or tree[0] in "+-":
        return
    op, a, b = tree
    if not isinstance(a, int) and not isinstance(b, int) and a[0] == b[0] == "-":
        yield "two minuses", (op, ("-", a[2], a[1]), ("-", b[2], b[1]))


def rewritten(tree: Expression) -> Iterator[tuple[str, Expression]]:
    """Yield the tree after one step, at its root or anywhere below."""
    yield from at_the_root(tree)
    yield from two_minuses(tree)
    if not isinstance(tree, int):
        op, a, b = tree
        yield from ((rule, (op, new, b)) for rule, new in rewritten(a))
        yield from ((rule, (op, a, new)) for rule, new in rewritten(b))


def by_brackets(tree: Expression) -> bool:
    """Whether rule 4 speaks of a bracketed part, such as 2+3-5: then it matters how parts are grouped."""
    if isinstance(tree, int):
        return False
    value = evaluate(tree)
    assert value is not None
    whole = value[0] == 0 if tree[0] in "+-" else (abs(value[0]), value[1]) == (1, 1)
    return whole or by_brackets(tree[1]) or by_brackets(tree[2])


def random_trees(seed: int, count: int) -> Iterator[Expression]:
    random = Random(seed)
    while count:
        tree = random_tree(random, random.randint(2, 6), random.choice([4, 6, 12]))
        if evaluate(tree) is not None:
            count -= 1
            yield tree


def test_rewriting_by_the_rules_keeps_the_form() -> None:
    seen: Counter[str] = Counter()
    for tree in random_trees(1, 4000):
        expected, grouped = canonical(tree), by_brackets(tree)
        for rule, new in rewritten(tree):
            if rule in IDENTITIES or not (grouped or by_brackets(new)):
                assert canonical(new) == expected, (rule, bracketed(tree), bracketed(new))
                seen[rule] += 1
    assert all(seen[rule] > 20 for rule in (*REGROUPING, *IDENTITIES)), seen


def test_without_the_identities_regrouping_always_keeps_the_form() -> None:
    seen: Counter[str] = Counter()
    for tree in random_trees(2, 3000):
        expected = canonical(tree, identities=False)
        for rule, new in rewritten(tree):
            if rule not in ("value 0", "value 1", "two minuses"):  # of 0 even the sign is rule 4
                assert canonical(new, identities=False) == expected, (rule, bracketed(tree), bracketed(new))
                seen[rule] += 1
    assert all(seen[rule] > 20 for rule in (*REGROUPING[:3], "commutativity")), seen


@pytest.mark.parametrize(("size", "count"), [(2, 6), (3, 68), (4, 1170)])
def test_in_general_position_the_same_form_is_the_same_function(size: int, count: int) -> None:
    """Numbers stand for variables: two expressions agree at two places just where their forms are equal."""
    places = [(101, 211, 307, 401), (5003, 7001, 9007, 8009)]
    function_of: dict[Form | None, set[object]] = {}
    for tree in all_trees(tuple(range(size))):
        values = tuple(evaluate(named(tree, place)) for place in places)
        function_of.setdefault(canonical(named(tree, places[0]), identities=False), set()).add(values)
    assert len(function_of) == count and None not in function_of
    assert {len(functions) for functions in function_of.values()} == {1}
    assert len({each for functions in function_of.values() for each in functions}) == count


def all_trees(leaves: tuple[int, ...]) -> Iterator[Expression]:
    """Yield every tree that has each leaf once."""
    if len(leaves) == 1:
        yield leaves[0]
    for size in range(1, len(leaves)):
        for left in combinations(leaves, size):
            right = tuple(leaf for leaf in leaves if leaf not in left)
            yield from product("+-*/", list(all_trees(left)), list(all_trees(right)))


def named(tree: Expression, values: Sequence[int]) -> Expression:
    return (
        values[tree] if isinstance(tree, int) else (tree[0], named(tree[1], values), named(tree[2], values))
    )


def value_of(sign: int, body: Any) -> Fraction:
    """Compute a form's value from its body, as `Form` documents it."""
    if body[0] == "n":
        return Fraction(sign * body[1])
    if body[0] == "+":
        return sign * sum((value_of(each, part) for each, part in body[1]), Fraction(0))
    return sign * reduce(lambda so_far, item: so_far * value_of(1, item[1]) ** item[0], body[1], Fraction(1))


@pytest.mark.parametrize("identities", [True, False])
def test_a_form_has_the_value_of_what_it_stands_for(identities: bool) -> None:
    for tree in random_trees(4, 4000):
        made = canonical(tree, identities=identities)
        assert made is not None
        value = exactly(bracketed(tree))
        assert Fraction(*made.value) == value == value_of(made.sign, made.body), bracketed(tree)


def test_what_divides_by_zero_has_no_form() -> None:
    random, seen = Random(5), Counter[bool]()
    for _ in range(4000):
        tree = random_tree(random, 4, 2)
        try:
            exactly(bracketed(tree))
            divides = False
        except ZeroDivisionError:
            divides = True
        assert (canonical(tree) is None) is divides is (evaluate(tree) is None)
        seen[divides] += 1
    assert seen[True] > 100


@pytest.mark.parametrize("numbers", [(1, 1, 2), (3, 3, 5), (2, 4, 8), (6, 10, 11), (1, 2, 2, 3)])
def test_all_forms_are_those_of_all_trees(numbers: tuple[int, ...]) -> None:
    found = {canonical(named(tree, numbers)) for tree in all_trees(tuple(range(len(numbers))))}
    assert all_forms(numbers) == found - {None}


# Spelling


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", " 7"),
        ("((2+3))", " 2 + 3"),
        ("2+(5-3)", " 2 + 5 - 3"),
        ("2-(5-3)", " 2 - ( 5 - 3 )"),
        ("(2-5)-3", " 2 - 5 - 3"),
        ("2-(5+3)", " 2 - ( 5 + 3 )"),
        ("2*(6/3)", " 2 * 6 / 3"),
        ("2/(6*3)", " 2 / ( 6 * 3 )"),
        ("2/(6/3)", " 2 / ( 6 / 3 )"),
        ("(2*6)/3", " 2 * 6 / 3"),
        ("2+(6*3)", " 2 + 6 * 3"),
        ("(2+6)*3", " ( 2 + 6 ) * 3"),
        ("3*(2-6)", " 3 * ( 2 - 6 )"),
        ("2-(6/3)", " 2 - 6 / 3"),
        ("((2+3)*((4)-5))/(6-(7))", " ( 2 + 3 ) * ( 4 - 5 ) / ( 6 - 7 )"),
    ],
)
def test_brackets_that_are_needed_by_hand(text: str, expected: str) -> None:
    tree = read(text)
    assert not isinstance(tree, str) and spelled(tree) == expected
    again = read(expected)
    assert not isinstance(again, str) and spelled(again) == expected


def test_what_is_spelled_is_the_same_expression() -> None:
    for tree in random_trees(6, 2000):
        again = read(spelled(tree))
        assert not isinstance(again, str)
        assert numbers_in(again) == numbers_in(tree), "the numbers keep their order"
        assert canonical(again) == canonical(tree), bracketed(tree)
        assert canonical(again, identities=False) == canonical(tree, identities=False)


def test_no_bracket_can_be_left_out() -> None:
    """In general position every pair that is taken away makes another expression."""
    random, taken = Random(7), 0
    for _ in range(500):
        numbers = random.sample([101, 211, 307, 401, 503], 5)
        tree = named(random_shape(random, list(range(5))), numbers)
        text, whole = spelled(tree), canonical(tree, identities=False)
        for pair in range(text.count("(")):
            loose = read(without_bracket(text, pair))
            assert not isinstance(loose, str)
            assert canonical(loose, identities=False) != whole, text
            taken += 1
    assert taken > 300


def random_shape(random: Random, leaves: list[int]) -> Expression:
    """Return a tree over those leaves, in order."""
    if len(leaves) == 1:
        return leaves[0]
    cut = random.randint(1, len(leaves) - 1)
    return (random.choice("+-*/"), random_shape(random, leaves[:cut]), random_shape(random, leaves[cut:]))


def without_bracket(text: str, pair: int) -> str:
    """Take the opening bracket of that number away, and the one that closes it."""
    begin = [place for place, letter in enumerate(text) if letter == "("][pair]
    depth, end = 1, begin
    while depth:
        end += 1
        depth += {"(": 1, ")": -1}.get(text[end], 0)
    return text[:begin] + text[begin + 1 : end] + text[end + 1 :]
