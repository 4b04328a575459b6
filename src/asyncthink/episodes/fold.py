"""Events in, episode out. The format error `pool_overflow` is found here, on the virtual clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TypeVar, assert_never

from asyncthink.episodes import clock
from asyncthink.episodes.events import Began, Ended, Event, Faulted, Finished, Joined, Opened, Started, Text
from asyncthink.episodes.record import Episode, FormatFault, Segment, SegmentKind, Trace
from asyncthink.errors import RecordError
from asyncthink.protocol.actions import FormatError

_Number = TypeVar("_Number", int, float)


class EpisodeBuilder:
    """Folds the events of one thought, one by one, in the order in which they happened."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._drafts: dict[str, _Draft] = {}
        self._faults: list[FormatFault] = []

    def apply(self, event: Event) -> None:
        """Take in the next event.

        Raises:
            RecordError: it cannot come here: an agent that was not opened, or was opened or joined twice,
                anything before Started or after Finished, Finished while an agent has not ended.
        """
        if type(event) is Text and self._finished is None:
            try:
                self._drafts[event.path].add(event)
            except KeyError:
                raise RecordError(f"text of an agent that was never opened: {event.path!r}") from None
        else:
            self._apply(event)

    def critical_path(self) -> int:
        """Return T so far, in ticks: as if every agent still at work ended now, so never more than it will be."""
        if self._started is None:
            return 0
        so_far = [draft.agent() for draft in self._drafts.values()]
        return clock.arrange(so_far, self._started.capacity).total

    def episode(self) -> Episode:
        """Return the record; the format errors are ordered by the tokens their agent had decoded.

        Raises:
            RecordError: Finished has not come yet.
        """
        start, end = self._started, self._finished
        if start is None or end is None:
            raise RecordError("the events end before the episode does")
        traces = tuple(draft.trace() for draft in self._drafts.values())
        overflows = clock.arrange(clock.agents(traces), start.capacity).overflows
        faults = [self._drafts[path].overflow() for path in overflows] + self._faults
        return Episode(
            id=start.id,
            task=start.task,
            problem=start.problem,
            query=_storable(start.query),
            method=start.method,
            model=start.model,
            capacity=start.capacity,
            seed=start.seed,
            traces=traces,
            answer=_storable(end.answer),
            stop_reason=end.stop_reason,
            cause=_storable(end.cause),
            faults=tuple(sorted(faults, key=lambda fault: fault.at)),
            wall_seconds=end.wall_seconds,
        )

    def _apply(self, event: Event) -> None:
        if self._finished is not None or (self._started is None) is not isinstance(event, Started):
            raise RecordError(f"an event that cannot come here: {type(event).__name__}")
        match event:
            case Started():
                self._started = event
            case Opened():
                self._open(event)
            case Began():
                self._draft(event.path).began = event
            case Text():
                self._draft(event.path).add(event)
            case Joined():
                draft = self._draft(event.path)
                if draft.joined_at is not None:
                    raise RecordError(f"agent {event.path} is joined twice")
                draft.joined_at = event.joined_at
            case Faulted():
                self._faults.append(event.fault)
            case Ended():
                self._draft(event.path).ended = event
            case Finished():
                self._finish(event)
            case _:
                assert_never(event)

    def _open(self, event: Opened) -> None:
        parent = event.path.rpartition("/")[0]
        if event.path in self._drafts or (parent not in self._drafts if self._drafts else parent):
            raise RecordError(f"agent {event.path} is opened twice, or before the agent above it")
        self._drafts[event.path] = _Draft(event)

    def _draft(self, path: str) -> _Draft:
        if path not in self._drafts:
            raise RecordError(f"an agent that was never opened: {path!r}")
        return self._drafts[path]

    def _finish(self, event: Finished) -> None:
        unended = [path for path, draft in self._drafts.items() if draft.ended is None]
        if unended:
            raise RecordError(f"the episode is finished, but not its agents {', '.join(unended)}")
        self._finished = event


def fold(events: Iterable[Event]) -> Episode:
    """Return the episode that the events tell.

    Raises:
        RecordError: they are no whole episode.
    """
    builder = EpisodeBuilder()
    for event in events:
        builder.apply(event)
    return builder.episode()


class _Draft:
    """A trace that grows."""

    __slots__ = ("began", "ended", "joined_at", "last", "opened", "stretches")

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.began: Began | None = None
        self.ended: Ended | None = None
        self.joined_at: int | None = None
        self.stretches: list[_Stretch] = []
        self.last: _Stretch | None = None

    def add(self, event: Text) -> None:
        last = self.last
        if last is None or last.kind is not event.kind:
            last = self.last = _Stretch(event.kind)
            self.stretches.append(last)
        last.add(event)

    def agent(self) -> clock.Agent:
        opened, ended = self.opened, self.ended
        outcome, ticks = (None, None) if ended is None else (ended.outcome, ended.ticks)
        return clock.agent(
            opened.path, self.stretches, outcome, ticks, opened.forked_at, self.joined_at, with_inserted=False
        )

    def overflow(self) -> FormatFault:
        parent = self.opened.path.rpartition("/")[0]
        return FormatFault(error=FormatError.POOL_OVERFLOW, path=parent, at=self.opened.forked_at or 0)

    def trace(self) -> Trace:
        opened, ended = self.opened, self.ended
        assert ended is not None
        return Trace(
            path=opened.path,
            role=opened.role,
            query=_storable(opened.query),
            to=opened.to,
            segments=tuple(stretch.segment(opened.path) for stretch in self.stretches),
            outcome=ended.outcome,
            cause=_storable(ended.cause),
            result=_storable(ended.result),
            forked_at=opened.forked_at,
            joined_at=self.joined_at,
            ticks=ended.ticks,
            overrun_tokens=ended.overrun_tokens,
            wall_start=None if self.began is None else self.began.wall,
            wall_end=ended.wall,
        )


class _Stretch:
    """A segment that grows."""

    __slots__ = ("chars", "ends", "exact", "has_ids", "has_logprobs", "ids", "kind", "logprobs", "n_tokens", "texts")

    def __init__(self, kind: SegmentKind) -> None:
        self.kind = kind
        self.texts: list[str] = []
        self.chars = self.n_tokens = 0
        self.exact = self.has_ids = self.has_logprobs = True
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.ends: list[int] = []

    def add(self, event: Text) -> None:
        text, n = event.text, event.n_tokens
        self.texts.append(text)
        self.n_tokens += n
        self.chars += len(text)
        if n == 1:
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
        logprobs = self._whole(self.logprobs, self.has_logprobs, path)
        return Segment(
            kind=self.kind,
            text=_storable("".join(self.texts)),
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


_Text = TypeVar("_Text", str, str | None)


def _storable(text: _Text) -> _Text:
    """Replace each lone surrogate, which no file can hold, by one question mark."""
    return text if text is None or text.isascii() else text.encode(errors="replace").decode()
