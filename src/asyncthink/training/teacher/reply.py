"""What comes back from a teacher: which replies are kept, and as what examples.

A reply is only ever read, by the project's own parser and rules and by those of `Drop`; one that breaks any is dropped
whole. Between the tags of a join the teacher repeats what the worker returned. It must be the same but for
white space; the example then holds the worker's own text there, as the runtime inserts it, and no loss is put on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from asyncthink.protocol import tags
from asyncthink.protocol.actions import Action, Answer, Fork, FormatError, Join, Return, Think
from asyncthink.protocol.parser import OrganizerParser, parse_organizer, parse_worker
from asyncthink.protocol.rules import Rules
from asyncthink.training.structures import Moves
from asyncthink.training.synthesis import Example, Piece
from asyncthink.training.teacher.prompts import ORGANIZER, PARTS, WORKER

LONGEST = 20_000
"""Characters of one trace; a longer one fits into no context that it could be trained in."""
LONGEST_REPLY = 400_000
"""Characters of a reply that is looked at."""


class Drop(StrEnum):
    """Why a reply is dropped; the first seven are the format errors of the protocol."""

    DUPLICATE_FORK = FormatError.DUPLICATE_FORK.value
    POOL_OVERFLOW = FormatError.POOL_OVERFLOW.value
    """A fork while capacity-1 workers were not joined yet."""
    UNKNOWN_JOIN = FormatError.UNKNOWN_JOIN.value
    NO_ANSWER = FormatError.NO_ANSWER.value
    DUPLICATE_JOIN = FormatError.DUPLICATE_JOIN.value
    MALFORMED_TAG = FormatError.MALFORMED_TAG.value
    NO_RETURN = FormatError.NO_RETURN.value
    """A worker's trace without a whole return."""
    STRAY_TAG = "stray_tag"
    """A tag in a worker's text, within a join, or behind the end of a trace."""
    ESCAPED_TAG = "escaped_tag"
    """A tag with the backslash that only the runtime writes."""
    UNCLOSED_JOIN = "unclosed_join"
    """A join without the closing tag."""
    JOIN_MISMATCH = "join_mismatch"
    """A join shows something else than its worker returned."""
    EMPTY_QUERY = "empty_query"
    EMPTY_RETURN = "empty_return"
    EMPTY_ANSWER = "empty_answer"
    NAMED_WORKER = "named_worker"
    """A fork to a worker by its name."""
    MISSING_WORKER = "missing_worker"
    """A fork without its worker's trace."""
    UNKNOWN_WORKER = "unknown_worker"
    """A worker's trace without its fork."""
    NO_ORGANIZER = "no_organizer"
    """No section with the organizer's trace."""
    DUPLICATE_SECTION = "duplicate_section"
    EMPTY = "empty"
    """Nothing at all."""
    BROKEN_TEXT = "broken_text"
    """Halves of characters, which no file can hold."""
    TOO_LONG = "too_long"
    CUT_OFF = "cut_off"
    """The limit of tokens, or the model's context, ended the reply before it was complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A reply that nothing is learnt from."""

    reason: Drop
    """The first that was found."""
    detail: str
    """What exactly, in one line; it may hold the model's text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A reply that is learnt from."""

    examples: tuple[Example, ...]
    """The organizer's, then its workers' in the order of their forks."""
    answer: str


def judge(reply: str, *, query: str, capacity: int, longest: int = LONGEST) -> Kept | Dropped:
    """Read a teacher's reply; keep it, or say what is wrong with it. No text makes it raise.

    Args:
        reply: what it wrote.
        query: what the organizer was asked.
        capacity: c, as the organizer is told it.
        longest: characters of a trace.
    """
    sections = _sections(reply, longest)
    if isinstance(sections, Dropped):
        return sections
    workers: dict[int, _Worker] = {}
    for name, text in sections.items():
        if name != ORGANIZER:
            worker = _worker(name, text)
            if isinstance(worker, Dropped):
                return worker
            workers[int(name.removeprefix(WORKER))] = worker
    organizer = _Organizer(capacity, workers)
    if dropped := organizer.read(sections[ORGANIZER]):
        return dropped
    if unasked := [index for index in workers if index not in organizer.forks]:
        return _dropped(Drop.UNKNOWN_WORKER, f"{WORKER} {unasked[0]}")
    own = Example(role="organizer", query=query, capacity=capacity, pieces=tuple(organizer.pieces))
    theirs = (workers[index].example(asked) for index, asked in organizer.forks.items())
    return Kept(examples=(own, *theirs), answer=organizer.answer)


def _dropped(reason: Drop, detail: str) -> Dropped:
    """Cut the detail to a readable line."""
    line = " ".join(detail.split())
    return Dropped(reason=reason, detail=line if len(line) <= 200 else f"{line[:199]}…")


_HEADING = re.compile(
    rf"^[ \t#*=]{{0,12}}({PARTS}|{ORGANIZER}|{WORKER}[ -][1-9][0-9]{{0,3}})[ \t#*=:]{{0,12}}$",
    re.MULTILINE | re.ASCII,
)
_FENCE = re.compile(r"\A```[a-z]{0,12}\n")


def _sections(reply: str, longest: int) -> dict[str, str] | Dropped:
    """Cut a reply at its headings; what stands before them, visible reasoning for one, is nobody's trace."""
    try:
        reply.encode()
    except UnicodeEncodeError as error:
        return _dropped(Drop.BROKEN_TEXT, f"at character {error.start}")
    if len(reply) > LONGEST_REPLY:
        return _dropped(Drop.TOO_LONG, f"{len(reply)} characters in all; up to {LONGEST_REPLY} are read")
    text = reply.replace("\r\n", "\n").rpartition("</think>")[2]
    if not text.strip():
        return _dropped(Drop.EMPTY, "nothing was written")
    headings = list(_HEADING.finditer(text))
    ends = [*(each.start() for each in headings), len(text)][1:]
    found: dict[str, str] = {}
    for each, end in zip(headings, ends, strict=False):
        name = each[1].replace("-", " ")
        if name in found:
            return _dropped(Drop.DUPLICATE_SECTION, name)
        found[name] = _FENCE.sub("", text[each.end() : end].strip()).strip()
    found.pop(PARTS, None)
    if ORGANIZER not in found:
        return _dropped(Drop.NO_ORGANIZER, f"traces of: {', '.join(found) or 'nobody'}")
    for name, trace in found.items():
        if len(trace) > longest:
            return _dropped(Drop.TOO_LONG, f"{name}: {len(trace)} characters; up to {longest} are kept")
        if tags.unescape(trace) != trace:
            return _dropped(Drop.ESCAPED_TAG, name)
    return found


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker's trace, up to the end of its return."""

    text: str
    returned: str

    def example(self, query: str) -> Example:
        pieces = (Piece(text=self.text, trained=True),)
        return Example(role="worker", query=query, capacity=1, pieces=pieces)


def _worker(name: str, text: str) -> _Worker | Dropped:
    """Read thoughts and one return; nothing else tag-like may be there."""
    actions = parse_worker(text)
    if not actions or not isinstance(last := actions[-1].action, Return):
        return _dropped(Drop.NO_RETURN, name)
    end = actions[-1].end
    thoughts = "".join(each.action.text for each in actions if isinstance(each.action, Think))
    for part in (thoughts, last.text, text[end:]):
        if stray := tags.TAG_LIKE.search(part):
            return _dropped(Drop.STRAY_TAG, f"{name}: {stray[0]}")
    if not last.text.strip():
        return _dropped(Drop.EMPTY_RETURN, name)
    return _Worker(text[:end], last.text)


@dataclass(slots=True)
class _Organizer:
    """An organizer's trace, read as the runtime reads a model."""

    capacity: int
    workers: Mapping[int, _Worker]
    pieces: list[Piece] = field(default_factory=list[Piece])
    forks: dict[int, str] = field(default_factory=dict[int, str])
    """Index -> sub-query."""
    answer: str = ""
    rules: Rules = field(default_factory=Rules)

    def read(self, text: str) -> Dropped | None:
        """Read it to its end; return what is wrong with it."""
        parser = OrganizerParser()
        while True:
            actions = [parsed.action for parsed in parser.feed(text)]
            read, text = text[: parser.taken], text[parser.taken :]
            last = actions[-1] if actions else None
            if not isinstance(last, Join | Answer):
                actions += [parsed.action for parsed in parser.close()]
            for action in actions:
                if dropped := self._take(action):
                    return dropped
            self.pieces.append(Piece(text=read, trained=True))
            if not isinstance(last, Join):
                return self._end(text)
            shown, closed, text = text.partition(tags.join_end(last.index))
            if not closed:
                return _dropped(Drop.UNCLOSED_JOIN, tags.join(last.index))
            if dropped := self._insert(last.index, shown):
                return dropped

    def _take(self, action: Action) -> Dropped | None:
        """Take an action in; return what is wrong with it."""
        if error := self.rules.judge(action):
            return _dropped(Drop(error.value), tags.render([action]))
        if isinstance(action, Fork):
            return self._fork(action)
        if isinstance(action, Answer):
            self.answer = action.text
        return None

    def _fork(self, fork: Fork) -> Dropped | None:
        spelled = tags.render([fork])
        if len(self.rules.forked) - len(self.rules.joined) >= self.capacity:
            return _dropped(Drop.POOL_OVERFLOW, spelled)
        if fork.to is not None:
            return _dropped(Drop.NAMED_WORKER, spelled)
        if not fork.query.strip():
            return _dropped(Drop.EMPTY_QUERY, spelled)
        if fork.index not in self.workers:
            return _dropped(Drop.MISSING_WORKER, f"{WORKER} {fork.index}")
        self.forks[fork.index] = fork.query
        return None

    def _insert(self, index: int, shown: str) -> Dropped | None:
        """Put behind a join what its worker returned; `shown` is what the teacher wrote there."""
        if stray := tags.TAG_LIKE.search(shown):
            return _dropped(Drop.STRAY_TAG, f"within {tags.join(index)}: {stray[0]}")
        returned = self.workers[index].returned
        if shown.split() != returned.split():
            return _dropped(
                Drop.JOIN_MISMATCH, f"{tags.join(index)} shows {shown[:80]!r}, not {returned[:80]!r}"
            )
        self.pieces.append(Piece(text=tags.joined(index, returned), trained=False))
        return None

    def _end(self, rest: str) -> Dropped | None:
        if self.rules.finish():
            return _dropped(Drop.NO_ANSWER, "the organizer's trace ends without one")
        if not self.answer.strip():
            return _dropped(Drop.EMPTY_ANSWER, "the answer is blank")
        if stray := tags.TAG_LIKE.search(rest):
            return _dropped(Drop.STRAY_TAG, f"behind the answer: {stray[0]}")
        return None


def moves_of(organizer: Example) -> Moves:
    """Return the forks and joins of an organizer's trace."""
    text = "".join(piece.text for piece in organizer.pieces if piece.trained)
    actions = (parsed.action for parsed in parse_organizer(text))
    return tuple(
        f"{'F' if isinstance(each, Fork) else 'J'}{each.index}"
        for each in actions
        if isinstance(each, Fork | Join)
    )
