"""Teacher-made traces: plans that are legal, replies that are dropped for the right reason, files that survive."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from asyncthink.engines.base import Message
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.errors import EngineError, RecordError, UsageError
from asyncthink.protocol.actions import Answer, FormatError, Join
from asyncthink.protocol.parser import OrganizerParser
from asyncthink.tasks import Split, recognise
from asyncthink.tasks.countdown import Countdown, CountdownProblem, forms_by_target, split_of
from asyncthink.tasks.sudoku import Sudoku, completions
from asyncthink.tasks.sudoku import split_of as split_of_grid
from asyncthink.training.mixture import Mixture
from asyncthink.training.recipe import DataRecipe, Kind
from asyncthink.training.structures import (
    Family,
    Likeness,
    Moves,
    StructureCounts,
    family,
    legal_sequence,
    likeness,
)
from asyncthink.training.synthesis import Example, Piece, read_examples
from asyncthink.training.teacher.prompts import messages, worked_examples
from asyncthink.training.teacher.question import Settings, plan_of, train_problem
from asyncthink.training.teacher.reply import LONGEST_REPLY, Drop, Dropped, Kept, judge, moves_of
from asyncthink.training.teacher.traces import (
    MAX_FAILURES,
    Entry,
    Program,
    Source,
    Statistics,
    Teacher,
    Traces,
    synthesize,
)

QUERY = "What is 7 * 6 + 5 * 4?"
GOOD = """\
Two products.
=== PARTS ===
1. 7 * 6
2. 5 * 4
=== WORKER 1 ===
Seven sixes. <RETURN>7 * 6 = 42</RETURN>
=== WORKER 2 ===
Five fours.
<RETURN>5 * 4 = 20</RETURN>
=== ORGANIZER ===
Two parts. <FORK-1>What is 7 * 6?</FORK-1> and <FORK-2>5 * 4?</FORK-2>
Both run. <JOIN-2>5 * 4 = 20</JOIN-2> Now the other.
<JOIN-1>
 7 * 6  = 42
</JOIN-1> Sum: 62. <ANSWER>62</ANSWER>
"""
ALONE = "=== ORGANIZER ===\n42 and 20 make 62. <ANSWER>62</ANSWER>"
SETTINGS = Settings(model="scripted:x", task="countdown", capacity=4)


def kept(reply: str, capacity: int = 3) -> Kept:
    found = judge(reply, query=QUERY, capacity=capacity)
    assert isinstance(found, Kept), found
    return found


# Plans


def legal(forks: int, capacity: int) -> set[Moves]:
    """Enumerate by brute force."""
    found: set[Moves] = set()

    def go_on(moves: Moves, forked: int, open_forks: frozenset[int]) -> None:
        if forked == forks and not open_forks:
            found.add(moves)
        if forked < forks and len(open_forks) < capacity - 1:
            go_on((*moves, f"F{forked + 1}"), forked + 1, open_forks | {forked + 1})
        for each in open_forks:
            go_on((*moves, f"J{each}"), forked, open_forks - {each})

    go_on((), 0, frozenset())
    return found


@pytest.mark.parametrize(
    ("forks", "capacity", "count"),
    [(0, 1, 1), (0, 4, 1), (1, 2, 1), (2, 3, 3), (3, 2, 1), (3, 3, 9), (3, 4, 15), (4, 3, 27), (4, 5, 105)],
)
def test_every_legal_sequence_is_drawn_and_equally_often(forks: int, capacity: int, count: int) -> None:
    random, known = Random(1), legal(forks, capacity)
    assert len(known) == count
    drawn = Counter(legal_sequence(random, forks=forks, capacity=capacity) for _ in range(100 * count))
    assert drawn.keys() == known
    assert max(drawn.values()) <= 145 and min(drawn.values()) >= 60, "100 each, four and a half deviations"


def test_a_long_sequence_never_exceeds_the_pool() -> None:
    random = Random(2)
    full = 0
    for capacity in range(2, 7):
        for _ in range(50):
            moves = legal_sequence(random, forks=30, capacity=capacity)
            at_work: set[str] = set()
            for move in moves:
                if move[0] == "F":
                    at_work.add(move[1:])
                else:
                    at_work.remove(move[1:])
                assert len(at_work) <= capacity - 1
                full += len(at_work) == capacity - 1
            assert not at_work and [move for move in moves if move[0] == "F"] == [
                f"F{n}" for n in range(1, 31)
            ]
    assert full > 1000


def test_nobody_forks_without_workers() -> None:
    with pytest.raises(ValueError, match="no worker"):
        legal_sequence(Random(1), forks=1, capacity=1)


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ("", Family.SEQUENTIAL),
        ("F1 J1", Family.PAIRS),
        ("F1 J1 F2 J2", Family.PAIRS),
        ("F1 F2 J2 J1", Family.FORKS_FIRST),
        ("F1 F2 F3 J1 J2 J3", Family.FORKS_FIRST),
        ("F1 F2 J1", Family.FORKS_FIRST),
        ("F1", Family.FORKS_FIRST),
        ("F1 F2 J1 F3 J2 J3", Family.MIXED),
        ("F1 J1 F2 F3 J2 J3", Family.MIXED),
        ("F1 F2 J1 J2 F3 J3", Family.MIXED),
    ],
)
def test_families(moves: str, expected: Family) -> None:
    assert family(tuple(moves.split())) is expected


@pytest.mark.parametrize(
    ("asked", "written", "expected"),
    [
        ("F1 F2 J2 J1", "F1 F2 J2 J1", Likeness.AS_ASKED),
        ("F1 F2 J2 J1", "F7 F3 J3 J7", Likeness.AS_ASKED),
        ("", "", Likeness.AS_ASKED),
        ("F1 F2 J2 J1", "F1 F2 J1 J2", Likeness.REORDERED),
        ("F1 F2 J2 J1", "F1 J1 F2 J2", Likeness.REORDERED),
        ("F1 F2 J2 J1", "F1 F2 J2", Likeness.OTHER),
        ("F1 J1", "F1 J1 F2 J2", Likeness.OTHER),
        ("F1 J1", "", Likeness.OTHER),
    ],
)
def test_likeness(asked: str, written: str, expected: Likeness) -> None:
    assert likeness(tuple(asked.split()), tuple(written.split())) is expected


def test_plans_vary_and_fit_the_pool() -> None:
    settings = replace(SETTINGS, max_forks=3)
    plans = [plan_of(settings, index) for index in range(400)]
    assert set(plans) == legal(1, 4) | legal(2, 4) | legal(3, 4)
    forks = Counter(sum(move[0] == "F" for move in plan) for plan in plans)
    assert min(forks[count] for count in (1, 2, 3)) > 95, forks
    assert plans == [plan_of(settings, index) for index in range(400)]
    assert plans != [plan_of(replace(settings, seed=1), index) for index in range(400)]
    assert {plan_of(replace(settings, capacity=1), index) for index in range(9)} == {()}


# What the teacher is told


def test_the_plan_and_the_question_are_in_the_prompt() -> None:
    system, user = messages(QUERY, capacity=4, plan=("F1", "F2", "J1", "F3", "J3", "J2"))
    assert (system.role, user.role) == ("system", "user")
    expected = f"Question: {QUERY}\nWorkers at work at a time: 3 at most\nPlan: F1 F2 J1 F3 J3 J2"
    assert user == Message(role="user", content=expected)
    alone = messages("Cost: $5 or $x?", capacity=1, plan=())[1].content
    assert "Question: Cost: $5 or $x?\n" in alone and "no forks" in alone
    for spelled in ("<FORK-1>", "</FORK-1>", "<JOIN-1>", "<RETURN>", "<ANSWER>", "=== ORGANIZER ==="):
        assert spelled in system.content
    assert "$" not in system.content


def test_the_worked_examples_would_be_kept_and_follow_their_plans() -> None:
    system = messages(QUERY, capacity=4, plan=())[0].content
    for example in worked_examples():
        found = judge(example.reply, query=example.query, capacity=example.capacity)
        assert isinstance(found, Kept), found
        assert moves_of(found.examples[0]) == example.plan
        assert example.plan in legal(len(example.workers), example.capacity)
        assert example.reply in system and " ".join(example.plan) in system
    families = {family(example.plan) for example in worked_examples()}
    assert families == {Family.FORKS_FIRST, Family.MIXED}


def test_the_worked_examples_are_right_and_no_problem_of_another_split() -> None:
    countdown = next(each for each in worked_examples() if "numbers" in each.query)
    known = recognise(countdown.query)
    assert known is not None and isinstance(known.problem, CountdownProblem)
    assert Countdown().check(known.problem, countdown.answer).value == 1
    assert split_of(known.problem.numbers) is Split.TRAIN
    assert forms_by_target((2, 3, 4))[12] == 0, "its first worker finds none"
    assert 17 * 24 + 19 * 31 + 12 * 12 == 1141 == int(worked_examples()[0].answer)


# What is kept


def test_a_good_reply_becomes_the_examples_of_a_unit() -> None:
    own, first, second = kept(GOOD).examples
    assert (own.role, own.query, own.capacity) == ("organizer", QUERY, 3)
    assert own.pieces == (
        Piece(
            text="Two parts. <FORK-1>What is 7 * 6?</FORK-1> and <FORK-2>5 * 4?</FORK-2>\nBoth run. <JOIN-2>",
            trained=True,
        ),
        Piece(text="5 * 4 = 20</JOIN-2>", trained=False),
        Piece(text=" Now the other.\n<JOIN-1>", trained=True),
        Piece(text="7 * 6 = 42</JOIN-1>", trained=False),
        Piece(text=" Sum: 62. <ANSWER>62</ANSWER>", trained=True),
    )
    assert first == Example(
        role="worker",
        query="What is 7 * 6?",
        capacity=1,
        pieces=(Piece(text="Seven sixes. <RETURN>7 * 6 = 42</RETURN>", trained=True),),
    )
    assert (second.query, second.pieces[0].text) == ("5 * 4?", "Five fours.\n<RETURN>5 * 4 = 20</RETURN>")
    assert kept(GOOD).answer == "62"
    assert moves_of(own) == ("F1", "F2", "J2", "J1")


def test_pieces_end_exactly_where_the_runtime_cuts() -> None:
    parser = OrganizerParser()
    for piece in kept(GOOD).examples[0].pieces:
        if piece.trained:
            last = parser.feed(piece.text)[-1].action
            assert parser.taken == len(piece.text) and isinstance(last, Join | Answer)
    assert parser.done


@pytest.mark.parametrize(
    "reply",
    [
        GOOD.replace("=== WORKER 1 ===", "## WORKER-1:").replace("=== ORGANIZER ===", "**ORGANIZER**"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("=== ORGANIZER ===\n", "=== ORGANIZER ===\n```text\n") + "```\n",
        f"<think>\n=== ORGANIZER ===\n<FORK-9>\n</think>\n{GOOD}",
        GOOD + "\nThat is all.",
        GOOD.replace("Five fours.", "=== is no heading, and WORKER 1 neither"),
        GOOD[: GOOD.index("=== WORKER 1")]
        + GOOD[GOOD.index("=== ORG") :]
        + GOOD[GOOD.index("=== WORK") : GOOD.index("=== ORG")],
    ],
)
def test_what_stands_around_the_traces_does_no_harm(reply: str) -> None:
    assert [each.role for each in kept(reply).examples] == ["organizer", "worker", "worker"]
    assert moves_of(kept(reply).examples[0]) == ("F1", "F2", "J2", "J1")
    assert "That is all" not in kept(reply).examples[0].pieces[-1].text


def test_an_organizer_may_think_alone_or_leave_a_worker_unjoined() -> None:
    for capacity in (1, 4):
        (own,) = kept(ALONE, capacity).examples
        assert own.pieces == (Piece(text="42 and 20 make 62. <ANSWER>62</ANSWER>", trained=True),)
    unjoined = GOOD.replace("<JOIN-2>5 * 4 = 20</JOIN-2>", "")
    assert len(kept(unjoined).examples) == 3
    assert moves_of(kept(unjoined).examples[0]) == ("F1", "F2", "J1")


BAD: dict[str, tuple[Drop, str, str]] = {
    "an index forked twice": (Drop.DUPLICATE_FORK, "<FORK-2>5 * 4?</FORK-2>", "<FORK-1>5 * 4?</FORK-1>"),
    "a join of nobody": (Drop.UNKNOWN_JOIN, "<JOIN-1>", "<JOIN-3>"),
    "a join before its fork": (Drop.UNKNOWN_JOIN, "Two parts. ", "<JOIN-1>7 * 6 = 42</JOIN-1>"),
    "a join twice": (Drop.DUPLICATE_JOIN, "<JOIN-1>", "<JOIN-2>"),
    "no answer": (Drop.NO_ANSWER, "<ANSWER>62</ANSWER>", "62"),
    "an answer that does not end": (Drop.MALFORMED_TAG, "</ANSWER>", ""),
    "a fork that does not end": (Drop.MALFORMED_TAG, "6?</FORK-1>", "6?"),
    "a fork within a fork": (Drop.MALFORMED_TAG, "What is 7", "<FORK-3>x</FORK-3>"),
    "a fork with another end": (Drop.MALFORMED_TAG, "6?</FORK-1>", "6?</FORK-2>"),
    "an index that is none": (Drop.MALFORMED_TAG, "Both run.", "<FORK-01>x</FORK-01>"),
    "a tag that is none": (Drop.MALFORMED_TAG, "Both run.", "<FORK>x</FORK>"),
    "an organizer that returns": (Drop.MALFORMED_TAG, "Both run.", "<RETURN>62</RETURN>"),
    "a closing tag by itself": (Drop.MALFORMED_TAG, "Both run.", "</JOIN-1>"),
    "a join in an answer": (Drop.MALFORMED_TAG, "<ANSWER>62", "<ANSWER><JOIN-1>62"),
    "a worker without a return": (Drop.NO_RETURN, "<RETURN>7 * 6 = 42</RETURN>", "42"),
    "a return that does not end": (Drop.NO_RETURN, "42</RETURN>", "42"),
    "a worker without a text": (Drop.NO_RETURN, "Seven sixes. <RETURN>7 * 6 = 42</RETURN>", ""),
    "a worker that forks": (Drop.STRAY_TAG, "Seven sixes.", "<FORK-1>six?</FORK-1>"),
    "a worker that returns twice": (Drop.STRAY_TAG, "42</RETURN>", "42</RETURN> <RETURN>43</RETURN>"),
    "a return within a return": (Drop.STRAY_TAG, "Seven sixes.", "<RETURN>"),
    "a tag in a return": (Drop.STRAY_TAG, "= 42</RETURN>", "= 42<ANSWER></RETURN>"),
    "a fork within a join": (Drop.STRAY_TAG, " 7 * 6  = 42", "<FORK-3>x</FORK-3>"),
    "a tag behind the answer": (Drop.STRAY_TAG, "62</ANSWER>", "62</ANSWER> <ANSWER>63</ANSWER>"),
    "an escaped tag": (Drop.ESCAPED_TAG, "Both run.", r"Both <\FORK-1> run."),
    "an escaped tag of a worker": (Drop.ESCAPED_TAG, "Seven sixes.", r"</\\JOIN-1>"),
    "a join that does not end": (Drop.UNCLOSED_JOIN, "</JOIN-2>", ""),
    "a join that shows something else": (Drop.JOIN_MISMATCH, "<JOIN-2>5 * 4 = 20", "<JOIN-2>5 * 4 = 21"),
    "a join that shows nothing": (Drop.JOIN_MISMATCH, "<JOIN-2>5 * 4 = 20", "<JOIN-2>"),
    "an empty sub-query": (Drop.EMPTY_QUERY, "What is 7 * 6?", " \n "),
    "an empty return": (Drop.EMPTY_RETURN, "<RETURN>7 * 6 = 42", "<RETURN> "),
    "an empty answer": (Drop.EMPTY_ANSWER, "<ANSWER>62", "<ANSWER> \n"),
    "a worker by its name": (Drop.NAMED_WORKER, "<FORK-1>", '<FORK-1 to="ann">'),
    "a worker nobody wrote": (Drop.MISSING_WORKER, "=== WORKER 2 ===\nFive fours.", ""),
    "a worker nobody asked": (Drop.UNKNOWN_WORKER, "and <FORK-2>5 * 4?</FORK-2>\nBoth run. <JOIN-2>5 * 4 = 20</JOIN-2>", ""),
    "no organizer": (Drop.NO_ORGANIZER, "=== ORGANIZER ===", ""),
    "two organizers": (Drop.DUPLICATE_SECTION, "=== PARTS ===", "=== ORGANIZER ==="),
    "one worker twice": (Drop.DUPLICATE_SECTION, "=== WORKER 2 ===", "=== WORKER 1 ==="),
    "a trace without end": (Drop.TOO_LONG, "Five fours.", "five " * 5000),
    "half a character": (Drop.BROKEN_TEXT, "Both run.", "\ud800"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_dropped_for_its_reason(name: str) -> None:
    reason, before, behind = BAD[name]
    assert before in GOOD
    found = judge(GOOD.replace(before, behind, 1), query=QUERY, capacity=3)
    if name == "a worker nobody wrote":  # its text now stands in the section before
        found = judge(GOOD.replace("=== WORKER 2 ===\nFive fours.\n<RETURN>5 * 4 = 20</RETURN>\n", ""), query=QUERY, capacity=3)  # fmt: skip
    assert isinstance(found, Dropped) and found.reason is reason, found
    assert found.detail and "\n" not in found.detail and len(found.detail) <= 200


@pytest.mark.parametrize(
    ("reply", "capacity", "reason"),
    [
        ("", 3, Drop.EMPTY),
        (" \n\t ", 3, Drop.EMPTY),
        ("=== ORGANIZER ===\n", 3, Drop.NO_ANSWER),
        ("<FORK-1>a</FORK-1> <ANSWER>62</ANSWER>", 3, Drop.NO_ORGANIZER),
        ("Sure! I would fork twice.", 3, Drop.NO_ORGANIZER),
        ("<think>" + ALONE + "</think>", 3, Drop.EMPTY),
        (GOOD, 2, Drop.POOL_OVERFLOW),
        (GOOD, 1, Drop.POOL_OVERFLOW),
        ("=== ORGANIZER ===\nx <FORK-1>a</FORK-1> <ANSWER>1</ANSWER>", 3, Drop.MISSING_WORKER),
        ("x" * (LONGEST_REPLY + 1), 3, Drop.TOO_LONG),
    ],
)
def test_a_reply_that_is_no_reply(reply: str, capacity: int, reason: Drop) -> None:
    found = judge(reply, query=QUERY, capacity=capacity)
    assert isinstance(found, Dropped) and found.reason is reason, found


def test_the_bad_replies_cover_every_reason() -> None:
    covered = {reason for reason, _, _ in BAD.values()} | {Drop.EMPTY, Drop.POOL_OVERFLOW}
    assert covered == set(Drop) - {Drop.CUT_OFF}, "which only a request can tell"
    assert {error.value for error in FormatError} <= {reason.value for reason in Drop}


def hostile() -> Iterator[str]:
    yield from (
        "<" * 100_000,
        "<FORK-" * 60_000,
        "=== " * 90_000,
        "\n" * 300_000,
        "=== WORKER 1 ===\n" * 20_000,
    )
    yield "=== ORGANIZER ===\n" + "<JOIN-1>" * 2000
    yield "=== ORGANIZER ===\n" + "<FORK-1>" * 2000
    yield "=== WORKER 1 ===\n" + "<RETURN>" * 2000 + "=== ORGANIZER ===\n"
    yield "=" * 100_000 + "\n" + " " * 100_000
    random = Random(4)
    pieces = [
        *GOOD.split(" "),
        "<FORK-1>",
        "</FORK-1>",
        "<JOIN-1>",
        "</JOIN-1>",
        "<ANSWER>",
        "=== ORGANIZER ===\n",
    ]
    for _ in range(400):
        yield "=== ORGANIZER ===\n" + " ".join(random.choices(pieces, k=random.choice([3, 30, 300])))


def test_hostile_replies_cost_little() -> None:
    slowest = 0.0
    for reply in hostile():
        began = time.process_time()
        found = judge(reply, query=QUERY, capacity=3)
        slowest = max(slowest, time.process_time() - began)
        if isinstance(found, Kept):
            assert found.answer.strip()
    assert slowest < 0.5


# Asking


class Failing:
    """A source that makes some questions and fails the others."""

    def __init__(self, failing: set[int]) -> None:
        self.failing, self.made = failing, list[int]()

    async def make(self, index: int) -> Entry:
        if index in self.failing:
            raise EngineError(f"no {index}")
        self.made.append(index)
        return entry(index)


def entry(index: int, **values: Any) -> Entry:
    own, *theirs = kept(GOOD).examples
    examples = (replace(own, query=f"{index}?"), *theirs)
    given: dict[str, Any] = {
        "plan": ("F1", "F2", "J2", "J1"),
        "examples": examples,
        "moves": moves_of(own),
        "score": 1.0,
        "tokens": 10,
    }
    return Entry(index=index, query=f"{index}?", **{**given, **values})  # fmt: skip


def dropped(index: int, reason: Drop = Drop.NO_ANSWER, **values: Any) -> Entry:
    why = Dropped(reason=reason, detail="because")
    empty: dict[str, Any] = {"examples": (), "moves": (), "score": None, "dropped": why, "reply": "r" * 3000}
    return entry(index, **{**empty, **values})


def teach(replies: list[str], settings: Settings = SETTINGS) -> list[Entry]:
    engine = ScriptedEngine({"organizer": replies})

    async def main() -> list[Entry]:
        async with engine:
            return [await Teacher(settings, engine).make(index) for index in range(len(replies))]

    return anyio.run(main)


def test_a_reply_is_judged_and_its_answer_is_checked() -> None:
    problem = train_problem(SETTINGS, 1)
    right = next(iter(Countdown().merge([answer_of(problem.problem)]).split("\n")))
    replies = [GOOD, ALONE.replace(">62<", f">{right}<"), GOOD.replace("</ANSWER>", "")]
    first, second, third = teach(replies)
    assert [each.index for each in (first, second, third)] == [0, 1, 2]
    assert first.query == Countdown().prompt(train_problem(SETTINGS, 0).problem) == first.examples[0].query
    assert (first.plan, first.moves) == (plan_of(SETTINGS, 0), ("F1", "F2", "J2", "J1"))
    assert (first.score, second.score, third.score) == (0, 0.25, None)
    assert first.dropped is None and first.reply is None and len(first.examples) == 3
    assert third.dropped and third.dropped.reason is Drop.MALFORMED_TAG
    assert third.reply == replies[2] and third.examples == ()
    assert first.tokens > 30


def answer_of(problem: CountdownProblem) -> str:
    """Return a right expression, from the program's workers."""
    from asyncthink.tasks.countdown_parts import CountdownDivider

    divider = CountdownDivider()
    harvest = divider.harvest(problem)
    for part in divider.parts(problem):
        harvest.add(part, divider.search(part)[1])
    return harvest.answer().strip()


def test_a_reply_that_is_cut_off_says_so_unless_it_is_complete() -> None:
    (cut,) = teach([GOOD], replace(SETTINGS, max_tokens=30))
    assert cut.dropped and cut.dropped.reason is Drop.CUT_OFF
    assert cut.dropped.detail.startswith("after 30 tokens; no_organizer: ") and cut.tokens == 30
    tokens = teach([ALONE])[0].tokens
    (whole,) = teach([ALONE], replace(SETTINGS, max_tokens=tokens))
    assert whole.dropped is None


def test_half_characters_do_not_stop_a_synthesis(tmp_path: Path) -> None:
    (broken,) = teach(["\ud800" + GOOD])
    assert broken.dropped and broken.dropped.reason is Drop.BROKEN_TEXT
    with Traces(tmp_path / "t.jsonl", SETTINGS) as traces:
        traces.add(broken)
        traces.finish()


def test_a_model_that_follows_no_instructions_is_refused() -> None:
    from asyncthink.engines.models import load_engine

    with pytest.raises(UsageError, match="follows no instructions: name a teacher"):
        Teacher(replace(SETTINGS, model="embedded"), load_engine("embedded"))


@pytest.mark.parametrize("task", ["cases", "contest_math", "nothing"])
def test_tasks_without_problems_to_learn_from_are_refused(task: str) -> None:
    with pytest.raises(UsageError):
        Settings(model="x", task=task, capacity=4)


def test_a_program_is_for_tasks_that_it_can_divide() -> None:
    with pytest.raises(UsageError, match="only countdown, countdown-paper, sudoku"):
        Program(replace(SETTINGS, task="vertex_cover"))


@pytest.mark.parametrize("task", ["countdown", "sudoku"])
def test_a_program_makes_the_same_kind_of_entries(task: str) -> None:
    settings = replace(SETTINGS, task=task, model="program")

    async def main() -> list[Entry]:
        return [await Program(settings).make(index) for index in range(6)]

    entries = anyio.run(main)
    assert entries == anyio.run(main)
    for each in entries:
        own, *workers = each.examples
        assert (own.role, own.capacity, own.query) == ("organizer", 4, each.query)
        assert len(workers) == sum(move[0] == "F" for move in each.moves) and each.plan is None
        assert all(worker.role == "worker" and "<RETURN>" in worker.pieces[0].text for worker in workers)
        assert each.score is not None and 0 <= each.score <= 1
    assert any(each.score == 1 for each in entries)
    assert any(each.moves for each in entries)


@pytest.mark.parametrize("task", ["countdown", "countdown-paper", "sudoku", "vertex_cover"])
def test_only_problems_of_the_train_split_are_asked(task: str) -> None:
    settings = replace(SETTINGS, task=task)
    for index in range(1 if task == "countdown-paper" else 12):
        problem = train_problem(settings, index).problem
        if isinstance(problem, CountdownProblem):
            assert split_of(problem.numbers) is Split.TRAIN
        elif task == "sudoku":
            grids = completions(problem.grid)
            assert grids and all(split_of_grid(grid) is Split.TRAIN for grid in grids)
            assert Sudoku().prompt(problem)
        other = train_problem(replace(settings, seed=1), index).problem
        assert problem == train_problem(settings, index).problem != other


# Counting and keeping


def test_statistics_are_exact() -> None:
    counts = Statistics()
    mixed = ("F1", "F2", "J1", "F3", "J3", "J2")
    own = replace(kept(ALONE).examples[0])
    made = [
        entry(0),
        entry(1, plan=("F1", "F2", "J1", "J2"), score=0.5),
        entry(2, plan=mixed, score=0.25),
        entry(3, plan=mixed, examples=(own,), moves=(), score=0.0, tokens=5),
        dropped(4, Drop.NO_ANSWER, plan=mixed),
        dropped(5, Drop.CUT_OFF),
        dropped(6, Drop.NO_ANSWER),
        dropped(7, Drop.NO_RETURN, tokens=0),
    ]
    for each in made:
        counts.add(each)
    assert counts.told() == {
        "questions": 8,
        "kept": 4,
        "share_kept": 0.5,
        "dropped": {"no_answer": 2, "cut_off": 1, "no_return": 1},
        "structures": {
            "likeness": {"as_asked": 1, "reordered": 1, "other": 2},
            "families_planned": {"forks-first": 5, "mixed": 3},
            "families_kept": {"forks-first": 3, "sequential": 1},
            "families_kept_by_plan": {
                "forks-first": {"forks-first": 2},
                "mixed": {"forks-first": 1, "sequential": 1},
            },
            "different": 2,
            "forks": {"0": 1, "2": 3},
        },
        "right": 1,
        "mean_score": 0.4375,
        "examples": {"organizer": 4, "worker": 6},
        "tokens": 65,
    }
    told = Statistics().told()
    assert (told["share_kept"], told["mean_score"], told["structures"]["likeness"]) == (None, None, {})
    assert StructureCounts().told()["different"] == 0


def run(source: Source, path: Path, limit: int, at_once: int = 2) -> tuple[list[str], Traces]:
    with Traces(path, SETTINGS) as traces:
        failures = anyio.run(
            lambda: synthesize(source, traces, limit=limit, at_once=at_once, tell=lambda: None)
        )
        traces.finish()
    return failures, traces


def test_files_hold_examples_and_what_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "made" / "traces.jsonl"
    with Traces(path, SETTINGS) as traces:
        for each in (entry(2), dropped(1), entry(0)):
            traces.add(each)
        assert [one.query for one in read_examples(str(path)) if one.role == "organizer"] == ["2?", "0?"]
        traces.finish()
    assert read_examples(str(path)) == [*entry(0).examples, *entry(2).examples]
    report = json.loads((tmp_path / "made" / "traces.report.json").read_text())
    assert report["statistics"]["kept"] == 2 and report["settings"]["task"] == "countdown"
    assert report["dropped"] == [
        {
            "index": 1,
            "query": "1?",
            "plan": "F1 F2 J2 J1",
            "reason": "no_answer",
            "detail": "because",
            "reply": "r" * 1000,
        }
    ]
    log = (tmp_path / "made" / "traces.log.jsonl").read_text().splitlines()
    assert len(log) == 4 and json.loads(log[2])["reply"] == "r" * 3000


def test_a_recipe_of_fine_tuning_takes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    run(Failing(set()), path, 3)
    mixture = Mixture([DataRecipe(share=1.0, kind=Kind.FILE, file=str(path))], seed=1)
    drawn = list(mixture.shard(0))
    assert {each.query for each in drawn if each.role == "organizer"} == {"0?", "1?", "2?"}
    assert {each.role for each in drawn} == {"organizer", "worker"}


def test_what_is_done_is_not_made_again_and_a_larger_limit_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    first, second = Failing({1}), Failing(set())
    assert run(first, path, 3)[0] == ["no 1"]
    assert run(second, path, 5)[0] == []
    assert (first.made, sorted(second.made)) == ([0, 2], [1, 3, 4])
    queries = [each.query for each in read_examples(str(path)) if each.role == "organizer"]
    assert queries == ["0?", "1?", "2?", "3?", "4?"]
    before = path.read_bytes()
    run(Failing(set(range(9))), path, 2)
    assert path.read_bytes() == before, "a smaller limit takes nothing away"


def test_too_many_failures_end_it_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with pytest.raises(EngineError, match="no "):
        run(Failing(set(range(1, 100))), path, 100, at_once=1)
    source = Failing(set())
    _, traces = run(source, path, MAX_FAILURES + 2)
    assert 0 not in source.made and traces.done == set(range(MAX_FAILURES + 2))


@pytest.mark.parametrize(
    "lost", ["the tail of the log", "the examples", "half of the examples", "the report"]
)
def test_whatever_a_kill_leaves_is_mended_from_the_log(tmp_path: Path, lost: str) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "traces.jsonl"
    run(Failing(set()), whole, 4)
    run(Failing(set()), path, 4)
    log, report = path.with_suffix(".log.jsonl"), path.with_suffix(".report.json")
    match lost:
        case "the tail of the log":
            log.write_bytes(log.read_bytes()[:-30])
        case "the examples":
            path.unlink()
        case "half of the examples":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case _:
            report.unlink()
    again = Failing(set())
    run(again, path, 4)
    assert len(again.made) == (lost == "the tail of the log")
    assert path.read_bytes() == whole.read_bytes()
    assert report.read_bytes() == whole.with_suffix(".report.json").read_bytes()


def test_another_writer_other_settings_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with Traces(path, SETTINGS) as traces, pytest.raises(RecordError, match="being written"):
        traces.add(entry(0))
        Traces(path, SETTINGS)
    with pytest.raises(RecordError, match="was made with capacity = 4, seed = 0: go on so, or name another"):
        Traces(path, replace(SETTINGS, capacity=2, seed=1))
    for name in ("mine.jsonl", "mine.log.jsonl", "mine.report.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(RecordError, match=f"{name} belongs to something else: name another --output"):
            Traces(tmp_path / "mine.jsonl", SETTINGS)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_settings_of_a_run_that_came_to_nothing_bind_nobody(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    Traces(path, SETTINGS).close()
    with Traces(path, replace(SETTINGS, seed=1)) as traces:
        traces.add(entry(0))
    with pytest.raises(RecordError, match="seed = 1"):
        Traces(path, SETTINGS)


def test_a_broken_log_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    run(Failing(set()), path, 2)
    log = path.with_suffix(".log.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b'{"index": "x"}\n' + lines[2])
    with pytest.raises(RecordError, match=r"traces\.log\.jsonl, line 2: .*name another --output"):
        Traces(path, SETTINGS)
    log.write_bytes(lines[0].replace(b'"synth":1', b'"synth":9') + lines[1])
    with pytest.raises(RecordError, match="is of version 9, not 1"):
        Traces(path, SETTINGS)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.jsonl", Path("/proc/none/x.jsonl")):
        with pytest.raises(RecordError, match=r"^/(proc|.*/file).*: [A-Z]"):
            Traces(path, SETTINGS)


def test_no_file_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with Traces(tmp_path / "t.jsonl", SETTINGS) as traces:
            traces.finish()
        with pytest.raises(RecordError):
            (tmp_path / "o.jsonl").write_text("x")
            Traces(tmp_path / "o.jsonl", SETTINGS)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not (tmp_path / "t.report.json").exists(), "of nothing there is no report"
