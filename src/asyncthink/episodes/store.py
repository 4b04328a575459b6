"""Run directories: what a run leaves behind, and what it needs to go on after a kill.

    config.toml      the resolved configuration; a run is resumed with the same one or not at all
    manifest.json    versions, time of creation, what the caller adds; written last: it makes the folder a run
    episodes.jsonl   one episode a line, on disk before `append` returns; locked by its one writer

Each line begins with a checksum of the rest. A line without its end was cut off by a kill and was never reported,
and a last line that cannot be read is what a bad disk left of one: readers drop it and say so, resuming truncates
it. Any other broken line is refused. Keys and passwords are refused before anything is written.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any, Self
from zlib import crc32

import msgspec

from asyncthink.episodes import configuration, files
from asyncthink.episodes.record import Episode, decode, encode
from asyncthink.errors import RecordError

MANIFEST, EPISODES = "manifest.json", "episodes.jsonl"
_UNREADABLE = (RecordError, UnicodeDecodeError, RecursionError)


class RunDirectory:
    """One run on disk: `open` it to read; `create` or `resume` it, best with `with`, to be its one writer."""

    def __init__(self, path: Path, config: str, manifest: Mapping[str, Any], fd: int | None = None) -> None:
        self.path = path
        self.config = config
        """Text of config.toml."""
        self.manifest = dict(manifest)
        self.warnings: list[str] = []
        """What was left out or mended, one line each."""
        self._fd = fd
        self._turn = Lock()

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: str,
        manifest: Mapping[str, Any],
        beside: Mapping[str, bytes] | None = None,
    ) -> Self:
        """Begin a run, in a folder that is made where it is missing. A run without an episode is replaced.

        Args:
            path: the run's folder.
            config: the resolved configuration, TOML.
            manifest: seeds, data digests and the like, JSON values; versions and time are added.
            beside: what else the run needs in order to go on, name -> content.

        Raises:
            RecordError: the folder holds a run or cannot be written, the configuration is no TOML, a value is
                no JSON, or either holds a secret.
        """
        path, whole = Path(path), {**versions(), **manifest}
        configuration.refuse_secrets(configuration.toml(config, "the configuration"))
        configuration.refuse_secrets(whole)
        written = _json(whole)
        with files.told(path):
            _refuse_others(path, config, beside or {})
            path.mkdir(parents=True, exist_ok=True)
            fd = files.lock(path / "episodes.jsonl", create=True)
            with files.closed_on_error(fd):
                if os.fstat(fd).st_size:
                    raise RecordError(f"{path} already holds a run: resume it, or name another folder")
                (path / "manifest.json").unlink(missing_ok=True)
                files.replace(path / "config.toml", config.encode())
                for name, content in (beside or {}).items():
                    files.replace(path / name, content)
                files.replace(path / "manifest.json", written)
        return cls(path, config, whole, fd)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run to read it, even while it is being written.

        Raises:
            RecordError: there is no run, or it cannot be read.
        """
        path = Path(path)
        with files.told(path):
            file = path / "manifest.json"
            if not file.exists():
                raise RecordError(f"{path} holds no run: there is no manifest.json")
            try:
                manifest = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise RecordError(f"{file} is broken: {files.one_line(error)}") from error
            return cls(path, (path / "config.toml").read_bytes().decode(), manifest)

    @classmethod
    def resume(cls, path: str | Path, config: str | None = None, free: Collection[str] = ()) -> Self:
        """Go on with a run; a torn last line is truncated and told in `warnings`.

        Args:
            path: the run's folder.
            config: the configuration to go on with, which must equal the run's; None: the run's.
            free: keys that may differ all the same, since no episode depends on them.

        Raises:
            RecordError: there is no run, it has another writer, or its configuration is another one.
        """
        run = cls.open(path)
        if config is not None:
            configuration.refuse_changes(run.path, run.config, config, free)
        with files.told(run.path):
            fd = files.lock(run.path / "episodes.jsonl", create=False)
            with files.closed_on_error(fd):
                run._warn("a torn", files.cut_tail(fd))
                run._warn("an unreadable", _cut_unreadable(fd))
        run._fd = fd
        return run

    def append(self, episode: Episode) -> None:
        """Put an episode on disk; it is there when this returns.

        Raises:
            RecordError: this is not the writer, the disk is full, or the episode could not be read back.
        """
        try:
            line = sealed(episode)
            _opened(line)
        except (UnicodeEncodeError, TypeError, RecordError) as error:
            raise RecordError(f"episode {episode.id!r} cannot be stored: {files.one_line(error)}") from error
        with self._turn, files.told(self.path):
            if self._fd is None:
                raise RecordError(f"{self.path} is not open for writing: create or resume the run")
            files.append(self._fd, line + b"\n")

    def episodes(self) -> Iterator[Episode]:
        """Read the episodes in the order in which they were appended; a torn last line is told in `warnings`.

        Raises:
            RecordError: a line is broken; the message names it.
        """
        return (episode for _, episode in self.episodes_from(0))

    def episodes_from(self, offset: int) -> Iterator[tuple[int, Episode]]:
        """Read the episodes behind an offset into the file, 0 or one that came with an episode: where the next one begins.

        Raises:
            RecordError: a line is broken; the message names it.
        """
        file = self.path / "episodes.jsonl"
        with files.told(file), file.open("rb") as lines:
            lines.seek(offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    self._warn("a torn", len(line))
                    return
                try:
                    episode = _opened(line)
                except _UNREADABLE as error:
                    rest = lines.read()
                    if not _ends_unreadable(rest):
                        number = _line_number(file, offset)
                        raise RecordError(
                            f"{file} line {number}: {files.one_line(error)}; without that line the rest can be read"
                        ) from error
                    self._warn("an unreadable", len(line) + len(rest))
                    return
                offset += len(line)
                yield offset, episode

    def close(self) -> None:
        """Let the next writer in; may be called twice."""
        with self._turn:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _warn(self, how: str, n_bytes: int) -> None:
        message = f"{self.path / 'episodes.jsonl'}: {how} last line ({n_bytes} bytes) was dropped"
        if n_bytes and message not in self.warnings:
            self.warnings.append(message)


def _refuse_others(path: Path, config: str, beside: Mapping[str, bytes]) -> None:
    """Raise where a folder holds what the beginning of this very run did not write."""
    if not path.exists():
        return
    if not path.is_dir():
        raise RecordError(f"{path} is a file: name a folder")
    ours = {"config.toml": config.encode(), **beside}
    drafts = {files.draft(path / name).name for name in (*ours, "manifest.json")}
    begun = (path / "manifest.json").exists()
    if begun and not is_empty(path):
        raise RecordError(f"{path} already holds a run: resume it, or name another folder")
    for file in sorted(path.iterdir()):
        if file.name in drafts or (file.name == "episodes.jsonl" and not file.stat().st_size):
            continue
        if begun and file.name in (*ours, "manifest.json"):
            continue
        if not (file.is_file() and file.read_bytes() == ours.get(file.name)):
            raise RecordError(f"{file} belongs to something else: name another folder")


def is_empty(path: Path) -> bool:
    """Whether nothing was earned yet in a run's folder: another run may take its place."""
    file = path / "episodes.jsonl"
    return not file.exists() or not file.stat().st_size


def _line_number(file: Path, offset: int) -> int:
    """Return the number of the line that begins there, from 1."""
    with file.open("rb") as lines:
        return lines.read(offset).count(b"\n") + 1


_SEAL = b'{"crc":"%08x",'


def sealed(episode: Episode) -> bytes:
    """Return an episode's line, with a checksum of it in front as one more value of the object."""
    line = encode(episode)
    return _SEAL % crc32(line) + line[1:]


def _opened(line: bytes) -> Episode:
    """Read a line; lines of earlier versions have no checksum."""
    if not line.startswith(b'{"crc":'):
        return decode(line)
    whole = b"{" + line[len(_SEAL % 0) :].rstrip(b"\n")
    if line[: len(_SEAL % 0)] != _SEAL % crc32(whole):
        raise RecordError("it was cut short or changed after it was written: its checksum is another one")
    return decode(whole)


def read_episode(file: Path) -> Episode:
    """Return the episode that a file holds: a run's line, or a record as a page or an answer of the server has it.

    Raises:
        RecordError: it cannot be read, or is not one episode; the message names the file.
    """
    with files.told(file):
        content = file.read_bytes()
    try:
        found = msgspec.json.decode(content, type=dict[str, Any])
        # A line that was laid out anew has a checksum of other bytes.
        if found.pop("crc", None) is not None and not content.startswith(b'{"crc":'):
            content = msgspec.json.encode(found)
        return _opened(content)
    except (*_UNREADABLE, msgspec.DecodeError) as error:
        told = files.one_line(error).removeprefix("not an episode: ")
        raise RecordError(f"{file} is not one episode: {told}") from error


def _readable(line: bytes) -> bool:
    try:
        _opened(line)
    except _UNREADABLE:
        return False
    return True


def _ends_unreadable(rest: bytes) -> bool:
    """Whether what follows an unreadable line belongs to it: one changed byte can make two lines of one."""
    return not rest or (rest.count(b"\n") <= 1 and not _readable(rest))


def _cut_unreadable(fd: int) -> int:
    """Cut off a last line that cannot be read, in one piece or two; return how many bytes that was."""
    total = 0
    for _ in range(2):
        last = files.last_line(fd)
        if not last or _readable(last):
            break
        files.cut(fd, len(last))
        total += len(last)
    return total


def versions() -> dict[str, Any]:
    """Return what a manifest begins with: what wrote it, and when."""
    try:
        ours = version("asyncthink")
    except PackageNotFoundError:
        ours = "not installed"
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"asyncthink": ours, "python": platform.python_version(), "created": created}


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.format(msgspec.json.encode(value)) + b"\n"
    except (TypeError, ValueError) as error:
        raise RecordError(f"the manifest is no JSON: {files.one_line(error)}") from error
