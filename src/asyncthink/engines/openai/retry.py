"""What may be tried again, and when: pure, but for the random numbers of the jitter."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from time import time

TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""Worth another try; 52x and 529 are what gateways and busy services say."""
LIMITING_STATUS = frozenset({429, 503, 529})
"""The server asks for fewer requests at a time."""
NO_USE_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "content_filter"})
"""Error codes that waiting does not mend, whatever the status."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How an engine bears with a failing server."""

    attempts: int = 8
    """Failures in a row, nothing delivered in between, after which an agent gives up."""
    base: float = 0.5
    """Seconds: after n failures in a row the agent waits between half and all of base * 2^(n-1)."""
    longest: float = 30.0
    """Seconds: the most that it waits of its own accord."""
    patience: float = 300.0
    """Seconds: the longest `Retry-After` that it obeys; a longer one is an error at once."""
    connect: float = 15.0
    """Seconds for a connection."""
    idle: float = 120.0
    """Seconds without one whole event after which a reply is given up."""

    def wait(self, failures: int, asked: float | None) -> float:
        """Return the seconds to wait after so many failures in a row; `asked` by the server."""
        own = min(self.longest, self.base * 2.0 ** min(failures - 1, 20))
        jittered = own * random.uniform(0.5, 1.0)
        return jittered if asked is None else asked + jittered * 0.2


class Trouble(Exception):
    """A request failed. Within this package only: who uses an engine sees an `EngineError`."""

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        status: int | None = None,
        retry_after: float | None = None,
        parameter: str | None = None,
        unreachable: bool = False,
        full: bool = False,
    ) -> None:
        super().__init__(message)
        self.full = full
        """The model's context is full."""
        self.transient = transient
        self.status = status
        self.retry_after = retry_after
        """Seconds that the server asked to wait."""
        self.parameter = parameter
        """The parameter that the server would not take."""
        self.unreachable = unreachable
        """No reply came at all: another server of the same model may do better."""

    @property
    def limiting(self) -> bool:
        """Whether the server asks for fewer requests at a time."""
        return self.status in LIMITING_STATUS


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return how many seconds a reply's headers ask to wait; None where they do not, or make no sense.

    `retry-after-ms`, then `Retry-After` in seconds or as a date.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("Retry-After")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, moment - (time() if now is None else now))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value >= 0 and isfinite(value) else None
