"""Program-made traces: legal by the runtime's own parser, and right by arithmetic that is done again here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import permutations
from random import Random

import pytest

from asyncthink.protocol import tags
from asyncthink.protocol.actions import Answer, Fork, Join, Return, Think
from asyncthink.protocol.parser import OrganizerParser, parse_worker
from asyncthink.protocol.rules import Rules
from asyncthink.tasks.countdown import Countdown, CountdownProblem
from asyncthink.tasks.countdown_parts import LARGEST, NONE, RETURNED, candidates, search
from asyncthink.tasks.expressions import Form, canonical, evaluate, numbers_in, read
from asyncthink.training.synthesis import LOST, Example, Piece, organizer_example, worker_example

SUB_QUERY = re.compile(r" \d+ \d+(?: \|)? \d+(?: \d+)? > \d+")
SEARCH = re.compile(
    r" \[(?P<prefix>| \d+ \S+) :(?P<query>.*)\n(?P<lines>(?: [^|\n]+ \|.*\n)*) =(?P<found>.*) \]\n"
)
FORK_LINE = re.compile(r" \?(?P<prefix>| \d+ \S+)")
LINE = re.compile(r" (?P<head>[^|]+) \| (?P<pair>\d+ \d+) :(?P<claims>.*)\n")
CLAIM = re.compile(r" (?P<operator>\+|-|_-|\*|/|_/) (?P<rest>\d+)(?: (?P<hit>\([^)]*\)))?")


def form(text: str) -> Form:
    tree = read(text)
    assert not isinstance(tree, str), f"{text!r}: {tree}"
    made = canonical(tree)
    assert made is not None, f"{text!r} divides by zero"
    return made


def split(joined: str) -> list[str]:
    """Read what a worker returned or a search ends with."""
    return [] if joined == NONE else joined.split(" ;")


def wrapped(prefix: str, expression: str) -> str:
    """Combine by the documented meaning of a prefix: `7 *` is 7 * rest, `7 _-` is rest - 7."""
    if not prefix:
        return expression
    number, operator = prefix.split()
    if operator.startswith("_"):
        return f"({expression}) {operator[1:]} {number}"
    return f"{number} {operator} ({expression})"


def value(operator: str, left: Fraction, right: Fraction) -> Fraction | None:
    """Apply an operator; `_-` and `_/` take their operands the other way round."""
    if operator.startswith("_"):
        return value(operator[1:], right, left)
    if operator == "/":
        return left / right if right else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


@dataclass
class Taken:
    """One candidate, as the organizer's text alone shows it."""

    prefix: str
    query: str
    index: int = 0
    """Of the fork; 0 for an own search."""


@dataclass
class Trace:
    """A trace and what can be read back from it."""

    problem: CountdownProblem
    capacity: int
    example: Example
    taken: list[Taken] = field(default_factory=list[Taken])
    shape: str = ""
    """F, T, J and A in order."""
    joined: list[int] = field(default_factory=list[int])
    forms: set[Form] = field(default_factory=set[Form])
    """Found by own searches or returned by joined workers."""
    lost: int = 0
    most_open: int = 0
    answer: str = ""

    def collect(self, prefix: str, joined: str) -> None:
        self.forms |= {form(wrapped(prefix, one)) for one in split(joined)}


@cache
def search_text(query: str) -> str:
    return search(query)[0]


@cache
def returned(query: str) -> str:
    actions = [parsed.action for parsed in parse_worker(worker_example(query).pieces[0].text)]
    assert isinstance(actions[-1], Return)
    return actions[-1].text


def read_back(problem: CountdownProblem, capacity: int, example: Example) -> Trace:
    """Feed the pieces to the parser as the runtime would, and insist on everything on the way."""
    trace = Trace(problem, capacity, example)
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
            candidate = open_forks.pop(last.index)
            read_inserted(trace, candidate, next(places))
        else:
            assert isinstance(last, Answer)
            trace.answer = last.text
            trace.shape += "A"
    assert parser.done and rules.finish() is None
    return trace


def read_thought(trace: Trace, text: str) -> str:
    """Take own searches in; return what stands behind the last, on the line of the next action."""
    for found in SEARCH.finditer(text):
        assert found["lines"] == search_text(found["query"])
        assert found["found"] == returned(found["query"])
        trace.taken.append(Taken(found["prefix"], found["query"]))
        trace.collect(found["prefix"], found["found"])
        trace.shape += "T"
    rest = SEARCH.sub("", text)
    return rest.removeprefix("\n")


def read_inserted(trace: Trace, candidate: Taken, inserted: Piece) -> None:
    assert not inserted.trained
    trace.shape += "J"
    trace.joined.append(candidate.index)
    if inserted.text == tags.joined(candidate.index, tags.NO_RESULT):
        trace.lost += 1
        return
    text = returned(candidate.query)
    assert inserted.text == tags.joined(candidate.index, text)
    trace.collect(candidate.prefix, text)


def random_problem(random: Random) -> CountdownProblem:
    """Draw a problem with a solution, by trying."""
    while True:
        numbers = tuple(random.randint(1, 20) for _ in range(4))
        target = Fraction(numbers[0])
        for number in numbers[1:]:
            target = value(random.choice("+-*/"), target, Fraction(number)) or target
        if target.denominator == 1 and 10 <= target <= 100:
            return CountdownProblem(numbers=numbers, target=int(target), wanted=random.randint(1, 4))


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    random = Random(5)
    drawn = [(random_problem(random), 1 + place % 6, place) for place in range(300)]
    return [
        read_back(problem, capacity, organizer_example(problem, capacity, Random(seed)))
        for problem, capacity, seed in drawn
    ]


def test_traces_are_legal_by_the_runtimes_parser_and_rules(traces: list[Trace]) -> None:
    # read_back asserts; here: that there was something to judge
    assert sum(trace.shape.count("F") for trace in traces) > 1000
    assert sum(trace.shape.count("T") for trace in traces) > 300
    for trace in traces:
        assert trace.example.role == "organizer" and trace.example.capacity == trace.capacity
        assert Countdown().parse(trace.example.query) == trace.problem


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
    for trace in traces:
        lines = trace.answer.strip("\n").split("\n")
        sizes[len(trace.forms)] += 1
        if not trace.forms:
            assert lines == [NONE]
            continue
        score = Countdown().check(trace.problem, trace.answer)
        assert [part.correct for part in score.parts] == [True] * len(lines)
        assert len(lines) == min(trace.problem.wanted, len(trace.forms))
        answered = {form(line) for line in lines}
        assert len(answered) == len(lines) and answered <= trace.forms
    assert sizes[0] > 5 and sizes[4] > 5, sizes


def test_it_goes_on_until_enough_is_known_or_nothing_is_left(traces: list[Trace]) -> None:
    """Whoever stopped short had taken four candidates or all, and left no worker unjoined."""
    short = [trace for trace in traces if len(trace.forms) < trace.problem.wanted]
    assert len(short) > 30
    for trace in short:
        assert len(trace.taken) >= min(4, len(candidates(trace.problem)))
        assert trace.shape.count("F") == trace.shape.count("J")


def test_what_is_handed_out_is_legal_and_never_the_same_twice(traces: list[Trace]) -> None:
    for trace in traces:
        assert len({(one.prefix, one.query) for one in trace.taken}) == len(trace.taken)
        for one in trace.taken:
            assert SUB_QUERY.fullmatch(one.query)
            numbers, _, goal = one.query.partition(" >")
            used = [int(number) for number in re.findall(r"\d+", numbers)]
            if one.prefix:
                number, operator = one.prefix.split()
                assert sorted([*used, int(number)]) == sorted(trace.problem.numbers)
                reached = value(operator, Fraction(int(number)), Fraction(int(goal)))
                assert reached == trace.problem.target and int(goal) <= LARGEST and "|" not in numbers
            else:
                assert sorted(used) == sorted(trace.problem.numbers) and "|" in numbers
                assert int(goal) == trace.problem.target


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


def first_taken(problem: CountdownProblem, seed: int) -> tuple[str, str]:
    text = organizer_example(problem, 4, Random(seed)).pieces[0].text
    line = re.match(r" [?[](?P<prefix>| \d+ \S+)(?:<FORK-1>| :)(?P<query>[^<\n]*)", text)
    assert line
    return line["prefix"], line["query"]


def test_the_first_sub_query_is_any_legal_one() -> None:
    problem = CountdownProblem(numbers=(2, 3, 5, 7), target=28, wanted=1)
    legal = {(one.prefix, one.query) for one in candidates(problem)}
    drawn = Counter(first_taken(problem, seed) for seed in range(20 * len(legal)))
    assert drawn.keys() == legal
    assert max(drawn.values()) < 45, "20 each are expected"


def test_sub_queries_without_a_solution_are_as_frequent_as_among_the_legal_ones() -> None:
    random = Random(11)
    expected = observed = 0.0
    problems = [replace(random_problem(random), wanted=1) for _ in range(40)]
    for place, problem in enumerate(problems):
        pool = candidates(problem)
        expected += sum(returned(one.query) == NONE for one in pool) / len(pool)
        tries = [first_taken(problem, 100 * place + seed) for seed in range(10)]
        observed += sum(returned(query) == NONE for _, query in tries) / len(tries)
    assert 0.2 < expected / 40 < 0.95
    assert abs(observed - expected) / 40 < 0.07  # three standard errors


def sub_queries() -> Iterator[str]:
    random = Random(3)
    for _ in range(40):
        pool = candidates(random_problem(random))
        yield from (one.query for one in random.sample(pool, min(4, len(pool))))
    yield from (" 1 1 1 > 0", " 3 3 | 2 2 > 5", " 4 4 | 4 4 > 1", " 1 2 3 > 128", " 5 5 5 > 5")


@cache
def pair_values(b: int, c: int) -> set[int]:
    """Return the whole numbers in reach of two others, by exact arithmetic."""
    found = {value(op, Fraction(x), Fraction(y)) for op in "+-*/" for x, y in permutations((b, c))}
    return {int(one) for one in found if one is not None and one.denominator == 1 and 0 <= one <= LARGEST}


@dataclass(frozen=True)
class Line:
    """One line of a search, as it stands in the text."""

    spelled: str
    """The head's expression."""
    value: int
    pair: tuple[int, ...]
    claims: tuple[tuple[str, int, str | None], ...]
    """Operator, what must be reached, the expression that does."""


def lines_of(text: str) -> Iterator[Line]:
    for line in text.splitlines(keepends=True):
        parts = LINE.fullmatch(line)
        assert parts, line
        spelled, _, stated = parts["head"].rpartition(" = ")
        claims = list(CLAIM.finditer(parts["claims"]))
        assert "".join(claim[0] for claim in claims) == parts["claims"]
        yield Line(
            spelled or stated,
            int(stated),
            tuple(sorted(map(int, parts["pair"].split()))),
            tuple((claim["operator"], int(claim["rest"]), claim["hit"]) for claim in claims),
        )


def heads_of(numbers: str) -> set[tuple[int, tuple[int, ...]]]:
    """Return (head, remaining pair) for each line that a search must have."""
    first, bar, second = numbers.partition(" |")
    left = [int(number) for number in first.split()]
    if not bar:
        return {(left[p], tuple(sorted(left[:p] + left[p + 1 :]))) for p in range(3)}
    right = tuple(sorted(map(int, second.split())))
    return {(head, right) for head in pair_values(left[0], left[1])}


@cache
def leading(head: int, goal: int) -> set[tuple[str, int]]:
    """Return every (operator, rest) that makes `goal` of `head`, by trying all."""
    return {
        (operator, rest)
        for operator in ("+", "-", "_-", "*", "/", "_/")
        for rest in range(LARGEST + 1)
        if value(operator, Fraction(head), Fraction(rest)) == goal
    }


def test_a_workers_search_is_right_and_exhaustive() -> None:
    for query in sub_queries():
        numbers, _, goal = query.partition(" >")
        lines = list(lines_of(search_text(query)))
        heads = [(line.value, line.pair) for line in lines]
        assert set(heads) == heads_of(numbers) and len(set(heads)) == len(heads), query
        hits: list[Form] = []
        for line in lines:
            assert evaluated(line.spelled) == line.value
            stated = {(operator, rest) for operator, rest, _ in line.claims}
            assert stated == leading(line.value, int(goal)), (query, line)
            for operator, rest, hit in line.claims:
                assert (hit is not None) == (rest in pair_values(*line.pair)), (query, line)
                if hit is not None:
                    assert evaluated(hit) == rest and used_in(hit) == list(line.pair)
                    hits.append(form(combined(operator, line.spelled, hit)))
        found = [form(one) for one in split(returned(query))]
        assert found == list(dict.fromkeys(hits))[:RETURNED], query


def combined(operator: str, head: str, hit: str) -> str:
    if operator.startswith("_"):
        return f"{hit} {operator[1:]} ({head})"
    return f"({head}) {operator} {hit}"


def evaluated(text: str) -> int:
    tree = read(text)
    assert not isinstance(tree, str)
    found = evaluate(tree)
    assert found is not None and found[1] == 1
    return found[0]


def used_in(text: str) -> list[int]:
    tree = read(text)
    assert not isinstance(tree, str)
    return sorted(numbers_in(tree))


def test_a_worker_returns_different_expressions_that_solve_its_query() -> None:
    solved = 0
    for query in sub_queries():
        numbers, _, goal = query.partition(" >")
        found = split(returned(query))
        assert len(found) <= RETURNED and len(set(map(form, found))) == len(found)
        for expression in found:
            assert evaluated(expression) == int(goal), query
            assert used_in(expression) == sorted(int(number) for number in re.findall(r"\d+", numbers)), query
        solved += bool(found)
    assert solved > 40


def test_a_workers_trace_is_all_its_own() -> None:
    example = worker_example(" 2 5 | 3 7 > 28")
    assert example.role == "worker" and example.query == " 2 5 | 3 7 > 28"
    (piece,) = example.pieces
    *_, last = parse_worker(piece.text)
    assert piece.trained and last.end == len(piece.text)


def test_a_small_worker_worked_by_hand() -> None:
    # 5 - (3 - 2) is 2 + (5 - 3) in another spelling, and so is (2 + 5) - 3: returned once
    assert worker_example(" 2 3 5 > 4").pieces[0].text == (
        " 2 | 3 5 : + 2 ( 5 - 3 ) _- 6 * 2 ( 5 - 3 ) _/ 8 ( 3 + 5 )\n"
        " 3 | 2 5 : + 1 _- 7 ( 2 + 5 ) _/ 12\n"
        " 5 | 2 3 : - 1 ( 3 - 2 ) _- 9 _/ 20\n"
        "<RETURN> 2 + ( 5 - 3 ) ; 2 * ( 5 - 3 ) ; ( 3 + 5 ) / 2</RETURN>"
    )


def test_a_small_worker_that_finds_nothing_worked_by_hand() -> None:
    assert worker_example(" 1 1 | 1 1 > 10").pieces[0].text == (
        " 1 + 1 = 2 | 1 1 : + 8 _- 12 * 5 _/ 20\n"
        " 1 - 1 = 0 | 1 1 : + 10 _- 10\n"
        " 1 * 1 = 1 | 1 1 : + 9 _- 11 * 10 _/ 10\n"
        "<RETURN> none</RETURN>"
    )


class Scripted(Random):
    """Chooses as it is told: one letter an action, one index a join."""

    def script(self, actions: Sequence[str], joins: Sequence[int], lost: Sequence[int] = ()) -> Scripted:
        self.actions, self.joins, self.lost = iter(actions), iter(joins), lost
        return self

    def shuffle(self, x: object) -> None:
        """Leave the candidates in their order: the last is taken first."""

    def uniform(self, a: float, b: float) -> float:
        return 1.0

    def choices(self, population: Sequence[str], *_: object, **__: object) -> list[str]:  # type: ignore
        chosen = next(self.actions)
        assert chosen in population
        return [chosen]

    def choice(self, seq: Sequence[int]) -> int:  # type: ignore[override]
        self.index = next(self.joins)
        assert self.index in seq
        return self.index

    def random(self) -> float:
        return 0.0 if self.index in self.lost else 1.0


def test_a_small_organizer_worked_by_hand() -> None:
    problem = CountdownProblem(numbers=(2, 3, 5, 7), target=28)
    actions = ["fork", "fork", "join", "think", "join", "fork", "join"]
    random = Scripted().script(actions, joins=[2, 1, 3], lost=[1])
    pieces = organizer_example(problem, 3, random).pieces
    assert [(piece.text, piece.trained) for piece in pieces] == [
        (" ?<FORK-1> 2 7 | 3 5 > 28</FORK-1>\n ?<FORK-2> 2 5 | 3 7 > 28</FORK-2>\n<JOIN-2>", True),
        (" ( 2 + 5 ) + ( 3 * 7 ) ; ( 2 + 5 ) * ( 7 - 3 )</JOIN-2>", False),
        (
            "\n [ : 2 3 | 5 7 > 28\n"
            " 2 + 3 = 5 | 5 7 : + 23 _- 33\n"
            " 3 - 2 = 1 | 5 7 : + 27 _- 29 * 28 _/ 28\n"
            " 2 * 3 = 6 | 5 7 : + 22 _- 34\n"
            " = none ]\n"
            "<JOIN-1>",
            True,
        ),
        ("(no result)</JOIN-1>", False),
        ("\n ? 7 *<FORK-3> 2 3 5 > 4</FORK-3>\n<JOIN-3>", True),
        (" 2 + ( 5 - 3 ) ; 2 * ( 5 - 3 ) ; ( 3 + 5 ) / 2</JOIN-3>", False),
        (
            "\n<ANSWER>\n"
            " ( 2 + 5 ) + ( 3 * 7 )\n"
            " ( 2 + 5 ) * ( 7 - 3 )\n"
            " 7 * ( 2 + ( 5 - 3 ) )\n"
            " 7 * ( 2 * ( 5 - 3 ) )\n"
            "</ANSWER>",
            True,
        ),
    ]
