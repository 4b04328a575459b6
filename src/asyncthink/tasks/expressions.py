"""Arithmetic expressions over given numbers: reading, exact value, canonical form.

An expression is a tree: an `int`, or `(operator, left, right)` with operator one of `+ - * /`.
Values are exact fractions, as pairs (numerator, positive denominator) in lowest terms.

Two expressions are the *same* when their canonical forms are equal. The form flattens sums and
products, sorts operands, reads a-b as a+(-b) with the sign of the whole pulled out, and a/b as
a*(1/b); dividing by a part whose value is 1 counts as multiplying by it, and subtracting a part
whose value is 0 as adding it, also where that part comes to light only by the steps before, as in
`3 / (10 - 11)` and in `6 / (1 / 11)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import combinations
from math import gcd
from typing import NamedTuple, TypeAlias, cast

Expression: TypeAlias = "int | tuple[str, Expression, Expression]"
Value: TypeAlias = tuple[int, int]

MAX_CHARS = 200
"""Longest line that is read as an expression: bounds the work a hostile answer can cause."""
MAX_DIGITS = 6
"""Longest integer literal that is read."""


class Form(NamedTuple):
    """A canonical form with its exact value. Equal expressions have equal forms."""

    sign: int
    """+1 or -1, pulled out of `body`."""
    body: tuple[object, ...]
    """("n", k), or ("+", ((sign, body), ...)), or ("*", ((exponent, body), ...)), items sorted."""
    value: Value
    """Value of the whole, sign included."""


def reduced(numerator: int, denominator: int) -> Value:
    """Return the fraction in lowest terms with a positive denominator; it must not be 0."""
    divisor = gcd(numerator, denominator)
    if denominator < 0:
        divisor = -divisor
    return numerator // divisor, denominator // divisor


def evaluate(expression: Expression) -> Value | None:
    """Return the exact value, or None where something is divided by zero."""
    if isinstance(expression, int):
        return expression, 1
    operator, left, right = expression
    a, b = evaluate(left), evaluate(right)
    if a is None or b is None:
        return None
    return _apply(operator, a, b)


def _apply(operator: str, a: Value, b: Value) -> Value | None:
    match operator:
        case "+":
            return reduced(a[0] * b[1] + b[0] * a[1], a[1] * b[1])
        case "-":
            return reduced(a[0] * b[1] - b[0] * a[1], a[1] * b[1])
        case "*":
            return reduced(a[0] * b[0], a[1] * b[1])
        case _:
            return reduced(a[0] * b[1], a[1] * b[0]) if b[0] else None


def number_form(number: int) -> Form:
    """Return the form of a single number."""
    return Form(1, ("n", number), (number, 1))


def combine(operator: str, a: Form, b: Form, *, identities: bool = True) -> Form | None:
    """Return the form of `a operator b`, or None for a division by zero.

    `identities` switches the two rules for parts of value 0 and 1.
    """
    value = _apply(operator, a.value, b.value)
    if value is None:
        return None
    if identities and (
        (operator == "-" and b.value[0] == 0) or (operator == "/" and abs(b.value[0]) == b.value[1])
    ):
        operator = "+" if operator == "-" else "*"
    if operator in "+-":
        terms = sorted([*_terms(a, 1, identities), *_terms(b, -1 if operator == "-" else 1, identities)])
        mirrored = sorted(_turned(terms, 0, identities))
        if mirrored < terms:
            return Form(-1, ("+", tuple(mirrored)), value)
        return Form(1, ("+", tuple(terms)), value)
    factors = sorted([*_factors(a, 1, identities), *_factors(b, -1 if operator == "/" else 1, identities)])
    sign = a.sign * b.sign
    if identities and value[0] == 0:
        sign = 1
    return Form(sign, ("*", tuple(factors)), value)


_Item: TypeAlias = tuple[int, tuple[object, ...]]
"""A sign or an exponent, +1 or -1, with a body."""
_Parts: TypeAlias = tuple[_Item, ...]


def _terms(form: Form, flip: int, identities: bool) -> Iterable[_Item]:
    if form.body[0] != "+":
        return [(form.sign * flip, form.body)]
    items = cast("_Parts", form.body[1])
    return items if form.sign * flip == 1 else _turned(items, 0, identities)


def _factors(form: Form, flip: int, identities: bool) -> Iterable[_Item]:
    items = cast("_Parts", form.body[1]) if form.body[0] == "*" else ((1, form.body),)
    return items if flip == 1 else _turned(items, 1, identities)


def _turned(items: Iterable[_Item], neutral: int, identities: bool) -> Iterator[_Item]:
    """Flip signs or exponents; with the identities, not where the part's value makes no difference."""
    for sign, body in items:
        stays = identities and sign == 1 and _is_neutral(body, neutral)
        yield (1 if stays else -sign), body


def _is_neutral(body: tuple[object, ...], neutral: int) -> bool:
    """Whether a part's value is that, its sign pulled out: the body of 2+2-3 is that of 3-2-2."""
    top, bottom = _value(body)
    return (abs(top), bottom) == (neutral, 1)


def _value(body: tuple[object, ...]) -> Value:
    """Return the value of a form's body; no part of a form divides by zero."""
    if body[0] == "n":
        return cast("int", body[1]), 1
    top, bottom = (0, 1) if body[0] == "+" else (1, 1)
    for sign, part in cast("_Parts", body[1]):
        a, b = _value(part)
        if body[0] == "+":
            top, bottom = top * b + sign * a * bottom, bottom * b
        else:
            top, bottom = (top * a, bottom * b) if sign == 1 else (top * b, bottom * a)
    return reduced(top, bottom)


def canonical(expression: Expression, *, identities: bool = True) -> Form | None:
    """Return the canonical form, or None where something is divided by zero."""
    if isinstance(expression, int):
        return number_form(expression)
    operator, left, right = expression
    a, b = canonical(left, identities=identities), canonical(right, identities=identities)
    if a is None or b is None:
        return None
    return combine(operator, a, b, identities=identities)


def all_forms(numbers: tuple[int, ...], *, identities: bool = True) -> frozenset[Form]:
    """Return every form that uses each of the numbers exactly once."""
    return _join_parts(tuple(sorted(numbers)), identities)


@lru_cache(maxsize=1024)
def _part_forms(numbers: tuple[int, ...], identities: bool) -> frozenset[Form]:
    return _join_parts(numbers, identities)


def _join_parts(numbers: tuple[int, ...], identities: bool) -> frozenset[Form]:
    if len(numbers) == 1:
        return frozenset({number_form(numbers[0])})
    forms: set[Form] = set()
    for left, right in _splits(numbers):
        for a in _part_forms(left, identities):
            for b in _part_forms(right, identities):
                for operator, x, y in (
                    ("+", a, b),
                    ("-", a, b),
                    ("-", b, a),
                    ("*", a, b),
                    ("/", a, b),
                    ("/", b, a),
                ):
                    form = combine(operator, x, y, identities=identities)
                    if form is not None:
                        forms.add(form)
    return frozenset(forms)


def _splits(numbers: tuple[int, ...]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    places = range(len(numbers))
    splits: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in combinations(places, size):
            left = tuple(numbers[i] for i in chosen)
            right = tuple(numbers[i] for i in places if i not in chosen)
            splits.add((left, right))
    return splits


_TOKEN = re.compile(r"[0-9]+|[-+*/()]", re.ASCII)


def read(line: str) -> Expression | str:
    """Read one expression of integers, `+ - * / ( )` and blanks; return the tree, or why not.

    No unary sign. Linear in the line, which is refused past `MAX_CHARS` characters.
    """
    if len(line) > MAX_CHARS:
        return "the line is too long"
    tokens = _TOKEN.findall(line)
    if "".join(tokens) != line.replace(" ", "").replace("\t", ""):
        return "only integers, + - * / and brackets are read"
    if any(len(token) > MAX_DIGITS for token in tokens):
        return "a number is too large"
    if re.search(r"[0-9]\s+[0-9]", line):
        return "an operator is missing"
    reader = _Reader(tokens)
    tree = reader.sum()
    if tree is None or reader.place != len(tokens):
        return "this is no expression"
    return tree


class _Reader:
    """Recursive descent; its depth is bounded by MAX_CHARS."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0

    def take(self, allowed: str) -> str | None:
        if self.place < len(self.tokens) and self.tokens[self.place] in allowed:
            self.place += 1
            return self.tokens[self.place - 1]
        return None

    def sum(self) -> Expression | None:
        return self.chain("+-", self.product)

    def product(self) -> Expression | None:
        return self.chain("*/", self.atom)

    def chain(self, operators: str, part: Callable[[], Expression | None]) -> Expression | None:
        tree: Expression | None = part()
        while tree is not None and (operator := self.take(operators)):
            right = part()
            if right is None:
                return None
            tree = (operator, tree, right)
        return tree

    def atom(self) -> Expression | None:
        if self.take("("):
            tree = self.sum()
            return tree if tree is not None and self.take(")") else None
        if self.place < len(self.tokens) and self.tokens[self.place].isdigit():
            self.place += 1
            return int(self.tokens[self.place - 1])
        return None


_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}


def spelled(expression: Expression) -> str:
    """Write an expression with a blank before everything and no bracket that its reading does not need.

    A bracket around the right side of a sum or product goes too: a + (b - c) is a + b - c.
    """
    if isinstance(expression, int):
        return f" {expression}"
    operator, left, right = expression
    tight = operator in "-/"
    return f"{_part(left, operator, equal=False)} {operator}{_part(right, operator, equal=tight)}"


def _part(part: Expression, around: str, *, equal: bool) -> str:
    """Write a side of an operator; `equal`: an operator as strong needs a bracket too."""
    text = spelled(part)
    if isinstance(part, int):
        return text
    gap = _STRENGTH[part[0]] - _STRENGTH[around]
    return f" ({text} )" if gap < 0 or (gap == 0 and equal) else text


def numbers_in(expression: Expression) -> list[int]:
    """Return the numbers of an expression from left to right."""
    if isinstance(expression, int):
        return [expression]
    return numbers_in(expression[1]) + numbers_in(expression[2])
