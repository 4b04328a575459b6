"""The embedded model's tokenizer: nothing is lost, and what matters is one token."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncthink.engines.lexicon import render
from asyncthink.protocol import tags
from asyncthink.tasks import Asked, CountdownProblem, Split, get_task
from asyncthink.tasks.countdown_parts import LARGEST
from asyncthink.training.encoding import new_lexicon
from asyncthink.training.synthesis import guess_example, organizer_example, worker_example
from asyncthink.training.vocabulary import BOS, EOS, INDICES, PAD, build_tokenizer

TOKENIZER = build_tokenizer()
SPECIAL = {TOKENIZER.token_to_id(name) for name in (PAD, BOS, EOS)}
TAGS = [
    *(tag for index in INDICES for tag in tags.fork(index, "|").split("|")),
    *(tag for index in INDICES for tag in (tags.join(index), tags.join_end(index))),
    *tags.returned("|").split("|"),
    *tags.answer("|").split("|"),
]
PIECES = [
    *TAGS,
    PAD,
    BOS,
    EOS,
    "<0x41>",
    "<0xC3>",
    " 7",
    "007",
    " 401",
    "\r\n",
    " ",
    "_-",
    "<FORK-25>",
    "é",
    "🙂",
]

anything = st.text(st.characters(exclude_categories=["Cs"]))
mixed = st.lists(st.one_of(anything, st.sampled_from(PIECES))).map("".join)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text).ids


@settings(deadline=None)
@given(mixed)
@example("<pad><bos><eos> <eos>")
@example("<0x41><0xC3><0xA9>")
@example("\x00\t\n\x0b\x85\u2028\u3000\ufeff\ufffd")
@example("e\u0301 ①  ٣ ﷽ ½ ﬀ")
def test_any_text_comes_back_and_holds_no_special_token(text: str) -> None:
    found = ids(text)
    assert TOKENIZER.decode(found, skip_special_tokens=False) == text
    assert not SPECIAL & set(found)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["\n", "</JOIN-3>", "<RETURN>"]), anything)))
def test_text_that_is_inserted_in_parts_is_the_text(parts: list[tuple[str, str]]) -> None:
    """The record decodes a context whose pieces were encoded one by one."""
    found = [token for part in parts for piece in part for token in ids(piece)]
    assert TOKENIZER.decode(found, skip_special_tokens=False) == "".join(a + b for a, b in parts)


def test_every_number_with_its_blank_is_one_token() -> None:
    numbers = [ids(f" {number}") for number in range(LARGEST + 1)]
    assert LARGEST == 400 and all(len(number) == 1 for number in numbers)
    assert len({number[0] for number in numbers}) == LARGEST + 1
    assert len(ids(" 401")) > 1


def test_numbers_stay_one_token_in_company() -> None:
    assert [TOKENIZER.id_to_token(token) for token in ids(" 2 13 | 400 7 > 28\n")] == (
        [" 2", " 13", " |", " 400", " 7", " >", " 28", "\n"]
    )


def test_every_tag_is_one_token() -> None:
    assert list(INDICES) == list(range(1, 25)) and len(set(TAGS)) == 4 * 24 + 4
    for tag in TAGS:
        assert [TOKENIZER.id_to_token(token) for token in ids(tag)] == [tag]
        inside = f" 7 *{tag} 2 3"
        assert TOKENIZER.token_to_id(tag) in ids(inside) and len(ids(inside)) == 5


def test_an_operator_of_a_peel_is_one_token() -> None:
    for operator in ("+", "-", "*", "/", "_-", "_/"):
        assert [TOKENIZER.id_to_token(token) for token in ids(f" 7 {operator} 4")] == [
            " 7",
            f" {operator}",
            " 4",
        ]


def in_bytes(text: str) -> list[str]:
    spelled = [TOKENIZER.id_to_token(token) for token in ids(text)]
    return [token for token in spelled if token and token.startswith("<0x")]


@pytest.mark.parametrize("seed", range(6))
def test_traces_and_prompts_need_no_bytes(seed: int) -> None:
    lexicon, random = new_lexicon(), Random(seed)
    numbers = ((3, 7, 12), (3, 7, 12, 20), (3, 7, 12, 20, 5))[seed % 3]
    problem = CountdownProblem(numbers=numbers, target=24 + 6 * seed, wanted=1 + seed % 4)
    sudoku = get_task("sudoku")
    for asked in (
        Asked(get_task("countdown"), problem),
        Asked(sudoku, sudoku.problem(Split.TRAIN, 0, seed)),
    ):
        # The digits of "4x4" and "(0" have no blank before them.
        known = ["<0x34>", "<0x30>"] if asked.task is sudoku else []
        for one in (
            organizer_example(asked, 4, random),
            worker_example(asked, random),
            guess_example(asked, 2, random),
        ):
            prompt = render(lexicon.templates[one.role], query=one.query, capacity=one.capacity)
            assert in_bytes(prompt) == (known if one.role == "organizer" else [])
            assert not in_bytes("".join(piece.text for piece in one.pieces))


def test_every_fork_of_the_longest_trace_has_a_tag_of_its_own() -> None:
    asked = Asked(get_task("countdown"), CountdownProblem(numbers=(3, 7, 12, 13, 19), target=97))
    longest = max(
        "".join(
            piece.text for piece in organizer_example(asked, 9, Random(seed), own_thinking=0.0).pieces
        ).count("<FORK-")
        for seed in range(20)
    )
    assert 15 < longest <= max(INDICES)
