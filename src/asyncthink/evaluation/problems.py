"""Which problems are asked: drawn by a task, or read from somebody's file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from asyncthink.errors import UsageError
from asyncthink.tasks import Asked, Split, get_task

NAMES = ("id", "ID", "Id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One problem of a selection."""

    key: str
    """Its name there: the file's id, the line's number, or the index of the draw."""
    asked: Asked

    @property
    def values(self) -> dict[str, Any]:
        """The problem as plain values."""
        return msgspec.to_builtins(self.asked.problem)


def drawn(task: str, split: Split, seed: int, limit: int) -> list[Question]:
    """Draw a task's own problems.

    Raises:
        UsageError: it has none.
    """
    known = get_task(task)
    there = known.available(split)
    if there == 0:
        known.problem(split, seed, 0)  # says what mends it
    count = limit if there is None else min(limit, there)
    return [
        Question(key=str(index), asked=Asked(known, known.problem(split, seed, index)))
        for index in range(count)
    ]


def from_file(task: str, source: str, limit: int | None) -> list[Question]:
    """Read problems from a file of JSON lines, or from a data set as hf:NAME.

    Raises:
        UsageError: it cannot be read; a broken line is named.
    """
    if source.startswith("hf:"):
        from asyncthink.tasks.hub import load_hub

        lines: Iterable[tuple[int, Mapping[str, Any]]] = enumerate(load_hub(source), 1)
    else:
        lines = _lines(Path(source))
    found: dict[str, Question] = {}
    known = get_task(task)
    for number, values in lines:
        try:
            key, rest = _key(values, number)
            if key in found:
                raise UsageError(f"the id {key!r} was there before")
            found[key] = Question(key=key, asked=Asked(known, known.read(rest)))
        except UsageError as error:
            raise UsageError(f"{source} line {number}: {error}") from error
        if len(found) == limit:
            break
    if not found:
        raise UsageError(f"{source} holds no problem: write one JSON object a line")
    return list(found.values())


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text: {error}") from error
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is no file's name: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values: Any = json.loads(line)
            json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair can be read, but not kept
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} line {number} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise UsageError(f"{path} line {number}: a problem is a JSON object")
        yield number, cast("dict[str, Any]", values)


def _key(values: Mapping[str, Any], number: int) -> tuple[str, dict[str, Any]]:
    """Take the id out of a problem's values; the line's number stands for a missing one."""
    name = next((each for each in NAMES if each in values), None)
    rest = {key: value for key, value in values.items() if key != name}
    if name is None or values[name] in (None, ""):
        return str(number), rest
    if type(values[name]) not in (str, int):
        raise UsageError(f"an id is a text or a whole number, not {values[name]!r}")
    return str(values[name]), rest


def stored(questions: Iterable[Question]) -> bytes:
    """Return a selection as the file `problems.jsonl` of a run directory."""
    return b"".join(msgspec.json.encode({"id": one.key, **one.values}) + b"\n" for one in questions)
