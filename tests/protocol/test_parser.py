"""Text to actions: every rule of the grammar by example, then chunking, cuts and cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink.protocol import (
    Action,
    Answer,
    Fork,
    Join,
    Malformed,
    OrganizerParser,
    Parsed,
    Return,
    Think,
    WorkerParser,
    parse_organizer,
    parse_worker,
    render,
)
from asyncthink.protocol.tags import IN_TAG_STOPS, ORGANIZER_STOPS, WORKER_STOPS


def think(text: str) -> Think:
    return Think(text=text)


def bad(text: str) -> Malformed:
    return Malformed(text=text)


def fork(index: int, query: str, to: str | None = None) -> Fork:
    return Fork(index=index, query=query, to=to)


def join(index: int) -> Join:
    return Join(index=index)


def answer(text: str) -> Answer:
    return Answer(text=text)


ORGANIZER: dict[str, list[tuple[Action, int]]] = {
    "": [],
    "hm": [(think("hm"), 2)],
    "a<FORK-1>q</FORK-1>b": [(think("a"), 1), (fork(1, "q"), 19), (think("b"), 20)],
    "<FORK-9999></FORK-9999>": [(fork(9999, ""), 23)],
    '<FORK-2 to="calc">1 < 2\n</FORK-2>': [(fork(2, "1 < 2\n", "calc"), 33)],
    "<JOIN-1>x<JOIN-2>": [(join(1), 8), (think("x"), 9), (join(2), 17)],
    "a <ANSWER>42</ANSWER> <JOIN-1>": [(think("a "), 2), (answer("42"), 21)],
    # wrong numbers
    "<JOIN-0>": [(bad("<JOIN-0>"), 8)],
    "<JOIN-01>": [(bad("<JOIN-01>"), 9)],
    "<JOIN-10000>": [(bad("<JOIN-10000>"), 12)],
    "<JOIN-\u0661>": [(bad("<JOIN-\u0661>"), 8)],
    "<JOIN-1\u0661>": [(bad("<JOIN-1\u0661>"), 9)],
    "<JOIN-\uff11>": [(bad("<JOIN-\uff11>"), 8)],
    "<JOIN-\u00b2>": [(bad("<JOIN-\u00b2>"), 8)],
    "<JOIN--1>": [(bad("<JOIN--1>"), 9)],
    "<FORK-1\n>": [(bad("<FORK-1"), 7), (think("\n>"), 9)],
    # wrong shapes
    "<JOIN>": [(bad("<JOIN>"), 6)],
    "<FORKLIFT>": [(bad("<FORKLIFT>"), 10)],
    "<FORK ": [(bad("<FORK "), 6)],
    "<ANSWER-1>": [(bad("<ANSWER-1>"), 10)],
    '<JOIN-1 to="a">': [(bad('<JOIN-1 to="a">'), 15)],
    '<FORK-1 to="">q</FORK-1>': [(bad('<FORK-1 to="">'), 14), (think("q"), 15), (bad("</FORK-1>"), 24)],
    '<FORK-1 to="\u00e9">': [(bad('<FORK-1 to="\u00e9">'), 15)],
    '<FORK-1  to="a">': [(bad('<FORK-1  to="a">'), 16)],
    "<FORK <JOIN-1<JOIN-2>": [(bad("<FORK "), 6), (bad("<JOIN-1"), 13), (join(2), 21)],
    # no tag at all
    "< JOIN-1> <fork-1> <\\JOIN-1> <JOI <": [(think("< JOIN-1> <fork-1> <\\JOIN-1> <JOI <"), 35)],
    # stray
    "</FORK-1></ANSWER></JOIN-1>": [(bad("</FORK-1>"), 9), (bad("</ANSWER>"), 18), (bad("</JOIN-1>"), 27)],
    "<RETURN>x</RETURN>": [(bad("<RETURN>"), 8), (think("x"), 9), (bad("</RETURN>"), 18)],
    # unclosed
    "<FORK-1>q": [(bad("<FORK-1>q"), 9)],
    "<ANSWER>4": [(bad("<ANSWER>4"), 9)],
    "<JOIN-1": [(bad("<JOIN-1"), 7)],
    "<FORK-1>q</FORK-1": [(bad("<FORK-1>q"), 9), (bad("</FORK-1"), 17)],
    # nested
    "<FORK-1>q<JOIN-2>": [(bad("<FORK-1>q"), 9), (join(2), 17)],
    "<FORK-1><FORK-1>q</FORK-1>": [(bad("<FORK-1>"), 8), (fork(1, "q"), 26)],
    "<FORK-1>q</FORK-2>": [(bad("<FORK-1>q"), 9), (bad("</FORK-2>"), 18)],
    "<FORK-1>q<RETURN></FORK-1>": [(bad("<FORK-1>q"), 9), (bad("<RETURN>"), 17), (bad("</FORK-1>"), 26)],
    "<FORK-1><ANSWER>4</ANSWER>": [(bad("<FORK-1>"), 8), (answer("4"), 26)],
    "<ANSWER><ANSWER>4</ANSWER>": [(bad("<ANSWER>"), 8), (answer("4"), 26)],
    "<ANSWER>a<JOIN-1></ANSWER>": [(bad("<ANSWER>a"), 9), (join(1), 17), (bad("</ANSWER>"), 26)],
    "<<FORK-1><</FORK-1>": [(think("<"), 1), (fork(1, "<"), 19)],
}

WORKER: dict[str, list[tuple[Action, int]]] = {
    "t <RETURN>r</RETURN> more": [(think("t "), 2), (Return(text="r"), 20)],
    "<RETURN></RETURN>": [(Return(text=""), 17)],
    "<JOIN-1><FORK-0>": [(think("<JOIN-1><FORK-0>"), 16)],
    "<RETURN><ANSWER>4</ANSWER></RETURN>": [(Return(text="<ANSWER>4</ANSWER>"), 35)],
    "</RETURN>x": [(think("</RETURN>x"), 10)],
    "<RETURN x>y": [(think("<RETURN x>y"), 11)],
    "a<RETURN>r": [(think("a"), 1), (think("<RETURN>r"), 10)],
    "<RETURN>a<RETURN>b</RETURN>": [(think("<RETURN>a"), 9), (Return(text="b"), 27)],
    "<RETURN": [(think("<RETURN"), 7)],
}

FRAGMENTS = [
    "<",
    "</",
    ">",
    "FORK",
    "JOIN",
    "RETURN",
    "ANSWER",
    "-",
    "1",
    "2",
    "0",
    ' to="a"',
    "\n",
    "\\",
    "x",
    "\u0661",
]
WHOLE = [
    "<FORK-1>",
    "</FORK-1>",
    "<FORK-2>",
    "<JOIN-1>",
    "</JOIN-1>",
    "<ANSWER>",
    "</ANSWER>",
    "<RETURN>",
    "</RETURN>",
]
hostile = st.lists(st.sampled_from(FRAGMENTS + WHOLE) | st.text(max_size=3), max_size=30).map("".join)


def pairs(parsed: list[Parsed]) -> list[tuple[Action, int]]:
    return [(one.action, one.end) for one in parsed]


def chunked(parser: OrganizerParser | WorkerParser, chunks: list[str]) -> list[Parsed]:
    """Feed chunk by chunk, going on behind each cut."""
    found: list[Parsed] = []
    for chunk in chunks:
        rest = chunk
        while rest and not parser.done:
            found += parser.feed(rest)
            rest = rest[parser.taken :]
    return found + parser.close()


@pytest.mark.parametrize("text", ORGANIZER)
def test_organizer_grammar(text: str) -> None:
    assert pairs(parse_organizer(text)) == ORGANIZER[text]
    assert pairs(chunked(OrganizerParser(), list(text))) == ORGANIZER[text]


@pytest.mark.parametrize("text", WORKER)
def test_worker_grammar(text: str) -> None:
    assert pairs(parse_worker(text)) == WORKER[text]
    assert pairs(chunked(WorkerParser(), list(text))) == WORKER[text]


@given(st.lists(hostile, max_size=6), st.booleans())
def test_any_chunking_gives_the_same_actions(chunks: list[str], organizer: bool) -> None:
    text = "".join(chunks)
    if organizer:
        assert chunked(OrganizerParser(), chunks) == parse_organizer(text)
    else:
        assert chunked(WorkerParser(), chunks) == parse_worker(text)


@given(hostile)
def test_actions_tile_the_text(text: str) -> None:
    for parsed in (parse_organizer(text), parse_worker(text)):
        spelled = ""
        for one in parsed:
            spelled += render([one.action])
            assert one.end == len(spelled)
        last = parsed[-1].action if parsed else None
        assert text.startswith(spelled) if isinstance(last, (Answer, Return)) else spelled == text


def test_name_may_be_64_long_and_no_longer() -> None:
    assert parse_organizer(f'<FORK-9999 to="{"n" * 64}">q</FORK-9999>')[0].action == fork(9999, "q", "n" * 64)
    first, *others = parse_organizer(f'<FORK-1 to="{"n" * 65}">')
    assert isinstance(first.action, Malformed) and not any(isinstance(o.action, Fork) for o in others)


def test_feed_stops_behind_a_join_and_the_rest_is_not_read() -> None:
    parser = OrganizerParser()
    assert pairs(parser.feed("ab<JO")) == []
    assert parser.taken == 5
    assert pairs(parser.feed("IN-1> and <FORK-2>")) == [(think("ab"), 2), (join(1), 10)]
    assert parser.taken == 5
    parser.skip(4)
    assert pairs(parser.feed("c<ANSWER>d</ANSWER>e")) == [(think("c"), 15), (answer("d"), 33)]
    assert (parser.taken, parser.done) == (19, True)
    assert (parser.feed("<JOIN-1>"), parser.taken, parser.close()) == ([], 0, [])


def test_nothing_is_read_after_close() -> None:
    parser = OrganizerParser()
    parser.feed("a<JOIN-")
    assert [one.action for one in parser.close()] == [think("a"), bad("<JOIN-")]
    assert (parser.feed("1>"), parser.taken, parser.close()) == ([], 0, [])


def test_stops_follow_the_text() -> None:
    parser = OrganizerParser()
    for text, stops in (("a < b", ORGANIZER_STOPS), ("<JOIN-", IN_TAG_STOPS), ("1>", ORGANIZER_STOPS)):
        parser.feed(text)
        assert parser.stops == stops
    assert WorkerParser().stops == WORKER_STOPS


def pieces_until_done(text: str) -> list[str]:
    """Play an engine that returns whole pieces: each ends at the first stop string, or with the text."""
    parser, at, pieces = OrganizerParser(), 0, list[str]()
    while at < len(text) and not parser.done:
        ends = [text.find(stop, at) + len(stop) for stop in parser.stops if text.find(stop, at) >= 0]
        piece = text[at : min(ends, default=len(text))]
        parser.feed(piece)
        assert parser.taken == len(piece), "an engine that heeds the stops has no overrun"
        pieces.append(piece)
        at += len(piece)
    return pieces


def test_stops_cut_an_engine_of_whole_pieces_without_overrun() -> None:
    text = "a<FORK-1>q</FORK-1> b > c <JOIN-1>d<ANSWER>e</ANSWER>f"
    assert pieces_until_done(text) == [
        "a<FORK-1>q</FORK-",
        "1>",
        " b > c <JOIN-",
        "1>",
        "d<ANSWER>e</ANSWER>",
    ]


@given(hostile)
def test_stops_leave_no_overrun_whatever_the_text(text: str) -> None:
    assert "".join(pieces_until_done(text)) == text[: sum(map(len, pieces_until_done(text)))]


MEGABYTE = 1 << 20
FLOODS = (
    "<FORK-",
    "<",
    "<FORK-1>",
    "<JOIN-1>",
    "</RETURN>",
    "<RETURN>",
    "<FORK-1 " + "a" * 70,
    "<\\\\\\",
    "a",
)


@pytest.mark.parametrize("unit", FLOODS)
def test_a_megabyte_takes_linear_time(unit: str) -> None:
    text = unit * (MEGABYTE // len(unit))
    for parse in (parse_organizer, parse_worker):
        start = time.process_time()
        parsed = parse(text)
        assert parsed[-1].end == len(text)
        assert time.process_time() - start < 10


@pytest.mark.parametrize("unit", ("<FORK-", "<FORK-1 " + "a" * 70))
def test_a_megabyte_one_character_at_a_time(unit: str) -> None:
    text = unit * (MEGABYTE // len(unit))
    start = time.process_time()
    parsed = chunked(OrganizerParser(), list(text))
    assert parsed == parse_organizer(text)
    assert time.process_time() - start < 30
