"""Every exception this project raises on purpose.

    AsyncThinkError            has an exit status
    ├── UsageError             2    the caller asked for something that makes no sense
    │   ├── UnknownNameError   2    a name that does not exist; the nearest is offered
    │   ├── MissingExtraError  2    an optional dependency is not installed
    │   ├── UnsupportedQueryError 2 the model was not made for this question
    │   ├── RequestError       2    what a client of the server asked for is refused
    │   └── RecordError        2    a file or folder is not what it should be
    ├── DivergedError          1    a training's gradient is no number any more
    └── EngineError            4    the engine failed; `transient` says whether a retry may help
        ├── ContextFullError   4    the model's context is full; in an episode a budget's end, not a failure
        └── CheckpointError    4    a model folder cannot be loaded

What a *model* gets wrong is never an exception: it is a value in the record (`FormatError`, `Outcome`).
Each message is one line: the cause, then what mends it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AsyncThinkError(Exception):
    """Base of all errors raised on purpose."""

    exit_status = 1


class UsageError(AsyncThinkError, ValueError):
    """The caller asked for something that makes no sense."""

    exit_status = 2


_LISTED = 20
"""Names that a message lists, the nearest first."""


class UnknownNameError(UsageError):
    """A name that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = {each.lower(): each for each in sorted(map(str, known), reverse=True)}
        near = [names.pop(each) for each in get_close_matches(name.lower(), list(names), n=5, cutoff=0.5)]
        ordered = [*near, *sorted(names.values())]
        hint = f"did you mean {near[0]!r}? " if near else ""
        more = f" and {len(ordered) - _LISTED} more" if len(ordered) > _LISTED else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {', '.join(ordered[:_LISTED])}{more}")


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""


class UnsupportedQueryError(UsageError):
    """The model was not made for this question."""


class RequestError(UsageError):
    """What a client of the server asked for is refused."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP."""
        self.param = param
        """The parameter at fault; None: none is."""
        self.code = code
        """What programs go by; None: the status says all."""
        self.retry_after = retry_after
        """Seconds after which it may be tried again; None: that would not help."""


class RecordError(UsageError):
    """A file or folder is not what it should be."""


class DivergedError(AsyncThinkError):
    """A training's gradient is no number any more."""


class EngineError(AsyncThinkError):
    """The engine failed."""

    exit_status = 4

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class ContextFullError(EngineError):
    """The model's context is full."""


class CheckpointError(EngineError):
    """A model folder cannot be loaded."""
