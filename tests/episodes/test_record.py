"""The codec: nothing is lost, and every released version loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink.episodes import (
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
    measure,
)
from asyncthink.errors import RecordError
from asyncthink.protocol import FormatError

GOLDEN = Path(__file__).parent / "golden"

texts = st.text(max_size=20)
counts = st.integers(0, 2**40)
reals = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | reals | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


segments = st.builds(
    Segment,
    kind=st.sampled_from(SegmentKind),
    text=texts,
    n_tokens=counts,
    exact=st.booleans(),
    token_ids=st.none() | st.lists(counts, max_size=4).map(tuple),
    logprobs=st.none() | st.lists(reals, max_size=4).map(tuple),
    ends=st.none() | st.lists(counts, max_size=4).map(tuple),
)
traces = st.builds(
    Trace,
    path=texts,
    role=st.sampled_from(Role),
    query=texts,
    to=st.none() | texts,
    segments=st.lists(segments, max_size=3).map(tuple),
    outcome=st.sampled_from(Outcome),
    cause=st.none() | texts,
    result=st.none() | texts,
    forked_at=st.none() | counts,
    joined_at=st.none() | counts,
    ticks=st.none() | counts,
    overrun_tokens=counts,
    wall_start=st.none() | reals,
    wall_end=st.none() | reals,
)
faults = st.builds(FormatFault, error=st.sampled_from(FormatError), path=texts, at=counts)
episodes = st.builds(
    Episode,
    id=texts,
    trial=st.none() | st.builds(Trial, arm=texts, problem=texts, sample=counts),
    task=st.none() | texts,
    problem=st.none() | st.dictionaries(texts, values, max_size=3),
    query=texts,
    method=texts,
    model=texts,
    capacity=counts,
    seed=st.integers(-(2**63), 2**63 - 1),
    traces=st.lists(traces, max_size=3).map(tuple),
    answer=st.none() | texts,
    stop_reason=st.sampled_from(StopReason),
    cause=st.none() | texts,
    faults=st.lists(faults, max_size=3).map(tuple),
    wall_seconds=reals,
)


@given(episodes)
def test_decoding_undoes_encoding(episode: Episode) -> None:
    line = encode(episode)
    assert b"\n" not in line
    assert decode(line) == episode
    assert encode(decode(line)) == line


@pytest.mark.parametrize("version", [0, 4, -1, 10**30])
def test_an_unknown_version_is_refused(version: int) -> None:
    with pytest.raises(RecordError, match=rf"episode of schema version {version}: this program reads 1 to 3"):
        decode(f'{{"schema":{version},"something":"else"}}')


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"{}", b'{"schema":1}', b'{"schema":"1"}', b"\xff", b'{"schema":1,"x":1}']
)
def test_what_is_no_episode_is_refused(line: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        decode(line)
    assert str(caught.value).startswith("not an episode: ")
    assert "\n" not in str(caught.value)


def test_version_2_loads() -> None:
    lines = (GOLDEN / "v2.jsonl").read_bytes().splitlines()
    (loaded,) = [decode(line) for line in lines]
    again = json.loads(encode(loaded))
    assert again.pop("trial") is None
    assert {**again, "schema": 2} == json.loads(lines[0])
    metrics = measure(loaded)
    assert (metrics.critical_path, metrics.decoded_tokens, metrics.requests, metrics.retries) == (9, 9, 3, 1)
    assert metrics.cost == pytest.approx(0.003)
    assert loaded.traces[0].segments[1].kind is SegmentKind.REASONED
    assert loaded.format_errors == ["no_return"]


def test_version_1_loads_as_one_of_today() -> None:
    lines = (GOLDEN / "v1.jsonl").read_bytes().splitlines()
    loaded = [decode(line) for line in lines]
    assert [decode(encode(one)) for one in loaded] == loaded
    for one, line in zip(loaded, lines, strict=True):
        before, after = json.loads(line), json.loads(encode(one))
        assert after.pop("trial") is None
        assert {
            **after,
            "schema": 1,
            "traces": [{k: v for k, v in t.items() if k != "usage"} for t in after["traces"]],
        } == before
    assert [(one.method, measure(one).critical_path, one.format_errors) for one in loaded] == [
        ("asyncthink", 25, ["malformed_tag", "pool_overflow"]),
        ("parallel", 9, []),
        ("asyncthink", 4, ["no_answer"]),
    ]
    assert loaded[0].traces[1].segments[1].ends == (3, 5, 5, 9)
    assert loaded[0].problem == {"numbers": [2, 3, 5, 7], "target": 28}
