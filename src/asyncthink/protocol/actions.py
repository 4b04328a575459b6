"""What a model can do, as values, and what it can get wrong.

An organizer thinks, forks, joins and answers; a worker thinks and returns. Bad model text is a value
too: `Malformed`. Every value carries the model's text exactly as it was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Think:
    """Free text between actions; never empty when it comes from a parser."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """The organizer hands a sub-query to a worker and goes on."""

    index: int
    """1 to 9999, chosen by the organizer."""
    query: str
    """Holds nothing tag-like; may be empty."""
    to: str | None = None
    """The worker's name, or None for whichever worker is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """The organizer pauses until worker `index` is done."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """A worker ends; only this text reaches the organizer."""

    text: str
    """May hold any tag but RETURN: escape it before another model reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The organizer ends the episode."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A tag that is none, or a tag that was opened and dropped together with what it held."""

    text: str


Action: TypeAlias = Think | Fork | Join | Return | Answer | Malformed


class FormatError(StrEnum):
    """Everything a model can get wrong. None of it ends the episode."""

    DUPLICATE_FORK = "duplicate_fork"
    """Paper: an index was forked twice; the second fork starts nothing."""
    POOL_OVERFLOW = "pool_overflow"
    """Paper: a fork while every worker was active; the fork runs all the same, once one is free.
    With capacity 1 there is none to wait for: the fork starts nothing."""
    UNKNOWN_JOIN = "unknown_join"
    """Paper: a join of an index that was not forked; it receives the empty string."""
    NO_ANSWER = "no_answer"
    """Paper: the episode stopped without an answer."""
    DUPLICATE_JOIN = "duplicate_join"
    """Ours: a worker was joined twice; the second join receives the empty string."""
    MALFORMED_TAG = "malformed_tag"
    """Ours: something tag-like that is no legal tag where it stands."""
    NO_RETURN = "no_return"
    """Ours: a worker stopped without a return and had to be reminded of it (untrained models only)."""


PAPER_ERRORS = (
    FormatError.DUPLICATE_FORK,
    FormatError.POOL_OVERFLOW,
    FormatError.UNKNOWN_JOIN,
    FormatError.NO_ANSWER,
)
"""The errors that the paper counts; reports show them apart from ours."""
