"""The fold of an episode's events, and T while it still runs."""

from __future__ import annotations

from random import Random
from time import perf_counter

import msgspec
import pytest

from asyncthink.episodes import (
    Began,
    Ended,
    Episode,
    EpisodeBuilder,
    Event,
    Faulted,
    Finished,
    FormatFault,
    Joined,
    Opened,
    Outcome,
    Role,
    Segment,
    SegmentKind,
    Started,
    StopReason,
    Text,
    decode,
    encode,
    fold,
    schedule,
)
from asyncthink.episodes.events import decode_event
from asyncthink.errors import RecordError
from asyncthink.protocol import FormatError

from .episode_worlds import events_of, random_episode

STARTED = Started(
    id="e", task=None, problem=None, query="q", method="asyncthink", model="m", capacity=2, seed=3
)
ROOT = Opened(path="0", role=Role.ORGANIZER, query="q")
FINISHED = Finished(answer="28", stop_reason=StopReason.ANSWER, cause=None, wall_seconds=2.0)


def text(
    text: str,
    n: int = 1,
    *,
    kind: SegmentKind = SegmentKind.DECODED,
    path: str = "0",
    ids: tuple[int, ...] | None = None,
    logprobs: tuple[float, ...] | None = None,
    exact: bool = True,
) -> Text:
    return Text(path=path, kind=kind, text=text, n_tokens=n, token_ids=ids, logprobs=logprobs, exact=exact)


def ended(path: str, outcome: Outcome, result: str | None = None) -> Ended:
    return Ended(path=path, outcome=outcome, result=result, cause=None, wall=1.0)


def opened(path: str, forked_at: int) -> Opened:
    return Opened(path=path, role=Role.WORKER, query="sub", forked_at=forked_at)


def of_root(*events: Event) -> Episode:
    return fold([STARTED, ROOT, *events, ended("0", Outcome.ANSWERED, "28"), FINISHED])


def segments(*events: Event) -> tuple[Segment, ...]:
    return of_root(*events).traces[0].segments


def test_consecutive_tokens_make_one_segment() -> None:
    prompt = text("ask", 2, kind=SegmentKind.PROMPT, ids=(1, 2))
    insert = text("in", 1, kind=SegmentKind.INSERTED, ids=(9,))
    first = [text("ab", ids=(3,), logprobs=(-1.0,)), text("cde", 2, ids=(4, 5), logprobs=(-2.0, -3.0))]
    assert segments(prompt, *first, insert, insert, text("f", ids=(6,), logprobs=(-4.0,))) == (
        Segment(kind=SegmentKind.PROMPT, text="ask", n_tokens=2, token_ids=(1, 2)),
        Segment(
            kind=SegmentKind.DECODED,
            text="abcde",
            n_tokens=3,
            token_ids=(3, 4, 5),
            logprobs=(-1.0, -2.0, -3.0),
            ends=(2, 5, 5),
        ),
        Segment(kind=SegmentKind.INSERTED, text="inin", n_tokens=2, token_ids=(9, 9)),
        Segment(kind=SegmentKind.DECODED, text="f", n_tokens=1, token_ids=(6,), logprobs=(-4.0,), ends=(1,)),
    )


def test_what_one_chunk_lacks_the_segment_lacks() -> None:
    (lacking,) = segments(text("a", ids=(1,), logprobs=(-1.0,)), text("b", exact=False))
    assert (lacking.token_ids, lacking.logprobs, lacking.exact) == (None, None, False)
    (flushed,) = segments(text("a", ids=(1,), logprobs=(-1.0,)), text("b", 0))
    assert (flushed.token_ids, flushed.logprobs, flushed.ends) == ((1,), (-1.0,), (1,))
    (infinite,) = segments(text("a", ids=(1,), logprobs=(float("-inf"),)))
    assert (infinite.token_ids, infinite.logprobs) == ((1,), None)


def test_lone_surrogates_become_storable_and_keep_their_place() -> None:
    one = of_root(text("a\ud800"), text("é"))
    assert one.traces[0].segments[0].text == "a?é"
    assert one.traces[0].segments[0].ends == (2, 3)
    assert decode(encode(one)) == one


def test_overflow_is_found_on_the_clock_and_stands_in_order() -> None:
    malformed = FormatFault(error=FormatError.MALFORMED_TAG, path="0", at=1)
    unknown = FormatFault(error=FormatError.UNKNOWN_JOIN, path="0", at=4)
    one = of_root(
        Began(path="0", wall=0.25),
        *[text("x")] * 2,
        Faulted(fault=malformed),
        opened("0/1", 2),
        *[text("w", path="0/1")] * 5,
        ended("0/1", Outcome.RETURNED, "r"),
        *[text("x")] * 2,
        opened("0/2", 4),
        Faulted(fault=unknown),
        text("x"),
        Joined(path="0/1", joined_at=5),
        ended("0/2", Outcome.UNJOINED),
    )
    overflow = FormatFault(error=FormatError.POOL_OVERFLOW, path="0", at=4)
    assert one.faults == (malformed, overflow, unknown)
    assert [(t.path, t.forked_at, t.joined_at, t.wall_start) for t in one.traces] == [
        ("0", None, None, 0.25),
        ("0/1", 2, 5, None),
        ("0/2", 4, None, None),
    ]
    assert (one.answer, one.seed, one.wall_seconds) == ("28", 3, 2.0)


def test_telling_and_folding_gives_the_episode_back() -> None:
    for seed in range(300):
        rng = Random(seed)
        told = fold(events_of(random_episode(rng), rng))
        assert fold(events_of(told, rng)).faults == told.faults, seed
        again = fold(events_of(told, Random(seed)))
        assert {one.path: one for one in again.traces} == {one.path: one for one in told.traces}, seed


def test_the_critical_path_grows_to_t() -> None:
    for seed in range(300):
        rng = Random(seed)
        one = random_episode(rng, orderly=True)
        builder, so_far = EpisodeBuilder(), 0
        for event in events_of(one, rng):
            builder.apply(event)
            before, so_far = so_far, builder.critical_path()
            assert before <= so_far, seed
        assert so_far == schedule(one).total, seed


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([ROOT], "cannot come here: Opened"),
        ([STARTED, STARTED], "cannot come here: Started"),
        ([text("x")], "never opened: '0'"),
        ([STARTED, ROOT, text("x", path="0/1")], "never opened: '0/1'"),
        ([STARTED, Began(path="0", wall=0.0)], "never opened: '0'"),
        ([STARTED, opened("0/1", 0)], "before the agent above it"),
        ([STARTED, ROOT, ROOT], "opened twice"),
        ([STARTED, ROOT, opened("0/1", 0), *[Joined(path="0/1", joined_at=0)] * 2], "joined twice"),
        ([STARTED, ROOT, *[ended("0", Outcome.ANSWERED)] * 2], "ends twice"),
        ([STARTED, ROOT, FINISHED], "not its agents 0"),
        ([STARTED, ROOT, ended("0", Outcome.ANSWERED), FINISHED, text("x")], "cannot come here: Text"),
        ([STARTED, ROOT, ended("0", Outcome.ANSWERED)], "end before the episode does"),
        (
            [STARTED, ROOT, text("x", 2, ids=(1,)), ended("0", Outcome.ANSWERED), FINISHED],
            "1 token values for 2",
        ),
    ],
)
def test_what_cannot_happen_is_refused(events: list[Event], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        fold(events)


def test_a_token_costs_microseconds() -> None:
    builder = EpisodeBuilder()
    builder.apply(STARTED)
    builder.apply(ROOT)
    token = text("word ", ids=(7,), logprobs=(-0.5,))
    fastest = min(_seconds(builder, token) for _ in range(20))
    assert fastest / 1_000 < 10e-6


def _seconds(builder: EpisodeBuilder, token: Text) -> float:
    begin = perf_counter()
    for _ in range(1_000):
        builder.apply(token)
    return perf_counter() - begin


def test_events_come_back_from_json() -> None:
    for seed in range(20):
        rng = Random(seed)
        for event in events_of(random_episode(rng), rng):
            raw = msgspec.json.encode(event)
            assert f'"type":"{type(event).__name__.lower()}"'.encode() in raw
            assert decode_event(raw) == event


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"type": "happening"}', b'{"type": "began"}', b"[]"])
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(RecordError, match="not an event"):
        decode_event(raw)
