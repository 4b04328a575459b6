"""Files of examples: what is written comes back, and what is no example is told in one line."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest

from asyncthink.errors import UsageError
from asyncthink.training.synthesis import Example, Piece, organizer_example, read_examples, worker_example
from tests.training.sft_world import COUNTDOWN, SUDOKU


def test_examples_are_read_back(tmp_path: Path) -> None:
    examples = [
        organizer_example(COUNTDOWN, 3, Random(1)),
        worker_example(SUDOKU, Random(2)),
        Example(
            role="worker", query='"\\\n\u2028é\x85', capacity=1, pieces=(Piece(text="\x0b", trained=True),)
        ),
    ]
    file = tmp_path / "examples.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in examples))
    assert read_examples(str(file)) == examples


GOOD = msgspec.json.encode(Example(role="worker", query="q", capacity=1, pieces=())) + b"\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no example"),
        (GOOD + b"{\n", "line 2: "),
        (GOOD + b"[]\n", "line 2: "),
        (
            GOOD + b'{"role": "worker", "query": "q", "capacity": 1}\n',
            "line 2: Object missing required field `pieces`",
        ),
        (GOOD.replace(b'"q"', b"7"), "line 1: Expected `str`, got `int` - at `$.query`"),
        (GOOD.replace(b"[]", b'[{"text": "x"}]'), "line 1: Object missing required field `trained`"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_a_file_that_holds_something_else_is_told_in_one_line(
    tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_examples(str(file))
    assert str(file) in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_examples(str(path))
