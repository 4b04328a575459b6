"""What happens in a thought, as it happens. The episode is the fold of its events (`fold.py`).

Each event names its agent by `path`. Times are seconds after the episode's start. As JSON an event is an object whose
`type` is its class's name in small letters; fields that are as they are by default are left out.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from asyncthink.episodes.record import (
    FormatFault,
    Outcome,
    Role,
    SegmentKind,
    StopReason,
    Trial,
    Usage,
    Value,
)
from asyncthink.errors import RecordError


class Happening(Value, frozen=True, kw_only=True, tag_field="type", tag=str.lower, omit_defaults=True):
    """Base of all events."""


class Started(Happening, frozen=True, kw_only=True):
    """The episode begins; always the first event."""

    id: str
    task: str | None
    problem: dict[str, Any] | None
    query: str
    method: str
    model: str
    capacity: int
    seed: int
    trial: Trial | None = None


class Opened(Happening, frozen=True, kw_only=True):
    """An agent exists: the organizer, or the worker of a fork (which may still have to queue)."""

    path: str
    role: Role
    query: str
    to: str | None = None
    forked_at: int | None = None
    """Tokens the parent had decoded when the fork was complete; None for the root."""


class Began(Happening, frozen=True, kw_only=True):
    """An agent has its slot and begins."""

    path: str
    wall: float


class Text(Happening, frozen=True, kw_only=True):
    """Text enters an agent's context."""

    path: str
    kind: SegmentKind
    text: str
    n_tokens: int
    exact: bool = True
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class Joined(Happening, frozen=True, kw_only=True):
    """An organizer asked for a worker's result; the text follows as an inserted `Text`."""

    path: str
    """The worker's."""
    joined_at: int
    """Tokens the organizer had decoded."""


class Faulted(Happening, frozen=True, kw_only=True):
    """The model broke a rule."""

    fault: FormatFault


class Ended(Happening, frozen=True, kw_only=True):
    """An agent is done."""

    path: str
    outcome: Outcome
    result: str | None
    cause: str | None
    wall: float
    ticks: int | None = None
    overrun_tokens: int = 0
    usage: Usage | None = None


class Neared(Happening, frozen=True, kw_only=True):
    """A budget will soon be spent; told once for each. Not part of the record."""

    limit: str
    """Its name, as in `Limits`."""
    spent: float
    of: float


class Finished(Happening, frozen=True, kw_only=True):
    """The episode is over; always the last event."""

    answer: str | None
    stop_reason: StopReason
    cause: str | None
    wall_seconds: float


Event: TypeAlias = Started | Opened | Began | Text | Joined | Faulted | Ended | Neared | Finished
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def decode_event(raw: bytes | str) -> Event:
    """Read an event from JSON.

    Raises:
        RecordError: it is none.
    """
    try:
        return _DECODER.decode(raw)
    except msgspec.DecodeError as error:
        raise RecordError(f"not an event: {error}") from error
