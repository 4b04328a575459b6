"""4x4 sudoku: complete a grid so that rows, columns and 2x2 boxes hold 1 to 4. Any completion counts.

There are 288 solution grids, and each belongs to one split by a hash of its text: 29 to test, 37 to dev,
222 to train. A puzzle is drawn from a grid of the split, with 4 to 9 blanks, and drawn again until *every*
completion of it is in that split, so that no grid of dev or test ever answers a puzzle of train. That leaves
1,216,373 different puzzles for test, 1,543,034 for dev and 9,952,485 for train. Splits keep grids apart, not
structure: all 288 come from two of them by renaming digits, swapping rows, columns or bands, and turning, so
a figure on dev or test says nothing about unseen kinds of grid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from random import Random
from typing import Any, TypeAlias, cast

from asyncthink.errors import UsageError
from asyncthink.tasks.base import OneAnswer, Score, Split, columns, majority, split_of_text

Grid: TypeAlias = tuple[tuple[int, ...], ...]
"""Four rows of four; 0 is a blank."""

SIZE = 4
DIGITS = (1, 2, 3, 4)
BLANKS = range(4, 10)
"""How many blanks a drawn puzzle has."""
MAX_ANSWER_CHARS = 1000
"""A longer answer is refused; a grid drawn with rules and bars is a fraction of it."""
MAX_SENTENCE_CHARS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class SudokuProblem:
    """Complete the grid; its givens stand."""

    grid: Grid

    def __post_init__(self) -> None:
        if len(self.grid) != SIZE or any(len(row) != SIZE for row in self.grid):
            raise UsageError("a sudoku grid has 4 rows of 4 numbers")
        if not all(0 <= number <= SIZE for row in self.grid for number in row):
            raise UsageError("a sudoku grid holds the numbers 1 to 4, and 0 for a blank")
        if not self.blanks:
            raise UsageError("the sudoku has no blank; write 0 where a number is to be found")
        if next(completions(self.grid), None) is None:
            raise UsageError("the sudoku has no completion: its givens contradict one another")

    @property
    def blanks(self) -> int:
        """How many numbers are to be found."""
        return sum(row.count(0) for row in self.grid)


@cache
def solutions() -> tuple[Grid, ...]:
    """Return all complete grids that keep the rules, in order."""
    return tuple(_extended(()))


def _extended(rows: Grid) -> Iterator[Grid]:
    if len(rows) == SIZE:
        yield rows
        return
    for row in permutations(DIGITS):
        grid = (*rows, row)
        if not repeated(grid):
            yield from _extended(grid)


def _houses(grid: Grid) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield rows, columns and boxes with their names; of a grid's first rows, what there is of them."""
    for place, row in enumerate(grid, 1):
        yield f"row {place}", row
    for place, column in enumerate(zip(*grid, strict=True), 1):
        yield f"column {place}", column
    for top in range(0, len(grid), 2):
        for left in (0, 2):
            box = tuple(number for row in grid[top : top + 2] for number in row[left : left + 2])
            yield f"box {top + left // 2 + 1}", box


def repeated(grid: Grid) -> str | None:
    """Return the first breach of the rules, or None."""
    for name, numbers in _houses(grid):
        for number in DIGITS:
            if numbers.count(number) > 1:
                return f"{name} holds {number} more than once"
    return None


def completions(grid: Grid) -> Iterator[Grid]:
    """Yield the solution grids in which the givens stand."""
    givens = [(r, c, number) for r, row in enumerate(grid) for c, number in enumerate(row) if number]
    for solution in solutions():
        if all(solution[r][c] == number for r, c, number in givens):
            yield solution


def split_of(solution: Grid) -> Split:
    """Return the split of a complete grid, by its text as in `1234/3412/2143/4321`."""
    return split_of_text("/".join("".join(map(str, row)) for row in solution))


@cache
def _grids_of(split: Split) -> tuple[Grid, ...]:
    return tuple(solution for solution in solutions() if split_of(solution) is split)


def _rows(numbers: Sequence[int]) -> Grid:
    return tuple(tuple(numbers[start : start + SIZE]) for start in range(0, len(numbers), SIZE))


_SENTENCE = re.compile(
    r"(?:Complete|Solve) (?:this|the) 4 ?[x×] ?4 sudoku ?(?:\( ?[0._] (?:marks|is) a blank ?\))? ?:"
    r"(?P<cells>[0-9._,;/| ]+)",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sudoku(OneAnswer[SudokuProblem]):
    """The task."""

    name: str = "sudoku"
    capacity: int = 4

    def available(self, split: Split) -> None:
        """Return None: as many problems as are asked for."""

    def problem(self, split: Split, seed: int, index: int) -> SudokuProblem:
        """Make one puzzle of which every completion belongs to the split."""
        random = Random(f"sudoku:{split}:{seed}:{index}")
        while True:
            numbers = [number for row in random.choice(_grids_of(split)) for number in row]
            for place in random.sample(range(SIZE * SIZE), random.choice(BLANKS)):
                numbers[place] = 0
            problem = SudokuProblem(grid=_rows(numbers))
            if self.splits(problem) == {split}:
                return problem

    def splits(self, problem: SudokuProblem) -> Collection[Split]:
        """Return those of its completions."""
        return {split_of(solution) for solution in completions(problem.grid)}

    def read(self, values: Mapping[str, Any]) -> SudokuProblem:
        """Make a problem from `{"grid": [[1, 0, 3, 4], ...]}`, four rows, 0 for a blank."""
        columns(values, ["grid"])
        grid: Any = values["grid"]
        if not isinstance(grid, list | tuple):
            raise UsageError("a sudoku grid is a list of rows, as in [[1, 0, 3, 4], ...]")
        rows = cast("Sequence[Any]", grid)
        if not all(isinstance(row, list | tuple) for row in rows):
            raise UsageError("a row of a sudoku grid is a list, as in [1, 0, 3, 4]")
        if not all(type(number) is int for row in rows for number in row):
            raise UsageError("a sudoku grid holds whole numbers")
        return SudokuProblem(grid=tuple(tuple(row) for row in rows))

    def prompt(self, problem: SudokuProblem) -> str:
        """Return the problem as a sentence; `parse` reads it back."""
        rows = " / ".join(" ".join(map(str, row)) for row in problem.grid)
        return f"Complete this 4x4 sudoku (0 marks a blank): {rows}."

    def parse(self, sentence: str) -> SudokuProblem | None:
        """Read the sentence, blanks as 0, `.` or `_`; raises UsageError where its grid makes no sense."""
        if len(sentence) > MAX_SENTENCE_CHARS:
            return None
        found = _SENTENCE.fullmatch(" ".join(sentence.split()))
        if found is None:
            return None
        cells = re.findall(r"[0-9._]", found["cells"])
        if cells[-1:] == ["."] and ("." not in cells[:-1] or len(cells) == SIZE * SIZE + 1):
            cells.pop()  # the sentence's full stop, not a blank
        if len(cells) != SIZE * SIZE:
            raise UsageError(f"a 4x4 sudoku has 16 cells, not {len(cells)}; 0 marks a blank")
        return SudokuProblem(grid=_rows([int(cell) if cell.isdigit() else 0 for cell in cells]))

    def check(self, problem: SudokuProblem, answer: str) -> Score:
        """Score 1 for a completion of the grid, else 0 with the first fault."""
        grid = read_grid(answer)
        fault = grid if isinstance(grid, str) else _changed(problem.grid, grid) or repeated(grid)
        return Score(value=0.0 if fault else 1.0, reason=fault or "the grid is complete and keeps the rules")

    def merge(self, answers: Sequence[str]) -> str:
        """Return the grid that most traces gave, however they spelled it."""
        return majority([_spelled(answer) for answer in answers])

    def outside(self, problem: SudokuProblem, limits: Mapping[str, Any]) -> str | None:
        """Return what `limits` (blanks, the fewest and the most) do not allow, or None."""
        fewest, most = limits["blanks"]
        if not fewest <= problem.blanks <= most:
            return f"{problem.blanks} blanks (it knows {fewest} to {most})"
        return None


_RULE = re.compile(r"[-+|=: \t\r]*")
"""A line of a table without numbers."""
_LINE = re.compile(r"[0-9,;/|()\[\]{} \t\r]*")


def read_grid(answer: str) -> Grid | str:
    """Return the grid that an answer states, or why it states none.

    An answer is 16 digits from 1 to 4, row by row, in any layout of blanks, lines, commas, semicolons,
    slashes, bars and brackets, with lines of dashes as a table has them, and nothing else.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return "the answer is too long"
    lines = [line for line in answer.split("\n") if not _RULE.fullmatch(line)]
    if not all(_LINE.fullmatch(line) for line in lines):
        return "only digits, blanks, commas, slashes, bars and brackets are read"
    digits = [int(digit) for line in lines for digit in re.findall(r"[0-9]", line)]
    if len(digits) != SIZE * SIZE:
        return f"a grid has 16 digits, not {len(digits)}"
    if wrong := [digit for digit in digits if digit not in DIGITS]:
        return f"a grid holds 1 to 4, not {wrong[0]}"
    return _rows(digits)


def _changed(givens: Grid, grid: Grid) -> str | None:
    """Return the first given that does not stand, or None."""
    for r, row in enumerate(givens):
        for c, number in enumerate(row):
            if number and grid[r][c] != number:
                return f"row {r + 1}, column {c + 1} is given as {number}, not {grid[r][c]}"
    return None


def _spelled(answer: str) -> str:
    grid = read_grid(answer)
    return answer if isinstance(grid, str) else "\n".join(" ".join(map(str, row)) for row in grid)
