"""The default instructions obey the protocol they explain."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncthink.errors import UsageError
from asyncthink.protocol import Answer, Fork, Join, Return, parse_worker
from asyncthink.protocol.parser import OrganizerParser
from asyncthink.protocol.prompts import DEFAULT, load_prompts
from asyncthink.protocol.tags import joined, told

PROMPTS = load_prompts()
organizer_prompt, worker_prompt = PROMPTS.for_organizer, PROMPTS.for_worker


def test_capacity_is_filled_in() -> None:
    assert "3 workers running" in organizer_prompt(4)
    assert "1 worker running" in organizer_prompt(2)
    every = [organizer_prompt(4), organizer_prompt(4, turns=True), worker_prompt(), organizer_prompt(1)]
    every += [PROMPTS.reminder(worker=False), PROMPTS.reminder(worker=True)]
    assert "$" not in "".join(every)


def test_capacity_one_thinks_alone() -> None:
    with pytest.raises(UsageError, match="capacity is 0"):
        organizer_prompt(0)


@pytest.mark.parametrize("turns", [False, True])
def test_the_organizer_example_is_a_legal_trace(turns: bool) -> None:
    text = organizer_prompt(4, turns=turns).split("Question: ")[1].split("\n", 1)[1]
    parser = OrganizerParser()
    before = parser.feed(text)
    inserted = "\n" + told(1, "17 * 24 = 408") if turns else joined(1, "17 * 24 = 408")
    assert text[parser.taken :].startswith(inserted)
    after = parser.feed(text[parser.taken + len(inserted) :])
    kinds = [type(one.action) for one in before + after if type(one.action) in (Fork, Join, Answer)]
    assert (kinds, after[-1].action) == ([Fork, Join, Answer], Answer(text=str(17 * 24 + 19 * 31)))


def test_the_worker_example_returns() -> None:
    example = worker_prompt().split("Question: ")[1]
    assert parse_worker(example)[-1].action == Return(text=f"17 * 24 = {17 * 24}")


def test_sequential_thinking_hears_of_no_workers() -> None:
    alone = organizer_prompt(1)
    assert "worker" not in alone.lower() and "<ANSWER>" in alone


def test_limits_are_stated() -> None:
    limits = ["You may write 70 tokens.", "You may start 2 workers."]
    for text in (
        organizer_prompt(4, limits=limits),
        organizer_prompt(1, limits=limits),
        worker_prompt(limits),
    ):
        assert "\n".join(limits) in text


def test_a_file_replaces_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('worker = "Solve it, $$5 a piece: $returned"')
    prompts = load_prompts(path)
    assert prompts.for_worker() == "Solve it, $5 a piece: <RETURN>result</RETURN>"
    assert prompts.for_organizer(4) == organizer_prompt(4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker = ", "no prompts"),
        ('walker = "x"', "there is no prompt 'walker' (there are: organizer, worker"),
        ('worker = "$fork"', "there is no $fork here (there are: $example, $limits, $returned)"),
        ('worker = "costs $5"', "literal dollar sign"),
        ("worker = 5", "a text is expected"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_prompts(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_prompts(tmp_path / "none.toml")


def test_every_text_of_the_package_can_be_replaced(tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    copy.write_text(DEFAULT.read_text())
    assert load_prompts(copy) == PROMPTS
