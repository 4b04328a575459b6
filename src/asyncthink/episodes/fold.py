"""Events in, episode out. The format error `pool_overflow` is found here, on the virtual clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from asyncthink.episodes import clock
from asyncthink.episodes.agents import agents
from asyncthink.episodes.draft import Draft, storable
from asyncthink.episodes.events import (
    Began,
    Ended,
    Event,
    Faulted,
    Finished,
    Joined,
    Neared,
    Opened,
    Started,
    Text,
)
from asyncthink.episodes.record import Episode, FormatFault
from asyncthink.errors import RecordError


class EpisodeBuilder:
    """Folds the events of one thought, one by one, in the order in which they happened."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._drafts: dict[str, Draft] = {}
        self._faults: list[FormatFault] = []

    def apply(self, event: Event) -> None:
        """Take in the next event.

        Raises:
            RecordError: it cannot come here: an agent that was not opened; one opened, joined or ended twice;
                anything before Started or after Finished, Finished while an agent has not ended.
        """
        if type(event) is Text and self._finished is None:
            try:
                self._drafts[event.path].add(event)
            except KeyError:
                raise RecordError(f"text of an agent that was never opened: {event.path!r}") from None
        else:
            self._apply(event)

    @property
    def finished(self) -> bool:
        """Whether Finished has come, so that there is an episode."""
        return self._finished is not None

    def critical_path(self) -> int:
        """Return T so far, in ticks: as if all who are at work ended now, so never more than it will be."""
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
        overflows = clock.arrange(agents(traces), start.capacity).overflows
        faults = [self._drafts[path].overflow() for path in overflows] + self._faults
        return Episode(
            id=start.id,
            trial=start.trial,
            task=start.task,
            problem=start.problem,
            query=storable(start.query),
            method=start.method,
            model=start.model,
            capacity=start.capacity,
            seed=start.seed,
            traces=traces,
            answer=storable(end.answer),
            stop_reason=end.stop_reason,
            cause=storable(end.cause),
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
                self._end(event)
            case Neared():
                pass
            case Finished():
                self._finish(event)
            case _:
                assert_never(event)

    def _open(self, event: Opened) -> None:
        parent = event.path.rpartition("/")[0]
        orphan = parent not in self._drafts if self._drafts else bool(parent)
        if orphan or event.path in self._drafts:
            raise RecordError(f"agent {event.path} is opened twice, or before the agent above it")
        self._drafts[event.path] = Draft(event)

    def _draft(self, path: str) -> Draft:
        if path not in self._drafts:
            raise RecordError(f"an agent that was never opened: {path!r}")
        return self._drafts[path]

    def _end(self, event: Ended) -> None:
        draft = self._draft(event.path)
        if draft.ended is not None:
            raise RecordError(f"agent {event.path} ends twice")
        draft.ended = event

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
