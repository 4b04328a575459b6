"""Which action is legal, and every format error by example."""

from __future__ import annotations

import pytest

from asyncthink.protocol import (
    PAPER_ERRORS,
    FormatError,
    Join,
    Return,
    Rules,
    format_errors,
    parse_organizer,
)

FORK_1, FORK_2, ANSWER = "<FORK-1>a</FORK-1>", "<FORK-2>b</FORK-2>", "<ANSWER>x</ANSWER>"

ERRORS: list[tuple[str, list[str]]] = [
    (ANSWER, []),
    (FORK_1 + FORK_2 + "<JOIN-2>" + "<JOIN-1>" + ANSWER, []),
    (FORK_1 + ANSWER, []),
    (FORK_1 + FORK_1 + ANSWER, ["duplicate_fork"]),
    (FORK_1 + "<JOIN-1>" + FORK_1 + ANSWER, ["duplicate_fork"]),
    (FORK_1 + FORK_1 + "<JOIN-1>" + ANSWER, ["duplicate_fork"]),
    ("<JOIN-1>" + ANSWER, ["unknown_join"]),
    ("<JOIN-1>" + FORK_1 + "<JOIN-1>" + ANSWER, ["unknown_join"]),
    ("<JOIN-1><JOIN-1>" + ANSWER, ["unknown_join", "unknown_join"]),
    (FORK_1 + "<JOIN-1><JOIN-1><JOIN-1>" + ANSWER, ["duplicate_join", "duplicate_join"]),
    ("", ["no_answer"]),
    (FORK_1 + "<JOIN-1>", ["no_answer"]),
    ("<ANSWER>x", ["malformed_tag", "no_answer"]),
    ("<JOIN-01>" + ANSWER, ["malformed_tag"]),
    ("<RETURN>" + ANSWER, ["malformed_tag"]),
    ("<FORK-1>a<FORK-1>b</FORK-1><JOIN-1>" + ANSWER, ["malformed_tag"]),
    ("<FORK-1>a" + ANSWER, ["malformed_tag"]),
    (
        FORK_1 + "<JOIN-2>" + FORK_1 + "<FORK>",
        ["unknown_join", "duplicate_fork", "malformed_tag", "no_answer"],
    ),
]


@pytest.mark.parametrize(("text", "names"), ERRORS)
def test_errors_by_example(text: str, names: list[str]) -> None:
    assert [str(error) for error in format_errors(one.action for one in parse_organizer(text))] == names


def test_the_names_are_exactly_these() -> None:
    ours = {"duplicate_join", "malformed_tag", "no_return"}
    papers = {"duplicate_fork", "pool_overflow", "unknown_join", "no_answer"}
    assert set(map(str, FormatError)) == papers | ours
    assert set(map(str, PAPER_ERRORS)) == papers


def test_an_organizer_does_not_return() -> None:
    assert Rules().judge(Return(text="x")) is FormatError.MALFORMED_TAG


def test_an_error_leaves_no_trace_in_the_rules() -> None:
    rules = Rules()
    assert rules.judge(Join(index=7)) is FormatError.UNKNOWN_JOIN
    assert (rules.forked, rules.joined, rules.finish()) == (set(), set(), FormatError.NO_ANSWER)
