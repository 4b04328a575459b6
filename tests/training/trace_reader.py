"""Reads program-made traces back with the runtime's own parser and rules, and insists on everything on the way."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from asyncthink.protocol import tags
from asyncthink.protocol.actions import Answer, Fork, Join, Think
from asyncthink.protocol.parser import OrganizerParser
from asyncthink.protocol.rules import Rules
from asyncthink.tasks import DIVIDERS, Asked
from asyncthink.tasks.base import SubQuery
from asyncthink.training.synthesis import Example, Piece
from tests.tasks.countdown_arithmetic import form, split

SEARCH = re.compile(
    r" \[(?P<prefix>[^:\n]*) :(?P<query>[^\n]*)\n(?P<lines>(?: [^=\n][^\n]*\n)*) =(?P<found>[^\n]*) \](?P<noted>[^\n]*)\n"
)
FORK_LINE = re.compile(r" \?(?P<prefix>[^<\n]*)")


@dataclass(frozen=True)
class Taken:
    """One part, as the organizer's text alone shows it."""

    prefix: str
    query: str
    index: int = 0
    """Of the fork; 0 for an own search."""


@dataclass
class Trace:
    """A trace and what can be read back from it."""

    asked: Asked
    capacity: int
    example: Example
    taken: list[Taken] = field(default_factory=list[Taken])
    shape: str = ""
    """F, T, J and A in order."""
    joined: list[int] = field(default_factory=list[int])
    known: set[object] = field(default_factory=set[object])
    """Found by own searches or returned by joined workers: forms, or rows with their numbers."""
    noted: str = ""
    """What has to follow the last join."""
    lost: int = 0
    most_open: int = 0
    answer: str = ""

    def collect(self, prefix: str, joined: str) -> str:
        """Take in what came back; return what an organizer is to note of it: how many are known after each."""
        noted = ""
        if self.asked.task.name == "sudoku":
            self.known |= {(int(prefix), tuple(map(int, row.split()))) for row in split(joined)}
        else:
            assert prefix == ""
            for expression in split(joined):
                self.known.add(form(expression))
                noted += f" {len(self.known)}"
        return noted

    @property
    def enough(self) -> bool:
        """Whether what is known makes an answer: expressions as many as are wanted, or all rows with blanks."""
        problem = self.asked.problem
        if self.asked.task.name != "sudoku":
            return len(self.known) >= problem.wanted
        rows = {number for number, row in enumerate(problem.grid, 1) if 0 in row}
        return rows <= {number for number, _ in self.known}  # type: ignore[misc]


@cache
def searched(task: str, query: str) -> tuple[str, str]:
    """Return what a worker writes and returns."""
    return DIVIDERS[task].search(SubQuery(query=query, sentence=""))


def read_back(asked: Asked, capacity: int, example: Example) -> Trace:
    """Feed the pieces to the parser as the runtime would."""
    trace = Trace(asked, capacity, example)
    parser, rules = OrganizerParser(), Rules()
    open_forks: dict[int, Taken] = {}
    thought = ""
    places = iter(example.pieces)
    for piece in places:
        assert piece.trained
        actions = [parsed.action for parsed in parser.feed(piece.text)]
        assert parser.taken == len(piece.text), "a piece must end exactly where the runtime cuts"
        assert [error for error in map(rules.judge, actions) if error] == []
        for action in actions:
            if isinstance(action, Think):
                thought = read_thought(trace, action.text)
            elif isinstance(action, Fork):
                line = FORK_LINE.fullmatch(thought)
                assert line and action.to is None
                open_forks[action.index] = Taken(line["prefix"], action.query, action.index)
                trace.taken.append(open_forks[action.index])
                trace.shape += "F"
                trace.most_open = max(trace.most_open, len(open_forks))
        last = actions[-1]
        if isinstance(last, Join):
            assert thought == "", "a join begins its line"
            read_inserted(trace, open_forks.pop(last.index), next(places))
        else:
            assert isinstance(last, Answer) and thought == ""
            trace.answer = last.text
            trace.shape += "A"
    assert parser.done and rules.finish() is None
    return trace


def read_thought(trace: Trace, text: str) -> str:
    """Take own searches in; return what stands behind the last, on the line of the next action."""
    if trace.shape:
        assert text.startswith(trace.noted + "\n")
        text, trace.noted = text.removeprefix(trace.noted + "\n"), ""
    while found := SEARCH.match(text):
        assert (found["lines"], found["found"]) == searched(trace.asked.task.name, found["query"])
        trace.taken.append(Taken(found["prefix"], found["query"]))
        assert found["noted"] == trace.collect(found["prefix"], found["found"])
        trace.shape += "T"
        text = text[found.end() :]
    return text


def read_inserted(trace: Trace, taken: Taken, inserted: Piece) -> None:
    assert not inserted.trained
    trace.shape += "J"
    trace.joined.append(taken.index)
    if inserted.text == tags.joined(taken.index, tags.NO_RESULT):
        trace.lost += 1
        return
    returned = searched(trace.asked.task.name, taken.query)[1]
    assert inserted.text == tags.joined(taken.index, returned)
    trace.noted = trace.collect(taken.prefix, returned)
