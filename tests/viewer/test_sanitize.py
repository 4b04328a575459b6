"""Hostile text becomes harmless text, and no text raises."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from asyncthink.viewer.sanitize import clean, head, tail

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)
PAYLOADS = {
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "one byte escape": "\x9b2J",
    "cursor": "a\rb\x08\x08\x0bc",
    "bidi": "safe\u202egnp.exe\u2066\u2069",
    "zero width": "a\u200bb\ufeffc\U000e0041",
    "surrogate": "a\ud800b",
    "marks": "a" + "\u0335" * 500,
    "nul": "\x00\x7f",
    "separators": "a\u2028b\u2029c\x85d",
}


_OVERRIDES = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=list(PAYLOADS))
def test_payloads(payload: str) -> None:
    for line in (clean(payload), clean(payload, ascii_only=True), head(payload, 5), tail(payload, 5)):
        assert line.isprintable()
        assert not any(unicodedata.bidirectional(character) in _OVERRIDES for character in line)
        line.encode("utf-8")


def test_what_is_kept_can_be_read() -> None:
    assert clean("a \t b\n\n c") == "a b ↵ c"
    assert clean("a\nb", ascii_only=True) == "a / b"
    assert clean("\x1b[1mno") == "\ufffd[1mno"
    assert clean("naïve e\u0301 漢字 [red]x[/red]") == "naïve e\u0301 漢字 [red]x[/red]"
    assert clean("≠", ascii_only=True) == "?"
    assert head("0123456789", 6) == "01234…"
    assert tail("0123456789", 6) == "…56789"
    assert head("漢字漢字", 5) == "漢字…"


@given(ANY_TEXT, st.integers(1, 40), st.booleans())
def test_any_text(text: str, width: int, ascii_only: bool) -> None:
    for line in (head(text, width, ascii_only=ascii_only), tail(text, width, ascii_only=ascii_only)):
        assert line.isprintable()
        assert cell_len(line) <= max(width, 3)
        assert line.isascii() or not ascii_only


@pytest.mark.parametrize("character", [" ", "\n", "x", "\u0335", "漢", "\x1b"])
def test_long_text_costs_little(character: str) -> None:
    text = character * 10**7
    begin = time.perf_counter()
    assert cell_len(head(text, 80)) <= 80
    assert cell_len(tail(text, 80)) <= 80
    assert time.perf_counter() - begin < 0.5
