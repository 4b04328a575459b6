"""The record: what happened in a thought, what it cost, and where it is kept. Pure but for the store.

`events` happen, `fold` makes the `record` of them, `clock` says who decoded when, `metrics` measures,
`store` keeps.
"""

from asyncthink.episodes.clock import Schedule, Turn, Wait, schedule
from asyncthink.episodes.events import (
    Began,
    Ended,
    Event,
    Faulted,
    Finished,
    Joined,
    Opened,
    Started,
    Text,
)
from asyncthink.episodes.fold import EpisodeBuilder, fold
from asyncthink.episodes.metrics import JoinWait, Metrics, measure
from asyncthink.episodes.record import (
    Episode,
    FormatFault,
    Outcome,
    Role,
    Segment,
    SegmentKind,
    StopReason,
    Trace,
    Trial,
    decode,
    encode,
)
from asyncthink.episodes.store import RunDirectory

__all__ = [
    "Began",
    "Ended",
    "Episode",
    "EpisodeBuilder",
    "Event",
    "Faulted",
    "Finished",
    "FormatFault",
    "JoinWait",
    "Joined",
    "Metrics",
    "Opened",
    "Outcome",
    "Role",
    "RunDirectory",
    "Schedule",
    "Segment",
    "SegmentKind",
    "Started",
    "StopReason",
    "Text",
    "Trace",
    "Trial",
    "Turn",
    "Wait",
    "decode",
    "encode",
    "fold",
    "measure",
    "schedule",
]
