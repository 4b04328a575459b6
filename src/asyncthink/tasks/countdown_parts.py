"""How a countdown problem is divided, and how a part is searched: a sub-query language.

Sub-queries. `2 3 5 > 4`: reach 4 with these two or three numbers. `2 5 | 3 7 > 28`: reach 28 from one
expression over each pair. First comes what was peeled off and how it combines with the result: `7 * 2 3 5 > 4`, and
so `7 +`, `7 -`, `7 /`, and `7 _-`, `7 _/` for result - 7, result / 7. With five numbers two are peeled off, the outer
one first: `7 * 3 +`. What is returned are expressions of the whole: `7 * ( 5 - 3 + 2 )`.

Search text, one line for each way to split: `2 | 3 5 = 8 2 15 : + 2 ( 5 - 3 ) _- 6 ...` peels 2 off, leaves 3 and
5 with what their sum, difference, product and quotient are, and for each operator states what they must reach,
followed by the expressions that do.

The embedded model is taught to write this; it is also what plans of forks are made of that no model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from asyncthink.tasks.base import NONE, SubQuery
from asyncthink.tasks.countdown import CountdownProblem
from asyncthink.tasks.expressions import Form, canonical, read, spelled

LARGEST = 400
"""Largest intermediate target: each number up to here is one token of the embedded model."""
RETURNED = 4
"""A worker returns at most so many expressions."""
_PEELED = re.compile(r"((?: \d+ (?:_[-/]|[-+*/]))*)(.*)")
MAX_RETURN = 4000
"""Characters of a worker's return that are read."""


@lru_cache(maxsize=1 << 16)
def pair_reaching(left: int, right: int, target: int) -> tuple[str, ...]:
    """Return the different expressions over two numbers with that value."""
    return tuple(text for text, value in _pair(left, right) if value == target)


@lru_cache(maxsize=1 << 10)
def _pair(left: int, right: int) -> tuple[tuple[str, int], ...]:
    """Return the different expressions over a pair whose value is a whole number in reach, with their values."""
    made = [
        (f" {left} + {right}", left + right),
        (f" {left} - {right}", left - right),
        *([(f" {right} - {left}", right - left)] if left != right else []),
        (f" {left} * {right}", left * right),
    ]
    for a, b in [(left, right), (right, left)][: 1 if left == right else 2]:
        if b > 1 and a % b == 0:  # dividing by 1 is multiplying by it
            made.append((f" {a} / {b}", a // b))
    return tuple((text, value) for text, value in made if 0 <= value <= LARGEST)


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
    """Return the expression that a peel stands for; `value` and `rest` are written out."""
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


def peeled(query: str) -> tuple[tuple[str, str], str]:
    """Return what stands before and after a result to make it an expression of the whole, and the rest of a query."""
    match = _PEELED.fullmatch(query)
    assert match is not None
    before, after = "", ""
    for value, operator in re.findall(r"( \d+) (\S+)", match[1]):
        outer, inner = wrapping(operator, value)
        before, after = before + outer, inner + after
    return (before, after), match[2]


def search(query: str) -> tuple[str, list[str]]:
    """Work through a sub-query exhaustively; return the text and the different expressions of the whole found."""
    (before, after), rest = peeled(query)
    numbers, _, target = rest.partition(" >")
    goal = int(target)
    first, bar, second = numbers.partition(" |")
    if bar:
        a, b = _numbers(first)
        right = _numbers(second)
        heads = [(f"{text} = {value}", f" ({text} )", value, right) for text, value in _pair(a, b)]
    elif len(of := _numbers(numbers)) == 2:
        hits = pair_reaching(*of, goal)
        forms: dict[Form, str] = {}
        for hit in hits:
            keep(forms, before + hit + after)
        return f"{_listed(*of)} :{''.join(f' ({hit} )' for hit in hits)}\n", list(forms.values())
    else:
        places = [place for place, value in enumerate(of) if value not in of[:place]]
        heads = [(f" {of[p]}", f" {of[p]}", of[p], others(of, p)) for p in places]
    lines: list[str] = []
    forms = {}
    for head, written, value, (b, c) in heads:
        line = f"{head} |{_listed(b, c)} :"
        for operator, left in peels(value, goal):
            line += f" {operator} {left}"
            for hit in pair_reaching(b, c, left):
                line += f" ({hit} )"
                keep(forms, before + combined(operator, written, hit) + after)
        lines.append(line + "\n")
    return "".join(lines), list(forms.values())[:RETURNED]


def _listed(left: int, right: int) -> str:
    """Write a pair and the value of each expression over it."""
    return f" {left} {right} ={''.join(f' {value}' for _, value in _pair(left, right))}"


def keep(found: dict[Form, str], expression: str) -> bool:
    """Add an expression without needless brackets unless an equal one is there; return whether it can be read."""
    tree = read(expression)
    text = "" if isinstance(tree, str) else spelled(tree)
    tree = read(text)
    form = None if isinstance(tree, str) else canonical(tree)
    if form is not None:
        found.setdefault(form, text)
    return form is not None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def candidates(problem: CountdownProblem) -> list[SubQuery]:
    """Return every legal way to split a problem of two to five numbers, each once."""
    return [
        SubQuery(query=query, sentence=_sentence(query))
        for query in _split(problem.numbers, problem.target, "")
    ]


def _split(numbers: Sequence[int], target: int, before: str) -> Iterator[str]:
    if len(numbers) <= 3:
        yield f"{before} {' '.join(map(str, numbers))} > {target}"
    if len(numbers) == 2 or (len(numbers) == 3 and before):
        return
    for place, value in enumerate(numbers):
        if value in numbers[:place]:
            continue
        for operator, reach in peels(value, target):
            yield from _split(others(numbers, place), reach, f"{before} {value} {operator}")
    if len(numbers) == 4 and not before:
        a, b, c, d = numbers
        pairings: dict[frozenset[tuple[int, ...]], tuple[int, ...]] = {}
        for p, q, r, s in ((a, b, c, d), (a, c, b, d), (a, d, b, c)):
            pairings.setdefault(frozenset(tuple(sorted(pair)) for pair in ((p, q), (r, s))), (p, q, r, s))
        for p, q, r, s in pairings.values():
            yield f" {p} {q} | {r} {s} > {target}"


def joined_text(expressions: Sequence[str]) -> str:
    """Return what a worker returns for the expressions it found."""
    return " ;".join(expressions) or NONE


@dataclass(kw_only=True, slots=True)
class CountdownHarvest:
    """Expressions of the whole problem, as they come back in parts; none is checked, as no organizer would."""

    wanted: int
    found: dict[Form, str] = field(default_factory=dict[Form, str])

    @property
    def done(self) -> bool:
        """Whether as many different ones are known as are wanted."""
        return len(self.found) >= self.wanted

    def add(self, part: SubQuery, returned: str | None) -> str:
        """Take in expressions with semicolons or line ends between them; what cannot be read is left out.

        The note says after each expression how many different ones there are now.
        """
        noted = ""
        for expression in re.split(r"[;\n]", (returned or "")[:MAX_RETURN])[: 2 * RETURNED]:
            if keep(self.found, expression.partition("=")[0].rstrip()):
                noted += f" {len(self.found)}"
        return noted

    def answer(self) -> str:
        """Return as many expressions as are wanted, one a line."""
        lines = list(self.found.values())[: self.wanted]
        return "\n" + "\n".join(lines or [NONE]) + "\n"


@dataclass(frozen=True, slots=True)
class CountdownDivider:
    """Divides problems in the sub-query language above."""

    def refusal(self, problem: CountdownProblem) -> str | None:
        """More than five numbers leave parts that the language cannot say."""
        count = len(problem.numbers)
        return None if count <= 5 else f"countdown is divided with up to 5 numbers, not with {count}"

    def parts(self, problem: CountdownProblem) -> list[SubQuery]:
        """Return every candidate."""
        return candidates(problem)

    def search(self, part: SubQuery) -> tuple[str, str]:
        """Work through it exhaustively."""
        text, found = search(part.query)
        return text, joined_text(found)

    def perfect(self, problem: CountdownProblem, part: SubQuery) -> frozenset[object]:
        """Search the part exhaustively."""
        harvest = self.harvest(problem)
        harvest.add(part, self.search(part)[1])
        return frozenset(harvest.found)

    def harvest(self, problem: CountdownProblem) -> CountdownHarvest:
        """Begin with nothing."""
        return CountdownHarvest(wanted=problem.wanted)


def _sentence(query: str) -> str:
    """Say a sub-query to a model that does not know the language."""
    (before, after), rest = peeled(query)
    numbers, _, target = rest.partition(" >")
    first, bar, second = numbers.partition(" |")
    listed = ", ".join(f"{first} {second}".split())
    paired = (
        f", combining {' and '.join(first.split())} with each other and {' and '.join(second.split())} too"
    )
    form = f", each as {before.strip()} X{after} with X in full" if before else ""
    return (
        f"Using each of the numbers {listed} exactly once with + - * / and brackets{paired if bar else ''}, find up "
        f"to {RETURNED} different expressions{' X' if before else ''} that equal {target.strip()}. Write them{form}, with "
        f"semicolons between them, or the word {NONE.strip()} if there is none."
    )
