"""Program-made traces: legal by the runtime's own parser, and right by arithmetic that is done again here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest

from asyncthink.protocol import tags
from asyncthink.protocol.actions import Return
from asyncthink.protocol.parser import parse_worker
from asyncthink.tasks import DIVIDERS, Asked, CountdownProblem, Split, SudokuProblem, get_task
from asyncthink.tasks.base import NONE
from asyncthink.tasks.countdown_parts import LARGEST, candidates
from asyncthink.training import synthesis
from asyncthink.training.encoding import new_lexicon
from asyncthink.training.structures import Step, Structure
from asyncthink.training.synthesis import (
    FEWEST,
    LOST,
    Example,
    Piece,
    guess_example,
    organizer_example,
    worker_example,
)
from tests.tasks.countdown_arithmetic import form, random_problem, said, value
from tests.training.trace_reader import Trace, read_back, searched

COUNTDOWN, SUDOKU = get_task("countdown"), get_task("sudoku")
EXAMPLE = Asked(COUNTDOWN, CountdownProblem(numbers=(2, 3, 5, 7), target=28))
GRID = SudokuProblem(grid=((1, 0, 0, 4), (3, 4, 1, 2), (0, 0, 0, 3), (4, 0, 2, 0)))


def made_up(seed: int) -> Iterator[Asked]:
    """Yield problems without end: two in three of four numbers, the others of three, five, and sudoku."""
    random = Random(seed)
    while True:
        for size in (4, 3, 4, 4, 5, 4):
            yield Asked(COUNTDOWN, random_problem(random, size))
        yield Asked(SUDOKU, SUDOKU.problem(Split.TRAIN, seed, random.getrandbits(20)))


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    drawn = [(asked, 1 + place % 6, place) for place, asked in zip(range(400), made_up(5), strict=False)]
    return [
        read_back(asked, capacity, organizer_example(asked, capacity, Random(seed)))
        for asked, capacity, seed in drawn
    ]


def on_countdown(traces: Sequence[Trace]) -> list[Trace]:
    return [trace for trace in traces if trace.asked.task is COUNTDOWN]


def test_traces_are_legal_by_the_runtimes_parser_and_rules(traces: list[Trace]) -> None:
    # read_back asserts; here: that there was something to judge
    assert sum(trace.shape.count("F") for trace in traces) > 1000
    assert sum(trace.shape.count("T") for trace in traces) > 300
    for trace in traces:
        assert trace.example.role == "organizer" and trace.example.capacity == trace.capacity
        assert trace.asked.task.parse(trace.example.query) == trace.asked.problem
    sizes = Counter(len(trace.asked.problem.numbers) for trace in on_countdown(traces))
    assert min(sizes[3], sizes[5], len(traces) - sizes.total()) > 40


def test_a_pool_is_filled_but_never_overflows(traces: list[Trace]) -> None:
    most = {capacity: max(t.most_open for t in traces if t.capacity == capacity) for capacity in range(1, 7)}
    assert most == {capacity: capacity - 1 for capacity in range(1, 7)}


def test_alone_it_never_forks(traces: list[Trace]) -> None:
    alone = [trace for trace in traces if trace.capacity == 1]
    assert alone and all(set(trace.shape) <= set("TA") and len(trace.example.pieces) == 1 for trace in alone)


def test_the_answer_comes_once_and_last(traces: list[Trace]) -> None:
    for trace in traces:
        *before, last = trace.example.pieces
        assert last.trained and last.text.endswith("</ANSWER>") and last.text.count("<ANSWER>") == 1
        assert not any("ANSWER" in piece.text for piece in before)


def test_answers_are_right_and_were_found_before(traces: list[Trace]) -> None:
    sizes: Counter[int] = Counter()
    for trace in on_countdown(traces):
        lines = trace.answer.strip("\n").split("\n")
        sizes[len(trace.known)] += 1
        if not trace.known:
            assert lines == [NONE]
            continue
        score = COUNTDOWN.check(trace.asked.problem, trace.answer)
        assert [part.correct for part in score.parts] == [True] * len(lines)
        assert len(lines) == min(trace.asked.problem.wanted, len(trace.known))
        answered = {form(line) for line in lines}
        assert len(answered) == len(lines) and answered <= trace.known
    assert sizes[0] > 5 and sizes[4] > 5, sizes


def test_a_grid_is_answered_when_all_of_its_rows_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "LOST", 0.1)
    solved: Counter[bool] = Counter()
    for seed in range(100):
        asked = Asked(SUDOKU, SUDOKU.problem(Split.TRAIN, 1, seed))
        trace = read_back(asked, 3, organizer_example(asked, 3, Random(seed)))
        solved[trace.enough] += 1
        assert trace.enough is (trace.lost == 0)
        assert SUDOKU.check(asked.problem, trace.answer).value == trace.enough
        if trace.enough:
            rows = enumerate(trace.answer.strip("\n").split("\n"), 1)
            answered = {(number, tuple(map(int, row.split()))) for number, row in rows}
            given = {(number, row) for number, row in enumerate(asked.problem.grid, 1) if 0 not in row}
            assert answered - trace.known == given
        else:
            assert trace.answer == f"\n{NONE}\n"
    assert solved[True] > 40 and solved[False] > 10, solved


def test_it_goes_on_until_enough_is_known_or_nothing_is_left(traces: list[Trace]) -> None:
    """Whoever stopped short had taken four parts or all, and left no worker unjoined."""
    short = [trace for trace in traces if not trace.enough]
    assert len(short) > 30
    for trace in short:
        parts = DIVIDERS[trace.asked.task.name].parts(trace.asked.problem)
        assert len(trace.taken) >= min(FEWEST, len(parts))
        assert trace.shape.count("F") == trace.shape.count("J")


def test_it_stops_as_soon_as_enough_is_known(traces: list[Trace]) -> None:
    for trace in traces:
        assert trace.shape[-2] in "JT" and trace.shape.count("A") == 1
    late = [trace for trace in traces if trace.enough and trace.shape.count("J") < trace.shape.count("F")]
    assert len(late) > 20, "what still runs is not waited for"


def test_what_is_handed_out_is_legal_and_never_the_same_twice(traces: list[Trace]) -> None:
    for trace in traces:
        assert len({(one.prefix, one.query) for one in trace.taken}) == len(trace.taken)
        legal = {
            (one.prefix, one.query) for one in DIVIDERS[trace.asked.task.name].parts(trace.asked.problem)
        }
        assert all((one.prefix, one.query) in legal for one in trace.taken)
    for trace in on_countdown(traces):
        problem = trace.asked.problem
        for one in trace.taken:
            part = said(one.query)
            assert part.used == sorted(problem.numbers) and 0 <= part.goal <= LARGEST
            reached: Fraction | None = Fraction(part.goal)
            for number, operator in reversed(part.peeled):
                assert reached is not None
                reached = value(operator, Fraction(number), reached)
            assert reached == problem.target
            assert len(part.numbers) == 1 or (not part.peeled and len(problem.numbers) == 4)


def test_forks_are_numbered_as_they_come(traces: list[Trace]) -> None:
    for trace in traces:
        indices = [one.index for one in trace.taken if one.index]
        assert indices == list(range(1, len(indices) + 1))


def test_structures_vary(traces: list[Trace]) -> None:
    shapes = [trace.shape for trace in traces if trace.capacity == 4]
    assert len(set(shapes)) > len(shapes) // 2
    assert any(re.fullmatch(r"T*F[FT]*FJ+A", shape) for shape in shapes), "all forks before any join"
    assert sum(bool(re.search(r"J.*F", shape)) for shape in shapes) > 10, "a freed worker is used again"
    assert any(re.search(r"F+T+J", shape) for shape in shapes), "own search while workers are busy"
    assert any(shape.count("J") < shape.count("F") for shape in shapes), "a worker that is never joined"
    orders = [trace.joined for trace in traces]
    assert any(order != sorted(order) for order in orders) and any(
        len(order) > 2 and order == sorted(order) for order in orders
    )


def test_a_worker_fails_now_and_then(traces: list[Trace]) -> None:
    joins = sum(len(trace.joined) for trace in traces)
    lost = sum(trace.lost for trace in traces)
    assert joins > 800 and 0.2 * LOST < lost / joins < 3 * LOST


# What is asked for


STRUCTURES = {
    Structure.SEQUENTIAL: "T+A",
    Structure.PAIRS: "(FJ)+A",
    Structure.WAVES: "(F{N}J{N})*F{0,N}J{0,N}A",
}
"""What shapes match, with N workers."""


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_structure_is_kept_to(structure: Structure) -> None:
    long = 0
    for place, asked in zip(range(120), made_up(7), strict=False):
        capacity = 2 + place % 4
        example = organizer_example(asked, capacity, Random(place), structure=structure)
        trace = read_back(asked, capacity, example)
        assert re.fullmatch(STRUCTURES[structure].replace("N", str(capacity - 1)), trace.shape), trace.shape
        assert trace.joined == sorted(trace.joined), "the oldest is joined first"
        long += len(trace.shape) > 2 * capacity
    assert long > 40


@pytest.mark.parametrize("structure", list(Structure))
def test_alone_every_structure_is_sequential(structure: Structure) -> None:
    for seed in range(10):
        trace = read_back(EXAMPLE, 1, organizer_example(EXAMPLE, 1, Random(seed), structure=structure))
        assert re.fullmatch("T+A", trace.shape)


@pytest.mark.parametrize("most", [1, 3, 12])
def test_no_more_parts_are_looked_at_than_it_may(most: int) -> None:
    five = Asked(COUNTDOWN, CountdownProblem(numbers=(3, 7, 12, 13, 19), target=97))
    counts = {
        len(read_back(five, 3, organizer_example(five, 3, Random(seed), most_parts=most)).taken)
        for seed in range(30)
    }
    assert max(counts) == most


def critical_path(asked: Asked, example: Example) -> int:
    """T of a trace as the trained model's own tokens give it, workers searching as they were taught to."""
    tokenizer = new_lexicon().tokenizer

    def cost(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    tick, ends = 0, dict[str, int]()
    for piece in example.pieces:
        if not piece.trained:
            tick = max(tick, ends[piece.text.rpartition("-")[2].rstrip(">")])
            continue
        for fork in re.finditer(r"<FORK-(\d+)>(.*?)</FORK-\1>", piece.text):
            lines, found = searched(asked.task.name, fork[2])
            begun = tick + cost(piece.text[: fork.end()])
            ends[fork[1]] = begun + cost(lines + tags.returned(found))
        tick += cost(piece.text)
    return tick


@pytest.mark.parametrize(("capacity", "most"), [(1, 200), (2, 320), (4, 200), (4, 320)])
def test_traces_keep_to_the_clock_and_use_it(capacity: int, most: int) -> None:
    drawn = [
        (asked, organizer_example(asked, capacity, Random(seed), most_ticks=most))
        for seed, asked in zip(range(60), made_up(9), strict=False)
        if asked.task is COUNTDOWN
    ]
    found = sorted(critical_path(asked, example) for asked, example in drawn)
    # A part begun in time may be found to hold four expressions, which then have to be written.
    assert found[-1] <= most + 40 and sum(each > most for each in found) <= len(found) // 20
    assert found[len(found) // 2] > 0.6 * most


def test_own_thinking_is_as_frequent_as_it_should_be() -> None:
    def share(own_thinking: float) -> float:
        shapes = "".join(
            read_back(asked, 4, organizer_example(asked, 4, Random(seed), own_thinking=own_thinking)).shape
            for seed, asked in zip(range(150), made_up(8), strict=False)
        )
        return shapes.count("T") / (shapes.count("T") + shapes.count("F"))

    assert share(0.0) < 0.06 < 0.1 < share(0.25) < 0.25 < 0.3 < share(1.0)


def first_taken(problem: CountdownProblem, seed: int) -> str:
    asked = Asked(COUNTDOWN, problem)
    trace = read_back(asked, 4, organizer_example(asked, 4, Random(seed)))
    return trace.taken[0].query


def test_the_first_sub_query_is_any_legal_one() -> None:
    problem = CountdownProblem(numbers=(2, 3, 5, 7), target=28, wanted=1)
    legal = {one.query for one in candidates(problem)}
    drawn = Counter(first_taken(problem, seed) for seed in range(20 * len(legal)))
    assert drawn.keys() == legal
    assert max(drawn.values()) < 45, "20 each are expected"


def test_sub_queries_without_a_solution_are_as_frequent_as_among_the_legal_ones() -> None:
    random = Random(11)
    expected = observed = 0.0
    problems = [replace(random_problem(random), wanted=1) for _ in range(40)]
    for place, problem in enumerate(problems):
        pool = candidates(problem)
        expected += sum(searched("countdown", one.query)[1] == NONE for one in pool) / len(pool)
        tries = [first_taken(problem, 100 * place + seed) for seed in range(10)]
        observed += sum(searched("countdown", query)[1] == NONE for query in tries) / len(tries)
    assert 0.2 < expected / 40 < 0.95
    assert abs(observed - expected) / 40 < 0.07  # three standard errors


# Workers and guesses


def test_a_workers_trace_is_a_search_of_any_part_and_all_its_own() -> None:
    for asked in (EXAMPLE, Asked(SUDOKU, GRID)):
        divider = DIVIDERS[asked.task.name]
        parts = {one.query: one for one in divider.parts(asked.problem)}
        seen: Counter[str] = Counter()
        for seed in range(20 * len(parts)):
            example = worker_example(asked, Random(seed))
            seen[example.query] += 1
            (piece,) = example.pieces
            text, returned = divider.search(parts[example.query])
            *before, last = parse_worker(piece.text)
            assert piece.trained and last.end == len(piece.text) and last.action == Return(text=returned)
            assert tags.render(one.action for one in before) == text
            assert (example.role, example.capacity) == ("worker", 1)
        assert seen.keys() == parts.keys() and max(seen.values()) < 45, "20 each are expected"


def test_a_guess_is_one_right_answer() -> None:
    answered: Counter[int] = Counter()
    for seed, asked in zip(range(120), made_up(9), strict=False):
        example = guess_example(asked, 1 + seed % 5, Random(seed))
        trace = read_back(asked, 1 + seed % 5, example)
        assert trace.shape == "A" and example.role == "organizer"
        assert asked.task.parse(example.query) == asked.problem
        if asked.task is SUDOKU:
            assert SUDOKU.check(asked.problem, trace.answer).value == 1.0
            continue
        divider = DIVIDERS["countdown"]
        known = frozenset[object]().union(
            *(divider.perfect(asked.problem, part) for part in divider.parts(asked.problem))
        )
        score = COUNTDOWN.check(asked.problem, trace.answer)
        count = min(len(known), asked.problem.wanted)
        assert score.value == count / asked.problem.wanted
        assert trace.answer.count("\n") == 1 + max(count, 1)
        answered[count] += 1
    assert min(answered[1], answered[2], answered[4]) > 5, answered


def test_guesses_differ() -> None:
    one = replace(EXAMPLE.problem, wanted=1)
    texts = {guess_example(Asked(COUNTDOWN, one), 4, Random(seed)).pieces for seed in range(40)}
    assert len(texts) > 5


# By hand


class Scripted(Random):
    """Chooses as it is told: one step an action, one index a join."""

    def script(self, steps: Sequence[str], joins: Sequence[int], lost: Sequence[int] = ()) -> Scripted:
        self.steps, self.joins, self.lost = map(Step, steps), iter(joins), lost
        self.index = 0
        return self

    def shuffle(self, x: object) -> None:
        """Leave the parts in their order: the last is taken first."""

    def uniform(self, a: float, b: float) -> float:
        return 1.0

    def choices(self, population: Sequence[Step], *_: object, **__: object) -> list[Step]:  # type: ignore
        chosen = next(self.steps)
        assert chosen in population
        return [chosen]

    def choice(self, seq: Sequence[int]) -> int:  # type: ignore[override]
        self.index = next(self.joins)
        assert self.index in seq
        return self.index

    def random(self) -> float:
        return 0.0 if self.index in self.lost else 1.0


def test_a_small_organizer_worked_by_hand() -> None:
    steps = ["fork", "fork", "join", "think", "join", "fork", "join", "think"]
    random = Scripted().script(steps, joins=[2, 1, 3], lost=[1])
    pieces = organizer_example(EXAMPLE, 3, random).pieces
    assert [(piece.text, piece.trained) for piece in pieces] == [
        (" ?<FORK-1> 2 7 | 3 5 > 28</FORK-1>\n ?<FORK-2> 2 5 | 3 7 > 28</FORK-2>\n<JOIN-2>", True),
        (" 2 + 5 + 3 * 7 ; ( 2 + 5 ) * ( 7 - 3 )</JOIN-2>", False),
        (
            " 1 2\n [ : 2 3 | 5 7 > 28\n"
            " 2 + 3 = 5 | 5 7 = 12 2 35 : + 23 _- 33 _/ 140\n"
            " 3 - 2 = 1 | 5 7 = 12 2 35 : + 27 _- 29 * 28 _/ 28\n"
            " 2 * 3 = 6 | 5 7 = 12 2 35 : + 22 _- 34 _/ 168\n"
            " = none ]\n"
            "<JOIN-1>",
            True,
        ),
        ("(no result)</JOIN-1>", False),
        ("\n ?<FORK-3> 7 _/ 2 3 5 > 196</FORK-3>\n<JOIN-3>", True),
        (" none</JOIN-3>", False),
        (
            "\n [ : 7 * 2 3 5 > 4\n"
            " 2 | 3 5 = 8 2 15 : + 2 ( 5 - 3 ) _- 6 * 2 ( 5 - 3 ) _/ 8 ( 3 + 5 )\n"
            " 3 | 2 5 = 7 3 10 : + 1 _- 7 ( 2 + 5 ) _/ 12\n"
            " 5 | 2 3 = 5 1 6 : - 1 ( 3 - 2 ) _- 9 _/ 20\n"
            " = 7 * ( 2 + 5 - 3 ) ; 7 * 2 * ( 5 - 3 ) ; 7 * ( 3 + 5 ) / 2 ] 3 4 5\n"
            "<ANSWER>\n"
            " 2 + 5 + 3 * 7\n"
            " ( 2 + 5 ) * ( 7 - 3 )\n"
            " 7 * ( 2 + 5 - 3 )\n"
            " 7 * 2 * ( 5 - 3 )\n"
            "</ANSWER>",
            True,
        ),
    ]


def test_a_small_sudoku_organizer_worked_by_hand() -> None:
    random = Scripted().script(["fork", "think", "join", "think"], joins=[1])
    pieces = organizer_example(Asked(SUDOKU, GRID), 3, random).pieces
    assert [(piece.text, piece.trained) for piece in pieces] == [
        (
            " ? 4<FORK-1> 4 0 2 0 | 4 | 2 3 4</FORK-1>\n"
            " [ 3 : 0 0 0 3 | 1 3 4 | 4 | 1 2\n 1 : 2\n 2 : 1 2\n 3 : 4\n = 2 1 4 3 ]\n"
            "<JOIN-1>",
            True,
        ),
        (" 4 3 2 1</JOIN-1>", False),
        (
            "\n [ 1 : 1 0 0 4 | 3 4 | 1 2\n 2 : 2\n 3 : 3\n = 1 2 3 4 ]\n"
            "<ANSWER>\n 1 2 3 4\n 3 4 1 2\n 2 1 4 3\n 4 3 2 1\n</ANSWER>",
            True,
        ),
    ]


def test_a_small_worker_worked_by_hand() -> None:
    two = Asked(COUNTDOWN, CountdownProblem(numbers=(4, 6), target=24))
    example = worker_example(two, Random(0))
    assert example.query == " 4 6 > 24"
    assert example.pieces == (
        Piece(text=" 4 6 = 10 2 24 : ( 4 * 6 )\n<RETURN> 4 * 6</RETURN>", trained=True),
    )
