"""From a model's text, however it arrives, to actions. No text makes a parser raise.

One rule covers every open FORK and ANSWER: only its own closing tag ends it; anything else tag-like drops
it (`Malformed`, with what it held) and is then read itself, as if it stood alone. For a worker only RETURN
is a tag: a second opening one drops the first, and what is dropped, stray or never closed is just text.

The runtime feeds what it decodes, drops what was not taken, inserts, and feeds on:

    for parsed in parser.feed(chunk): ...       # the last one is the Join, if the chunk completed one
    kept = chunk[: parser.taken]

Only decoded text is ever fed. Where a token that carries a cut is kept whole, its rest is skipped, not read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

from asyncthink.protocol import tags
from asyncthink.protocol.actions import Action, Answer, Fork, Join, Malformed, Return, Think
from asyncthink.protocol.lexer import Lexer
from asyncthink.protocol.tags import Kind, Tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An action and where it ends. Actions tile what was read: each begins where the one before it ends."""

    action: Action
    end: int
    """Characters of decoded text, from the first ever fed, up to and including this action's last."""


class Parser(ABC):
    """What both roles share."""

    _dropped: type[Malformed] | type[Think]
    """What an open tag becomes that will never be closed."""

    def __init__(self) -> None:
        self.done = False
        """True once nothing more is read: from the Answer or Return, or the close, on."""
        self._lexer = Lexer()
        self._open: Tag | None = None
        self._text: list[str] = []
        """Of the thought, or of the open tag, its own spelling first."""
        self._end = 0

    @property
    def taken(self) -> int:
        """How many characters of the text fed last were read."""
        return self._lexer.taken

    @property
    @abstractmethod
    def stops(self) -> tuple[str, ...]:
        """Where an engine that returns whole pieces is to stop next."""

    def feed(self, text: str, *, through_joins: bool = False) -> list[Parsed]:
        """Read on, up to and including a Join, Answer or Return, and return the actions now complete.

        `taken` then says how far it came. `through_joins` reads on behind joins: for flat text, into
        which nothing was inserted.
        """
        found: list[Parsed] = []
        for piece, tag_like in self._lexer.feed("" if self.done else text):
            found += self._read(piece, tag_like)
            if self.done or (not through_joins and found and isinstance(found[-1].action, Join)):
                break
        return found

    def skip(self, characters: int) -> None:
        """Count text that was kept behind a cut, unread, so that `end` stays an offset into the record."""
        self._end += characters

    def close(self) -> list[Parsed]:
        """End the text and return what was still open."""
        found: list[Parsed] = []
        if not self.done:
            for piece, tag_like in self._lexer.close():
                found += self._read(piece, tag_like)
            found += self._flush()
        self.done = True
        return found

    def reopen(self) -> None:
        """Read on behind a close: the model was asked for more."""
        self.done = False

    @abstractmethod
    def _act(self, tag: Tag | None, text: str) -> Iterator[Parsed]:
        """Act on something tag-like that does not close the open tag; None if it is no legal tag."""

    def _read(self, piece: str, tag_like: bool) -> Iterator[Parsed]:
        tag = tags.read(piece) if tag_like else None
        if not tag_like:
            self._keep(piece)
        elif self._open and tag == replace(self._open, closing=True, to=None):
            self._end += len(piece)
            action = _closed(self._open, "".join(self._text[1:]))
            self._open, self._text = None, []
            self.done = not isinstance(action, Fork)
            yield self._parsed(action)
        else:
            yield from self._act(tag, piece)

    def _keep(self, piece: str) -> None:
        self._text.append(piece)
        self._end += len(piece)

    def _begin(self, tag: Tag, piece: str) -> Iterator[Parsed]:
        yield from self._flush()
        self._open = tag
        self._keep(piece)

    def _flush(self) -> Iterator[Parsed]:
        if self._text:
            text = "".join(self._text)
            yield self._parsed(self._dropped(text=text) if self._open else Think(text=text))
        self._open, self._text = None, []

    def _parsed(self, action: Action) -> Parsed:
        return Parsed(action=action, end=self._end)


class OrganizerParser(Parser):
    """Reads Think, Fork, Join, Answer and Malformed."""

    _dropped = Malformed

    @property
    def stops(self) -> tuple[str, ...]:
        """Where an engine that returns whole pieces is to stop next; inside a tag, at its end as well."""
        return tags.IN_TAG_STOPS if self._lexer.in_tag else tags.ORGANIZER_STOPS

    def _act(self, tag: Tag | None, text: str) -> Iterator[Parsed]:
        opening = tag.kind if tag and not tag.closing else None
        if tag and opening in (Kind.FORK, Kind.ANSWER):
            yield from self._begin(tag, text)
            return
        yield from self._flush()
        self._end += len(text)
        yield self._parsed(Join(index=tag.index) if tag and opening is Kind.JOIN else Malformed(text=text))


class WorkerParser(Parser):
    """Reads Think and Return."""

    _dropped = Think

    @property
    def stops(self) -> tuple[str, ...]:
        """Where the engine is to stop."""
        return tags.WORKER_STOPS

    def _act(self, tag: Tag | None, text: str) -> Iterator[Parsed]:
        if tag and not tag.closing and tag.kind is Kind.RETURN:
            yield from self._begin(tag, text)
        else:
            self._keep(text)


def parse_organizer(text: str) -> list[Parsed]:
    """Read a whole decoded text, straight through its joins."""
    parser = OrganizerParser()
    return parser.feed(text, through_joins=True) + parser.close()


def parse_worker(text: str) -> list[Parsed]:
    """Read a worker's whole text."""
    parser = WorkerParser()
    return parser.feed(text) + parser.close()


def _closed(tag: Tag, text: str) -> Fork | Return | Answer:
    match tag.kind:
        case Kind.FORK:
            return Fork(index=tag.index, query=text, to=tag.to)
        case Kind.RETURN:
            return Return(text=text)
        case _:
            return Answer(text=text)
