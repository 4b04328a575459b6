"""The tasks, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from asyncthink.errors import UnknownNameError
from asyncthink.tasks.base import Divider, Part, Score, Split, Task
from asyncthink.tasks.cases import CaseProblem, Cases
from asyncthink.tasks.contest_math import ContestMath, MathProblem
from asyncthink.tasks.countdown import Countdown, CountdownProblem
from asyncthink.tasks.countdown_parts import CountdownDivider
from asyncthink.tasks.sudoku import Sudoku, SudokuProblem
from asyncthink.tasks.sudoku_parts import SudokuDivider
from asyncthink.tasks.vertex_cover import VertexCover, VertexCoverProblem

__all__ = [
    "DIVIDERS",
    "NEEDS",
    "TASKS",
    "Asked",
    "CaseProblem",
    "Cases",
    "ContestMath",
    "Countdown",
    "CountdownProblem",
    "MathProblem",
    "Part",
    "Score",
    "Split",
    "Sudoku",
    "SudokuProblem",
    "Task",
    "VertexCover",
    "VertexCoverProblem",
    "get_task",
    "judge",
    "recognise",
]

TASKS: dict[str, Task[Any]] = {
    task.name: task
    for task in (
        Countdown(),
        Countdown(name="countdown-paper", size=5),
        Sudoku(),
        VertexCover(),
        Cases(),
        ContestMath(),
    )
}

DIVIDERS: dict[str, Divider[Any]] = {
    "countdown": CountdownDivider(),
    "countdown-paper": CountdownDivider(),
    "sudoku": SudokuDivider(),
}
"""Tasks whose problems a program can divide."""
NEEDS = {"contest_math": "math"}
"""Task -> the extra that its check needs."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A problem with the task that it belongs to."""

    task: Task[Any]
    problem: Any


def get_task(name: str) -> Task[Any]:
    """Return the task of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    return TASKS[name]


def judge(task: str, problem: Mapping[str, Any], answer: str) -> Score:
    """Check an answer to a problem that a record holds.

    Raises:
        UsageError: the task is not known, or the problem makes no sense.
    """
    known = get_task(task)
    return known.check(known.read(problem), answer)


def recognise(sentence: str, preferred: Collection[str] | None = None) -> Asked | None:
    """Return the task and problem that a sentence states, or None for a free question.

    Args:
        sentence: a person's question.
        preferred: tasks that are meant where two share a sentence; None: the one that makes such problems.

    Raises:
        UsageError: it states a problem whose values make no sense.
    """
    read = ((task, task.parse(sentence)) for task in TASKS.values())
    found = [Asked(task, problem) for task, problem in read if problem is not None]
    if preferred is not None:
        found.sort(key=lambda each: each.task.name not in preferred)
        return found[0] if found else None
    return next((each for each in found if each.task.makes(each.problem)), found[0] if found else None)
