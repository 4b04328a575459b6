"""Cold-start traces for countdown, written by a program.

What is random and what is not: the organizer's structure (when to fork, think or join, in which order)
and its choice of sub-queries are drawn at random among the legal ones, so that nothing of a solver's
judgement is taught; how a worker searches its small sub-problem is fixed and exhaustive. An answer holds
only expressions that were found by the organizer itself or returned by a worker it joined.

Sub-queries and how a part is searched: `asyncthink.tasks.countdown_parts`.

Each line of an organizer begins with the one token that says what it does, so that a policy decides
about the structure in one place: `? 7 *<FORK-1> 2 3 5 > 4</FORK-1>` asks a worker, `[ 7 * : 2 3 5 > 4`
opens a search of its own, the others are `<JOIN-1>` and `<ANSWER>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from asyncthink.protocol import tags
from asyncthink.tasks.countdown import Countdown, CountdownProblem
from asyncthink.tasks.countdown_parts import NONE, Candidate, candidates, joined_text, keep, search
from asyncthink.tasks.expressions import Form

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
            keep(self.found, before + expression + after)

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
