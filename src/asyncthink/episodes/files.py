"""Files that survive a kill, for `store.py`: locked, written whole or not at all, every failure one line."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from asyncthink.errors import RecordError

_BLOCK = 1 << 16


@contextmanager
def told(path: Path) -> Generator[None]:
    """Turn what the system refuses into a `RecordError` of one line."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"{error.filename or path}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise RecordError(f"{path}: a file that is no text: {one_line(error)}") from error


@contextmanager
def closed_on_error(fd: int) -> Generator[None]:
    """Close the file, which also unlocks it, where the block fails."""
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


def lock(file: Path, *, create: bool) -> int:
    """Open a file to append to it as its one writer; the lock goes with the process.

    Raises:
        RecordError: somebody else is writing.
        OSError: it cannot be opened.
    """
    fd = os.open(file, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0), 0o644)
    with closed_on_error(fd):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(
                f"{file} is being written by another process: wait for it, or stop it"
            ) from None
    return fd


def append(fd: int, data: bytes) -> None:
    """Append and sync; what could only be written in part is taken back."""
    size = os.fstat(fd).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(fd, size)
        raise


def draft(file: Path) -> Path:
    """Return where `replace` writes a file first."""
    return file.with_name(f".{file.name}.part")


def replace(file: Path, data: bytes) -> None:
    """Write a file whole or not at all, and sync it with its folder."""
    with draft(file).open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    draft(file).replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def cut_tail(fd: int) -> int:
    """Cut off what follows the last line's end; return how many bytes that was."""
    size = os.fstat(fd).st_size
    torn = size - _line_end(fd, size)
    cut(fd, torn)
    return torn


def last_line(fd: int) -> bytes:
    """Return the last line with its end; nothing from a file without lines."""
    end = _line_end(fd, os.fstat(fd).st_size)
    begin = _line_end(fd, max(0, end - 1))
    return os.pread(fd, end - begin, begin)


def cut(fd: int, n_bytes: int) -> None:
    """Take bytes off the end, and sync."""
    if n_bytes:
        os.ftruncate(fd, os.fstat(fd).st_size - n_bytes)
        os.fsync(fd)


def _line_end(fd: int, before: int) -> int:
    """Return where the last line that ends before some place ends; 0 if there is none."""
    while before:
        begin = max(0, before - _BLOCK)
        end = os.pread(fd, before - begin, begin).rfind(b"\n")
        if end >= 0:
            return begin + end + 1
        before = begin
    return 0


def one_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())
