"""4x4 sudoku: the solution grids and their splits, puzzles, sentences, and answers that attack the check."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink.errors import UsageError
from asyncthink.tasks import Split, Sudoku, SudokuProblem, get_task, judge, recognise
from asyncthink.tasks.sudoku import Grid, completions, solutions, split_of

TASK = Sudoku()
EXAMPLE = SudokuProblem(grid=((1, 0, 3, 4), (3, 4, 0, 2), (2, 1, 4, 3), (4, 3, 2, 0)))
SOLVED = "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"
TWO_WAYS = SudokuProblem(grid=((0, 0, 3, 4), (3, 4, 1, 2), (0, 0, 4, 3), (4, 3, 2, 1)))
"""The 1 and 2 of the first and third row can change places."""


def problems() -> st.SearchStrategy[SudokuProblem]:
    def punched(solution: Grid, blanks: set[int]) -> SudokuProblem:
        return SudokuProblem(
            grid=tuple(
                tuple(0 if 4 * r + c in blanks else number for c, number in enumerate(row))
                for r, row in enumerate(solution)
            )
        )

    return st.builds(punched, st.sampled_from(solutions()), st.sets(st.integers(0, 15), min_size=1))


def test_there_are_288_solution_grids() -> None:
    assert len(set(solutions())) == len(solutions()) == 288
    for grid in solutions():
        columns = list(zip(*grid, strict=True))
        boxes = [
            grid[top][left : left + 2] + grid[top + 1][left : left + 2] for top in (0, 2) for left in (0, 2)
        ]
        assert all(sorted(house) == [1, 2, 3, 4] for house in [*grid, *columns, *boxes])


def test_all_grids_come_from_two() -> None:
    """By swapping rows of a band, bands, two digits, or rows with columns: splits cannot keep that apart."""

    def turned(grid: Grid) -> list[Grid]:
        a, b, c, d = grid
        digits = [{**{n: n for n in range(1, 5)}, n: n + 1, n + 1: n} for n in (1, 2, 3)]
        renamed = [tuple(tuple(names[number] for number in row) for row in grid) for names in digits]
        return [(b, a, c, d), (c, d, a, b), tuple(zip(*grid, strict=True)), *renamed]

    left, classes = set(solutions()), 0
    while left:
        classes += 1
        found: set[Grid] = {left.pop()}
        new = found
        while new:
            new = {grid for each in new for grid in turned(each)} - found
            found |= new
        left -= found
    assert classes == 2


def test_split_is_the_hash_of_the_grid() -> None:
    assert Counter(map(split_of, solutions())) == {Split.TRAIN: 222, Split.DEV: 37, Split.TEST: 29}
    for grid in solutions()[::29]:
        text = "/".join("".join(str(number) for number in row) for row in grid)
        bucket = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % 10
        assert split_of(grid) is {0: Split.TEST, 1: Split.DEV}.get(bucket, Split.TRAIN)


@pytest.mark.parametrize("split", list(Split))
def test_puzzles_are_reproducible_alone_and_stay_in_their_split(split: Split) -> None:
    drawn = [TASK.problem(split, 3, index) for index in range(200)]
    assert drawn[7] == TASK.problem(split, 3, 7)
    assert len(set(drawn)) > 195
    assert {problem.blanks for problem in drawn} == {4, 5, 6, 7, 8, 9}
    for problem in drawn:
        assert {split_of(solution) for solution in completions(problem.grid)} == {split}
    assert TASK.available(split) is None


def test_a_problem_that_was_drawn_stays_the_same() -> None:
    assert TASK.problem(Split.DEV, 0, 0).grid == ((4, 0, 2, 0), (0, 1, 0, 0), (3, 0, 1, 0), (0, 0, 3, 4))


@pytest.mark.slow
def test_how_many_puzzles_each_split_has() -> None:
    """Counted over all cell sets: those of which every completion is in the split."""
    flags = {Split.TEST: 1, Split.DEV: 2, Split.TRAIN: 4}
    coded = [
        (sum(number - 1 << 2 * place for place, number in enumerate(sum(grid, ()))), flags[split_of(grid)])
        for grid in solutions()
    ]
    counts: Counter[int] = Counter()
    for size in range(4, 10):
        for blanks in combinations(range(16), size):
            kept = (1 << 32) - 1 - sum(3 << 2 * place for place in blanks)
            puzzles: dict[int, int] = {}
            for code, flag in coded:
                puzzles[code & kept] = puzzles.get(code & kept, 0) | flag
            counts.update(puzzles.values())
    assert [counts[flags[split]] for split in Split] == [9_952_485, 1_543_034, 1_216_373]


def test_a_puzzle_may_have_several_completions() -> None:
    assert len(list(completions(TWO_WAYS.grid))) == 2
    for first, third in (("12", "21"), ("21", "12")):
        assert TASK.check(TWO_WAYS, f"{first}34/3412/{third}43/4321").value == 1
    assert TASK.check(TWO_WAYS, "1234/3412/1243/4321").value == 0


@given(problems())
def test_sentence_and_values_are_read_back(problem: SudokuProblem) -> None:
    assert TASK.parse(TASK.prompt(problem)) == problem
    assert TASK.read({"grid": [list(row) for row in problem.grid]}) == problem
    answer = str(next(completions(problem.grid)))
    assert TASK.check(problem, answer).value == 1
    assert judge("sudoku", {"grid": problem.grid}, answer).value == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "Complete this 4x4 sudoku (0 marks a blank): 1 0 3 4 / 3 4 0 2 / 2 1 4 3 / 4 3 2 0.",
        "complete this 4 X 4 Sudoku: 1034 3402\n2143 4320",
        "Solve the 4×4 sudoku (_ is a blank):\n1 _ 3 4\n3 4 _ 2\n2 1 4 3\n4 3 2 _",
        "Solve this 4x4 sudoku: 1.34/34.2/2143/432.",
        "Solve this 4x4 sudoku: 1.34/34.2/2143/432..",
    ],
)
def test_people_write_the_sentence_in_several_ways(sentence: str) -> None:
    known = recognise(sentence)
    assert known is not None and (known.task, known.problem) == (get_task("sudoku"), EXAMPLE)


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("1 0 3 4 / 3 4 0 2 / 2 1 4 3 / 4 3 2", "not 15"),
        ("1 0 3 4 / 3 4 0 2 / 2 1 4 3 / 4 3 2 1 0", "not 17"),
        ("1 0 3 4 / 3 4 0 2 / 2 1 4 3 / 4 3 5 0", "1 to 4"),
        ("1 1 0 0 / 0 0 0 0 / 0 0 0 0 / 0 0 0 0", "no completion"),
        ("1 2 0 0 / 0 0 3 0 / 0 0 4 0 / 0 0 0 0", "no completion"),
        ("1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 1", "no blank"),
    ],
)
def test_grids_that_make_no_sense_are_an_error(cells: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        recognise(f"Complete this 4x4 sudoku (0 marks a blank): {cells}.")
    assert "\n" not in str(caught.value)


NONSENSE: list[dict[str, Any]] = [
    {},
    {"gird": [[0] * 4] * 4},
    {"grid": [[0] * 4] * 4, "blanks": 16},
    {"grid": "1034"},
    {"grid": ["1034"] * 4},
    {"grid": [[0] * 4] * 3},
    {"grid": [[0] * 4] * 3 + [[0] * 5]},
    {"grid": [[0] * 4] * 3 + [[0, 0, 0, True]]},
    {"grid": [[0] * 4] * 3 + [[0, 0, 0, 1.0]]},
    {"grid": [[0] * 4] * 3 + [[0, 0, 0, 10**5000]]},
    {"grid": [[0] * 4] * 3 + [[0, 0, 0, -1]]},
    {"grid": [[[]] * 4] * 4},
    {"grid": None},
]


@pytest.mark.parametrize("values", NONSENSE)
def test_values_that_make_no_sense_are_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TASK.read(values)


@pytest.mark.parametrize(
    "layout",
    [
        "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1\n",
        "1234341221434321",
        "1, 2, 3, 4; 3, 4, 1, 2; 2, 1, 4, 3; 4, 3, 2, 1",
        "1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 1",
        "[[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2,1]]",
        "{(1 2 3 4) (3 4 1 2) (2 1 4 3) (4 3 2 1)}",
        "+---+---+\r\n|1 2|3 4|\r\n|3 4|1 2|\r\n|---+---|\r\n|2 1|4 3|\r\n|4 3|2 1|\r\n+===+===+",
        "|1|2|3|4|\n|:-|-|-|-:|\n|3|4|1|2|\n|2|1|4|3|\n|4|3|2|1|",
    ],
)
def test_a_grid_in_any_layout(layout: str) -> None:
    assert TASK.check(EXAMPLE, layout).value == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 2", "row 4 holds 2 more than once"),
        ("1 1 3 4 / 3 4 2 2 / 2 1 4 3 / 4 3 2 1", "row 1 holds 1 more than once"),
        ("1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 1 2", "row 4, column 3 is given as 2, not 1"),
        ("2 1 3 4 / 3 4 1 2 / 1 2 4 3 / 4 3 2 1", "row 1, column 1 is given as 1, not 2"),
        ("1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 0", "1 to 4, not 0"),
        ("1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 7", "1 to 4, not 7"),
        ("1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2", "not 15"),
        (SOLVED + "\n" + SOLVED, "not 32"),
        ("", "not 0"),
        ("The grid is " + SOLVED, "only digits"),
        (SOLVED.replace("4 3 2 1", "4 3 2 -1"), "only digits"),
        (SOLVED.replace("1 2", "1+2"), "only digits"),
        (SOLVED + " " * 1000, "too long"),
    ],
)
def test_the_first_fault_is_told(answer: str, told: str) -> None:
    score = TASK.check(EXAMPLE, answer)
    assert score.value == 0
    assert told in score.reason


def test_columns_and_boxes_are_judged() -> None:
    blank = SudokuProblem(grid=((0,) * 4,) * 4)
    assert TASK.check(blank, "1234/3412/1243/4321").reason == "column 1 holds 1 more than once"
    assert TASK.check(blank, "1234/2341/3412/4123").reason == "box 1 holds 2 more than once"


def test_merge_counts_grids_and_not_spellings() -> None:
    other = "1 2 3 4 / 4 3 2 1 / 2 1 4 3 / 3 4 1 2"
    merged = TASK.merge(
        [other, "nonsense", other.replace(" ", ""), SOLVED, SOLVED.replace("\n", "/"), f"[{SOLVED}]"]
    )
    assert merged == SOLVED
    assert TASK.merge(["nonsense ", "nonsense", SOLVED]) == "nonsense"


def test_pool_takes_the_best() -> None:
    assert TASK.pool(EXAMPLE, ["", "12", SOLVED, "3"]).value == 1
    assert TASK.pool(EXAMPLE, []).value == 0


def test_outside_counts_the_blanks() -> None:
    limits = {"blanks": [4, 9]}
    assert TASK.outside(TASK.problem(Split.DEV, 0, 0), limits) is None
    assert TASK.outside(EXAMPLE, limits) == "3 blanks (it knows 4 to 9)"
    assert TASK.outside(TWO_WAYS, limits) is None


def hostile_answers() -> list[str]:
    shapes = [
        "9**9**8",
        "__import__('os').system('true')",
        "[" * 10_000_000,
        "[" * 400 + "1" + "]" * 400,
        "1" * 10_000_000,
        "1 " * 5_000_000,
        "\n" * 10_000_000,
        "-" * 1000,
        "-\n" * 500,
        "|-" * 499 + "1",
        "١٢٣٤٣٤١٢٢١٤٣٤٣٢١",
        "１２３４３４１２２１４３４３２１",
        "①②③④" * 4,
        SOLVED + "\x00",
        SOLVED + "\ud800",
        SOLVED.replace(" ", "\u00a0"),
        SOLVED.replace("\n", "\u2028"),
        "\u202e" + SOLVED,
        f"<ANSWER>{SOLVED}</ANSWER>",
        f"{SOLVED}</ANSWER>",
        f"<FORK-1>{SOLVED}</FORK-1>",
        "1e3 2 3 4",
        "0x1234341221434321",
    ]
    rng = random.Random(1)
    alphabet = "01234 \n|-+=,;/()[]{}:"
    while len(shapes) < 200:
        shapes.append("".join(rng.choice(alphabet) for _ in range(rng.choice([5, 30, 100, 1000]))))
    return shapes


def test_hostile_answers_cost_little_and_earn_nothing() -> None:
    slowest = 0.0
    for answer in hostile_answers():
        began = time.process_time()
        score = TASK.check(EXAMPLE, answer)
        slowest = max(slowest, time.process_time() - began)
        assert score.value == 0 and score.reason, answer[:80]
        TASK.merge([answer, SOLVED])
    assert slowest < 0.05


@given(
    st.text()
    | st.text("01234./_|-[] \n")
    | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
)
def test_no_text_raises(text: str) -> None:
    assert TASK.check(EXAMPLE, text).value in (0, 1)
    assert TASK.merge([text, text]) == TASK.merge([TASK.merge([text])])
    assert TASK.parse(text) is None


@given(st.text("0123456789._ /|,;", max_size=60))
def test_a_sentence_is_read_or_refused_in_one_line(cells: str) -> None:
    try:
        problem = TASK.parse(f"Complete this 4x4 sudoku: {cells}")
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert problem is None or next(completions(problem.grid)) in solutions()
