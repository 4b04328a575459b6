"""A timeline in the trace event format that chrome://tracing and Perfetto open: one track an agent, arrows for forks and joins.

A tick is shown as a millisecond, since the format knows no other unit than time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from asyncthink.episodes.record import Episode
from asyncthink.viewer.marks import CRITICAL, MEANINGS
from asyncthink.viewer.names import agent_name
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.timeline import Base, Timeline, timeline

_MICROSECONDS = {Base.TICKS: 1000, Base.WALL: 1}
_PROCESS = 1
_CELLS = 400


def trace(episode: Episode, base: Base = Base.TICKS) -> bytes:
    """Return the file's content."""
    line = timeline(episode, base)
    events = list(_events(episode, line, _MICROSECONDS[base]))
    unit = (
        "1 ms is a tick"
        if base is Base.TICKS
        else "wall time; between an agent's start and end it is estimated"
    )
    about = {"query": head(episode.query, _CELLS), "unit": unit, "T": line.total}
    return msgspec.json.encode({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about})


def _events(episode: Episode, line: Timeline, size: int) -> Iterator[dict[str, Any]]:
    tracks = {lane.path: number for number, lane in enumerate(line.lanes, 1)}
    queries = {one.path: head(one.query, _CELLS) for one in episode.traces}
    yield _named("process_name", 0, head(episode.query, 80) or episode.id)
    yield _named("thread_name", 0, MEANINGS[CRITICAL])
    for path, track in tracks.items():
        yield _named("thread_name", track, agent_name(path, episode.method))
    for track in (0, *tracks.values()):
        yield {
            "ph": "M",
            "name": "thread_sort_index",
            "pid": _PROCESS,
            "tid": track,
            "args": {"sort_index": track},
        }
    for lane in line.lanes:
        for span in lane.spans:
            what = {"query": queries[lane.path]}
            yield _span(MEANINGS[span.activity], tracks[lane.path], span.start, span.end, size, what)
    for piece in line.critical:
        yield _span(agent_name(piece.path, episode.method), 0, piece.start, piece.end, size, {})
    arrows = (("fork", line.forks), ("join", line.joins))
    pairs = ((what, arrow) for what, found in arrows for arrow in found)
    for number, (what, arrow) in enumerate(pairs, 1):
        for phase, path in (("s", arrow.source), ("f", arrow.target)):
            yield {
                **({"bp": "e"} if phase == "f" else {}),
                "ph": phase,
                "id": number,
                "name": what,
                "cat": what,
                "pid": _PROCESS,
                "tid": tracks[path],
                "ts": arrow.tick * size,
            }


def _named(what: str, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": _PROCESS, "tid": track, "args": {"name": name}}


def _span(name: str, track: int, start: int, end: int, size: int, args: Mapping[str, Any]) -> dict[str, Any]:
    where = {"pid": _PROCESS, "tid": track, "ts": start * size, "dur": (end - start) * size}
    return {"ph": "X", "name": name, "cat": "agent" if track else "critical", **where, "args": dict(args)}
