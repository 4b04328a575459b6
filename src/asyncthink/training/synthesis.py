"""Cold-start traces written by a program, for tasks that a `Divider` takes apart.

What is random and what is not: the organizer's structure (when to fork, think or join, in which order)
and its choice of sub-queries are drawn at random among the legal ones, so that nothing of a solver's
judgement is taught; how a worker searches its small sub-problem is fixed and exhaustive. An answer holds
only what was found by the organizer itself or returned by a worker it joined.

Each line of an organizer begins with the one token that says what it does, so that a policy decides
about the structure in one place: `?<FORK-1> 7 * 2 3 5 > 4</FORK-1>` asks a worker, `[ : 7 * 2 3 5 > 4` opens a search
of its own, the others are `<JOIN-1>` and `<ANSWER>`. What comes back is complete, so that an answer is a copy, and
counted: ` 2 2 3` behind a join says that the second of its three expressions was known already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from asyncthink.errors import UsageError
from asyncthink.protocol import tags
from asyncthink.tasks import DIVIDERS, Asked
from asyncthink.tasks.base import Divider, Harvest, SubQuery
from asyncthink.training.structures import Shape, Step, Structure

LOST = 0.01
"""Share of joins at which the worker is taken to have failed, so that the model has seen it happen."""
FEWEST = 4
"""An organizer looks at so many parts before it gives up, if there are as many and time allows."""
OVERHEAD = 10
"""Ticks of the tags and line ends around a part and the answer."""
_TOKEN = re.compile(r"</?[A-Z]+(?:-[0-9]+)?>|[0-9]+|[A-Za-z]+|_[-/]|\n|[^\s]")


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


def worker_example(asked: Asked, random: Random) -> Example:
    """Return the trace of a worker that searches one of a problem's parts."""
    divider = DIVIDERS[asked.task.name]
    part = random.choice(divider.parts(asked.problem))
    text, returned = divider.search(part)
    pieces = (Piece(text=text + tags.returned(returned), trained=True),)
    return Example(role="worker", query=part.query, capacity=1, pieces=pieces)


@dataclass(slots=True)
class _Writer:
    """An organizer's trace under construction, on the virtual clock."""

    divider: Divider[Any]
    harvest: Harvest
    pieces: list[Piece] = field(default_factory=list[Piece])
    written: list[str] = field(default_factory=list[str])
    open_forks: dict[int, SubQuery] = field(default_factory=dict[int, SubQuery])
    forks: int = 0
    tick: int = 0
    ends: dict[int, int] = field(default_factory=dict[int, int])
    """Fork -> the tick in which its worker is done."""

    def fits(self, part: SubQuery, tick: float) -> bool:
        """Whether a part that is begun now can be done, and answered, by that tick."""
        text, found = self.divider.search(part)
        both = n_ticks(part.before + part.query + text + found) + OVERHEAD
        return self.tick + both + n_ticks(self.harvest.answer()) <= tick

    def think(self, part: SubQuery) -> None:
        text, found = self.divider.search(part)
        self._write(f" [{part.prefix} :{part.query}\n{text} ={found} ]{self.harvest.add(part, found)}\n")

    def fork(self, part: SubQuery) -> None:
        self.forks += 1
        self.open_forks[self.forks] = part
        self._write(f"{part.before}{tags.fork(self.forks, part.query)}\n")
        text, found = self.divider.search(part)
        self.ends[self.forks] = self.tick + n_ticks(text + tags.returned(found))

    def join(self, index: int, *, lost: bool) -> None:
        part = self.open_forks.pop(index)
        found = None if lost else self.divider.search(part)[1]
        self._write(tags.join(index))
        self._end_piece()
        self.tick = max(self.tick, self.ends[index])
        self.pieces.append(Piece(text=tags.joined(index, found or tags.NO_RESULT), trained=False))
        self._write(f"{self.harvest.add(part, found)}\n")

    def answer(self) -> None:
        self._write(tags.answer(self.harvest.answer()))
        self._end_piece()

    def _write(self, text: str) -> None:
        self.written.append(text)
        self.tick += n_ticks(text)

    def _end_piece(self) -> None:
        self.pieces.append(Piece(text="".join(self.written), trained=True))
        self.written = []


def n_ticks(text: str) -> int:
    """Return the ticks that a text costs the models made here, whose tokens are numbers, words, signs and tags."""
    return len(_TOKEN.findall(text))


def organizer_example(
    asked: Asked,
    capacity: int,
    random: Random,
    *,
    structure: Structure = Structure.RANDOM,
    own_thinking: float = 0.2,
    busy: float = 0.0,
    most_parts: int = 20,
    most_ticks: int | None = None,
) -> Example:
    """Return an organizer's trace with a random legal structure of at most capacity-1 open forks.

    It stops when enough is known, or after a random number of parts, `most_parts` at most, or when no other part
    would be done by a random tick between 90 % and all of `most_ticks`.
    """
    divider = DIVIDERS[asked.task.name]
    writer = _Writer(divider, divider.harvest(asked.problem))
    parts = list(divider.parts(asked.problem))
    random.shuffle(parts)
    parts = parts[: min(max(FEWEST, int(len(parts) * random.uniform(0.5, 1.2))), most_parts)]
    until = inf if most_ticks is None else most_ticks * random.uniform(0.9, 1)
    shape = Shape.draw(structure, capacity, random, own_thinking, busy)
    while not writer.harvest.done and (parts or writer.open_forks):
        if parts and not writer.fits(parts[-1], until):
            parts = []
            continue
        match shape.next(random, waiting=bool(parts), at_work=len(writer.open_forks)):
            case Step.FORK:
                writer.fork(parts.pop())
            case Step.THINK:
                writer.think(parts.pop())
            case Step.JOIN:
                index = shape.joined(list(writer.open_forks), random)
                writer.join(index, lost=random.random() < LOST)
    writer.answer()
    return _organizer(asked, capacity, writer.pieces)


def guess_example(asked: Asked, capacity: int, random: Random) -> Example:
    """Return a trace that answers at once, with what one part or another holds."""
    divider = DIVIDERS[asked.task.name]
    harvest = divider.harvest(asked.problem)
    parts = list(divider.parts(asked.problem))
    random.shuffle(parts)
    while parts and not harvest.done:
        part = parts.pop()
        harvest.add(part, divider.search(part)[1])
    return _organizer(asked, capacity, [Piece(text=tags.answer(harvest.answer()), trained=True)])


def _organizer(asked: Asked, capacity: int, pieces: Sequence[Piece]) -> Example:
    query = asked.task.prompt(asked.problem)
    return Example(role="organizer", query=query, capacity=capacity, pieces=tuple(pieces))


def read_examples(path: str) -> list[Example]:
    """Read examples from a file, one JSON object a line.

    Raises:
        UsageError: it cannot be read, or a line is no example.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = list(file)  # splitlines would cut at U+2028, which JSON leaves as it is
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    examples: list[Example] = []
    for number, line in enumerate(lines, 1):
        try:
            examples.append(msgspec.json.decode(line, type=Example))
        except msgspec.DecodeError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
    if not examples:
        raise UsageError(f"{path} holds no example")
    return examples
