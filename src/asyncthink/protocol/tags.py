r"""The only file that spells a tag.

    <FORK-7>sub-query</FORK-7>              <FORK-7 to="name">sub-query</FORK-7>
    <JOIN-7>inserted text</JOIN-7>          the organizer writes the first half, the runtime the rest
    <ANSWER>text</ANSWER>                   <RETURN>text</RETURN>

*Tag-like* is `<` or `</` followed by FORK, JOIN, RETURN or ANSWER, in capitals. Such a thing reaches up
to the next `>`, but not past a `<`, a line's end or the length of the longest legal tag.

Escaping puts a backslash behind `<` or `</`: `<FORK` becomes `<\FORK`, and `<\FORK` becomes `<\\FORK`, so
that unescaping by one level is exact however often a text was passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from asyncthink.protocol.actions import Action, Answer, Fork, Join, Malformed, Return, Think


class Kind(StrEnum):
    """The four words that make a tag."""

    FORK = "FORK"
    JOIN = "JOIN"
    RETURN = "RETURN"
    ANSWER = "ANSWER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One legal tag, taken by itself."""

    kind: Kind
    closing: bool
    index: int = 0
    """0 for tags that have none."""
    to: str | None = None


NO_RESULT = "(no result)"
"""What a join inserts for a worker that returned nothing."""
WORKER_STOPS = ("</RETURN>",)
"""Where a worker's engine stops."""
STREAMED_STOPS = ("</ANSWER>",)
"""Where a streaming engine stops for an organizer; joins are watched for and cut by the runtime."""
ORGANIZER_STOPS = ("</FORK-", "<JOIN-", *STREAMED_STOPS)
"""Where an engine that returns whole pieces stops for an organizer; if nothing ended there, it goes on."""
IN_TAG_STOPS = (">", *ORGANIZER_STOPS)
"""Where such an engine stops when the text so far ends inside a tag. Four: OpenAI's servers take no more."""

_KINDS = "|".join(Kind)
_INDEX = "[1-9][0-9]{0,3}"
_NAME = "[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,63}"
_LONGEST = len('<FORK-9999 to="">') + 64
_HEADS = tuple(bracket + kind for bracket in ("<", "</") for kind in Kind)
_LEGAL = re.compile(
    rf'<FORK-(?P<fork>{_INDEX})(?: to="(?P<to>{_NAME})")?>'
    rf"|<(?P<close>/?)(?:(?P<kind>FORK|JOIN)-(?P<index>{_INDEX})|(?P<bare>RETURN|ANSWER))>"
)
_UNESCAPED = re.compile(rf"(</?)(?=\\*(?:{_KINDS}))")
_ESCAPED = re.compile(rf"(</?)\\(?=\\*(?:{_KINDS}))")
TAG_LIKE = re.compile(rf"</?(?:{_KINDS})[^<>\n]{{0,{_LONGEST}}}>?")


def read(text: str) -> Tag | None:
    """Return the legal tag that the whole text is, or None."""
    match = _LEGAL.fullmatch(text)
    if match is None:
        return None
    if match["fork"]:
        return Tag(kind=Kind.FORK, closing=False, index=int(match["fork"]), to=match["to"])
    kind = Kind(match["kind"] or match["bare"])
    return Tag(kind=kind, closing=bool(match["close"]), index=int(match["index"] or 0))


def begun(text: str, at: int) -> int:
    """Return where a head begins that more text may complete (`<`, `</FO`), from `at` on; else the length."""
    start = text.rfind("<", at)
    if start >= 0 and any(head.startswith(text[start : start + 8]) for head in _HEADS):
        return start
    return len(text)


def is_name(text: str) -> bool:
    """Say whether a fork can name this worker: 1 to 64 of `A-Za-z0-9_.:/-`, none of `.:/-` first."""
    return re.fullmatch(_NAME, text) is not None


def escape(text: str) -> str:
    """Make a text that comes from another agent harmless. Escape it whole: two halves may form a tag."""
    return _UNESCAPED.sub(r"\1\\", text)


def unescape(text: str) -> str:
    """Undo one `escape`."""
    return _ESCAPED.sub(r"\1", text)


def fork(index: int, query: str, to: str | None = None) -> str:
    """Spell a fork. Like all of these, it takes the text as it is: what another agent wrote, escape first."""
    if to is not None and not is_name(to):
        raise ValueError(f"{to!r} cannot name a worker: see asyncthink.protocol.tags.is_name")
    name = "" if to is None else f' to="{to}"'
    return f"<FORK-{_checked(index)}{name}>{query}</FORK-{index}>"


def join(index: int) -> str:
    """Spell the organizer's half of a join."""
    return f"<JOIN-{_checked(index)}>"


def join_end(index: int) -> str:
    """Spell what closes a join, behind the inserted text."""
    return f"</JOIN-{_checked(index)}>"


def joined(index: int, text: str) -> str:
    """Return all that the runtime inserts at a join: the worker's text, escaped, and the closing tag."""
    return escape(text) + join_end(index)


def told(index: int, text: str) -> str:
    """Return what a model is told at a join in a turn of its own, where it cannot go on from its own text."""
    return f"JOIN-{_checked(index)}: {escape(text)}"


def answer(text: str) -> str:
    """Spell an answer."""
    return f"<ANSWER>{text}</ANSWER>"


def returned(text: str) -> str:
    """Spell a worker's return."""
    return f"<RETURN>{text}</RETURN>"


def render(actions: Iterable[Action]) -> str:
    """Return the text that a model writes to take these actions, in order."""
    return "".join(map(_spelled, actions))


def _spelled(action: Action) -> str:
    match action:
        case Think() | Malformed():
            return action.text
        case Fork():
            return fork(action.index, action.query, action.to)
        case Join():
            return join(action.index)
        case Return():
            return returned(action.text)
        case Answer():
            return answer(action.text)
        case _:
            assert_never(action)


def _checked(index: int) -> int:
    if not 1 <= index <= 9999:
        raise ValueError(f"{index} cannot number a worker: use 1 to 9999")
    return index
