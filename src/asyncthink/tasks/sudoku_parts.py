"""How a 4x4 sudoku is divided, and how a part is searched: a sub-query language of rows.

Sub-queries. `1 0 3 0 | 2 4 | 2`: a row, then for each of its blanks the digits that stand in the blank's column
or box outside the row. Before it stands the row's number.

Search text, one line for each blank: its column and the digits that neither row, column nor box holds. What
is returned are the ways to fill the row, `1 2 3 4 ; ...`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from asyncthink.tasks.base import NONE, SubQuery
from asyncthink.tasks.sudoku import DIGITS, SIZE, Grid, SudokuProblem, repeated

RETURNED = 6
"""A worker returns at most so many rows."""
MAX_RETURN = 1000
"""Characters of a worker's return that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SudokuPart(SubQuery):
    """A row with blanks."""

    row: int


def parts(problem: SudokuProblem) -> list[SudokuPart]:
    """Return the rows that have blanks."""
    return [_part(problem.grid, row) for row in range(SIZE) if 0 in problem.grid[row]]


def _part(grid: Grid, row: int) -> SudokuPart:
    seen = [_seen(grid, row, column) for column, digit in enumerate(grid[row]) if not digit]
    query = _spelled(grid[row]) + "".join(f" |{_spelled(each)}" for each in seen)
    blanks = "; ".join(
        f"blank {i} is not {' or '.join(map(str, each))}" for i, each in enumerate(seen, 1) if each
    )
    sentence = (
        f"A row of a 4x4 sudoku is{_spelled(grid[row])}, where 0 is a blank and each digit from 1 to 4 stands once"
        f"{'; ' + blanks if blanks else ''}. Write up to {RETURNED} ways to fill the whole row, with semicolons "
        f"between them, or the word {NONE.strip()}."
    )
    return SudokuPart(query=query, prefix=f" {row + 1}", sentence=sentence, row=row)


def _seen(grid: Grid, row: int, column: int) -> list[int]:
    """Return the digits in a cell's column and box outside its row."""
    top, left = row // 2 * 2, column // 2 * 2
    box = [grid[r][c] for r in (top, top + 1) for c in (left, left + 1) if r != row]
    return sorted({*box, *(grid[r][column] for r in range(SIZE) if r != row)} - {0})


def _spelled(digits: Sequence[int]) -> str:
    return "".join(f" {digit}" for digit in digits)


def search(query: str) -> tuple[str, list[tuple[int, ...]]]:
    """Work through a row; return the text and the ways to fill it."""
    row, *seen = (tuple(map(int, piece.split())) for piece in query.split("|"))
    waiting = iter(seen)
    options: list[tuple[int, ...]] = []
    text = ""
    for column, digit in enumerate(row, 1):
        if digit:
            options.append((digit,))
            continue
        taken = next(waiting)
        options.append(tuple(each for each in DIGITS if each not in taken and each not in row))
        text += f" {column} :{_spelled(options[-1])}\n"
    found = [filled for filled in product(*options) if len(set(filled)) == SIZE]
    return text, found[:RETURNED]


def joined_text(rows: Sequence[Sequence[int]]) -> str:
    """Return what a worker returns for the rows it found."""
    return " ;".join(map(_spelled, rows)) or NONE


@dataclass(kw_only=True, slots=True)
class SudokuHarvest:
    """Rows as they come back; whether they fit together is found out at the end."""

    grid: Grid
    ways: dict[int, list[tuple[int, ...]]] = field(default_factory=dict[int, list[tuple[int, ...]]])

    @property
    def done(self) -> bool:
        """Whether every row with blanks came back."""
        return all(row in self.ways for row in range(SIZE) if 0 in self.grid[row])

    def add(self, part: SubQuery, returned: str | None) -> str:
        """Take in rows with semicolons or line ends between them; what is no row is left out, and nothing noted."""
        assert isinstance(part, SudokuPart)
        pieces = (returned or "")[:MAX_RETURN].replace("\n", ";").split(";")[:RETURNED]
        rows = [
            tuple(int(word) for word in piece.split() if word in ("1", "2", "3", "4")) for piece in pieces
        ]
        if kept := [row for row in rows if len(row) == SIZE]:
            self.ways[part.row] = kept
        return ""

    def answer(self) -> str:
        """Return the first grid that keeps the rules, a row a line."""
        grid = next(self._grids(), ())
        return "\n" + "".join(f"{_spelled(row)}\n" for row in grid) if grid else f"\n{NONE}\n"

    def _grids(self) -> Iterator[Grid]:
        ways = [self.ways.get(row, []) if 0 in given else [given] for row, given in enumerate(self.grid)]
        return (grid for grid in product(*ways) if repeated(grid) is None)


@dataclass(frozen=True, slots=True)
class SudokuDivider:
    """Divides a puzzle into its rows."""

    def refusal(self, problem: SudokuProblem) -> None:
        """Every puzzle can be divided."""

    def parts(self, problem: SudokuProblem) -> list[SudokuPart]:
        """Return the rows that have blanks."""
        return parts(problem)

    def search(self, part: SubQuery) -> tuple[str, str]:
        """Work through the row."""
        text, found = search(part.query)
        return text, joined_text(found)

    def perfect(self, problem: SudokuProblem, part: SubQuery) -> frozenset[object]:
        """Return every way to fill the row."""
        assert isinstance(part, SudokuPart)
        return frozenset((part.row, filled) for filled in search(part.query)[1])

    def harvest(self, problem: SudokuProblem) -> SudokuHarvest:
        """Begin with nothing."""
        return SudokuHarvest(grid=problem.grid)
