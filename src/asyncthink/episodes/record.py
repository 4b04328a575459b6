"""The record of one thought: values and their codec, nothing computed.

An episode is enough: metrics, rewards, training rows, views, resume and replay are functions of it.
Serialised as one JSON object a line; every schema version ever released loads, an unknown one is refused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from asyncthink.errors import RecordError
from asyncthink.protocol.actions import FormatError

SCHEMA = 3
"""Version written. A reader of version n reads 1 to n."""


class SegmentKind(StrEnum):
    """Who put a stretch of text into a context."""

    PROMPT = "prompt"
    """What the model was given at the start."""
    DECODED = "decoded"
    """What the model wrote: the only text that is ever parsed for actions or trained on."""
    REASONED = "reasoned"
    """What a server showed, or only counted, as reasoning apart from the text: it costs ticks, and nobody
    reads it. Since schema 2."""
    DICTATED = "dictated"
    """What a plan, in the model's place, wrote as an organizer: it costs ticks like decoded text, and nobody
    parses it or is trained on it. Since schema 3."""
    INSERTED = "inserted"
    """What the runtime put in: a worker's return and the closing join tag."""


WRITTEN = frozenset({SegmentKind.DECODED, SegmentKind.REASONED, SegmentKind.DICTATED})
"""The kinds that cost ticks."""


class Role(StrEnum):
    """What an agent is in its episode."""

    ORGANIZER = "organizer"
    WORKER = "worker"


class Outcome(StrEnum):
    """How a trace ended."""

    ANSWERED = "answered"
    """An organizer wrote its answer."""
    RETURNED = "returned"
    """A worker returned a result."""
    NO_RESULT = "no_result"
    """The model stopped by itself without an answer or a return."""
    BUDGET = "budget"
    """A budget ran out; `cause` names it."""
    ENGINE_ERROR = "engine_error"
    """The engine failed; `cause` says how."""
    REFUSED = "refused"
    """A worker that was never started: there is none of that name, or a budget forbids; `cause` says so."""
    FAILED = "failed"
    """A worker that is no model raised an exception; `cause` names it."""
    UNJOINED = "unjoined"
    """A worker still at work, or queued, when the organizer ended."""
    CANCELLED = "cancelled"
    """The caller gave up."""


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"
    END_OF_TEXT = "end_of_text"
    """The organizer's model stopped without an answer."""
    BUDGET = "budget"
    ENGINE_ERROR = "engine_error"
    CANCELLED = "cancelled"


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Base of the record's values. None is part of a cycle, so the garbage collector need not look at them."""


class Segment(Value, frozen=True, kw_only=True):
    """A stretch of an agent's context from one source."""

    kind: SegmentKind
    text: str
    n_tokens: int
    """Tokens of the text, as the engine counted them."""
    exact: bool = True
    """False where n_tokens is an estimate."""
    token_ids: tuple[int, ...] | None = None
    """What the engine saw, n_tokens ids; None where the engine does not tell."""
    logprobs: tuple[float, ...] | None = None
    """Natural logarithm of each decoded token's probability under the sampling distribution's
    temperature-1 model; None for other kinds and where the engine does not tell."""
    ends: tuple[int, ...] | None = None
    """Decoded only: for each token, how many characters of `text` were there once it was decoded."""


class Usage(Value, frozen=True, kw_only=True):
    """What one agent's requests to a server came to. Since schema 2."""

    requests: int
    retries: int
    """Of these, the ones that repeated a failed one."""
    input_tokens: int
    """Tokens sent, the prefix of every resumed request included."""
    cached_tokens: int
    """Of these, tokens that the server had in its cache."""
    output_tokens: int
    """Tokens the server says it decoded; where it does not tell, those that arrived."""
    exact: bool
    """False where the server did not tell and tokens were estimated."""
    cost: float | None = None
    """In the price table's currency; None without a table."""


class Trace(Value, frozen=True, kw_only=True):
    """Everything one agent read and wrote."""

    path: str
    """Name in the tree: `0` the organizer, `0/2` the worker of its fork 2, `0/2/1` one below that."""
    role: Role
    query: str
    """The question, or the sub-query as it stands in the fork, unescaped."""
    to: str | None = None
    """Name of the worker that was asked for; None: the default worker."""
    segments: tuple[Segment, ...] = ()
    outcome: Outcome
    cause: str | None = None
    """Why it failed or was stopped, one line; None where nothing went wrong."""
    result: str | None = None
    """The answer or the returned text, unescaped; None where there is none."""
    forked_at: int | None = None
    """Tokens its parent had decoded when the fork was complete; None for the root."""
    joined_at: int | None = None
    """Tokens its parent had decoded when the join was complete; None if never joined."""
    ticks: int | None = None
    """What a worker that decodes nothing (a tool, a person) counts for; None: its decoded tokens."""
    overrun_tokens: int = 0
    """Decoded past a cut and dropped."""
    usage: Usage | None = None
    """None where no server was asked."""
    wall_start: float | None = None
    """Seconds after the episode's start at which it got its slot; None if it never did."""
    wall_end: float | None = None
    """Seconds after the episode's start at which it ended."""


class FormatFault(Value, frozen=True, kw_only=True):
    """One format error, where it happened."""

    error: FormatError
    path: str
    at: int
    """Tokens the agent had decoded."""


class Trial(Value, frozen=True, kw_only=True):
    """Which cell of an evaluation an episode fills: no two episodes of a run are of one trial. Since schema 3."""

    arm: str
    """Name of the method as it was configured there."""
    problem: str
    """Key of the problem in the run's selection."""
    sample: int
    """0 for the first time that this problem is tried."""


class Episode(Value, frozen=True, kw_only=True):
    """One query thought through."""

    schema: int = SCHEMA
    id: str
    trial: Trial | None = None
    """None outside evaluations."""
    task: str | None = None
    """Name of the task that the query belongs to; None: a free question."""
    problem: dict[str, Any] | None = None
    """The task's problem as plain values; None: a free question."""
    query: str
    method: str
    """asyncthink, sequential, parallel or plan."""
    model: str
    capacity: int
    """c: the organizer and at most c-1 active workers."""
    seed: int
    traces: tuple[Trace, ...]
    """The organizer first, then its workers in the order of their forks."""
    answer: str | None
    stop_reason: StopReason
    cause: str | None = None
    """One line where the stop was not an answer."""
    faults: tuple[FormatFault, ...] = ()
    """Format errors in the order in which they happened."""
    wall_seconds: float

    @property
    def format_errors(self) -> list[str]:
        """Names of the format errors."""
        return [fault.error.value for fault in self.faults]


_DECODER = msgspec.json.Decoder(Episode)


class _Versioned(msgspec.Struct):
    schema: int


def encode(episode: Episode) -> bytes:
    """Return the episode as one line of JSON, without the line's end."""
    return msgspec.json.encode(episode)


def decode(line: bytes | str) -> Episode:
    """Read one line.

    Raises:
        RecordError: it is no episode, or of a version this program does not know.
    """
    try:
        version = msgspec.json.decode(line, type=_Versioned).schema
        if not 1 <= version <= SCHEMA:
            raise RecordError(f"episode of schema version {version}: this program reads 1 to {SCHEMA}")
        episode = _DECODER.decode(line)
    except msgspec.DecodeError as error:
        raise RecordError(f"not an episode: {error}") from error
    # What was written since then has a meaning for its absence, so an old record is a new one without it.
    return episode if version == SCHEMA else msgspec.structs.replace(episode, schema=SCHEMA)
