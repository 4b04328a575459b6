"""What the virtual clock needs to know of each agent, from a record or from one that still grows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from asyncthink.episodes.record import WRITTEN, Outcome, SegmentKind, Trace

_UNENDED = (Outcome.UNJOINED, Outcome.CANCELLED)


class Part(Protocol):
    """A stretch of context, finished or still growing."""

    @property
    def kind(self) -> SegmentKind:
        """Where its text came from."""
        ...

    @property
    def n_tokens(self) -> int:
        """Tokens so far."""
        ...


@dataclass(slots=True, kw_only=True)
class Agent:
    """What the clock needs to know of one trace."""

    path: str
    own: int
    """Ticks of its own work: `Trace.ticks` where given, else its decoded tokens."""
    forked_at: int
    """Tokens its parent had decoded when the fork was complete; 0 for the root."""
    joined_at: int | None
    """Tokens its parent had decoded when it was joined, at least `forked_at`; None: never joined."""
    ended: bool
    """False: it holds its slot for good. One that was joined has ended: at the latest its wait did."""
    inserts: list[tuple[int, int]]
    """(tokens decoded before, tokens inserted): insertions that are to cost ticks."""
    refused: bool = False
    """It never asked for a slot: its fork cannot overflow and a join of it costs no wait."""

    @property
    def parent(self) -> str:
        """Path of the agent that forked it; empty for the root."""
        return self.path.rpartition("/")[0]


def agents(traces: Iterable[Trace], *, with_inserted: bool = False) -> list[Agent]:
    """Return what the clock needs to know of each trace."""
    return [
        agent(
            one.path,
            one.segments,
            outcome=one.outcome,
            ticks=one.ticks,
            forked_at=one.forked_at,
            joined_at=one.joined_at,
            with_inserted=with_inserted,
        )
        for one in traces
    ]


def agent(
    path: str,
    parts: Iterable[Part],
    *,
    outcome: Outcome | None,
    ticks: int | None,
    forked_at: int | None,
    joined_at: int | None,
    with_inserted: bool = False,
) -> Agent:
    """Return what the clock needs to know of an agent; one still at work (outcome None) might end at once."""
    decoded, inserts = 0, list[tuple[int, int]]()
    for part in parts:
        if part.kind in WRITTEN:
            decoded += part.n_tokens
        elif part.kind is SegmentKind.INSERTED and with_inserted:
            inserts.append((decoded, part.n_tokens))
    forked = forked_at or 0
    return Agent(
        path=path,
        own=decoded if ticks is None else ticks,
        forked_at=forked,
        joined_at=None if joined_at is None else max(forked, joined_at),
        ended=joined_at is not None or outcome not in _UNENDED,
        inserts=inserts,
        refused=outcome is Outcome.REFUSED,
    )
