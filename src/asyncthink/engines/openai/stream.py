"""Bytes of a reply -> its events, whole, in order and each once.

Server-sent events as the HTML standard has them: lines end in LF, CRLF or CR, comments keep the line alive, an
empty line ends an event. Where a server numbers its events (`id:`), repeated ones are dropped and
those that overtook others wait for them.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from asyncthink.engines.openai.retry import Trouble

LONGEST_EVENT = 4 * 1024 * 1024
"""Bytes; longer ones come from a server that has lost its way."""
LARGEST_REPLY = 64 * 1024 * 1024
"""Bytes of one reply, unpacked."""
WINDOW = 16
"""Events that may wait for one that they overtook."""
_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Reads events from any chunks of bytes."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._id: bytes | None = None
        self._order = _Order()
        self.lines = 0
        """Lines seen, comments included: while they come the server is alive."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that are now complete.

        Raises:
            Trouble: an event has no end, or one that others wait for does not come.
        """
        lines = self._lines(data)
        if len(self._rest) > LONGEST_EVENT:
            raise _too_long()
        if lines and not self.lines and lines[0].startswith(_MARK):
            lines[0] = lines[0][len(_MARK) :]
        self.lines += len(lines)
        found: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._add(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                found += self._complete()
            elif line.startswith(b"id:"):
                self._id = line[3:].strip()
            elif line == b"data":
                self._add(b"")
        return found

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines that are now whole; CR at the end may be half of CRLF, so it waits."""
        if not self._rest and data.endswith(b"\n") and b"\r" not in data:
            return data[:-1].split(b"\n")  # as nearly always
        if b"\n" not in data and b"\r" not in data and not self._rest.endswith(b"\r"):
            self._rest += data
            return []
        buffer = bytes(self._rest + data)
        if b"\r" in buffer:
            held = buffer.endswith(b"\r")
            lines = _LINE_END.split(buffer[:-1] if held else buffer)
            self._rest = bytearray(lines.pop() + (b"\r" if held else b""))
        else:
            lines = buffer.split(b"\n")
            self._rest = bytearray(lines.pop())
        return lines

    def _add(self, data: bytes) -> None:
        self._data.append(data)
        self._size += len(data)
        if self._size > LONGEST_EVENT:
            raise _too_long()

    def close(self) -> list[bytes]:
        """End the stream: return an event whose line was whole though no empty line followed.

        Raises:
            Trouble: an event that others wait for did not come.
        """
        found = self.feed(b"\n") if self._rest.endswith(b"\r") else []
        if not self._rest:
            found += self._complete()
        return found + self._order.close()

    def _complete(self) -> list[bytes]:
        data, number = self._data, self._id
        self._data, self._size, self._id = [], 0, None
        if not data:
            return []
        whole = data[0] if len(data) == 1 else b"\n".join(data)
        return self._order.pass_by(whole) if number is None else self._order.take(number, whole)


def _too_long() -> Trouble:
    return Trouble(f"an event of over {LONGEST_EVENT} bytes", transient=True)


class _Order:
    """Puts numbered events in order and drops repeated ones."""

    def __init__(self) -> None:
        self._next: int | None = None
        """Number of the event that is to come; None before the first was let through."""
        self._held: dict[int, bytes] = {}
        self._seen: dict[int, int] = {}
        """Number -> hash of what came under it, of the last few."""
        self._numbered = True
        self._counts = False
        """Two events followed each other by one: it is a count, and a gap in it a loss."""

    def take(self, label: bytes, data: bytes) -> list[bytes]:
        if not (self._numbered and label.isdigit() and len(label) < 16):
            return [data]
        number = int(label)
        known = self._seen.get(number)
        if known is not None and known != hash(data):
            return self._give_up(data)
        if known is not None:
            return []
        if self._next is not None and number < self._next:
            if not self._counts:
                return self._give_up(data)
            if number < self._next - WINDOW:
                return []  # repeated after it was forgotten
            raise Trouble(f"event {number} of the reply came too late", transient=True)
        self._seen[number] = hash(data)
        self._seen.pop(number - 4 * WINDOW, None)
        self._held[number] = data
        if self._next is None and number > 0 and len(self._held) < WINDOW // 4:
            return []  # numbers may begin anywhere: see whether a smaller one was overtaken
        found = self._released()
        if len(self._held) <= WINDOW:
            return found
        if self._counts:
            raise Trouble(f"event {self._next} of the reply is missing", transient=True)
        return found + self._give_up()

    def pass_by(self, data: bytes) -> list[bytes]:
        """Let an event without a number through, behind those that wait at the start."""
        held = self._released() if self._held and self._next is None else []
        return [*held, data]

    def _give_up(self, *data: bytes) -> list[bytes]:
        """Go on without numbers: they are those of a clock, or the same for different events."""
        self._numbered = False
        held = [self._held[number] for number in sorted(self._held)]
        self._held = {}
        return [*held, *data]

    def _released(self) -> list[bytes]:
        if self._next is None:
            self._next = min(self._held)
        found: list[bytes] = []
        while self._next in self._held:
            found.append(self._held.pop(self._next))
            self._next += 1
        self._counts = self._counts or len(found) > 1 or (bool(found) and self._next - 2 in self._seen)
        return found

    def close(self) -> list[bytes]:
        """Return what waited at the start of a short stream."""
        found = self._released() if self._held and self._next is None else []
        if self._held and self._counts:
            raise Trouble("an event of the reply is missing", transient=True)
        return found + self._give_up()


class Unpacker:
    """Undoes a reply's compression, and refuses one that grows without end."""

    def __init__(self, encoding: str) -> None:
        self._packed = encoding in ("gzip", "x-gzip", "deflate")
        self._inflate = _inflater()
        if not self._packed and encoding not in ("", "identity"):
            raise Trouble(
                f"the reply is compressed in a way that was not asked for: {encoding}", transient=False
            )
        self._bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Return the bytes behind these.

        Raises:
            Trouble: they are broken, or too many.
        """
        if self._packed:
            try:
                data = self._unpacked(data)
            except zlib.error as error:
                raise Trouble(f"the reply's compression is broken: {error}", transient=True) from error
        self._bytes += len(data)
        if self._bytes > LARGEST_REPLY:
            raise Trouble(f"a reply of over {LARGEST_REPLY} bytes", transient=False)
        return data

    def _unpacked(self, data: bytes) -> bytes:
        """Undo the compression of one member after another, but of no more than the reply may have."""
        found, room = b"", LARGEST_REPLY - self._bytes + 1
        while data and len(found) < room:
            if self._inflate.eof:
                self._inflate = _inflater()
            found += self._inflate.decompress(data, room - len(found))
            data = self._inflate.unused_data
        return found


def _inflater() -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)
