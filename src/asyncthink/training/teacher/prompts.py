"""What a teacher is told that writes cold-start traces; the texts and the worked examples stand in prompts.toml.

A reply holds sections, each under a heading: the parts, a trace for each worker, the organizer's trace. The workers
come first, so that what a join shows was worked out before.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

import msgspec

from asyncthink.engines.base import Message
from asyncthink.protocol import tags
from asyncthink.training.structures import Moves

FILE = Path(__file__).parent / "prompts.toml"
PARTS, WORKER, ORGANIZER = "PARTS", "WORKER", "ORGANIZER"
"""Names of the sections; a worker's is followed by its number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one worker of a worked example does."""

    query: str
    thoughts: str
    result: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkedExample:
    """A question, the plan for it, and what a teacher writes then."""

    query: str
    capacity: int
    organizer: tuple[str, ...]
    """Thoughts, and between them moves such as F1 and J1."""
    answer: str
    workers: tuple[Part, ...]

    @property
    def plan(self) -> Moves:
        """The moves."""
        return tuple(each for each in self.organizer if re.fullmatch("[FJ][0-9]+", each))

    @property
    def reply(self) -> str:
        """What the teacher writes."""
        lines = [heading(PARTS)]
        lines += [f"{index}. {part.query}" for index, part in enumerate(self.workers, 1)]
        for index, part in enumerate(self.workers, 1):
            lines += [heading(WORKER, index), f"{part.thoughts} {tags.returned(part.result)}"]
        steps = map(self._spelled, self.organizer)
        return "\n".join([*lines, heading(ORGANIZER), *steps, tags.answer(self.answer)])

    def _spelled(self, step: str) -> str:
        if step not in self.plan:
            return step
        index = int(step[1:])
        part = self.workers[index - 1]
        if step.startswith("F"):
            return tags.fork(index, part.query)
        return tags.join(index) + tags.joined(index, part.result)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Texts:
    system: str
    ask: str
    alone: str
    examples: tuple[WorkedExample, ...]


@cache
def _texts() -> _Texts:
    return msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8")), _Texts)


def heading(section: str, worker: int | None = None) -> str:
    """Spell the heading of a section."""
    return f"=== {section} ===" if worker is None else f"=== {section} {worker} ==="


def worked_examples() -> tuple[WorkedExample, ...]:
    """Return what a teacher is shown."""
    return _texts().examples


def messages(query: str, *, capacity: int, plan: Moves) -> tuple[Message, ...]:
    """Return what a teacher is told: how to write, the worked examples, the question and the plan for it."""
    return (
        Message(role="system", content=_instructions()),
        Message(role="user", content=_question(query, capacity, plan)),
    )


def _question(query: str, capacity: int, plan: Moves) -> str:
    told = " ".join(plan) or _texts().alone
    return Template(_texts().ask).substitute(query=query, workers=capacity - 1, plan=told)


@cache
def _instructions() -> str:
    shown = (
        f"{_question(each.query, each.capacity, each.plan)}\n\n{each.reply}" for each in worked_examples()
    )
    return Template(_texts().system).substitute(
        parts=heading(PARTS),
        worker=heading(WORKER, 1),
        organizer=heading(ORGANIZER),
        fork=tags.fork(1, "sub-question"),
        join=tags.join(1) + tags.joined(1, "result"),
        answer=tags.answer("answer"),
        returned=tags.returned("result"),
        examples="\n\n".join(f"Example\n{each}" for each in shown),
    )
