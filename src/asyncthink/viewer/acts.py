"""Where an agent's text forks and joins: which stretch of what it decoded is which tag."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from asyncthink.episodes.record import Segment, SegmentKind, Trace, Value
from asyncthink.protocol.actions import Fork, Join
from asyncthink.protocol.parser import OrganizerParser


class Act(Value, frozen=True, kw_only=True):
    """A fork or a join. Offsets count the characters that the agent decoded, from its first."""

    fork: bool
    path: str
    """The worker's."""
    begin: int
    end: int


def acts(trace: Trace) -> list[Act]:
    """Return the forks and joins in an agent's decoded text, in order; those that broke a rule among them."""
    parser = OrganizerParser()
    text = "".join(one.text for one in _decoded(trace))
    found: list[Act] = []
    begin = 0
    for parsed in [*parser.feed(text, through_joins=True), *parser.close()]:
        action = parsed.action
        if isinstance(action, Fork | Join):
            path = f"{trace.path}/{action.index}"
            found.append(Act(fork=isinstance(action, Fork), path=path, begin=begin, end=parsed.end))
        begin = parsed.end
    return found


def n_tokens(trace: Trace, acts: Sequence[Act]) -> dict[str, int] | None:
    """Map each worker to the tokens of its tags; None where the record does not say which token ends where."""
    ends: list[int] = []
    length = 0
    for one in _decoded(trace):
        if one.ends is None:
            return None
        ends += [length + end for end in one.ends]
        length += len(one.text)
    found: dict[str, int] = {}
    for act in acts:
        within = bisect_right(ends, act.end) - bisect_right(ends, act.begin)
        found[act.path] = found.get(act.path, 0) + within
    return found


def _decoded(trace: Trace) -> Iterator[Segment]:
    return (one for one in trace.segments if one.kind is SegmentKind.DECODED)
