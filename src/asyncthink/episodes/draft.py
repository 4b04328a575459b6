"""A trace while it grows: what `fold.py` keeps for each agent."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TypeVar

from asyncthink.episodes.agents import Agent, agent
from asyncthink.episodes.events import Began, Ended, Opened, Text
from asyncthink.episodes.record import FormatFault, Segment, SegmentKind, Trace
from asyncthink.errors import RecordError
from asyncthink.protocol.actions import FormatError

_Number = TypeVar("_Number", int, float)
_Text = TypeVar("_Text", str, str | None)


class Draft:
    """A trace that grows."""

    __slots__ = ("began", "ended", "joined_at", "last", "opened", "stretches")

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.began: Began | None = None
        self.ended: Ended | None = None
        self.joined_at: int | None = None
        self.stretches: list[Stretch] = []
        self.last: Stretch | None = None

    def add(self, event: Text) -> None:
        """Take in the next piece of its context."""
        last = self.last
        if last is None or last.kind is not event.kind:
            last = self.last = Stretch(event.kind)
            self.stretches.append(last)
        last.add(event)

    def agent(self) -> Agent:
        """Return what the clock needs to know of it so far."""
        opened, ended = self.opened, self.ended
        outcome, ticks = (None, None) if ended is None else (ended.outcome, ended.ticks)
        return agent(
            opened.path,
            self.stretches,
            outcome=outcome,
            ticks=ticks,
            forked_at=opened.forked_at,
            joined_at=self.joined_at,
        )

    def overflow(self) -> FormatFault:
        """Return the format error that its fork was, where it found every slot taken."""
        parent = self.opened.path.rpartition("/")[0]
        return FormatFault(error=FormatError.POOL_OVERFLOW, path=parent, at=self.opened.forked_at or 0)

    def trace(self) -> Trace:
        """Return the trace of an agent that has ended."""
        opened, ended = self.opened, self.ended
        assert ended is not None
        return Trace(
            path=opened.path,
            role=opened.role,
            query=storable(opened.query),
            to=opened.to,
            segments=tuple(stretch.segment(opened.path) for stretch in self.stretches),
            outcome=ended.outcome,
            cause=storable(ended.cause),
            result=storable(ended.result),
            forked_at=opened.forked_at,
            joined_at=self.joined_at,
            ticks=ended.ticks,
            overrun_tokens=ended.overrun_tokens,
            usage=ended.usage,
            wall_start=None if self.began is None else self.began.wall,
            wall_end=ended.wall,
        )


class Stretch:
    """A segment that grows."""

    __slots__ = (
        *("kind", "texts", "chars", "n_tokens", "ends", "exact"),
        *("ids", "has_ids", "logprobs", "has_logprobs"),
    )

    def __init__(self, kind: SegmentKind) -> None:
        self.kind = kind
        self.texts: list[str] = []
        self.chars = self.n_tokens = 0
        self.exact = self.has_ids = self.has_logprobs = True
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.ends: list[int] = []

    def add(self, event: Text) -> None:
        """Take in the next piece."""
        text, n = event.text, event.n_tokens
        self.texts.append(text)
        self.n_tokens += n
        self.chars += len(text)
        if self.kind is not SegmentKind.DECODED:
            pass  # nobody asks where its tokens end
        elif n == 1:
            self.ends.append(self.chars)
        else:
            self.ends += [self.chars] * n
        if event.token_ids is not None:
            self.ids += event.token_ids
        elif n:
            self.has_ids = False
        if event.logprobs is not None:
            self.logprobs += event.logprobs
        elif n:
            self.has_logprobs = False
        if not event.exact:
            self.exact = False

    def segment(self, path: str) -> Segment:
        """Return the segment; `path` names the agent where something is wrong."""
        logprobs = self._whole(self.logprobs, self.has_logprobs, path)
        return Segment(
            kind=self.kind,
            text=storable("".join(self.texts)),
            n_tokens=self.n_tokens,
            exact=self.exact,
            token_ids=self._whole(self.ids, self.has_ids, path),
            logprobs=logprobs if logprobs is None or all(map(isfinite, logprobs)) else None,
            ends=tuple(self.ends) if self.kind is SegmentKind.DECODED else None,
        )

    def _whole(self, numbers: Sequence[_Number], known: bool, path: str) -> tuple[_Number, ...] | None:
        """Return one number a token, or None where some are not known."""
        if not known or not self.n_tokens:
            return None
        if len(numbers) != self.n_tokens:
            raise RecordError(f"agent {path}: {len(numbers)} token values for {self.n_tokens} tokens")
        return tuple(numbers)


def storable(text: _Text) -> _Text:
    """Replace each lone surrogate, which no file can hold, by one question mark."""
    return text if text is None or text.isascii() else text.encode(errors="replace").decode()
