"""The pure parts of the OpenAI engine: bytes to events to pieces, what is tried again, learned, sent and hidden.

What stands in bytes literals below the names of servers was recorded from those servers.
"""

from __future__ import annotations

import gzip
import json
import pickle
import re
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain, pairwise
from math import isfinite
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncthink.engines.base import Chunk, Message
from asyncthink.engines.openai.context import (
    CHAT,
    COMPLETIONS,
    LONGEST_TOKEN,
    ChatContext,
    Context,
    TextContext,
    estimate,
    estimated,
)
from asyncthink.engines.openai.dialect import DIALECTS, Continuation, Dialect, Learned
from asyncthink.engines.openai.pieces import LONGEST_MESSAGE, Counts, Piece, one_line, read, trouble_of
from asyncthink.engines.openai.reply import Reply
from asyncthink.engines.openai.retry import Retries, Trouble, retry_after
from asyncthink.engines.openai.secret import Secret
from asyncthink.engines.openai.server import Server
from asyncthink.engines.openai.stream import LARGEST_REPLY, LONGEST_EVENT, WINDOW, EventReader, Unpacker
from asyncthink.engines.openai.tokens import TokenContext, Tokens

calm = settings(deadline=None)
many = settings(deadline=None, max_examples=300)
CHUNK = 64 * 1024
"""Bytes that a connection hands over at a time, at most, by and large."""


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes at places, given modulo their length; pieces may be empty."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(bounds)]


def steps(data: bytes, size: int) -> Iterable[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


CUTS = st.lists(st.integers(0, 2**20), max_size=40)


def events(chunks: Iterable[bytes]) -> list[bytes]:
    """Return all events of a stream that comes in these chunks."""
    reader = EventReader()
    found = [event for chunk in chunks for event in reader.feed(chunk)]
    return found + reader.close()


# Lines and events -----------------------------------------------------------------------------------------


def by_the_standard(text: bytes) -> list[bytes]:
    """Return the events of a text by the letter of the HTML standard.

    The last one counts where it only lacks its empty line: a connection that was closed cuts no line in two there.
    """
    found: list[bytes] = []
    data: list[bytes] = []
    *lines, rest = re.split(rb"\r\n|\n|\r", text)
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            found.append(b"\n".join(data))
            data = []
    return [*found, b"\n".join(data)] if data and not rest else found


VALUES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12).map(str.encode)
NAMES = [
    b"data: ",
    b"data:",
    b"data:  ",
    b": ",
    b":",
    b"event: ",
    b"retry: ",
    b"id: x",
    b"dataset: ",
    b" data: ",
]
LINES = st.builds(bytes.__add__, st.sampled_from(NAMES), VALUES)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Any lines with any ends; half the streams keep to one kind of end, as servers do."""
    ends = draw(st.one_of(ENDS.map(st.just), st.just(ENDS)))
    lines = draw(st.lists(st.tuples(LINES | st.just(b""), ends), max_size=30))
    return b"".join(line + end for line, end in lines)


@many
@given(texts(), st.sampled_from([b": the end\n", b": torn", b"data: torn"]), CUTS)
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", b"\n", [8, 9, 10])
@example("data: é中😀\n\n".encode(), b"", range(14))
def test_events_do_not_depend_on_the_chunks(text: bytes, end: bytes, places: Sequence[int]) -> None:
    text += end
    expected = by_the_standard(text)
    assert events(cut(text, places)) == expected
    assert events(steps(text, 1)) == expected


@pytest.mark.parametrize(
    "text", [b"data: x\r\r", b"data: x\r", b"data: x\r\n\r", b"data: x\n", b"data: x\n\n"]
)
def test_the_last_event_is_whole_whatever_ends_its_line(text: bytes) -> None:
    assert events([text]) == [b"x"]
    assert events(steps(text, 1)) == [b"x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b"\xef\xbb\xbfdata: a\n\ndata: b\n\n",
            [b"a", b"b"],
        ),  # a byte-order mark is no part of the first line
        (b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"]),  # a name alone is a field with an empty value
        (b"data:a\ndata:  b\n\n", [b"a\n b"]),
        (b"\n\n\n: only comments\n\nevent: x\n\n", []),
    ],
    ids=["bom", "bare-name", "one-blank", "nothing"],
)
def test_corners_of_the_standard(text: bytes, expected: list[bytes]) -> None:
    assert events([text]) == expected
    assert events(steps(text, 1)) == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_event_is_there_with_its_last_byte(end: bytes) -> None:
    reader = EventReader()
    for line in (b"data: a" + end, b"data: b" + end, b": alive" + end):
        assert reader.feed(line) == []
    assert reader.feed(end) == [b"a\nb"]
    assert reader.lines == 4
    reader.feed(b"data: half")
    assert reader.lines == 4


def test_closing() -> None:
    assert EventReader().close() == []
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: b\ndata: c\n") == [b"a"]
    assert reader.close() == [b"b\nc"]
    assert reader.close() == []
    assert events([b"data: a\n\ndata: brok"]) == [b"a"]
    assert events([b": nothing but life\n"]) == []


# Limits ---------------------------------------------------------------------------------------------------


def test_a_line_without_an_end_is_given_up() -> None:
    reader, fed, began = EventReader(), 0, time.process_time()
    with pytest.raises(Trouble, match="bytes") as caught:
        while fed < 2 * LONGEST_EVENT:
            fed += CHUNK
            reader.feed(bytes(CHUNK))
    assert LONGEST_EVENT < fed <= LONGEST_EVENT + CHUNK
    assert caught.value.transient
    assert time.process_time() - began < 2


def test_an_event_of_lines_without_an_end_is_given_up() -> None:
    line = b"data: " + b"x" * 1017 + b"\n"
    reader = EventReader()
    with pytest.raises(Trouble, match="bytes") as caught:
        for _ in range(2 * LONGEST_EVENT // len(line)):
            reader.feed(line)
    assert caught.value.transient


def test_whether_an_event_is_too_long_does_not_depend_on_the_chunks() -> None:
    def outcome(text: bytes, size: int) -> int | None:
        try:
            return len(events(steps(text, size)))
        except Trouble:
            return None

    for length in (LONGEST_EVENT - 2 * CHUNK, LONGEST_EVENT + 2 * CHUNK):
        text = b"data:" + b"x" * length + b"\n\n"
        assert outcome(text, CHUNK) == outcome(text, len(text))


def test_comments_may_come_for_ever() -> None:
    reader = EventReader()
    for _ in range(2 * LONGEST_EVENT // CHUNK):
        assert reader.feed(b": ping\n" * (CHUNK // 7)) == []
    assert reader.lines == 2 * LONGEST_EVENT // CHUNK * (CHUNK // 7)


SHORT_EVENT = b'data: {"choices":[{"index":0,"text":"x"}]}\n\n'


def repeated(unit: bytes, length: int) -> bytes:
    return b"data: " + unit * (length // len(unit)) + b"\n\n"


@pytest.mark.parametrize(
    ("unit", "size", "small"),
    [
        (SHORT_EVENT, 1, 24 * 1024),
        (b"x", 1, 24 * 1024),
        (SHORT_EVENT.replace(b"\n", b"\r\n"), CHUNK, 1024 * 1024),
        (b"x\ndata:", CHUNK, 256 * 1024),
        (b"x", CHUNK, 1000 * 1024),
    ],
    ids=["events-1", "line-1", "events-64k", "lines-64k", "line-64k"],
)
def test_time_grows_with_the_bytes_alone(unit: bytes, size: int, small: int) -> None:
    """Four times the bytes may take eight times the time; with copies of all that waits it would be sixteen."""

    def seconds(n: int) -> float:
        chunks = list(steps(repeated(unit, n), size))
        began = time.process_time()
        assert events(chunks)
        return time.process_time() - began

    assert seconds(4 * small) < 8 * seconds(small) + 0.15


# Numbered events ------------------------------------------------------------------------------------------


def numbered(number: int | None, data: str) -> bytes:
    return (b"" if number is None else b"id: %d\n" % number) + f"data: {data}\n\n".encode()


FIRST = st.sampled_from([0, 1, 57])


@st.composite
def mixed_up(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """Return data in order, and a stream in which each event was overtaken by three at most, and repeated."""
    first, count = draw(FIRST), draw(st.integers(1, 120))
    data = ["ab"[place % 2] if place % 3 else str(place) for place in range(count)]
    late = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    order = sorted(range(count), key=lambda place: place + late[place])
    for origin, delay in draw(
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, 100)), max_size=20)
    ):
        order.insert(order.index(origin) + 1 + delay, origin)
    return data, [numbered(first + place, data[place]) for place in order]


@calm
@given(mixed_up(), CUTS)
def test_numbered_events_come_once_and_in_order(
    case: tuple[list[str], list[bytes]], places: list[int]
) -> None:
    data, stream = case
    expected = [each.encode() for each in data]
    assert events(stream) == expected
    assert events(cut(b"".join(stream), places)) == expected


@calm
@given(FIRST, st.lists(st.booleans(), max_size=40))
@example(1, [True, False])
def test_events_without_a_number_do_not_overtake(first: int, has_number: list[bool]) -> None:
    """A stream that is in order stays in order."""
    numbers = iter(range(first, first + len(has_number)))
    stream = [numbered(next(numbers) if has else None, str(i)) for i, has in enumerate(has_number)]
    assert events(stream) == [b"%d" % place for place in range(len(stream))]


def test_a_number_without_data_is_not_that_of_the_next_event() -> None:
    assert events([b"id: 5\n\ndata: a\n\ndata: b\n\n"]) == [b"a", b"b"]


@calm
@given(st.integers(0, 99), st.lists(st.integers(), min_size=1, max_size=40, unique=True))
def test_one_number_for_all_is_no_number(number: int, data: list[int]) -> None:
    assert events(numbered(number, str(each)) for each in data) == [b"%d" % each for each in data]


@pytest.mark.parametrize("label", ["chatcmpl-1", "-1", "1.5", "9" * 30, "٣"])
def test_what_is_no_number_does_not_order(label: str) -> None:
    stream = "".join(f"id: {label}\ndata: {each}\n\n" for each in "abca").encode()
    assert events([stream]) == [b"a", b"b", b"c", b"a"]


@calm
@given(FIRST, st.integers(4, 60), st.data())
def test_a_missing_event_is_trouble(first: int, count: int, data: st.DataObject) -> None:
    """Nothing behind the gap is told, and what stood before it once at most; two in a row show that it is a count."""
    missing = data.draw(st.integers(2, count - 2))
    reader, found = EventReader(), list[bytes]()
    with pytest.raises(Trouble, match="missing") as caught:
        for place in range(count):
            if place != missing:
                found += reader.feed(numbered(first + place, str(place)))
        reader.close()
    assert caught.value.transient
    assert found == [b"%d" % place for place in range(len(found))]
    assert len(found) <= missing


def test_so_many_may_wait_and_no_more() -> None:
    reader = EventReader()
    assert reader.feed(numbered(0, "0") + numbered(1, "1")) == [b"0", b"1"]
    for number in range(3, 3 + WINDOW):
        assert reader.feed(numbered(number, "x")) == []
    with pytest.raises(Trouble, match=r"event 2 .*missing") as caught:
        reader.feed(numbered(3 + WINDOW, "x"))
    assert caught.value.transient


@pytest.mark.parametrize("step", [2, 7, 1000])
@pytest.mark.parametrize("count", [1, 3, 10, 60])
def test_the_numbers_of_a_clock_are_no_count(step: int, count: int) -> None:
    stream = [numbered(1_700_000_000_000 + step * place, str(place)) for place in range(count)]
    assert events(stream) == [b"%d" % place for place in range(count)]


def test_the_first_few_wait_for_smaller_numbers() -> None:
    reader = EventReader()
    assert reader.feed(numbered(3, "b") + numbered(2, "a")) == []
    assert reader.close() == [b"a", b"b"]
    assert reader.close() == []


# Compression ----------------------------------------------------------------------------------------------

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@calm
@given(
    st.sampled_from(sorted(PACKERS)),
    st.binary(max_size=3000) | st.binary(max_size=9).map(lambda b: b * 999),
    CUTS,
)
def test_compression_is_undone_in_any_chunks(encoding: str, data: bytes, places: list[int]) -> None:
    packed = PACKERS[encoding](data)
    unpacker = Unpacker(encoding)
    assert b"".join(map(unpacker.feed, cut(packed, places))) == data
    assert b"".join(map(Unpacker(encoding).feed, steps(packed, 1))) == data
    torn = Unpacker(encoding).feed(packed[: len(packed) // 2])
    assert data.startswith(torn)


def test_what_was_sent_is_there_before_the_end() -> None:
    packer = zlib.compressobj(wbits=31)
    unpacker = Unpacker("gzip")
    for data in (b"data: a\n\n", b"data: b\n\n"):
        assert unpacker.feed(packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)) == data


def test_a_stream_of_several_gzip_members_is_whole() -> None:
    packed = gzip.compress(b"data: a\n\n") + gzip.compress(b"data: b\n\n")
    for size in (1, len(packed)):
        unpacker = Unpacker("gzip")
        assert b"".join(map(unpacker.feed, steps(packed, size))) == b"data: a\n\ndata: b\n\n"


@pytest.mark.parametrize("wbits", [15, 31])
@pytest.mark.parametrize("size", [1024, 2**30], ids=["small-chunks", "one-chunk"])
def test_a_bomb_is_refused(wbits: int, size: int) -> None:
    packer = zlib.compressobj(level=1, wbits=wbits)
    zeros = bytes(1024 * 1024)
    bomb = b"".join([*(packer.compress(zeros) for _ in range(80)), packer.flush()])
    unpacker, length = Unpacker("gzip"), 0
    with pytest.raises(Trouble, match="a reply of over") as caught:
        for chunk in steps(bomb, size):
            length += len(unpacker.feed(chunk))
    assert not caught.value.transient
    assert length <= LARGEST_REPLY


@calm
@given(st.binary(min_size=1, max_size=60), st.integers(0, 200), st.integers(1, 255))
def test_broken_compression_is_trouble_or_text(garbage: bytes, place: int, change: int) -> None:
    """Never another exception; a flipped byte is found at the latest by the checksum."""
    data = b"some text that compresses, compresses" * 3
    packed = bytearray(gzip.compress(data))
    place %= len(packed)
    packed[place] ^= change
    for encoding, chunk in (("gzip", garbage), ("deflate", garbage), ("gzip", bytes(packed))):
        try:
            Unpacker(encoding).feed(chunk)
        except Trouble as trouble:
            assert trouble.transient
            assert "compression is broken" in str(trouble)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br"])
def test_compression_that_nobody_asked_for(encoding: str) -> None:
    with pytest.raises(Trouble, match=encoding) as caught:
        Unpacker(encoding)
    assert not caught.value.transient


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_plain_bytes_pass_up_to_a_limit(encoding: str) -> None:
    unpacker, block = Unpacker(encoding), bytes(1024 * 1024)
    for _ in range(LARGEST_REPLY // len(block)):
        assert unpacker.feed(block) is block
    assert unpacker.feed(b"") == b""
    with pytest.raises(Trouble, match="a reply of over") as caught:
        unpacker.feed(b"x")
    assert not caught.value.transient


# Waiting --------------------------------------------------------------------------------------------------

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": "86400000"}, 86_400_000.0),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "-inf"}, None),
        ({"Retry-After": "1e999"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "7 seconds"}, None),
        ({"Retry-After": "Sat, 21 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"Retry-After": "Saturday, 21-Nov-26 12:01:30 GMT"}, 90.0),
        ({"Retry-After": "Sat, 21 Nov 2026 14:01:30 +0200"}, 90.0),
        ({"Retry-After": "Sat, 21 Nov 2026 11:59:00 GMT"}, 0.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "Sat, 99 Nov 2026 12:01:30 GMT"}, None),
        ({"Retry-After": "Sat, 21 Nov 99999999 12:01:30 GMT"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"retry-after-ms": "0", "Retry-After": "7"}, 0.0),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "-1", "Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "nan"}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers, NOON) == expected
    assert (
        retry_after(CIMultiDict({name.upper(): value for name, value in headers.items()}), NOON) == expected
    )


def test_the_oldest_form_of_date_is_not_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110 has three forms, all of Greenwich; this one does not say so."""
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "EST5")
            time.tzset()
            assert retry_after({"Retry-After": "Sat Nov 21 12:01:30 2026"}, NOON) == 90.0
    finally:
        time.tzset()


DATE_WORDS = re.findall(
    r"\S+", "Sat, 21 Nov 2026 12:01:30 GMT -0000 +9999 99999999999 : :: + - , EST ٣ 06-Nov-94 1e5"
)


@calm
@given(st.text(max_size=30) | st.lists(st.sampled_from(DATE_WORDS), max_size=8).map(" ".join))
def test_any_header_gives_seconds_or_nothing(text: str) -> None:
    for name in ("Retry-After", "retry-after-ms"):
        seconds = retry_after({name: text}, NOON)
        assert seconds is None or (seconds >= 0 and isfinite(seconds))


POSITIVE = st.floats(0.001, 1000)


@calm
@given(POSITIVE, POSITIVE, st.integers(1, 10_000), st.none() | st.floats(0, 1e6))
def test_a_wait_has_bounds(base: float, longest: float, failures: int, asked: float | None) -> None:
    wait = Retries(base=base, longest=longest).wait(failures, asked)
    if asked is None:
        own = min(longest, base * 2.0 ** min(failures - 1, 30))
        assert min(own, base * 2.0**20) / 2 <= wait <= own
    else:
        assert asked <= wait <= asked + 0.2 * longest


def test_waits_grow_and_differ() -> None:
    retries = Retries(base=1.0, longest=60.0)
    waits = [[retries.wait(failures, None) for _ in range(20)] for failures in range(1, 9)]
    assert all(max(shorter) <= 2 * min(longer) for shorter, longer in pairwise(waits))
    assert all(len(set(each)) > 1 for each in waits)
    assert max(waits[-1]) <= 60 and min(waits[-1]) >= 30
    assert len({retries.wait(1, 5.0) for _ in range(20)}) > 1  # agents told the same do not come back as one


# Events to pieces -----------------------------------------------------------------------------------------

VLLM = [
    (
        b'{"id":"chatcmpl-b35ac7f92ac07ef8","object":"chat.completion.chunk","created":1795284253,"model":"smollm2",'
        b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        b'"prompt_token_ids":null,"prompt_text":null}',
        Piece(),
    ),
    (
        b'{"id":"chatcmpl-acc0cfec313fdaa4","object":"chat.completion.chunk","created":1795284253,"model":"smollm2",'
        b'"choices":[{"index":0,"delta":{"content":" capital"},"logprobs":null,"finish_reason":null,"token_ids":null}]'
        b',"usage":{"prompt_tokens":37,"total_tokens":39,"completion_tokens":2,"completion_tokens_details":null}}',
        Piece(text=" capital", counts=Counts(input=37, output=2)),
    ),
    (
        b'{"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null,'
        b'"token_ids":null}],"system_fingerprint":"vllm-0.32.0-211073e1"}',
        Piece(finish="stop"),
    ),
    (
        b'{"choices":[],"usage":{"prompt_tokens":37,"total_tokens":45,"completion_tokens":8}}',
        Piece(counts=Counts(input=37, output=8)),
    ),
    (
        b'{"choices":[{"index":0,"delta":{"content":"The"},"logprobs":{"content":[{"token":"The","logprob":'
        b'-1.8095355033874512,"bytes":[84,104,101],"top_logprobs":[{"token":"The","logprob":-1.8095355033874512,'
        b'"bytes":[84,104,101]}]}]},"finish_reason":null,"token_ids":null}]}',
        Piece(text="The", logprobs=(-1.8095355033874512,)),
    ),
    (
        b'{"id":"cmpl-8eedb213abc1c097","object":"text_completion","choices":[{"index":0,"text":"\\n","logprobs":'
        b'{"text_offset":[7],"token_logprobs":[-0.9825373888015747],"tokens":["\\n"],"top_logprobs":'
        b'[{"\\n":-0.9825373888015747}]},"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,'
        b'"token_ids":null}]}',
        Piece(text="\n", logprobs=(-0.9825373888015747,), finish="length"),
    ),
    (
        b'{"choices":[{"index":0,"text":" Paris","logprobs":null,"finish_reason":null,"stop_reason":null,'
        b'"prompt_token_ids":[504,3575,282,4649,314],"token_ids":[7042]}]}',
        Piece(text=" Paris", token_ids=(7042,)),
    ),
    (
        b'{"choices":[{"index":0,"text":" ","logprobs":null,"finish_reason":"stop","stop_reason":"Paris",'
        b'"prompt_token_ids":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-211073e1"}',
        Piece(text=" ", finish="stop"),
    ),
    (
        b'{"id":"cmpl-92781818f937ddfd","object":"text_completion","created":1795284266,"model":"smollm2","choices":'
        b'[{"index":0,"text":"","logprobs":null,"finish_reason":"stop","stop_reason":7042,"token_ids":null,'
        b'"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}],"service_tier":null,"usage":'
        b'{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1,"prompt_tokens_details":null,'
        b'"completion_tokens_details":null},"kv_transfer_params":null,"metrics":null}',
        Piece(finish="stop", counts=Counts(input=5, output=1)),
    ),
    (
        b'{"id":"chatcmpl-92f3cc73609edf1a","object":"chat.completion","choices":[{"index":0,"message":{"role":'
        b'"assistant","content":" France is Paris.","refusal":null,"annotations":null,"audio":null,"function_call":'
        b'null,"reasoning":null},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}],'
        b'"usage":{"prompt_tokens":41,"total_tokens":46,"completion_tokens":5,"prompt_tokens_details":null}}',
        Piece(text=" France is Paris.", finish="stop", counts=Counts(input=41, output=5)),
    ),
]
LLAMA_SERVER = [
    (
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":'
        b'1795284096,"id":"chatcmpl-Gg","model":"/tmp/third/smollm2.gguf","object":"chat.completion.chunk"}',
        Piece(),
    ),
    (
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"L"},"logprobs":{"content":[{"id":60,'
        b'"token":"L","bytes":[76],"logprob":-1.8518438339233398,"top_logprobs":[{"id":60,"token":"L","bytes":[76],'
        b'"logprob":-1.8518438339233398}]}]}}]}',
        Piece(text="L", token_ids=(60,), logprobs=(-1.8518438339233398,)),
    ),
    (
        b'{"choices":[{"text":" Paris","index":0,"logprobs":{"content":[{"id":7042,"token":" Paris","bytes":[32,80,'
        b'97,114,105,115],"logprob":-0.24842411279678345,"top_logprobs":[]}]},"finish_reason":null}]}',
        Piece(text=" Paris", token_ids=(7042,), logprobs=(-0.24842411279678345,)),
    ),
    (
        b'{"choices":[{"text":" ","index":0,"logprobs":null,"finish_reason":null}],"timings":{"cache_n":4,"prompt_n":'
        b'1,"prompt_ms":8.885,"prompt_per_second":112.54924029262803,"predicted_n":1,"predicted_ms":0.001}}',
        Piece(text=" ", counts=Counts(input=5, output=1, cached=4)),
    ),
    (
        b'{"choices":[],"usage":{"completion_tokens":24,"prompt_tokens":37,"total_tokens":61,"prompt_tokens_details":'
        b'{"cached_tokens":36}},"timings":{"cache_n":36,"prompt_n":1,"predicted_n":24}}',
        Piece(counts=Counts(input=37, output=24, cached=36)),
    ),
    (
        b'{"choices":[{"finish_reason":"length","index":0,"delta":{}}],"timings":{"cache_n":36,"prompt_n":1,'
        b'"predicted_n":24}}',
        Piece(finish="length", counts=Counts(input=37, output=24, cached=36)),
    ),
]
TRANSFORMERS_SERVE = [
    (
        b'{"id":"1e636d43-3b34-443f-aa11-95366d4e877c","choices":[{"delta":{"role":"assistant"},"index":0}],"created":'
        b'1795283450,"model":"/tmp/third/smollm2@main","object":"chat.completion.chunk","system_fingerprint":""}',
        Piece(),
    ),
    (b'{"choices":[{"delta":{"content":"1"},"index":0}],"object":"chat.completion.chunk"}', Piece(text="1")),
    (
        b'{"choices":[{"delta":{},"index":0,"finish_reason":"length"}],"created":1795283461,"object":'
        b'"chat.completion.chunk","usage":{"completion_tokens":3,"prompt_tokens":42,"total_tokens":45}}',
        Piece(finish="length", counts=Counts(input=42, output=3)),
    ),
    (b'{"choices":[{"index":0,"text":" Paris"}],"object":"text_completion"}', Piece(text=" Paris")),
    (
        b'{"choices":[{"finish_reason":"stop","index":0,"message":{"content":"The capital","role":"assistant"}}],'
        b'"object":"chat.completion","usage":{"completion_tokens":2,"prompt_tokens":37,"total_tokens":39}}',
        Piece(text="The capital", finish="stop", counts=Counts(input=37, output=2)),
    ),
]
LLAMA_CPP_PYTHON = [
    (
        b'{"id": "chatcmpl-4e882216", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content":'
        b' "\\u00c9"}, "logprobs": null, "finish_reason": null}]}',
        Piece(text="É"),
    ),
    (
        b'{"choices": [{"text": ".", "index": 0, "logprobs": {"tokens": ["."], "text_offset": [30], "token_logprobs":'
        b' [-0.38691410422325134], "top_logprobs": [{".": -0.38691410422325134}]}, "finish_reason": null}]}',
        Piece(text=".", logprobs=(-0.38691410422325134,)),
    ),
    (
        b'{"choices": [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}]}',
        Piece(finish="length"),
    ),
]


def delta(**said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said}]}


def choice(**said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **said}]}


BY_HAND: list[tuple[dict[str, Any], Piece]] = [
    ({}, Piece()),
    ({"error": None, "choices": []}, Piece()),
    ({"choices": None, "usage": None}, Piece()),
    (delta(reasoning_content="hm"), Piece(reasoning="hm")),
    (delta(reasoning="hm", content=None), Piece(reasoning="hm")),
    (delta(thinking="hm", content="so"), Piece(text="so", reasoning="hm")),
    (delta(reasoning_content="", reasoning="hm"), Piece(reasoning="hm")),
    (delta(reasoning_content="hm", reasoning="hm"), Piece(reasoning="hm")),  # told twice is said once
    (delta(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 7]), Piece(text="ab")),
    (delta(tool_calls=[{"index": 0}]), Piece()),
    (choice(delta={}, message={"content": "whole"}), Piece(text="whole")),
    (choice(text="a", finish_reason=""), Piece(text="a")),
    (choice(text="", finish_reason="stop", matched_stop="</JOIN>"), Piece(finish="stop")),
    (choice(text="", finish_reason="stop", matched_stop=2), Piece(finish="stop")),
    (choice(text="ab", token_ids=[]), Piece(text="ab", token_ids=())),
    (choice(text="ab", token_ids=[1, "2"]), Piece(text="ab")),
    (choice(text="ab", logprobs={"content": []}), Piece(text="ab")),
    (choice(text="ab", logprobs={"token_logprobs": [None, -0.5]}), Piece(text="ab")),
    (choice(text="ab", logprobs={"token_logprobs": [-1, -0.5]}), Piece(text="ab", logprobs=(-1.0, -0.5))),
    (choice(text="ab", logprobs={"content": [{"logprob": -0.5}, {"token": "b"}]}), Piece(text="ab")),
    (
        choice(text="ab", token_ids=[5, 6], logprobs={"content": [{"id": 1, "logprob": -0.5}]}),
        Piece(text="ab", token_ids=(5, 6), logprobs=(-0.5,)),
    ),
    (
        choice(text="a", usage={"prompt_tokens": 3, "completion_tokens": 1}),
        Piece(text="a", counts=Counts(3, 1)),
    ),
    (
        {"x_groq": {"id": "req", "usage": {"prompt_tokens": 3, "completion_tokens": 1}}},
        Piece(counts=Counts(3, 1)),
    ),
    ({"usage": {"input_tokens": 3, "output_tokens": 0}}, Piece(counts=Counts(3, 0))),
    ({"usage": {"prompt_tokens": 9, "prompt_cache_hit_tokens": 8}}, Piece(counts=Counts(9, None, 8))),
    ({"usage": {"input_tokens_details": {"cached_tokens": 8}}}, Piece(counts=Counts(None, None, 8))),
    (
        {"usage": {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}}},
        Piece(counts=Counts(None, 9, 0, 7)),
    ),
    ({"usage": {"output_tokens_details": {"reasoning_tokens": 7}}}, Piece(counts=Counts(reasoning=7))),
    ({"usage": {"completion_tokens": 9, "reasoning_tokens": 7}}, Piece(counts=Counts(None, 9, 0, 7))),
    ({"usage": {"prompt_tokens": -1, "completion_tokens": True}}, Piece(counts=Counts())),
    ({"usage": {"prompt_tokens": "3", "completion_tokens": 1.5}}, Piece(counts=Counts())),
    ({"timings": {"predicted_n": 2}}, Piece(counts=Counts(None, 2))),
]
SHAPES: dict[str, list[tuple[bytes, Piece]]] = {
    "vllm": VLLM,
    "llama-server": LLAMA_SERVER,
    "transformers-serve": TRANSFORMERS_SERVE,
    "llama-cpp-python": LLAMA_CPP_PYTHON,
    "by-hand": [(json.dumps(event).encode(), piece) for event, piece in BY_HAND],
}
EVENTS = [event for shapes in SHAPES.values() for event, _ in shapes]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(*each, id=f"{name}-{place}")
        for name, shapes in SHAPES.items()
        for place, each in enumerate(shapes)
    ],
)
def test_what_an_event_says(event: bytes, expected: Piece) -> None:
    assert read(event) == expected


KEYS = ["error", "code", "type", "text", "content", "logprob", "id", "usage", "message", "detail", "object"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from([0, -1, 1.0, 10**400, "insufficient_quota", "\ud800", "\x1b[2J\r\n", ""])
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(KEYS) | st.text(max_size=3)
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4)


JSON: st.SearchStrategy[Any] = st.recursive(SCALARS, containers, max_leaves=8)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place inside a value: what holds it, and its key there."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
    elif isinstance(value, list):
        pairs = enumerate(cast("list[Any]", value))
    found: list[tuple[Any, Any]] = []
    for key, inner in pairs:
        found += [(value, key), *places(inner)]
    return found


HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.0, 1.5, 2**63, 2**64, 10**400, 1e308, "", "0", "a", "\ud800", "\r\n"),
    *(
        [],
        [None],
        [True],
        [1, "2"],
        [[]],
        [{}],
        [10**400],
        ["a"],
        {},
        {"a": 1},
        {"message": {}},
        {"text": []},
    ),
]


def all_spoilt(texts: Iterable[bytes | str]) -> Iterable[Any]:
    """Each text with each of its values replaced by each hostile one, in turn: what is yielded changes."""
    for text in texts:
        event = json.loads(text)
        for holder, key in places(event):
            kept = holder[key]
            for value in HOSTILE:
                holder[key] = value
                yield event
            holder[key] = kept


@st.composite
def spoilt(draw: st.DrawFn, texts: Sequence[bytes | str]) -> Any:
    """A good event or error body in which a few values were replaced by anything."""
    value = json.loads(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 3))):
        if found := places(value):
            holder, key = draw(st.sampled_from(found))
            holder[key] = draw(SCALARS | JSON)
    return value


def check_trouble(trouble: Trouble) -> None:
    text = str(trouble)
    assert text.isprintable()
    assert len(text) <= LONGEST_MESSAGE + 1 or text.startswith("the reply is not JSON")
    assert isinstance(cast("Any", trouble.transient), bool)
    assert trouble.status is None or isinstance(cast("Any", trouble.status), int)
    assert trouble.parameter is None or isinstance(cast("Any", trouble.parameter), str)


def check_piece(piece: Piece) -> None:
    text: Any
    for text in (piece.text, piece.reasoning):
        assert isinstance(text, str)
    assert piece.logprobs is None or all(type(each) is float and isfinite(each) for each in piece.logprobs)
    assert piece.finish is None or isinstance(cast("Any", piece.finish), str)
    counts = piece.counts or Counts()
    for count in (counts.input, counts.output, counts.cached, counts.reasoning):
        assert count is None or (type(count) is int and count >= 0)


def read_safely(data: bytes) -> Piece | None:
    try:
        piece = read(data)
    except Trouble as trouble:
        check_trouble(trouble)
        return None
    check_piece(piece)
    return piece


def failure_of(function: Callable[[], object]) -> str | None:
    """Return what other than `Trouble` is raised."""
    try:
        function()
    except Trouble:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def test_one_hostile_value_anywhere_is_a_piece_or_trouble() -> None:
    failures = {
        failure: json.dumps(event)[:300]
        for event in all_spoilt(EVENTS)
        if (failure := failure_of(partial(read_safely, json.dumps(event).encode())))
    }
    assert failures == {}


@calm
@given(spoilt(EVENTS) | JSON)
def test_hostile_json_is_a_piece_or_trouble(event: Any) -> None:
    read_safely(json.dumps(event).encode())


@calm
@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()[:-1]))
def test_hostile_bytes_are_a_piece_or_trouble(data: bytes) -> None:
    read_safely(data)


def test_the_quick_way_reads_what_the_long_way_reads() -> None:
    """An empty `timings` says nothing, but with it an event is not of the usual shape."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    more: list[Any] = [
        delta(content="a", role="assistant") | {"usage": usage},
        choice(delta={}, text="a"),
        choice(delta={}, message=None, text=None),
        {"choices": [], "usage": usage | {"input_tokens_details": {"cached_tokens": 8}}},
        {"choices": [], "usage": usage | {"output_tokens_details": {"reasoning_tokens": 7}}},
    ]
    spoilt_ones = all_spoilt([*EVENTS, *map(json.dumps, more)])
    differing: list[str] = []
    for event in chain(more, spoilt_ones):
        if "timings" in event or event.get("object") == "error":
            continue
        try:
            long = read(json.dumps(event | {"timings": {}}).encode())
        except Exception:  # what it does not bear is told above
            continue
        if read(json.dumps(event).encode()) != long:
            differing.append(json.dumps(event)[:300])
    assert differing == []


STEPS = ["[", '{"a":', '[{"text":', "[{},["]
CLOSING = {"[": "]", "{": "}"}


@pytest.mark.parametrize(
    "head", ['{"x":', '{"choices":[{"delta":{"content":', '{"error":{"message":', '{"detail":']
)
def test_deep_json_is_a_piece_or_trouble(head: str) -> None:
    """What the decoder still bears may be too deep for who walks through it."""
    for step in STEPS:
        for depth in (10, 200, 300, 400, 450, 480, 495, 900, 980, 995, 100_000):
            text = head + step * depth
            opened = [each for each in text.replace("{}", "") if each in CLOSING]
            read_safely((text + "1" + "".join(CLOSING[each] for each in reversed(opened))).encode())


@pytest.mark.parametrize(
    "event",
    [
        choice(logprobs={"token_logprobs": 5}),
        choice(logprobs={"token_logprobs": True}),
        choice(logprobs={"token_logprobs": {"a": -1.0}}),
        choice(logprobs={"token_logprobs": "ab"}),
        choice(logprobs={"token_logprobs": [10**400]}),
        choice(logprobs={"content": [{"logprob": 10**400}]}),
        choice(logprobs={"token_logprobs": [True]}),
    ],
    ids=["number", "true", "object", "text", "huge", "huge-content", "of-booleans"],
)
def test_log_probabilities_that_are_none(event: dict[str, Any]) -> None:
    """What cannot be read is left out."""
    assert read(json.dumps(event).encode()) == Piece()


@pytest.mark.parametrize("ids", [[True, False], [1, None], [1.0], "12", 7, {"1": 1}])
def test_token_ids_that_are_none(ids: Any) -> None:
    assert read(json.dumps(choice(token_ids=ids)).encode()).token_ids is None
    if isinstance(ids, list):
        content = [{"id": each} for each in cast("list[Any]", ids)]
        assert read(json.dumps(choice(logprobs={"content": content})).encode()).token_ids is None


@pytest.mark.parametrize(
    "data", [b"", b"nope", b"[DONE]", b"[]", b"7", b'"text"', b"null", b'{"a":', b"\xff", b"\x00"]
)
def test_what_is_no_event_is_trouble_that_may_pass(data: bytes) -> None:
    with pytest.raises(Trouble, match="the reply is") as caught:
        read(data)
    assert caught.value.transient
    check_trouble(caught.value)


# Errors ---------------------------------------------------------------------------------------------------

LOST = "That model is currently overloaded with other requests."
TOO_LONG = "request (9001 tokens) exceeds the available context size (4096 tokens), try increasing it"
JSON_ERROR = (
    '[{"type":"json_invalid","loc":["body",1],"msg":"JSON decode error","input":{},'
    '"ctx":{"error":"Expecting property name enclosed in double quotes"}}]'
)
ERRORS: dict[str, tuple[str, int | None, str, int | None, bool, str | None]] = {
    "openai-400": (
        '{"error":{"message":"Unsupported parameter: \'seed\'","type":"invalid_request_error","param":"seed",'
        '"code":"unsupported_parameter"}}',
        *(400, "Unsupported parameter: 'seed'", 400, False, "seed"),
    ),
    "openai-429": (
        '{"error":{"message":"Limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}',
        *(429, "Limit reached", 429, True, None),
    ),
    "openai-429-in-stream": (
        '{"error":{"message":"Limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}',
        *(None, "Limit reached", 429, True, None),
    ),
    "openai-quota": (
        '{"error":{"message":"Exceeded.","type":"insufficient_quota","code":"insufficient_quota"}}',
        *(429, "Exceeded.", 429, False, None),
    ),
    "openai-overloaded-in-stream": (
        f'{{"error":{{"message":"{LOST}","type":"server_error","param":null,"code":null}}}}',
        *(None, LOST, 500, True, None),
    ),
    "openai-filter": ('{"error":{"message":"No.","code":"content_filter"}}', None, "No.", None, False, None),
    "openai-key": (
        '{"error":{"message":"Incorrect API key","type":"invalid_request_error","code":"invalid_api_key"}}',
        *(401, "Incorrect API key", 401, False, None),
    ),
    "vllm-404": (
        '{"error":{"message":"The model `nope` does not exist. Valid aliases: smollm2.","type":"NotFoundError",'
        '"param":"model","code":404}}',
        *(404, "The model `nope` does not exist. Valid aliases: smollm2.", 404, False, "model"),
    ),
    "vllm-lines": (
        '{"error":{"message":"1 validation error:\\n  {\'type\': \'missing\'}","type":"Bad Request",'
        '"param":"body.messages","code":400}}',
        *(400, "1 validation error: {'type': 'missing'}", 400, False, "body.messages"),
    ),
    "vllm-old": (
        '{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}',
        *(None, "too long", 400, False, None),
    ),
    "vllm-in-stream": (
        '{"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}',
        *(None, "EngineCore died", 500, True, None),
    ),
    "fastapi": ('{"detail":"Not Found"}', 404, "Not Found", 404, False, None),
    "fastapi-422": (f'{{"detail":{JSON_ERROR}}}', 422, JSON_ERROR, 422, False, None),
    "transformers-serve": (
        "{\"detail\":\"Server is pinned to '/tmp/third/smollm2'; requested 'nope'.\"}",
        *(400, "Server is pinned to '/tmp/third/smollm2'; requested 'nope'.", 400, False, None),
    ),
    "anthropic-overloaded": (
        '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
        *(None, "Overloaded", 529, True, None),
    ),
    "anthropic-bad": (
        '{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: must be more"}}',
        *(None, "max_tokens: must be more", 400, False, None),
    ),
    "anthropic-rate": (
        '{"type":"error","error":{"type":"rate_limit_error","message":"Slow"},"request_id":"req_1"}',
        *(429, "Slow", 429, True, None),
    ),
    "llama-server": (
        f'{{"error":{{"code":400,"message":"{TOO_LONG}","type":"exceed_context_size_error","n_prompt_tokens":9001,'
        '"n_ctx":4096}}',
        *(None, TOO_LONG, 400, False, None),
    ),
    "llama-server-loading": (
        '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
        *(503, "Loading model", 503, True, None),
    ),
    "llama-cpp-python": (
        '{"error":{"message":"This model\'s maximum context length is 4096 tokens, however you requested 9005 tokens '
        '(9001 in your prompt; 4 for the completion).","type":"invalid_request_error","param":"messages","code":'
        '"context_length_exceeded"}}',
        400,
        "This model's maximum context length is 4096 tokens, however you requested 9005 tokens (9001 in your prompt; "
        "4 for the completion).",
        *(400, False, "messages"),
    ),
    "llama-cpp-python-mute": (
        '{"error":{"message":"","type":"internal_server_error","param":null,"code":null}}',
        None,
        '{"message":"","type":"internal_server_error","param":null,"code":null}',
        *(500, True, None),
    ),
    "ollama": ('{"error":"model \'nope\' not found"}', 404, "model 'nope' not found", 404, False, None),
    "ollama-in-stream": ('{"error":"it broke"}', None, "it broke", None, True, None),
    "mistral": (
        '{"object":"error","message":{"detail":[{"msg":"no"}]},"type":"invalid_request_error","code":null}',
        *(422, '{"detail":[{"msg":"no"}]}', 422, False, None),
    ),
    "litellm-429": (
        '{"error":{"message":"RateLimitError","type":"throttling_error","param":"None","code":"429"}}',
        *(None, "RateLimitError", 429, True, "None"),
    ),
    "litellm-400": (
        '{"error":{"message":"BadRequestError","type":"None","param":"None","code":"400"}}',
        *(None, "BadRequestError", 400, False, "None"),
    ),
    "text": ('"Internal Server Error"', 500, "Internal Server Error", 500, True, None),
    "text-of-lines": (
        '"upstream\\r\\n\\tconnect\\u001b[2J error\\n"',
        502,
        "upstream connect [2J error",
        502,
        True,
        None,
    ),
    "nothing": ('""', 404, "", 404, False, None),
    "teapot": ('"short and stout"', 418, "short and stout", 418, False, None),
}
"""Body, status of the reply (None: it stands in a stream) -> message, status, transient, parameter."""


@pytest.mark.parametrize("name", ERRORS)
def test_what_an_error_says(name: str) -> None:
    body, http_status, message, status, transient, parameter = ERRORS[name]
    trouble = trouble_of(msgspec.json.decode(body), http_status, 3.0)
    assert (str(trouble), trouble.status, trouble.transient) == (message, status, transient)
    assert (trouble.parameter, trouble.retry_after) == (parameter, 3.0)
    assert trouble.limiting == (status in (429, 503, 529))
    if http_status is None:
        with pytest.raises(Trouble) as caught:
            read(body.encode())
        told = caught.value
        assert (str(told), told.status, told.transient) == (message, status, transient)


def check_error(body: Any, status: int | None) -> None:
    try:
        body = msgspec.json.decode(json.dumps(body))
    except msgspec.DecodeError:
        return
    trouble = trouble_of(body, status)
    check_trouble(trouble)
    assert status is None or trouble.status == status


def test_one_hostile_value_anywhere_in_an_error_is_trouble() -> None:
    for body in all_spoilt(each[0] for each in ERRORS.values()):
        for status in (None, 429):
            check_error(body, status)


@calm
@given(spoilt([each[0] for each in ERRORS.values()]) | JSON, st.sampled_from([None, 400, 422, 429, 503]))
def test_hostile_error_bodies_are_trouble(body: Any, status: int | None) -> None:
    check_error(body, status)


def test_the_status_of_the_reply_counts_more_than_the_body() -> None:
    body = {"error": {"message": "x", "code": 400, "type": "invalid_request_error"}}
    assert trouble_of(body, 503).status == 503
    assert trouble_of(body, 503).transient


@calm
@given(st.text(max_size=700) | st.text("a\n\r\t\x00\x1b\x85\u2028\u202e ", max_size=700))
def test_one_line_is_one_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert line.splitlines() in ([], [line])
    assert "  " not in line
    assert len(line) <= LONGEST_MESSAGE + 1
    if len(line) > LONGEST_MESSAGE:
        assert line.endswith("…")
    assert one_line(line[:LONGEST_MESSAGE].strip()) == line[:LONGEST_MESSAGE].strip()


# What is learned ------------------------------------------------------------------------------------------

PARAMETERS: dict[str, Any] = {
    "stream_options": {"include_usage": True},
    "seed": 7,
    "stop": ["</JOIN>"],
    "logprobs": 1,
    "temperature": 0.7,
    "top_p": 0.9,
    "max_tokens": 100,
    "max_completion_tokens": 100,
    "include_stop_str_in_output": True,
    "no_stop_trim": True,
    "return_token_ids": True,
    "continue_final_message": True,
    "add_generation_prompt": False,
}
KEEPING = ("include_stop_str_in_output", "no_stop_trim")
"""Without these a server cuts stop strings off the text: it is sent none."""
NEEDED: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "seed, stop and temperature"}],
    "stream": True,
}


def whole_body() -> dict[str, Any]:
    return {**NEEDED, **PARAMETERS}


def openai_error(message: str, parameter: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": None}}


REFUSALS: dict[str, tuple[int, str]] = {
    "openai": (400, "Unsupported parameter: '{}' is not supported with this model."),
    "openai-value": (
        400,
        "Unsupported value: '{}' does not support 0.7. Only the default (1) value is supported.",
    ),
    "openai-unknown": (400, "Unknown parameter: '{}'."),
    "openai-old": (400, "Unrecognized request argument supplied: {}"),
    "openai-pydantic": (
        400,
        "[{{'type': 'extra_forbidden', 'loc': ('body', '{}'), 'msg': 'Extra inputs are not permitted'}}]",
    ),
    "transformers-serve": (422, "Unexpected fields in the request: {{'{}'}}"),
    "pydantic": (422, "Extra inputs are not permitted"),
    "mistral": (422, "Extra inputs are not permitted"),
    "text": (500, "the field {} is not allowed here"),
}


def refusal(kind: str, name: str) -> Trouble:
    status, text = REFUSALS[kind]
    text = text.format(name)
    entry = {"type": "extra_forbidden", "loc": ["body", name], "msg": text, "input": PARAMETERS[name]}
    match kind:
        case "transformers-serve":
            body: Any = {"detail": text}
        case "pydantic":
            body = {"detail": [entry | {"url": "https://errors.pydantic.dev/2.11/v/extra_forbidden"}]}
        case "mistral":
            body = {
                "object": "error",
                "message": {"detail": [entry]},
                "type": "invalid_request_error",
                "code": None,
            }
        case "text":
            body = text
        case _:
            body = openai_error(text, name if kind in ("openai", "openai-value", "openai-unknown") else None)
    told = trouble_of(body, status)
    # As `Server.error_of` tells it: the status stands before it.
    return Trouble(
        f"{status}: {told}", transient=told.transient, status=told.status, parameter=told.parameter
    )


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_parameter_is_left_out_from_now_on(kind: str, name: str) -> None:
    learned = Learned()
    body = learned.fit(whole_body())
    assert learned.learn(refusal(kind, name), body)
    assert (learned.dropped, learned.system_role) == ({name}, True)
    assert learned.turns_only == (name in ("continue_final_message", "add_generation_prompt"))
    fitted = learned.fit(whole_body())
    assert name not in fitted
    gone = {name, "stop"} if name in KEEPING else {name}
    assert fitted == {key: value for key, value in whole_body().items() if key not in gone}
    assert not learned.learn(refusal(kind, name), fitted)
    assert learned.dropped == {name}


def test_one_name_for_the_limit_stands_in_for_the_other() -> None:
    learned = Learned()
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    trouble = trouble_of(openai_error(text, "max_tokens"), 400)
    body: dict[str, Any] = {**NEEDED, "max_tokens": 100}
    assert learned.learn(trouble, body)
    assert learned.fit(dict(body)) == {**NEEDED, "max_completion_tokens": 100}
    assert learned.fit(dict(NEEDED)) == NEEDED
    assert learned.dropped == {"max_tokens"}
    assert learned.learn(refusal("openai", "max_completion_tokens"), learned.fit(dict(body)))
    assert learned.fit(dict(body)) == NEEDED


def test_who_was_under_way_when_it_was_learned_may_try_again_too() -> None:
    """Agents begin together: each is refused the same, and only the first brings news."""
    learned = Learned()
    bodies = [learned.fit(whole_body()) for _ in range(3)]
    assert [learned.learn(refusal("openai", "seed"), body) for body in bodies] == [True, True, True]
    assert not learned.learn(refusal("openai", "seed"), learned.fit(whole_body()))
    told = trouble_of(openai_error("System role not supported"), 400)
    bodies = [whole_body() | {"messages": [SYSTEM, USER]} for _ in range(3)]
    assert [learned.learn(told, body) for body in bodies] == [True, True, True]
    assert not learned.learn(told, whole_body() | {"messages": [USER]})


def test_of_two_unexpected_fields_both_are_learned() -> None:
    detail = "Unexpected fields in the request: {'continue_final_message', 'add_generation_prompt'}"
    trouble = trouble_of({"detail": detail}, 422)
    learned = Learned()
    assert learned.learn(trouble, learned.fit(whole_body()))
    assert learned.learn(trouble, learned.fit(whole_body()))
    assert not learned.learn(trouble, learned.fit(whole_body()))
    assert learned.dropped == {"continue_final_message", "add_generation_prompt"}


def test_the_parameter_that_a_server_names_is_the_one() -> None:
    """Not one that its message happens to mention."""
    text = "Unsupported parameter: 'top_p' is not supported when 'temperature' is given."
    learned = Learned()
    assert learned.learn(trouble_of(openai_error(text, "top_p"), 400), whole_body())
    assert learned.dropped == {"top_p"}


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("System role not supported", None),
        ("400: System role not supported (parameter=messages)", "messages"),
        ("'system' role is not supported by this model", None),
        ("The role 'system' is not supported", None),
        (
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "messages[0].role",
        ),
        ("unexpected role 'system' in messages", None),
    ],
)
def test_a_server_without_a_system_role(message: str, parameter: str | None) -> None:
    for status in (400, 500):
        learned, trouble = Learned(), trouble_of(openai_error(message, parameter), status)
        told = {**whole_body(), "messages": [{"role": "system", "content": "x"}, *NEEDED["messages"]]}
        assert learned.learn(trouble, told)
        assert (learned.system_role, learned.dropped) == (False, set())
        assert learned.learn(trouble, told)  # another agent's, sent before this was known
        assert not learned.learn(trouble, whole_body())
        assert (learned.system_role, learned.dropped) == (False, set())


NOT_LEARNED: list[tuple[int, str, str | None]] = [
    (
        400,
        "This model's maximum context length is 4096 tokens, however you requested 9005 tokens",
        "messages",
    ),
    (400, "max_tokens=1000000 cannot be greater than max_model_len=8192.", "max_tokens"),
    (400, "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)", "temperature"),
    (400, "Cannot set both add_generation_prompt and continue_final_message to true.", None),
    (400, "Field 'temperature': [json.exception.type_error.302] type must be number, but is string", None),
    (400, "prompt must be a string.", None),
    (400, "Server is pinned to '/tmp/third/smollm2'; requested 'nope'.", None),
    (422, "Unexpected fields in the request: {'zzz_unknown'}", None),
    (422, "Unexpected fields in the request: {'messages', 'seeds', 'max_tokens_to_sample'}", None),
    (400, "Unsupported parameter: 'model' is not supported.", "model"),
    (404, "The model `seed` is unknown", "model"),
    (401, "temperature is not supported with this key", "temperature"),
    (403, "System role not supported", None),
    (429, "seed is not supported", "seed"),
    (503, "seed is not supported", "seed"),
]


@pytest.mark.parametrize(("status", "message", "parameter"), NOT_LEARNED)
def test_other_errors_teach_nothing(status: int, message: str, parameter: str | None) -> None:
    for body in (openai_error(message, parameter), {"detail": message}, message):
        learned = Learned()
        assert not learned.learn(trouble_of(body, status), whole_body())
        assert learned == Learned()


def test_what_was_not_sent_is_not_learned() -> None:
    learned = Learned()
    assert not learned.learn(refusal("openai", "seed"), dict(NEEDED))
    assert learned == Learned()
    assert not learned.learn(Trouble("seed is not supported", transient=True), whole_body())


@calm
@given(
    st.lists(
        st.lists(
            st.sampled_from([*PARAMETERS, "unsupported", "not allowed", "system role", "\n", ","]), max_size=6
        ),
        max_size=60,
    ),
    st.sampled_from([400, 422, 500]),
)
def test_learning_ends(messages: list[list[str]], status: int) -> None:
    learned, lessons = Learned(), 0
    for words in messages:
        trouble = Trouble(" ".join(words), transient=False, status=status)
        for _ in range(20):
            before = (set(learned.dropped), learned.system_role)
            if not learned.learn(trouble, learned.fit(whole_body())):
                assert (learned.dropped, learned.system_role) == before
                break
            assert (learned.dropped, learned.system_role) != before
            lessons += 1
        else:
            pytest.fail("it goes on for ever")
    assert lessons <= len(PARAMETERS) + 1


@calm
@given(st.sets(st.sampled_from(sorted(PARAMETERS))), st.sets(st.sampled_from(sorted(PARAMETERS))))
def test_fitting(dropped: set[str], present: set[str]) -> None:
    body = {**NEEDED, **{name: PARAMETERS[name] for name in sorted(present)}}
    learned = Learned(dropped=set(dropped))
    fitted = learned.fit(dict(body))
    assert dropped.isdisjoint(fitted)
    assert learned.fit(dict(fitted)) == fitted
    assert {key: fitted[key] for key in NEEDED} == NEEDED
    kept = present - dropped if dropped.isdisjoint(KEEPING) else present - dropped - {"stop"}
    assert kept <= set(fitted)
    assert dropped.isdisjoint(KEEPING) or "stop" not in fitted
    assert set(fitted) <= set(body) | {"max_completion_tokens"}
    if "max_tokens" in dropped & present and "max_completion_tokens" not in dropped:
        assert fitted["max_completion_tokens"] == PARAMETERS["max_tokens"]


# What a request says of the context -----------------------------------------------------------------------

MESSAGES = [Message(role="system", content="Think."), Message(role="user", content="3 + 4?")]
SYSTEM, USER = {"role": "system", "content": "Think."}, {"role": "user", "content": "3 + 4?"}
GO_ON = {"role": "user", "content": "Go on exactly where you stopped."}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def decoded(text: str) -> Chunk:
    return Chunk(text=text, n_tokens=1)


def chat(continuation: Continuation, learned: Learned | None = None) -> ChatContext:
    return ChatContext(MESSAGES, Dialect(continuation=continuation), learned or Learned())


CONTINUED: dict[Continuation, Callable[[str], dict[str, Any]]] = {
    Continuation.FLAGS: lambda text: {
        "messages": [SYSTEM, USER, assistant(text)],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    Continuation.PLAIN: lambda text: {"messages": [SYSTEM, USER, assistant(text)]},
    Continuation.MARK: lambda text: {"messages": [SYSTEM, USER, assistant(text, prefix=True)]},
}


@pytest.mark.parametrize("continuation", CONTINUED)
def test_a_chat_that_goes_on_in_its_own_text(continuation: Continuation) -> None:
    context = chat(continuation)
    assert context.route == CHAT == "chat/completions"
    assert context.prompt == Chunk(text="Think.\n\n3 + 4?", n_tokens=4, exact=False)
    assert context.request() == {"messages": [SYSTEM, USER]}
    assert context.resumable()
    context.add(decoded("It "))
    context.add(decoded(""))
    context.add(decoded("is <JOIN-1>"))
    assert context.request() == CONTINUED[continuation]("It is <JOIN-1>")
    assert context.resumable()
    assert context.insert("7</JOIN-1>") == Chunk(text="7</JOIN-1>", n_tokens=3, exact=False)
    assert context.request() == CONTINUED[continuation]("It is <JOIN-1>7</JOIN-1>")
    context.add(decoded(" so 7"))
    assert context.request() == CONTINUED[continuation]("It is <JOIN-1>7</JOIN-1> so 7")
    context.trim(5)
    assert context.request() == CONTINUED[continuation]("It is <JOIN-1>7</JOIN-1>")


def test_a_chat_of_turns() -> None:
    context = chat(Continuation.TURNS)
    assert context.request() == {"messages": [SYSTEM, USER]}
    assert context.resumable()
    context.add(decoded("It is "))
    context.add(decoded("<JOIN-1>"))
    assert context.request() == {"messages": [SYSTEM, USER, assistant("It is <JOIN-1>"), GO_ON]}
    assert not context.resumable()
    context.insert("one")
    context.insert("two")
    told = {"role": "user", "content": "one\ntwo"}
    assert context.request() == {"messages": [SYSTEM, USER, assistant("It is <JOIN-1>"), told]}
    assert context.resumable()
    context.add(decoded("so 7"))
    turns = [SYSTEM, USER, assistant("It is <JOIN-1>"), told, assistant("so 7")]
    assert context.request() == {"messages": [*turns, GO_ON]}
    context.insert("good")
    assert context.request() == {"messages": [*turns, {"role": "user", "content": "good"}]}


def test_turns_alternate_as_strict_templates_want_it() -> None:
    context = chat(Continuation.TURNS)
    context.insert("wait")
    assert context.request()["messages"] == [SYSTEM, {"role": "user", "content": f"{USER['content']}\nwait"}]
    context.add(decoded("It is"))
    assert context.request()["messages"][1:] == [
        {"role": "user", "content": f"{USER['content']}\nwait"},
        assistant("It is"),
        GO_ON,
    ]


@pytest.mark.parametrize("name", ["continue_final_message", "add_generation_prompt"])
def test_a_chat_that_learns_to_speak_in_turns(name: str) -> None:
    learned = Learned()
    context = chat(Continuation.FLAGS, learned)
    context.add(decoded("It is"))
    assert context.resumable()
    assert learned.learn(refusal("transformers-serve", name), context.request())
    assert not context.resumable()
    assert context.request() == {"messages": [SYSTEM, USER, assistant("It is"), GO_ON]}
    context.insert("7")
    assert context.request() == {
        "messages": [SYSTEM, USER, assistant("It is"), {"role": "user", "content": "7"}]
    }


@pytest.mark.parametrize("continuation", Continuation)
def test_instructions_go_into_the_query_where_there_is_no_system_role(continuation: Continuation) -> None:
    learned = Learned()
    context = chat(continuation, learned)
    with_system = context.request()
    learned.system_role = False
    merged = {"role": "user", "content": "Think.\n\n3 + 4?"}
    assert context.request() == {"messages": [merged]}
    context.add(decoded("7"))
    assert context.request()["messages"][:2] == [
        merged,
        {**assistant("7"), **context.request()["messages"][1]},
    ]
    learned.system_role = True
    assert context.request()["messages"][:2] == with_system["messages"]
    bare = ChatContext(MESSAGES[1:], Dialect(continuation=continuation), Learned(system_role=False))
    assert bare.request() == {"messages": [USER]}


@pytest.mark.parametrize("continuation", Continuation)
def test_a_request_holds_no_part_of_the_context_itself(continuation: Continuation) -> None:
    context = chat(continuation)
    context.add(decoded("7"))
    first, again = context.request(), context.request()
    assert first == again
    for message in first["messages"]:
        message["content"] = "spoilt"
    first["messages"].clear()
    assert context.request() == again


def test_only_what_was_decoded_can_be_trimmed() -> None:
    context = chat(Continuation.TURNS)
    with pytest.raises(Trouble) as caught:
        context.trim(1)
    assert not caught.value.transient
    context.add(decoded("abc"))
    context.trim(0)
    context.trim(2)
    assert context.request()["messages"][2] == assistant("a")
    context.insert("b")
    with pytest.raises(Trouble):
        context.trim(1)


def test_a_context_of_text() -> None:
    context = TextContext("3 + 4?\n\n")
    assert context.route == COMPLETIONS == "completions"
    assert context.prompt == Chunk(text="3 + 4?\n\n", n_tokens=2, exact=False)
    assert context.request() == {"prompt": "3 + 4?\n\n"}
    context.add(decoded("It is 7 and"))
    context.trim(4)
    context.trim(0)
    assert context.insert("!") == Chunk(text="!", n_tokens=1, exact=False)
    assert context.request() == {"prompt": "3 + 4?\n\nIt is 7!"}
    assert context.resumable()
    assert context.end() == []


TEXTUAL: dict[str, Callable[[], Context]] = {
    "text": partial(TextContext, "3 + 4?"),
    **{each.value: partial(chat, each) for each in Continuation},
}


@pytest.mark.parametrize("kind", TEXTUAL)
@calm
@given(st.lists(st.tuples(st.booleans(), st.text(max_size=9)), max_size=12), st.integers(0, 9))
def test_about_how_many_tokens_a_context_has(kind: str, said: list[tuple[bool, str]], trimmed: int) -> None:
    context = TEXTUAL[kind]()
    length = len(context.prompt.text)
    assert context.n_tokens() == -(-length // 4)
    for inserted, text in said:
        context.insert(text) if inserted else context.add(decoded(text))
        length += len(text)
    assert context.n_tokens() == -(-length // 4)
    context.add(decoded("the last ten"))
    context.trim(trimmed)
    assert context.n_tokens() == -(-(length + 12 - trimmed) // 4)


@calm
@given(st.text(max_size=80), st.text(max_size=80))
@example("", "")
@example("x" * LONGEST_TOKEN, "x" * (LONGEST_TOKEN + 1))
def test_estimates(one: str, other: str) -> None:
    assert (estimate(one) == 0) == (not one)
    assert estimate(one) <= max(1, len(one))
    shorter, longer = sorted((one, other), key=len)
    assert estimate(shorter) <= estimate(longer)
    if one and len(one) <= LONGEST_TOKEN:
        assert estimate(one) == 1
    assert estimated(one) == Chunk(text=one, n_tokens=-(-len(one) // 4), exact=False)


def test_pieces_of_unknown_size() -> None:
    context = TextContext("")
    assert context.chunks(Piece(), None) == []
    assert context.chunks(Piece(text="four"), None) == [Chunk(text="four", n_tokens=1, exact=False)]
    assert context.chunks(Piece(text="x" * 40), None) == [Chunk(text="x" * 40, n_tokens=10, exact=False)]
    assert context.chunks(Piece(text="four"), 3) == [Chunk(text="four", n_tokens=3)]
    assert context.chunks(Piece(text="four"), 0) == [Chunk(text="four", n_tokens=0)]
    assert context.chunks(Piece(), 2) == [Chunk(text="", n_tokens=2)]
    assert context.chunks(Piece(), 0) == []
    assert context.request() == {"prompt": ""}


@pytest.mark.parametrize(
    ("kind", "continuation"), [("vllm", "flags"), ("llamacpp", "flags"), ("library", "plain")]
)
def test_known_kinds_of_server(kind: str, continuation: str) -> None:
    assert DIALECTS[kind].continuation == continuation
    assert Dialect().continuation is Continuation.TURNS


# Token ids ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Tokens:
    return Tokens(folder)


@pytest.fixture
def context(tokens: Tokens) -> TokenContext:
    prompt = tokens.prompts.build(MESSAGES, role="worker", capacity=4)
    return TokenContext(prompt, tokens)


def ids_of(tokens: Tokens, text: str) -> tuple[int, ...]:
    return tokens.prompts.insertion(text).token_ids or ()


def test_a_context_of_token_ids(tokens: Tokens, context: TokenContext) -> None:
    prompt = context.prompt.token_ids
    assert prompt is not None
    assert (context.ids, context.route) == (prompt, COMPLETIONS)
    assert (tokens.begin, prompt[0]) == ("<bos>", tokens.lexicon.bos)
    assert context.request() == {"prompt": list(prompt), "return_token_ids": True, "logprobs": 1}
    assert context.resumable()
    context.begin()
    ids = ids_of(tokens, "7 4")
    chunks = context.chunks(Piece(text="what the server says", token_ids=ids, logprobs=(-0.5,) * len(ids)), 9)
    assert "".join(each.text for each in chunks) == "7 4"
    assert [each.token_ids for each in chunks] == [(each,) for each in ids]
    assert [each.logprobs for each in chunks] == [(-0.5,)] * len(ids)
    assert all(each.n_tokens == 1 and each.exact for each in chunks)
    assert context.ids == prompt  # what is not read never belonged to it
    context.add(chunks[0])
    assert context.ids == (*prompt, ids[0])
    inserted = context.insert("<RETURN>7</RETURN> é")
    assert inserted.token_ids == ids_of(tokens, "<RETURN>7</RETURN> é")
    assert context.request()["prompt"] == [*prompt, ids[0], *ids_of(tokens, "<RETURN>7</RETURN> é")]
    assert context.n_tokens() == len(context.ids)
    with pytest.raises(Trouble) as caught:
        context.trim(3)
    assert not caught.value.transient


@calm
@given(text=st.text(max_size=20), places=CUTS)
def test_ids_are_spelled_whatever_events_they_come_in(tokens: Tokens, text: str, places: list[int]) -> None:
    context = TokenContext(Chunk(text="", n_tokens=0, token_ids=()), tokens)
    context.begin()
    ids = ids_of(tokens, text)
    bounds = [0, *sorted(place % (len(ids) + 1) for place in places), len(ids)]
    spelled = ""
    for begin, end in pairwise(bounds):
        for chunk in context.chunks(Piece(token_ids=ids[begin:end]), None):
            spelled += chunk.text
            assert chunk.logprobs is None
            context.add(chunk)
    assert spelled == text
    assert (context.ids, context.end()) == (ids, [])


def test_half_a_character_is_shown_at_the_end_of_a_block(tokens: Tokens, context: TokenContext) -> None:
    ids = ids_of(tokens, "😀")
    assert len(ids) > 1
    before = context.ids
    context.begin()
    for chunk in context.chunks(Piece(token_ids=ids[:-1]), None):
        assert chunk.text == ""
        context.add(chunk)
    (rest,) = context.end()
    assert (rest.text, rest.n_tokens, rest.token_ids) == ("\ufffd", 0, ())
    context.add(rest)
    assert context.ids == (*before, *ids[:-1])
    assert context.end() == []
    context.chunks(Piece(token_ids=ids[:1]), None)
    context.begin()
    assert context.end() == []  # a new block begins with nothing held back


def test_the_end_of_a_text_has_no_text(folder: Path) -> None:
    tokens = Tokens(folder)
    (seven,) = ids_of(tokens, " 7")
    tokens.eos = frozenset({seven})
    context = TokenContext(Chunk(text="", n_tokens=0, token_ids=()), tokens)
    assert context.chunks(Piece(token_ids=(seven,), logprobs=(-0.1, -0.2)), None) == [
        Chunk(text="", n_tokens=1, token_ids=(seven,), logprobs=None)
    ]


def test_special_tokens_cannot_be_inserted(tokens: Tokens, context: TokenContext) -> None:
    special = tokens.lexicon.tokenizer.get_added_tokens_decoder()
    for token, each in special.items():
        if each.special:
            assert token not in (context.insert(each.content).token_ids or ())


def test_text_without_ids_is_trouble(context: TokenContext) -> None:
    assert context.chunks(Piece(), None) == []
    assert context.chunks(Piece(token_ids=()), None) == []
    with pytest.raises(Trouble, match="without token ids") as caught:
        context.chunks(Piece(text="7"), 1)
    assert not caught.value.transient


@pytest.mark.parametrize("token", [-1, 2**32, 2**63, 10**30])
def test_ids_that_no_tokenizer_has_are_trouble(context: TokenContext, token: int) -> None:
    with pytest.raises(Trouble):
        context.chunks(Piece(token_ids=(token,)), None)


# Keys -----------------------------------------------------------------------------------------------------

KEY = "sk-proj-4f6b1c9e8d7a2b3c4d5e6f70819a2b3c"


def test_a_key_is_not_shown() -> None:
    secret = Secret(KEY)
    shown = [
        repr(secret),
        str(secret),
        format(secret),
        f"{secret}",
        f"{secret!r:>80}",
        f"{secret} {secret!r}",
    ]
    shown.append("%s %r" % ((secret,) * 2))
    shown += [repr([secret]), repr({"key": secret}), str(ValueError(secret))]
    try:
        raise RuntimeError(secret)
    except RuntimeError as error:
        shown += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    assert not any(KEY[:8] in each for each in shown)
    with pytest.raises(TypeError):
        format(secret, ">80")
    for encode in (json.dumps, msgspec.json.encode):
        with pytest.raises(TypeError):
            encode(secret)
    assert secret.header() == {"Authorization": f"Bearer {KEY}"}


def test_a_key_is_not_pickled() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        try:
            data = pickle.dumps(Secret(KEY), protocol)
        except (TypeError, pickle.PicklingError):
            continue
        assert KEY.encode() not in data


def test_a_key_is_hidden() -> None:
    secret = Secret(KEY)
    assert secret.hidden(f"Incorrect API key: {KEY}.") == "Incorrect API key: [key]."
    assert secret.hidden(f"{KEY}{KEY} {KEY[:-1]}") == f"[key][key] {KEY[:-1]}"
    assert secret.hidden("nothing") == "nothing"
    assert secret.erased(f'{{"error":"{KEY}"}}'.encode()) == b'{"error":"[key]"}'


class Body:
    """What is read of a reply."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def at_eof(self) -> bool:
        return not self.data

    async def readany(self) -> bytes:
        data, self.data = self.data, b""
        return data


class Response:
    """The part of an HTTP response that is read."""

    reason, connection = "Unauthorized", None

    def __init__(self, status: int, kind: str, body: bytes) -> None:
        self.status = status
        self.content = Body(body)
        self.headers = CIMultiDict({"Content-Type": kind})


def server_with(key: str) -> Server:
    return Server("http://127.0.0.1/v1", cast("Any", None), Secret(key), Retries(), 1)


@pytest.mark.parametrize("before", [0, LONGEST_MESSAGE - 40, LONGEST_MESSAGE - 20, LONGEST_MESSAGE - 12])
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_server_that_repeats_the_key_shows_no_part_of_it(form: str, before: int) -> None:
    """Nor one whose message is cut in the midst of it."""
    text = "x" * before + " " + KEY

    async def told() -> Trouble:
        body = text.encode() if form == "text" else json.dumps(openai_error(text)).encode()
        return await server_with(KEY).error_of(cast("Any", Response(401, "application/json", body)))

    trouble = anyio.run(told)
    assert trouble.status == 401
    assert KEY[:8] not in str(trouble)


@pytest.mark.parametrize("key", ["EMPTY", "ollama", "x", "null"])
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_a_key_that_is_none_does_not_spoil_the_text(key: str, kind: str) -> None:
    """Servers that want no key are given any word, and a model may write it."""
    text = f"so the word {key} is x, not null"
    event = json.dumps({"choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}]})
    body = event if "json" in kind else f"data: {event}\n\ndata: [DONE]\n\n"

    async def told() -> str:
        reply = Reply(server_with(key))
        await reply.open(cast("Any", Response(200, kind, body.encode())))
        found = ""
        while (pieces := await reply.next()) is not None:
            found += "".join(piece.text for piece in pieces)
        return found

    assert anyio.run(told) == text
