"""The default instructions obey the protocol they explain."""

from __future__ import annotations

import pytest

from asyncthink.errors import UsageError
from asyncthink.protocol import Answer, Fork, Join, Return, parse_worker
from asyncthink.protocol.parser import OrganizerParser
from asyncthink.protocol.prompts import organizer_prompt, sequential_prompt, worker_prompt
from asyncthink.protocol.tags import joined


def test_capacity_is_filled_in() -> None:
    assert "3 workers running" in organizer_prompt(4)
    assert "1 worker running" in organizer_prompt(2)
    assert "$" not in organizer_prompt(4) + worker_prompt() + sequential_prompt()


def test_capacity_one_thinks_alone() -> None:
    assert organizer_prompt(1) == sequential_prompt()
    with pytest.raises(UsageError, match="capacity is 0"):
        organizer_prompt(0)


def test_the_organizer_example_is_a_legal_trace() -> None:
    text = organizer_prompt(4).split("Question: ")[1].split("\n", 1)[1]
    parser = OrganizerParser()
    before = parser.feed(text)
    inserted = joined(1, "17 * 24 = 408")
    assert text[parser.taken :].startswith(inserted)
    after = parser.feed(text[parser.taken + len(inserted) :])
    kinds = [type(one.action) for one in before + after if type(one.action) in (Fork, Join, Answer)]
    assert (kinds, after[-1].action) == ([Fork, Join, Answer], Answer(text=str(17 * 24 + 19 * 31)))


def test_the_worker_example_returns() -> None:
    example = worker_prompt().split("Question: ")[1]
    assert parse_worker(example)[-1].action == Return(text=f"17 * 24 = {17 * 24}")


def test_sequential_thinking_hears_of_no_workers() -> None:
    assert "worker" not in sequential_prompt().lower() and "<ANSWER>" in sequential_prompt()
