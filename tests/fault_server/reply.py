"""A reply as a plan: events or a body, and how they go over the wire. Faults change the plan; `send` carries it out."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any, assert_never

from fault_server.config import Json
from fault_server.wire import Connection

_BLOCK = 1 << 18
DONE = "[DONE]"


class Kind(StrEnum):
    """What an event is for."""

    ROLE = "role"
    TEXT = "text"
    FINISH = "finish"
    USAGE = "usage"
    DONE = "done"
    OTHER = "other"


class Framing(StrEnum):
    """How a client finds the end of the body."""

    CHUNKED = "chunked"
    LENGTH = "length"
    UNTIL_CLOSE = "until_close"


class End(StrEnum):
    """How a reply is broken off."""

    END = "end"
    """As if it were complete."""
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


@dataclass(slots=True)
class Event:
    """One server-sent event."""

    kind: Kind
    data: Json | str | bytes
    """JSON, the text behind `data: `, or the whole event as it is written."""
    number: int | None = None
    fill: int = 0
    """Bytes of x behind the data."""


@dataclass(frozen=True, slots=True)
class Break:
    """Where a reply is broken off."""

    by: End
    event: int | None
    """Events that are sent whole; None: not even the head is."""
    inside: int = 0
    """Bytes of the next event that are sent."""


@dataclass(frozen=True, slots=True)
class Slow:
    """From which event on a reply trickles; None: from its first byte."""

    event: int | None
    size: int
    seconds: float


@dataclass(slots=True)
class Reply:
    """All that a client will see."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: Json | str | None = None
    events: list[Event] = field(default_factory=list[Event])
    """Sent if there is no body."""
    version: str = "1.1"
    framing: Framing | None = None
    """None: chunked for events, length for a body."""
    newline: str = "\n"
    comments: bool = False
    event_names: bool = False
    gzip: bool = False
    broken: Break | None = None
    slow: Slow | None = None
    cut: int | None = None
    """Bytes a TCP write."""
    bad_chunk: tuple[int, str] | None = None
    """The event from which on chunks state a wrong size, and that size."""
    delay: float = 0.0
    burst: int = 1


def failure(status: int, message: str, *, kind: str = "invalid_request_error", **more: Any) -> Reply:
    """Return an error as OpenAI writes it."""
    error = {"message": message, "type": kind, "param": None, "code": None} | more
    return Reply(status=status, body={"error": error})


async def send(reply: Reply, connection: Connection) -> None:
    """Carry out a plan."""
    if reply.broken is None or reply.broken.event is not None:
        await _write_all(reply, connection)
    if reply.broken is None:
        connection.closing |= reply.framing == Framing.UNTIL_CLOSE or reply.bad_chunk is not None
        return
    match reply.broken.by:
        case End.RESET:
            connection.reset()
        case End.HANG:
            await asyncio.get_running_loop().create_future()
        case End.CLOSE:
            connection.closing = True
        case End.END:
            # Only chunks can end well too early; a body has stated its length.
            connection.closing |= reply.body is not None
        case _:
            assert_never(reply.broken.by)


async def _write_all(reply: Reply, connection: Connection) -> None:
    slow = reply.slow
    for place, block in enumerate(_batched(_framed(reply), reply.burst)):
        if place and reply.delay:
            await asyncio.sleep(reply.delay)
        # The head is block 0, so event n is block n + 1.
        if slow is not None and place > (-1 if slow.event is None else slow.event):
            await _trickle(connection, block, slow.size, slow.seconds)
        elif reply.cut is not None:
            await _trickle(connection, block, reply.cut, 0)
        else:
            await connection.write(block)
            await asyncio.sleep(0)


async def _trickle(connection: Connection, block: bytes, size: int, seconds: float) -> None:
    for at in range(0, len(block), size):
        await connection.write(block[at : at + size])
        await asyncio.sleep(seconds)


def _batched(blocks: Iterable[bytes], count: int) -> Iterator[bytes]:
    if count <= 1:
        yield from blocks
        return
    batch: list[bytes] = []
    for block in blocks:
        batch.append(block)
        if len(batch) >= count:
            yield b"".join(batch)
            batch.clear()
    if batch:
        yield b"".join(batch)


def _framed(reply: Reply) -> Iterator[bytes]:
    """Yield the head, then one block an event; the last one has the end of the body with it."""
    if reply.body is not None and not reply.gzip and reply.framing is None:
        yield from _framed_body(reply)
        return
    framing = reply.framing or Framing.CHUNKED
    yield _head(reply, {"Transfer-Encoding": "chunked"} if framing == Framing.CHUNKED else {})
    if framing != Framing.CHUNKED:
        yield from _payloads(reply)
        return
    waiting = b""
    for place, payload in enumerate(_payloads(reply)):
        if waiting:
            yield waiting
        waiting = _chunk(reply, place, payload)
    ends = reply.broken is None or reply.broken.by == End.END
    yield waiting + (b"0\r\n\r\n" if ends else b"")


def _framed_body(reply: Reply) -> Iterator[bytes]:
    body = _body_bytes(reply)
    yield _head(reply, {"Content-Length": str(len(body))})
    yield body if reply.broken is None else body[: len(body) // 2]


def _chunk(reply: Reply, place: int, payload: bytes) -> bytes:
    if not payload:
        return b""
    size = f"{len(payload):x}"
    if reply.bad_chunk is not None and place >= reply.bad_chunk[0]:
        size = reply.bad_chunk[1]
    return size.encode() + b"\r\n" + payload + b"\r\n"


def _head(reply: Reply, framing: dict[str, str]) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Overloaded"
    encoding = {"Content-Encoding": "gzip"} if reply.gzip else {}
    headers = reply.headers | encoding | framing
    lines = [f"HTTP/{reply.version} {reply.status} {phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _payloads(reply: Reply) -> Iterator[bytes]:
    """Yield the body in pieces, one an event unless it is a huge one."""
    plain = [_body_bytes(reply)] if reply.body is not None else _event_payloads(reply)
    if not reply.gzip:
        yield from plain
        return
    packer = zlib.compressobj(wbits=31)
    for payload in plain:
        yield packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


def _event_payloads(reply: Reply) -> Iterator[bytes]:
    broken = reply.broken
    last = len(reply.events) if broken is None or broken.event is None else broken.event
    for event in reply.events[:last]:
        yield from _event_bytes(reply, event)
    if broken is not None and broken.inside and last < len(reply.events):
        yield next(_event_bytes(reply, reply.events[last]))[: broken.inside]


def _event_bytes(reply: Reply, event: Event) -> Iterator[bytes]:
    if isinstance(event.data, bytes):
        yield event.data
        return
    text = event.data if isinstance(event.data, str) else dump(event.data)
    newline = reply.newline
    lines = [": comment"] if reply.comments else []
    lines += ["event: message"] if reply.event_names else []
    lines += [] if event.number is None else [f"id: {event.number}"]
    lines.append(f"data: {text}")
    start = newline.join(lines).encode()
    end = (newline * 2).encode()
    if not event.fill:
        yield start + end
        return
    yield start
    block = b"x" * _BLOCK
    for at in range(0, event.fill, _BLOCK):
        yield block[: event.fill - at]
    yield end


def _body_bytes(reply: Reply) -> bytes:
    return (reply.body if isinstance(reply.body, str) else dump(reply.body)).encode()


def dump(value: Any) -> str:
    """Return JSON with its characters as they are, so that UTF-8 goes over the wire."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
