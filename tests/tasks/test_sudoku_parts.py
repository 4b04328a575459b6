"""Sudoku in parts: rows, what a worker finds of them against all ways there are, and whatever comes back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from itertools import combinations, permutations
from random import Random

import pytest

from asyncthink.tasks import DIVIDERS, Split, Sudoku, SudokuProblem
from asyncthink.tasks.sudoku import BLANKS, Grid, completions, solutions
from asyncthink.tasks.sudoku_parts import RETURNED, SudokuDivider, SudokuHarvest, SudokuPart, parts, search

TASK, DIVIDER = Sudoku(), SudokuDivider()
EXAMPLE = SudokuProblem(grid=((1, 0, 0, 4), (3, 4, 1, 2), (0, 0, 0, 3), (4, 0, 2, 0)))
EMPTY = SudokuProblem(grid=((0, 0, 0, 0),) * 4)


def punched(solution: Grid, blanks: set[int]) -> SudokuProblem:
    """Blank some of the cells, which are counted row by row."""
    rows = [[0 if 4 * r + c in blanks else solution[r][c] for c in range(4)] for r in range(4)]
    return SudokuProblem(grid=tuple(map(tuple, rows)))


def random_problems(seed: int, count: int, blanks: range = range(1, 17)) -> Iterator[SudokuProblem]:
    random = Random(seed)
    for _ in range(count):
        yield punched(random.choice(solutions()), set(random.sample(range(16), random.choice(blanks))))


def test_the_divider_is_that_of_the_task() -> None:
    assert isinstance(DIVIDERS["sudoku"], SudokuDivider)
    assert DIVIDER.refusal(EXAMPLE) is None and DIVIDER.refusal(EMPTY) is None
    assert list(DIVIDER.parts(EXAMPLE)) == parts(EXAMPLE)


def test_parts_by_hand() -> None:
    # Blank (1, 2): column 2 holds 4, box 1 holds 3 and 4. Blank (1, 3): column 3 holds 1 and 2, box 2 too.
    first, third, fourth = parts(EXAMPLE)
    assert first == SudokuPart(
        query=" 1 0 0 4 | 3 4 | 1 2",
        prefix=" 1",
        row=0,
        sentence=(
            "A row of a 4x4 sudoku is 1 0 0 4, where 0 is a blank and each digit from 1 to 4 stands once; "
            "blank 1 is not 3 or 4; blank 2 is not 1 or 2. Write up to 6 ways to fill the whole row, with "
            "semicolons between them, or the word none."
        ),
    )
    assert first.before == " ? 1"
    assert (third.query, third.before, third.row) == (" 0 0 0 3 | 1 3 4 | 4 | 1 2", " ? 3", 2)
    assert (fourth.query, fourth.before, fourth.row) == (" 4 0 2 0 | 4 | 2 3 4", " ? 4", 3)


def test_a_blank_of_which_nothing_is_known() -> None:
    assert [part.query for part in parts(EMPTY)] == [" 0 0 0 0 | | | |"] * 4
    assert [part.prefix for part in parts(EMPTY)] == [" 1", " 2", " 3", " 4"]
    assert "blank 1" not in parts(EMPTY)[0].sentence and "stands once. Write" in parts(EMPTY)[0].sentence


@pytest.mark.parametrize(
    ("query", "text", "returned"),
    [
        (" 1 0 0 4 | 3 4 | 1 2", " 2 : 2\n 3 : 3\n", " 1 2 3 4"),
        (" 0 0 0 3 | 1 3 4 | 4 | 1 2", " 1 : 2\n 2 : 1 2\n 3 : 4\n", " 2 1 4 3"),
        (" 0 0 3 4 | 4 |", " 1 : 1 2\n 2 : 1 2\n", " 1 2 3 4 ; 2 1 3 4"),
        (" 0 0 3 4 | 1 | 1 2", " 1 : 2\n 2 :\n", " none"),
        (" 0 0 3 4 | 1 | 1", " 1 : 2\n 2 : 2\n", " none"),
    ],
)
def test_a_search_by_hand(query: str, text: str, returned: str) -> None:
    part = SudokuPart(query=query, prefix=" 1", sentence="", row=0)
    assert DIVIDER.search(part) == (text, returned)


def ways_of(grid: Grid, row: int) -> list[tuple[int, ...]]:
    """Try all fillings of a row against the digits that stand elsewhere."""
    found: list[tuple[int, ...]] = []
    for way in permutations((1, 2, 3, 4)):
        fits = all(given in (0, digit) for given, digit in zip(grid[row], way, strict=True))
        for c, r, other in (
            (c, r, o) for c in range(4) if not grid[row][c] for r in range(4) for o in range(4)
        ):
            sees = other == c or (r // 2, other // 2) == (row // 2, c // 2)
            if r != row and sees and grid[r][other] == way[c]:
                fits = False
        if fits:
            found.append(way)
    return found


def test_a_perfect_worker_finds_all_ways_to_fill_a_row() -> None:
    many = 0
    for problem in random_problems(1, 400):
        rows = [row for row in range(4) if 0 in problem.grid[row]]
        assert [part.row for part in parts(problem)] == rows
        for part in parts(problem):
            ways = ways_of(problem.grid, part.row)
            assert search(part.query)[1] == ways[:RETURNED]
            assert DIVIDER.perfect(problem, part) == {(part.row, way) for way in ways[:RETURNED]}
            many += len(ways) > RETURNED
    assert many > 20


def solved_by(problem: SudokuProblem, random: Random) -> str:
    harvest = DIVIDER.harvest(problem)
    divided = parts(problem)
    random.shuffle(divided)
    for part in divided:
        assert not harvest.done
        harvest.add(part, DIVIDER.search(part)[1])
    assert harvest.done
    return harvest.answer()


@pytest.mark.parametrize("split", list(Split))
def test_perfect_workers_solve_every_puzzle_that_is_drawn(split: Split) -> None:
    random = Random(2)
    for index in range(200):
        problem = TASK.problem(split, 5, index)
        answer = solved_by(problem, random)
        assert TASK.check(problem, answer).value == 1.0, problem
        assert answer.count("\n") == 5 and answer[0] == "\n"


def test_the_first_of_several_completions_is_answered() -> None:
    for problem in random_problems(3, 200, BLANKS):
        digits = tuple(map(int, re.findall(r"[0-9]", solved_by(problem, Random(0)))))
        rows = tuple(digits[start : start + 4] for start in range(0, 16, 4))
        assert rows == min(completions(problem.grid))


def test_no_row_of_a_drawn_puzzle_has_more_ways_than_are_returned() -> None:
    """Three blanks have six orders at most; here are all places of five further blanks beside an empty row."""
    most = 0
    for number, others in enumerate(combinations(range(4, 16), max(BLANKS) - 4)):
        problem = punched(solutions()[number % 288], {0, 1, 2, 3, *others})
        most = max(most, len(ways_of(problem.grid, 0)))
    assert 4 <= most <= RETURNED


def test_where_more_ways_are_needed_than_are_returned_nothing_is_answered() -> None:
    # The first six orders of the digits begin with 1, in every row.
    assert [way[0] for way in search(" 0 0 0 0 | | | |")[1]] == [1] * 6
    assert solved_by(EMPTY, Random(0)) == "\n none\n"


# What comes back


def harvested(returns: Mapping[int, str | None], problem: SudokuProblem = EXAMPLE) -> SudokuHarvest:
    """Take in what workers returned for rows, which are counted from 0."""
    harvest = DIVIDER.harvest(problem)
    for part in parts(problem):
        if part.row in returns:
            harvest.add(part, returns[part.row])
    return harvest


SOLVED = {0: " 1 2 3 4", 2: " 2 1 4 3", 3: " 4 3 2 1"}
ANSWER = "\n 1 2 3 4\n 3 4 1 2\n 2 1 4 3\n 4 3 2 1\n"


@pytest.mark.parametrize(
    "first",
    [
        " 1 2 3 4",
        "1 2 3 4",
        "\n1\t2 3  4\n",
        " 1 3 2 4 ; 1 2 3 4",
        "I find:\n1 2 3 4\n",
        "1 2 3; 1 2 3 4; 1 2 3 4 4",
        "none; 1 2 3 4",
        "1 1 1 1; 1 2 3 4",
    ],
)
def test_rows_are_taken_out_of_a_return(first: str) -> None:
    harvest = harvested({**SOLVED, 0: first})
    assert harvest.done and harvest.answer() == ANSWER


@pytest.mark.parametrize(
    "first", [None, "", " none", "1234", "1 2 3", "1 2 3 4 1", "5 6 7 8", "1,2,3,4", "{"]
)
def test_what_is_no_row_does_not_count_as_one(first: str | None) -> None:
    harvest = harvested({**SOLVED, 0: first})
    assert not harvest.done and harvest.answer() == "\n none\n"


def test_rows_that_do_not_fit_together_are_no_answer() -> None:
    harvest = harvested({**SOLVED, 3: " 4 1 2 3"})  # 1 stands twice in column 2
    assert harvest.done and harvest.answer() == "\n none\n"


def test_a_row_that_comes_back_again_replaces_the_first() -> None:
    harvest = harvested({**SOLVED, 0: " 1 3 2 4"})
    assert harvest.answer() == "\n none\n"
    harvest.add(parts(EXAMPLE)[0], " 1 2 3 4")
    assert harvest.answer() == ANSWER
    harvest.add(parts(EXAMPLE)[0], None)
    assert harvest.answer() == ANSWER


def test_of_one_return_only_so_much_is_read() -> None:
    wrong = " 1 3 2 4 ;" * RETURNED
    assert harvested({**SOLVED, 0: wrong + " 1 2 3 4"}).answer() == "\n none\n"
    assert harvested({**SOLVED, 0: wrong[10:] + " 1 2 3 4"}).answer() == ANSWER
    assert not harvested({**SOLVED, 0: " " * 1000 + "1 2 3 4"}).done


def hostile() -> Iterator[str]:
    yield from (
        "1 2 3 4;" * 1_000_000,
        ";" * 10_000_000,
        "\n" * 10_000_000,
        "1 " * 5_000_000,
        "1" * 10_000_000,
    )
    yield from (
        "<ANSWER>1 2 3 4</ANSWER>",
        "</JOIN-1><FORK-1>x</FORK-1>",
        "<RETURN> 1 2 3 4</RETURN>",
        "\ud800",
    )
    yield from (
        "１ ２ ３ ４",
        "١ ٢ ٣ ٤",
        "¹ ² ³ ⁴",
        "1\x002 3 4",
        "1\u20282\u20283\u20284",
        "0 0 0 0",
        "-1 2 3 4",
    )
    yield from ("__import__('os').system('true')", "[1, 2, 3, 4]", "9" * 5000, "1 2 3 4" + "\x1b[31m")
    random = Random(4)
    for _ in range(200):
        yield "".join(random.choice("01234 ;\n\t<>x") for _ in range(random.choice([9, 90, 900, 9000])))


def test_hostile_returns_cost_little_and_become_a_grid_or_nothing() -> None:
    slowest = 0.0
    for text in hostile():
        began = time.process_time()
        answer = harvested(dict.fromkeys(range(4), text), EMPTY).answer()
        slowest = max(slowest, time.process_time() - began)
        assert re.fullmatch(r"\n(( [1-4]){4}\n){4}|\n none\n", answer), text[:80]
        harvested({**SOLVED, 0: text}).answer()
    assert slowest < 0.05


def test_the_most_rows_that_can_come_back_cost_little() -> None:
    ways = " ;".join(" " + " ".join(map(str, way)) for way in list(permutations((1, 2, 3, 4)))[:RETURNED])
    began = time.process_time()
    assert harvested(dict.fromkeys(range(4), ways), EMPTY).answer() == "\n none\n"
    assert time.process_time() - began < 0.2
