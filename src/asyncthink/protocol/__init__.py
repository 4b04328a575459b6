"""The language: text <-> values. Pure, synchronous, standard library only.

`tags` spells, `parser` reads, `rules` judges, `prompts` explains; `actions` are the values.
"""

from asyncthink.protocol.actions import (
    PAPER_ERRORS,
    Action,
    Answer,
    Fork,
    FormatError,
    Join,
    Malformed,
    Return,
    Think,
)
from asyncthink.protocol.parser import OrganizerParser, Parsed, WorkerParser, parse_organizer, parse_worker
from asyncthink.protocol.rules import Rules, format_errors
from asyncthink.protocol.tags import NO_RESULT, escape, render, unescape

__all__ = [
    "NO_RESULT",
    "PAPER_ERRORS",
    "Action",
    "Answer",
    "Fork",
    "FormatError",
    "Join",
    "Malformed",
    "OrganizerParser",
    "Parsed",
    "Return",
    "Rules",
    "Think",
    "WorkerParser",
    "escape",
    "format_errors",
    "parse_organizer",
    "parse_worker",
    "render",
    "unescape",
]
