"""What whoever starts a server decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asyncthink.episodes.record import Episode
from asyncthink.errors import UsageError
from asyncthink.server.security import Token

Note = Callable[[str], None]
"""Takes one line for whoever runs the server."""


def _silent(_line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Of one server. Limits of an episode are the organization's: a request gets the smaller of its own and these."""

    model: str
    """What clients call the model."""
    token: Token | None = None
    """What every request must show; None: nothing is asked for."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may address the server, beside those of the loopback and its own address."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages of others that may ask, as in https://example.org."""
    max_body: int = 1 << 20
    """Bytes of a request's body."""
    max_capacity: int = 16
    """The largest c that a request may ask for."""
    at_once: int = 64
    """Episodes at a time."""
    max_waiting: int = 256
    """Requests that may wait for their turn; more are refused."""
    drain_seconds: float = 60.0
    """How long admitted requests may go on once the server is told to stop."""
    save: Callable[[Episode], None] | None = None
    """Keeps each episode that has ended; None: nothing is kept."""
    note: Note = _silent

    def __post_init__(self) -> None:
        for name in ("max_body", "max_capacity", "at_once"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_waiting < 0 or not 0 <= self.drain_seconds < float("inf"):
            raise UsageError("max_waiting and drain_seconds must not be below 0")
        if not self.model:
            raise UsageError("the model needs a name")
