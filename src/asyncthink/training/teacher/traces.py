"""Cold-start traces by a teacher, a strong model, or by a program: how they are made, counted and kept.

A teacher that is left alone writes two shapes only (arXiv 2510.26658), so the order of forks and joins is drawn at
random and stands in its prompt (`prompts.py`). Its replies go through a filter (`reply.py`). Whether
an answer is right is recorded, and decides nothing.

    traces.jsonl          the examples, one a line, in the order of the questions
    traces.log.jsonl      the settings, then what came of each question, on disk before it counts; all else follows from it
    traces.report.json    statistics, and the replies that were dropped
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import msgspec
from anyio import to_thread

from asyncthink.engines.base import Engine, Sampling
from asyncthink.episodes import files
from asyncthink.errors import ContextFullError, EngineError, RecordError, UsageError
from asyncthink.protocol.actions import Answer
from asyncthink.protocol.parser import parse_organizer
from asyncthink.runtime.fanout import each
from asyncthink.tasks import DIVIDERS
from asyncthink.training.structures import Moves, StructureCounts
from asyncthink.training.synthesis import Example, organizer_example, worker_example
from asyncthink.training.teacher.prompts import messages
from asyncthink.training.teacher.question import Settings, plan_of, random_of, train_problem
from asyncthink.training.teacher.reply import Drop, Dropped, Kept, judge, moves_of

LOG, REPORT = ".log.jsonl", ".report.json"
"""What the names of the other files end in."""
FORM = 1
"""Version of the log."""
HEAD = b'{"synth":'
"""What a log begins with."""
MAX_FAILURES = 20
"""Questions that an engine may fail before a synthesis stops by itself."""
SHOWN = 1000
"""Characters of a dropped reply in the report; the log has all of it."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What came of one question."""

    index: int
    """Of the problem, in the train split under the settings' seed."""
    query: str
    plan: Moves | None = None
    """The moves that were asked for; None: nobody was asked for any."""
    examples: tuple[Example, ...] = ()
    """None of a reply that was dropped."""
    moves: Moves = ()
    """The moves that were made."""
    score: float | None = None
    """What the task's check says of the answer, in [0, 1]; None without one."""
    dropped: Dropped | None = None
    reply: str | None = None
    """What the teacher wrote, where it was dropped."""
    tokens: int = 0
    """Decoded by the teacher, reasoning that is kept apart among them."""


class Program:
    """Makes traces by a program, for the tasks that it can divide.

    Raises:
        UsageError: the task is none of them.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.task not in DIVIDERS:
            known = ", ".join(DIVIDERS)
            raise UsageError(f"a program can divide only {known}: for {settings.task} name a model")
        self.settings = settings

    async def make(self, index: int) -> Entry:
        """Make the traces of one question: the organizer's, and a worker's for each of its forks."""
        return await to_thread.run_sync(self._make, index)

    def _make(self, index: int) -> Entry:
        settings = self.settings
        asked, random = train_problem(settings, index), random_of(settings, index)
        own = organizer_example(asked, settings.capacity, random)
        moves = moves_of(own)
        theirs = (worker_example(asked, random) for move in moves if move[0] == "F")
        answer = parse_organizer(own.pieces[-1].text)[-1].action
        assert isinstance(answer, Answer)
        score = asked.task.check(asked.problem, answer.text).value
        return Entry(index=index, query=own.query, examples=(own, *theirs), moves=moves, score=score)


class Teacher:
    """Asks a model for traces; the engine must be open.

    Raises:
        UsageError: the model has a template of its own that leaves no room for instructions.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        own_template = engine.profile.trained and not engine.name.startswith("scripted:")
        if own_template or engine.profile.tasks is not None:
            cannot = f"{settings.model} was trained on the protocol and follows no instructions"
            raise UsageError(f"{cannot}: name a teacher, as in --model openai:NAME")
        self.settings, self.engine = settings, engine

    async def make(self, index: int) -> Entry:
        """Ask for the traces of one question, and judge them.

        Raises:
            EngineError: the engine failed.
        """
        settings = self.settings
        asked = await to_thread.run_sync(train_problem, settings, index)
        query = asked.task.prompt(asked.problem)
        plan = plan_of(settings, index)
        reply, tokens, whole = await self._ask(index, query, plan)
        entry = Entry(index=index, query=query, plan=plan, tokens=tokens)
        found = judge(reply, query=query, capacity=settings.capacity)
        if isinstance(found, Kept):
            score = asked.task.check(asked.problem, found.answer).value
            return replace(entry, examples=found.examples, moves=moves_of(found.examples[0]), score=score)
        if not whole:
            told = f"after {tokens} tokens; {found.reason}: {found.detail}"
            found = Dropped(reason=Drop.CUT_OFF, detail=told)
        return replace(entry, dropped=found, reply=reply.encode(errors="replace").decode())

    async def _ask(self, index: int, query: str, plan: Moves) -> tuple[str, int, bool]:
        """Return the reply, its tokens, and whether it ended by itself."""
        settings, name = self.settings, str(index)
        told, capacity = messages(query, capacity=settings.capacity, plan=plan), settings.capacity
        session = self.engine.open(told, role="organizer", episode=name, path=name, capacity=capacity)
        sampling = Sampling(temperature=settings.temperature, top_p=settings.top_p, seed=settings.seed)
        parts: list[str] = []
        tokens = 0
        try:
            async with session.decode((), settings.max_tokens, sampling) as chunks:
                async for chunk in chunks:
                    tokens += chunk.n_tokens
                    if not chunk.hidden:
                        parts.append(chunk.text)
        except ContextFullError:
            return "".join(parts), tokens, False
        finally:
            session.close()
        return "".join(parts), tokens, tokens < settings.max_tokens


class Source(Protocol):
    """What makes traces."""

    async def make(self, index: int) -> Entry:
        """Make those of one question."""
        ...


@dataclass(kw_only=True, slots=True)
class Statistics:
    """What came of the questions so far."""

    questions: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Reason -> replies."""
    structures: StructureCounts = field(default_factory=StructureCounts)
    right: int = 0
    """Kept answers with the full score."""
    score: float = 0.0
    """Sum over the kept answers."""
    workers: int = 0
    """Workers' examples."""
    tokens: int = 0

    def add(self, entry: Entry) -> None:
        """Count one in."""
        self.questions += 1
        self.tokens += entry.tokens
        self.structures.add(entry.plan, None if entry.dropped else entry.moves)
        if entry.dropped is not None:
            self.dropped[entry.dropped.reason] += 1
            return
        self.kept += 1
        self.workers += len(entry.examples) - 1
        self.score += entry.score or 0.0
        self.right += entry.score == 1

    def told(self) -> dict[str, Any]:
        """Return them as plain values, the most frequent first."""
        return {
            "questions": self.questions,
            "kept": self.kept,
            "share_kept": self.kept / self.questions if self.questions else None,
            "dropped": dict(self.dropped.most_common()),
            "structures": self.structures.told(),
            "right": self.right,
            "mean_score": self.score / self.kept if self.kept else None,
            "examples": {"organizer": self.kept, "worker": self.workers},
            "tokens": self.tokens,
        }


class Traces:
    """The files of one synthesis, open for writing; locked by its one writer. Use it in a `with` block.

    Args:
        path: of the examples, such as traces.jsonl.
        settings: of a synthesis that is begun, or went on with: then they must be the same.

    Raises:
        RecordError: the files cannot be written, are being written, or belong to something else.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.log, self.report = path.with_suffix(LOG), path.with_suffix(REPORT)
        self.statistics = Statistics()
        self._places: dict[int, int] = {}
        with files.told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._log = files.lock(self.log, create=True)
            with files.closed_on_error(self._log):
                self._begin()
                self._write_examples()
                self._out = os.open(path, os.O_WRONLY | os.O_APPEND)

    @property
    def done(self) -> set[int]:
        """Indices of the questions that are done."""
        return set(self._places)

    def add(self, entry: Entry) -> None:
        """Keep what came of a question; it is on disk when this returns.

        Raises:
            RecordError: it cannot be written.
        """
        with files.told(self.path):
            place = os.fstat(self._log).st_size
            files.append(self._log, msgspec.json.encode(entry) + b"\n")
            self._count(entry, place)
            files.append(self._out, _lines(entry))

    def finish(self) -> None:
        """Put the examples into the order of the questions, and write the report; of nothing there is none."""
        if not self._places:
            return
        with files.told(self.path):
            self._write_examples()
            self.statistics = Statistics()  # again in this order, so that a kill shows nowhere
            dropped: list[dict[str, Any]] = []
            for entry in self._entries():
                self.statistics.add(entry)
                if entry.dropped is not None:
                    dropped.append(_refusal(entry, entry.dropped))
            told = {"settings": self.settings, "statistics": self.statistics.told(), "dropped": dropped}
            files.replace(self.report, msgspec.json.format(msgspec.json.encode(told)) + b"\n")

    def close(self) -> None:
        """Let the next writer in."""
        for fd in (self._out, self._log):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Read the log; one without an entry begins anew."""
        if not HEAD.startswith(os.pread(self._log, len(HEAD), 0)):
            raise self._foreign(self.log)
        files.cut_tail(self._log)
        with self.log.open("rb") as lines:
            first = lines.readline()
            header = self._read(first, _Header, 1) if first else None
            place = len(first)
            for number, line in enumerate(lines, 2):
                self._count(self._read(line, Entry, number), place)
                place += len(line)
        if header and self._places:
            self._compare(header)
            return
        for file in (self.path, self.report):
            if file.exists() and file.stat().st_size:
                raise self._foreign(file)
        files.cut(self._log, place)
        header = _Header(synth=FORM, settings=asdict(self.settings))
        files.append(self._log, msgspec.json.encode(header) + b"\n")

    def _foreign(self, file: Path) -> RecordError:
        return RecordError(f"{file} belongs to something else: name another --output")

    def _read(self, line: bytes, kind: type[T], number: int) -> T:
        try:
            return msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            told = files.one_line(error)
            raise RecordError(f"{self.log}, line {number}: {told}; name another --output") from error

    def _compare(self, header: _Header) -> None:
        if header.synth != FORM:
            raise RecordError(f"{self.log} is of version {header.synth}, not {FORM}: name another --output")
        known, mine = header.settings, asdict(self.settings)
        changed = [f"{name} = {known.get(name)!r}" for name in mine if known.get(name) != mine[name]]
        if changed:
            told = ", ".join(changed)
            raise RecordError(f"{self.path} was made with {told}: go on so, or name another --output")

    def _count(self, entry: Entry, place: int) -> None:
        self._places[entry.index] = place
        self.statistics.add(entry)

    def _entries(self) -> Iterator[Entry]:
        """Read what came of the questions, in their order."""
        with self.log.open("rb") as log:
            for index in sorted(self._places):
                log.seek(self._places[index])
                yield self._read(log.readline(), Entry, index)

    def _write_examples(self) -> None:
        files.replace(self.path, b"".join(map(_lines, self._entries())))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """First line of a log."""

    synth: int
    settings: dict[str, Any]


def _lines(entry: Entry) -> bytes:
    return b"".join(msgspec.json.encode(example) + b"\n" for example in entry.examples)


def _refusal(entry: Entry, dropped: Dropped) -> dict[str, Any]:
    """Return what the report says of a dropped reply."""
    return {
        "index": entry.index,
        "query": entry.query,
        "plan": " ".join(entry.plan or ()),
        "reason": dropped.reason,
        "detail": dropped.detail,
        "reply": (entry.reply or "")[:SHOWN],
    }


async def synthesize(
    source: Source, traces: Traces, *, limit: int, at_once: int, tell: Callable[[], None]
) -> list[str]:
    """Make the traces of the first `limit` questions that are not done yet.

    Args:
        source: who makes them.
        traces: where they are kept.
        limit: how many questions in all.
        at_once: how many at a time.
        tell: called whenever a question is done.

    Returns:
        Causes of the questions that an engine failed; they are left for the next time.

    Raises:
        EngineError: an engine failed too often.
        RecordError: a trace cannot be kept; the others are.
    """
    failures: list[str] = []
    done = traces.done

    async def make(index: int) -> None:
        try:
            entry = await source.make(index)
        except EngineError as error:
            failures.append(str(error))
            if len(failures) >= MAX_FAILURES:
                raise
            return
        traces.add(entry)
        tell()

    await each((index for index in range(limit) if index not in done), make, at_once)
    return failures
