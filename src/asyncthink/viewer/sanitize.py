"""Text of models and users, made fit for a terminal: nothing in it moves the cursor or changes a colour.

Line ends and tabs become visible marks or blanks; other control characters (escape sequences start with
one), bidirectional overrides and lone surrogates become a visible replacement; invisible format characters
and heaps of combining marks are dropped. Rich never reads the result as markup: it goes into `Text`.
"""

from __future__ import annotations

import re
from unicodedata import category

from rich.cells import cell_len, set_cell_size

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MARKS = ("Mn", "Me")
_MAX_MARKS = 2
_BLANKS = re.compile(r"\s+")
_LINE_END = re.compile(r"[\r\n\v\f\x85\u2028\u2029]")
_LONGEST = 4000
"""Characters that are looked at: a view shows fewer, whatever a model writes."""


def clean(text: str, *, ascii_only: bool = False) -> str:
    """Return the text on one line, harmless; `ascii_only` for terminals that show nothing else."""
    line_end = " / " if ascii_only else " ↵ "
    line = _BLANKS.sub(lambda run: line_end if _LINE_END.search(run[0]) else " ", text[:_LONGEST].strip())
    if ascii_only:
        line = line.encode("ascii", "replace").decode()
    if not (line.isascii() and line.isprintable()):
        line = _visible(line, "?" if ascii_only else "\ufffd")
    return line


def head(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return the clean text's beginning, at most `width` cells of it."""
    line = clean(text, ascii_only=ascii_only)
    if cell_len(line) <= width and len(text) <= _LONGEST:
        return line
    more = "..." if ascii_only else "…"
    return set_cell_size(line, max(0, min(width, cell_len(line)) - len(more))).rstrip() + more


def tail(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return the clean text's end, at most `width` cells of it."""
    line = clean(text[-_LONGEST:], ascii_only=ascii_only)
    if cell_len(line) <= width:
        return line
    more = "..." if ascii_only else "…"
    line = line[-max(1, width) :]
    while line and cell_len(line) > width - len(more):
        line = line[1:]
    return more + line


def _visible(line: str, replacement: str) -> str:
    shown: list[str] = []
    marks = 0
    for character in line:
        kind = category(character)
        marks = marks + 1 if kind in _MARKS else 0
        if kind in ("Cc", "Cs", "Co", "Cn") or character in _BIDI:
            shown.append(replacement)
        elif kind != "Cf" and marks <= _MAX_MARKS:
            shown.append(character)
    return "".join(shown)
