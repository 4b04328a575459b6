"""How a countdown problem of four numbers is divided, and how a part is searched: a sub-query language.

Sub-queries. `2 3 5 > 4`: reach 4 with these three numbers. `2 5 | 3 7 > 28`: reach 28 from one
expression over each pair. Before a sub-query stands the number that was peeled off and how it combines
with the result: `7 *`, `7 +`, `7 -`, `7 /`, and `7 _-`, `7 _/` for result - 7, result / 7.

Search text, one line for each way to split: `2 | 3 5 : + 2 ( 5 - 3 ) _- 6 ...` peels 2 off, leaves 3 and
5, and for each operator states what they must reach, followed by the expression where they do.

The embedded model is taught to write this; it is also what plans of forks are made of that no model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from asyncthink.tasks.base import SubQuery
from asyncthink.tasks.countdown import CountdownProblem
from asyncthink.tasks.expressions import Form, canonical, read

LARGEST = 128
"""Largest intermediate target: each number up to here is one token of the embedded model."""
RETURNED = 4
"""A worker returns at most so many expressions."""
NONE = " none"
MAX_RETURN = 4000
"""Characters of a worker's return that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One legal way to split a problem: a sub-query and what its result is combined with."""

    prefix: str
    """Written before the fork, such as ` 7 *`; empty for two pairs."""
    query: str
    wrap: tuple[str, str]
    """What stands before and after a returned expression to make it an expression of the whole."""


@lru_cache(maxsize=1 << 16)
def pair_reaching(left: int, right: int, target: int) -> str | None:
    """Return the first expression over two numbers with that value, or None."""
    if left + right == target:
        return f" {left} + {right}"
    if left - right == target:
        return f" {left} - {right}"
    if right - left == target:
        return f" {right} - {left}"
    if left * right == target:
        return f" {left} * {right}"
    if right and left == target * right:
        return f" {left} / {right}"
    if left and right == target * left:
        return f" {right} / {left}"
    return None


@lru_cache(maxsize=1 << 16)
def peels(value: int, target: int) -> tuple[tuple[str, int], ...]:
    """Return (operator, what the rest must reach) for each way in which `value` can lead to `target`."""
    found = [
        ("+", target - value),
        ("-", value - target),
        ("_-", target + value),
        ("*", target // value if value and target % value == 0 else -1),
        ("/", value // target if value and target and value % target == 0 else -1),
        ("_/", target * value if value else -1),
    ]
    return tuple((operator, rest) for operator, rest in found if 0 <= rest <= LARGEST)


def combined(operator: str, value: str, rest: str) -> str:
    """Return the expression that a peel stands for; `value` and `rest` are spelled out."""
    before, after = wrapping(operator, value)
    return before + rest + after


def wrapping(operator: str, value: str) -> tuple[str, str]:
    """Return what stands before and after the rest in `combined`."""
    if operator.startswith("_"):
        return " (", f" ) {operator[1:]}{value}"
    return f"{value} {operator} (", " )"


def others(numbers: Sequence[int], place: int) -> tuple[int, ...]:
    """Return all numbers but the one in that place."""
    return (*numbers[:place], *numbers[place + 1 :])


def search(query: str) -> tuple[str, list[str]]:
    """Work through a sub-query exhaustively; return the text and the different expressions found."""
    numbers, _, target = query.partition(" >")
    goal = int(target)
    first, bar, second = numbers.partition(" |")
    if bar:
        left, right = _numbers(first), _numbers(second)
        heads = [(f" {text} = {value}", f" ( {text} )", value, right) for text, value in _values(*left)]
    else:
        three = _numbers(numbers)
        places = [place for place in range(3) if three[place] not in three[:place]]
        heads = [(f" {three[p]}", f" {three[p]}", three[p], others(three, p)) for p in places]
    lines: list[str] = []
    found: dict[Form, str] = {}
    for head, spelled, value, (b, c) in heads:
        line = f"{head} | {b} {c} :"
        for operator, rest in peels(value, goal):
            line += f" {operator} {rest}"
            if hit := pair_reaching(b, c, rest):
                line += f" ({hit} )"
                expression = combined(operator, spelled, hit)
                keep(found, expression)
        lines.append(line + "\n")
    return "".join(lines), list(found.values())[:RETURNED]


def keep(found: dict[Form, str], expression: str) -> None:
    """Add an expression that can be read, unless an equal one is there."""
    tree = read(expression)
    form = None if isinstance(tree, str) else canonical(tree)
    if form is not None:
        found.setdefault(form, expression)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _values(left: int, right: int) -> Iterator[tuple[str, int]]:
    """Yield the expressions over a pair whose value is a whole number in reach, each value once."""
    seen: set[int] = set()
    quotients = [(a, b) for a, b in ((left, right), (right, left)) if b and a % b == 0]
    for text, value in (
        (f"{left} + {right}", left + right),
        (f"{left} - {right}", left - right),
        (f"{right} - {left}", right - left),
        (f"{left} * {right}", left * right),
        *((f"{a} / {b}", a // b) for a, b in quotients),
    ):
        if 0 <= value <= LARGEST and value not in seen:
            seen.add(value)
            yield text, value


def candidates(problem: CountdownProblem) -> list[Candidate]:
    """Return every legal way to split a problem of four numbers."""
    numbers = problem.numbers
    found: list[Candidate] = []
    for place, value in enumerate(numbers):
        if value in numbers[:place]:
            continue
        rest = " ".join(map(str, others(numbers, place)))
        for operator, reach in peels(value, problem.target):
            before, after = wrapping(operator, f" {value}")
            query = f" {rest} > {reach}"
            found.append(Candidate(prefix=f" {value} {operator}", query=query, wrap=(before, after)))
    a, b, c, d = numbers
    for (p, q), (r, s) in (((a, b), (c, d)), ((a, c), (b, d)), ((a, d), (b, c))):
        query = f" {p} {q} | {r} {s} > {problem.target}"
        candidate = Candidate(prefix="", query=query, wrap=("", ""))
        if candidate not in found:
            found.append(candidate)
    return found


def joined_text(expressions: Sequence[str]) -> str:
    """Return what a worker returns for the expressions it found."""
    return " ;".join(expressions) or NONE


@dataclass(frozen=True, kw_only=True, slots=True)
class CountdownPart(SubQuery):
    """A candidate as a sub-query."""

    wrap: tuple[str, str]


@dataclass(kw_only=True, slots=True)
class CountdownHarvest:
    """Expressions of the whole problem, as they come back in parts; none is checked, as no organizer would."""

    wanted: int
    found: dict[Form, str] = field(default_factory=dict[Form, str])

    @property
    def done(self) -> bool:
        """Whether as many different ones are known as are wanted."""
        return len(self.found) >= self.wanted

    def add(self, part: SubQuery, returned: str | None) -> None:
        """Take in expressions with semicolons or line ends between them; what cannot be read is left out."""
        assert isinstance(part, CountdownPart)
        before, after = part.wrap
        for expression in re.split(r"[;\n]", (returned or "")[:MAX_RETURN])[: 2 * RETURNED]:
            keep(self.found, before + expression.partition("=")[0].rstrip() + after)

    def answer(self) -> str:
        """Return as many expressions as are wanted, one a line."""
        lines = list(self.found.values())[: self.wanted]
        return "\n" + "\n".join(lines or [NONE]) + "\n"


@dataclass(frozen=True, slots=True)
class CountdownDivider:
    """Divides problems of four numbers in the sub-query language above."""

    def refusal(self, problem: CountdownProblem) -> str | None:
        """Only four numbers leave parts that the language can say."""
        count = len(problem.numbers)
        return None if count == 4 else f"countdown is divided with 4 numbers, not with {count}"

    def parts(self, problem: CountdownProblem) -> list[CountdownPart]:
        """Return every candidate."""
        return [
            CountdownPart(
                query=one.query, before=f" ?{one.prefix}", sentence=_sentence(one.query), wrap=one.wrap
            )
            for one in candidates(problem)
        ]

    def perfect(self, problem: CountdownProblem, part: SubQuery) -> frozenset[object]:
        """Search the part exhaustively."""
        harvest = self.harvest(problem)
        harvest.add(part, joined_text(search(part.query)[1]))
        return frozenset(harvest.found)

    def harvest(self, problem: CountdownProblem) -> CountdownHarvest:
        """Begin with nothing."""
        return CountdownHarvest(wanted=problem.wanted)


def _sentence(query: str) -> str:
    """Say a sub-query to a model that does not know the language."""
    numbers, _, target = query.partition(" >")
    first, bar, second = numbers.partition(" |")
    listed = ", ".join(f"{first} {second}".split())
    paired = (
        f", combining {' and '.join(first.split())} with each other and {' and '.join(second.split())} too"
    )
    return (
        f"Using each of the numbers {listed} exactly once with + - * / and brackets{paired if bar else ''}, write up "
        f"to {RETURNED} different expressions that equal {target.strip()}, with semicolons between them, or the word "
        f"{NONE.strip()} if there is none."
    )
