"""The meaning of the countdown sub-query language, in exact fractions and by trying all there is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from random import Random

from asyncthink.tasks.base import NONE
from asyncthink.tasks.countdown import CountdownProblem
from asyncthink.tasks.countdown_parts import LARGEST
from asyncthink.tasks.expressions import Form, canonical, evaluate, numbers_in, read

OPERATORS = ("+", "-", "_-", "*", "/", "_/")


def form(text: str) -> Form:
    tree = read(text)
    assert not isinstance(tree, str), f"{text!r}: {tree}"
    made = canonical(tree)
    assert made is not None, f"{text!r} divides by zero"
    return made


def evaluated(text: str) -> int:
    """Return the value of an expression that has a whole one."""
    tree = read(text)
    assert not isinstance(tree, str)
    found = evaluate(tree)
    assert found is not None and found[1] == 1
    return found[0]


def used_in(text: str) -> list[int]:
    tree = read(text)
    assert not isinstance(tree, str)
    return sorted(numbers_in(tree))


def split(joined: str) -> list[str]:
    """Read what a worker returned or a search ends with."""
    return [] if joined == NONE else joined.split(" ;")


def value(operator: str, left: Fraction, right: Fraction) -> Fraction | None:
    """Apply an operator; `_-` and `_/` take their operands the other way round."""
    if operator.startswith("_"):
        return value(operator[1:], right, left)
    if operator == "/":
        return left / right if right else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


@cache
def leading(head: int, goal: int) -> frozenset[tuple[str, int]]:
    """Return every (operator, rest) that makes `goal` of `head`, by trying all."""
    found: list[tuple[str, int]] = []
    for rest in range(LARGEST + 1):
        right = {
            "+": head + rest == goal,
            "-": head - rest == goal,
            "_-": rest - head == goal,
            "*": head * rest == goal,
            "/": rest > 0 and head == goal * rest,
            "_/": head > 0 and rest == goal * head,
        }
        found += [(operator, rest) for operator in OPERATORS if right[operator]]
    return frozenset(found)


@cache
def pair_forms(a: int, b: int) -> Mapping[int, set[Form]]:
    """Return the expressions over two numbers by value, where that is whole and in reach."""
    found: dict[int, set[Form]] = {}
    for operator in OPERATORS:
        reached = value(operator, Fraction(a), Fraction(b))
        if reached is not None and reached.denominator == 1 and 0 <= reached <= LARGEST:
            found.setdefault(int(reached), set()).add(form(wrapped(f" {a} {operator}", f"{b}")))
    return found


def wrapped(prefix: str, expression: str) -> str:
    """Combine by the documented meaning of a prefix: `7 *` is 7 * rest, `7 _-` is rest - 7, the outer first."""
    words = prefix.split()
    for number, operator in reversed(list(zip(words[::2], words[1::2], strict=True))):
        if operator.startswith("_"):
            expression = f"({expression}) {operator[1:]} {number}"
        else:
            expression = f"{number} {operator} ({expression})"
    return expression


@dataclass(frozen=True)
class Said:
    """What a sub-query says."""

    peeled: tuple[tuple[int, str], ...]
    """Numbers with their operators, the outer one first."""
    numbers: tuple[tuple[int, ...], ...]
    """Sorted; two sorted pairs where they are combined in pairs."""
    goal: int

    def whole(self, expression: str) -> str:
        """Make an expression that reaches the goal one of the whole."""
        return wrapped(" ".join(f"{number} {operator}" for number, operator in self.peeled), expression)

    @property
    def used(self) -> list[int]:
        """All numbers, sorted."""
        return sorted([*(number for number, _ in self.peeled), *(n for piece in self.numbers for n in piece)])


def said(query: str) -> Said:
    assert re.fullmatch(r"( \d+ (_[-/]|[-+*/])){0,2}(( \d+){2,3}|( \d+){2} \|( \d+){2}) > \d+", query), query
    left, _, goal = query.partition(" >")
    words, peeled = left.split(), list[tuple[int, str]]()
    while words[1] in OPERATORS:
        peeled.append((int(words[0]), words[1]))
        words = words[2:]
    pieces = [tuple(sorted(map(int, piece.split()))) for piece in " ".join(words).split("|")]
    return Said(tuple(peeled), tuple(sorted(pieces)), int(goal))


def random_problem(random: Random, size: int = 4, largest: int = 20) -> CountdownProblem:
    """Draw a problem with a solution, by trying."""
    while True:
        numbers = tuple(random.randint(1, largest) for _ in range(size))
        target: Fraction | None = Fraction(numbers[0])
        for number in numbers[1:]:
            target = None if target is None else value(random.choice("+-*/"), target, Fraction(number))
        if target is not None and target.denominator == 1 and 10 <= target <= 100:
            return CountdownProblem(numbers=numbers, target=int(target), wanted=random.randint(1, 4))
