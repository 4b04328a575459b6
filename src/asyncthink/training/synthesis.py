"""Cold-start traces for countdown, written by a program.

What is random and what is not: the organizer's structure (when to fork, think or join, in which order)
and its choice of sub-queries are drawn at random among the legal ones, so that nothing of a solver's
judgement is taught; how a worker searches its small sub-problem is fixed and exhaustive. An answer holds
only expressions that were found by the organizer itself or returned by a worker it joined.

Sub-queries. `2 3 5 > 4`: reach 4 with these three numbers. `2 5 | 3 7 > 28`: reach 28 from one
expression over each pair. Before a sub-query stands the number that was peeled off and how it combines
with the result: `7 *`, `7 +`, `7 -`, `7 /`, and `7 _-`, `7 _/` for result - 7, result / 7.

Each line of an organizer begins with the one token that says what it does, so that a policy decides
about the structure in one place: `? 7 *<FORK-1> 2 3 5 > 4</FORK-1>` asks a worker, `[ 7 * : 2 3 5 > 4`
opens a search of its own, the others are `<JOIN-1>` and `<ANSWER>`.

Search text, one line for each way to split: `2 | 3 5 : + 2 ( 5 - 3 ) _- 6 ...` peels 2 off, leaves 3 and
5, and for each operator states what they must reach, followed by the expression where they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from asyncthink.protocol import tags
from asyncthink.tasks.countdown import Countdown, CountdownProblem
from asyncthink.tasks.expressions import Form, canonical, read

LARGEST = 128
"""Largest intermediate target: each number up to here is one token of the embedded model."""
RETURNED = 4
"""A worker returns at most so many expressions."""
NONE = " none"
LOST = 0.01
"""Share of joins at which the worker is taken to have failed, so that the model has seen it happen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A stretch of an example's text."""

    text: str
    trained: bool
    """True for what the model is to write; False for prompts and inserted text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One trace to learn from. The prompt is left to the checkpoint's template."""

    role: str
    query: str
    capacity: int
    pieces: tuple[Piece, ...]


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
                _keep(found, expression)
        lines.append(line + "\n")
    return "".join(lines), list(found.values())[:RETURNED]


def _keep(found: dict[Form, str], expression: str) -> None:
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


def worker_example(query: str) -> Example:
    """Return the trace of a worker that searches one sub-query."""
    text, found = search(query)
    pieces = (Piece(text=text + tags.returned(joined_text(found)), trained=True),)
    return Example(role="worker", query=query, capacity=1, pieces=pieces)


@dataclass(slots=True)
class _Writer:
    """An organizer's trace under construction."""

    problem: CountdownProblem
    pieces: list[Piece] = field(default_factory=list[Piece])
    written: list[str] = field(default_factory=list[str])
    open_forks: dict[int, Candidate] = field(default_factory=dict[int, Candidate])
    found: dict[Form, str] = field(default_factory=dict[Form, str])
    forks: int = 0

    def collect(self, candidate: Candidate, expressions: Sequence[str]) -> None:
        before, after = candidate.wrap
        for expression in expressions:
            _keep(self.found, before + expression + after)

    def think(self, candidate: Candidate) -> None:
        text, expressions = search(candidate.query)
        self.written.append(
            f" [{candidate.prefix} :{candidate.query}\n{text} ={joined_text(expressions)} ]\n"
        )
        self.collect(candidate, expressions)

    def fork(self, candidate: Candidate) -> None:
        self.forks += 1
        self.open_forks[self.forks] = candidate
        self.written.append(f" ?{candidate.prefix}{tags.fork(self.forks, candidate.query)}\n")

    def join(self, index: int, *, lost: bool) -> None:
        candidate = self.open_forks.pop(index)
        expressions = [] if lost else search(candidate.query)[1]
        inserted = tags.joined(index, tags.NO_RESULT if lost else joined_text(expressions))
        self.written.append(tags.join(index))
        self.pieces.append(Piece(text="".join(self.written), trained=True))
        self.pieces.append(Piece(text=inserted, trained=False))
        self.written = ["\n"]
        self.collect(candidate, expressions)

    def answer(self) -> None:
        lines = list(self.found.values())[: self.problem.wanted]
        self.written.append(tags.answer("\n" + "\n".join(lines or [NONE]) + "\n"))
        self.pieces.append(Piece(text="".join(self.written), trained=True))


def organizer_example(
    problem: CountdownProblem, capacity: int, random: Random, own_search: float = 0.25
) -> Example:
    """Return an organizer's trace with a random legal structure of at most capacity-1 open forks.

    It stops when enough expressions are known, or after a random number of candidates.
    """
    writer = _Writer(problem)
    pool = candidates(problem)
    random.shuffle(pool)
    pool = pool[: max(4, int(len(pool) * random.uniform(0.5, 1.2)))]
    weights = (random.uniform(0.5, 1), random.uniform(0, own_search), random.uniform(0.1, 0.6))
    while len(writer.found) < problem.wanted and (pool or writer.open_forks):
        options: list[str] = []
        chances: list[float] = []
        if pool and len(writer.open_forks) < capacity - 1:
            options.append("fork")
            chances.append(weights[0])
        if pool:
            options.append("think")
            chances.append(weights[1] + 0.01)
        if writer.open_forks:
            options.append("join")
            chances.append(weights[2])
        match random.choices(options, chances)[0]:
            case "fork":
                writer.fork(pool.pop())
            case "think":
                writer.think(pool.pop())
            case _:
                writer.join(random.choice(list(writer.open_forks)), lost=random.random() < LOST)
    writer.answer()
    query = Countdown().prompt(problem)
    return Example(role="organizer", query=query, capacity=capacity, pieces=tuple(writer.pieces))
