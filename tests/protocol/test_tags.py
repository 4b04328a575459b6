"""Spelling and escaping: what is rendered is read back, and no foreign text ever acts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncthink.protocol
from asyncthink.protocol import (
    Action,
    Answer,
    Fork,
    Join,
    Malformed,
    Return,
    Think,
    escape,
    parse_organizer,
    parse_worker,
    render,
    tags,
    unescape,
)

FRAGMENTS = ("<", "</", ">", "/", "\\", "FORK", "JOIN", "RETURN", "ANSWER", "-", "1", "-1>", " ", "x", "\n")
WHOLE = (
    "<FORK-9>",
    "</FORK-9>",
    "</JOIN-1>",
    "<JOIN-1>",
    "<ANSWER>",
    "</ANSWER>",
    "<RETURN>",
    "</RETURN>",
    "</FORK-1>",
)
tagged = st.lists(st.sampled_from(FRAGMENTS + WHOLE) | st.text(max_size=3), max_size=30).map("".join)
harmless = tagged.map(escape)
indices = st.integers(1, 9999)
names = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,63}", fullmatch=True)
thoughts = st.builds(Think, text=harmless.filter(bool))
forks = st.builds(Fork, index=indices, query=harmless, to=names)
joins = st.builds(Join, index=indices)
answers = st.builds(Answer, text=harmless)


@st.composite
def organizer_actions(draw: st.DrawFn) -> list[Action]:
    """Well-formed: two thoughts never stand side by side, and an answer only at the end."""
    found: list[Action] = []
    for action in draw(st.lists(thoughts | forks | joins, max_size=8)):
        if not (isinstance(action, Think) and found and isinstance(found[-1], Think)):
            found.append(action)
    return found + draw(st.lists(answers, max_size=1))


@given(organizer_actions())
def test_what_an_organizer_does_is_read_back(actions: list[Action]) -> None:
    assert [one.action for one in parse_organizer(render(actions))] == actions


@given(harmless.filter(bool), harmless)
def test_what_a_worker_does_is_read_back(thought: str, takeaway: str) -> None:
    actions: list[Action] = [Think(text=thought), Return(text=takeaway)]
    assert [one.action for one in parse_worker(render(actions))] == actions


@given(tagged | st.text())
def test_escaping_is_reversible(text: str) -> None:
    assert unescape(escape(text)) == text
    assert unescape(unescape(escape(escape(text)))) == text
    assert tags.TAG_LIKE.search(escape(text)) is None


@given(
    st.text()
    | st.lists(st.sampled_from(("<", "</", "fork", "FOR", "\\", "<b>", "< JOIN")), max_size=9).map("".join)
)
def test_escaping_leaves_other_text_alone(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("<FORK-1>", r"<\FORK-1>"),
        ("</JOIN-1>", r"</\JOIN-1>"),
        ("<ANSWERS", r"<\ANSWERS"),
        (r"<\RETURN>", r"<\\RETURN>"),
        (r"</\\FORK", r"</\\\FORK"),
        ("<<JOIN", r"<<\JOIN"),
        (r"\<JOIN", r"\<\JOIN"),
    ],
)
def test_escaping_by_example(text: str, escaped: str) -> None:
    assert escape(text) == escaped
    assert unescape(escaped) == text


def test_100_000_hostile_texts_forge_nothing() -> None:
    rng = random.Random(20251030)
    opening, closing = tags.join(1), tags.join_end(1)
    would_have_acted = 0
    for number in range(100_000):
        text = "".join(rng.choices(FRAGMENTS + WHOLE, k=rng.randint(1, 8)))
        safe = escape(text)
        if number % 2:
            expected = [Join(index=1), Think(text=safe), Malformed(text=closing)]
            flat, naive = opening + tags.joined(1, text), opening + text + closing
        else:
            expected = [Fork(index=1, query=safe)]
            flat, naive = tags.fork(1, safe), tags.fork(1, text)
        assert [one.action for one in parse_organizer(flat)] == expected
        would_have_acted += len(parse_organizer(naive)) != len(expected)
    assert would_have_acted > 50_000, "the texts must be hostile for this test to mean anything"


def test_renderers_spell_the_protocol() -> None:
    assert tags.fork(3, "q") == "<FORK-3>q</FORK-3>"
    assert tags.fork(3, "q", "calc") == '<FORK-3 to="calc">q</FORK-3>'
    assert tags.join(3) + tags.joined(3, "a<JOIN-1>") == r"<JOIN-3>a<\JOIN-1></JOIN-3>"
    assert tags.answer("x") + tags.returned("y") == "<ANSWER>x</ANSWER><RETURN>y</RETURN>"


@pytest.mark.parametrize("index", [0, -1, 10_000])
def test_renderers_refuse_what_would_not_be_read(index: int) -> None:
    for spell in (lambda: tags.fork(index, "q"), lambda: tags.join(index), lambda: tags.join_end(index)):
        with pytest.raises(ValueError, match="9999"):
            spell()


@pytest.mark.parametrize("name", ["", 'a"', "a b", "-a", "n" * 65, "a\n", "\u00e9"])
def test_a_name_that_would_not_be_read_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a worker"):
        tags.fork(1, "q", name)


def test_only_one_file_spells_a_tag() -> None:
    room = Path(asyncthink.protocol.__file__).parent
    spelling = [file.name for file in room.glob("*.py") if tags.TAG_LIKE.search(file.read_text())]
    assert spelling == ["tags.py"]
