"""What models are told that were not trained on the protocol. Trained ones ship their own template.

The texts stand in prompts.toml; a file of the same form replaces any of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from string import Template

from asyncthink.errors import UsageError
from asyncthink.protocol import tags

DEFAULT = Path(__file__).with_suffix(".toml")
_VARIABLES = {
    "organizer": {"workers", "fork", "join", "answer", "after_join", "limits", "example"},
    "worker": {"returned", "limits", "example"},
    "alone": {"answer", "limits"},
    "missing_answer": {"answer"},
    "missing_return": {"returned"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The texts, with variables such as `$workers` in them; prompts.toml explains each."""

    organizer: str
    worker: str
    alone: str
    missing_answer: str
    missing_return: str

    def for_organizer(self, capacity: int, *, turns: bool = False, limits: Sequence[str] = ()) -> str:
        """Return an organizer's instructions.

        Args:
            capacity: c, which counts the organizer itself; with 1 it thinks alone.
            turns: a result comes as the next message, for servers that cannot go on from a model's own text.
            limits: its budgets, as sentences.

        Raises:
            UsageError: the capacity makes no sense.
        """
        if capacity < 1:
            raise UsageError(f"capacity is {capacity}: use 1 (think alone) or more")
        if capacity == 1:
            return _fill(self.alone, answer=tags.answer("answer"), limits=_paragraph(limits))
        result = tags.told(1, "result") if turns else tags.join(1) + tags.joined(1, "result")
        after = (
            f"Then stop: the next message brings the result, as in {result!r}, and you write on."
            if turns
            else f"The result, and a closing tag, are inserted for you, as in {result!r}."
        )
        return _fill(
            self.organizer,
            workers="1 worker" if capacity == 2 else f"{capacity - 1} workers",
            fork=tags.fork(1, "sub-question"),
            join=tags.join(1),
            answer=tags.answer("answer"),
            after_join=after,
            limits=_paragraph(limits),
            example=_organizer_example(turns),
        )

    def for_worker(self, limits: Sequence[str] = ()) -> str:
        """Return a worker's instructions."""
        example = "17 * 24 = 17 * 20 + 17 * 4 = 340 + 68 = 408. " + tags.returned("17 * 24 = 408")
        returned = tags.returned("result")
        return _fill(self.worker, returned=returned, example=example, limits=_paragraph(limits))

    def reminder(self, *, worker: bool) -> str:
        """Return what a model is told that stopped without its last tag."""
        if worker:
            return _fill(self.missing_return, returned=tags.returned("result"))
        return _fill(self.missing_answer, answer=tags.answer("answer"))


@lru_cache(maxsize=16)
def load_prompts(path: Path = DEFAULT) -> Prompts:
    """Read a file of prompts; what it leaves out is taken from the package's own.

    Raises:
        UsageError: it cannot be read, or holds a text or a variable that does not exist.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no prompts: {error}") from error
    for name, text in found.items():
        _check(path, name, text)
    if path != DEFAULT:
        own = load_prompts()
        found = {field.name: getattr(own, field.name) for field in fields(own)} | found
    return Prompts(**found)


def _check(path: Path, name: str, text: object) -> None:
    if name not in _VARIABLES:
        raise UsageError(f"{path}: there is no prompt {name!r} (there are: {', '.join(_VARIABLES)})")
    if not isinstance(text, str) or not Template(text).is_valid():
        raise UsageError(f"{path}: {name}: a text is expected, a literal dollar sign written $$")
    if unknown := sorted(set(Template(text).get_identifiers()) - _VARIABLES[name]):
        known = ", ".join(f"${each}" for each in sorted(_VARIABLES[name]))
        raise UsageError(f"{path}: {name}: there is no ${unknown[0]} here (there are: {known})")


def _fill(text: str, **values: str) -> str:
    return _filled(text, tuple(values.items()))


@lru_cache(maxsize=256)
def _filled(text: str, values: tuple[tuple[str, str], ...]) -> str:
    """Return one text for all who are told the same: thousands of agents may be at work at once."""
    return Template(text).substitute(dict(values)).strip()


def _paragraph(limits: Sequence[str]) -> str:
    return "".join(f"\n{sentence}" for sentence in limits) + "\n" if limits else ""


def _organizer_example(turns: bool) -> str:
    result = "17 * 24 = 408"
    inserted = f"\n{tags.told(1, result)}\n" if turns else f"{tags.joined(1, result)} "
    return (
        "Two products, independent. "
        + tags.fork(1, "What is 17 * 24?")
        + " Meanwhile I take the other: 19 * 31 = 19 * 30 + 19 = 570 + 19 = 589. "
        + tags.join(1)
        + inserted
        + "408 + 589 = 997. "
        + tags.answer("997")
    )
