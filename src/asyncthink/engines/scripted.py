"""A deterministic engine for tests, docs and simulation: it says what a file tells it to.

    {"organizer": "2+2 <FORK-1>7*6</FORK-1> so <JOIN-1> <ANSWER>42</ANSWER>",
     "workers": {"7*6": "easy <RETURN>42</RETURN>", "*": "<RETURN>unknown</RETURN>"}}

`organizer` may be a list, one text for each trace of parallel thinking. The organizer's text goes on
behind each join. A token is one match of `<[^<>]*>|[^\\s<]+` with the white space and lone `<` before it.
All agents of an episode move in lockstep, one token a tick, so that a run is exact on the virtual clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import anyio
import msgspec

from asyncthink.engines.base import Capabilities, Chunk, Message, Profile, Sampling
from asyncthink.engines.lockstep import Lockstep
from asyncthink.errors import UsageError

_TOKEN = re.compile(r"<[^<>]*>|[^\s<]+")
ANY = "*"
FORM = 'expected {"organizer": text, "workers": {"sub-query": text}}'


@lru_cache(maxsize=4096)
def split_tokens(text: str) -> tuple[str, ...]:
    """Cut a text into tokens; their concatenation is the text."""
    tokens: list[str] = []
    start = 0
    for match in _TOKEN.finditer(text):
        tokens.append(text[start : match.end()])
        start = match.end()
    if start < len(text):
        tokens[-1:] = ["".join(tokens[-1:]) + text[start:]]
    return tuple(tokens)


@dataclass(slots=True)
class Unit:
    """The agents of one episode."""

    lockstep: Lockstep = field(default_factory=Lockstep)
    members: int = 0
    began: float | None = None
    """When the first tick began, for engines with a delay."""


class ScriptedEngine:
    """Plays a script.

    Args:
        script: the object above, or a JSON file that holds it.
        delay: seconds a token takes, kept by absolute deadlines; 0: no time at all.

    Raises:
        UsageError: the script cannot be read or is not of that form.
    """

    capabilities = Capabilities(token_ids=False, streaming=True, continues=True, lockstep=True)
    profile = Profile(trained=True)

    def __init__(self, script: dict[str, Any] | Path | str, *, delay: float = 0.0) -> None:
        source = "the script" if isinstance(script, dict) else str(script)
        raw = script if isinstance(script, dict) else _read(Path(script))
        self.name = f"scripted:{source}"
        self.delay = delay
        try:
            texts = msgspec.convert(raw.get("organizer"), str | list[str])
            self.organizer = [texts] if isinstance(texts, str) else texts
            self.workers = msgspec.convert(raw.get("workers", {}), dict[str, str])
        except msgspec.ValidationError as error:
            raise UsageError(f"{source}: {FORM}: {error}") from error
        if not self.organizer:
            raise UsageError(f"{source}: {FORM}: the organizer has no text")
        if unknown := sorted(set(raw) - {"organizer", "workers"}):
            raise UsageError(f"{source}: unknown key {unknown[0]!r} (known: organizer, workers)")
        self.units: dict[str, Unit] = {}

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> ScriptedSession:
        """Begin to play an agent's text."""
        query, tokens, unit = self.playing(messages, role=role, episode=episode, path=path)
        return ScriptedSession(self, episode, unit, query, tokens)

    def playing(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str
    ) -> tuple[str, tuple[str, ...], Unit]:
        """Return an agent's query, the tokens it plays, and what it shares with its episode."""
        query = messages[-1].content
        if role == "organizer":
            trace = int(path.rpartition("/")[2])
            text = self.organizer[min(trace, len(self.organizer) - 1)]
        else:
            text = self.workers.get(query, self.workers.get(query.strip(), self.workers.get(ANY, "")))
        return query, split_tokens(text), self.units.setdefault(episode, Unit())

    def release(self, episode: str, unit: Unit) -> None:
        """Forget an episode whose last session was closed."""
        unit.members -= 1
        if not unit.members:
            self.units.pop(episode, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.units.clear()


class ScriptedSession:
    """One agent of a script."""

    def __init__(
        self, engine: ScriptedEngine, episode: str, unit: Unit, query: str, tokens: tuple[str, ...]
    ) -> None:
        self.prompt = Chunk(text=query, n_tokens=len(split_tokens(query)))
        self._engine, self._episode, self.unit = engine, episode, unit
        self._tokens = tokens
        self._next = 0
        self._closed = False
        unit.members += 1
        self.arrive = unit.lockstep.arrive
        unit.lockstep.wake(self)

    def decode(self, stops: Sequence[str], max_tokens: int, sampling: Sampling) -> Playing:
        """Play on, one token a chunk; see `Session.decode`. Sampling changes nothing."""
        del sampling
        return Playing(self, stops, max_tokens)

    async def next(self, most: int) -> tuple[str, int] | None:
        """Return the next token in its tick, or None behind the last; as text, and how many tokens it is."""
        del most
        if self._next == len(self._tokens):
            return None
        tick = await self.arrive(self)
        if self._engine.delay:
            await self._until(tick)
        self._next += 1
        return self._tokens[self._next - 1], 1

    async def _until(self, tick: int) -> None:
        unit = self.unit
        if unit.began is None:
            unit.began = anyio.current_time() - (tick - 1) * self._engine.delay
        await anyio.sleep_until(unit.began + tick * self._engine.delay)

    def insert(self, text: str) -> Chunk:
        """Take note of inserted text: nothing follows from it."""
        return Chunk(text=text, n_tokens=len(split_tokens(text)))

    def trim(self, characters: int) -> None:
        """Do nothing: a script plays on whatever became of its text."""

    @property
    def usage(self) -> None:
        """Nobody counts."""
        return

    def rest(self) -> None:
        """See `Session`."""
        self.unit.lockstep.rest(self)

    def wake(self) -> None:
        """See `Session`."""
        self.unit.lockstep.wake(self)

    def close(self) -> None:
        """See `Session`."""
        if not self._closed:
            self._closed = True
            self.unit.lockstep.rest(self)
            self._engine.release(self._episode, self.unit)


class Playing:
    """One decode block: an async context manager and the iterator over its chunks.

    A class and not a generator: thousands of them stand still at once, and generators cost memory.
    """

    __slots__ = ("_left", "_session", "_stops", "_written")

    def __init__(self, session: ScriptedSession, stops: Sequence[str], max_tokens: int) -> None:
        self._session, self._stops, self._left = session, stops, max_tokens
        self._written = ""

    async def __aenter__(self) -> Playing:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._left = 0

    def __aiter__(self) -> Playing:
        return self

    async def __anext__(self) -> Chunk:
        played = await self._session.next(self._left) if self._left > 0 else None
        if played is None:
            raise StopAsyncIteration
        text, count = played
        self._left -= count
        self._written = self._written[-64:] + text
        if any(stop in self._written for stop in self._stops):
            self._left = 0
        return Chunk(text=text, n_tokens=count)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: {FORM}")
    return raw  # pyright: ignore[reportUnknownVariableType]
