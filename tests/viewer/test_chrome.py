"""Traces for Perfetto: tracks are the lanes, arrows begin and end on spans."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from asyncthink.viewer import chrome
from asyncthink.viewer.timeline import Base, timeline
from tests.episodes.episode_worlds import episode, organizer, random_episode, worker


def events(one: Any) -> list[dict[str, Any]]:
    return json.loads(chrome.trace(one))["traceEvents"]


def test_by_hand() -> None:
    """Worker 1 is forked at tick 1, works 5 ticks and is joined at 3: the organizer waits until 6 and ends at 7."""
    found = events(episode(2, organizer(4), worker("0/1", 5, 1, 3)))
    names = {one["tid"]: one["args"]["name"] for one in found if one["name"] == "thread_name"}
    assert names == {0: "critical path", 1: "organizer", 2: "worker 1"}
    spans = [(one["tid"], one["name"], one["ts"], one["dur"]) for one in found if one["ph"] == "X"]
    assert spans == [
        (1, "decoding", 0, 3000),
        (1, "waiting", 3000, 3000),
        (1, "decoding", 6000, 1000),
        (2, "decoding", 1000, 5000),
        (0, "organizer", 0, 1000),
        (0, "worker 1", 1000, 5000),
        (0, "organizer", 6000, 1000),
    ]
    flows = [(one["ph"], one["name"], one["tid"], one["ts"]) for one in found if one["ph"] in "sf"]
    assert flows == [
        ("s", "fork", 1, 1000),
        ("f", "fork", 2, 1000),
        ("s", "join", 2, 6000),
        ("f", "join", 1, 6000),
    ]


def test_wall_time_is_in_microseconds() -> None:
    found = json.loads(chrome.trace(episode(2, organizer(4)), Base.WALL))
    spans = [(one["tid"], one["ts"], one["dur"]) for one in found["traceEvents"] if one["ph"] == "X"]
    assert spans == [(1, 0, 1_000_000), (0, 0, 1_000_000)]
    assert found["otherData"]["T"] == 1_000_000 and found["otherData"]["unit"].startswith("wall time")


def test_random_records() -> None:
    for one in map(random_episode, map(Random, range(300))):
        found, line = events(one), timeline(one)
        path = [(e["ts"], e["ts"] + e["dur"]) for e in found if e["ph"] == "X" and e["tid"] == 0]
        assert sum(b - a for a, b in path) == line.total * 1000
        assert sum(e["ph"] == "s" for e in found) == len(line.forks) + len(line.joins)
        numbers = [e["id"] for e in found if e["ph"] == "s"]
        assert numbers == [e["id"] for e in found if e["ph"] == "f"] and len(set(numbers)) == len(numbers)
