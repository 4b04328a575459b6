"""What may still be spent. One meter for all agents of an episode, so that siblings share what is left."""

from __future__ import annotations

from dataclasses import dataclass, fields

from asyncthink.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one episode; None: none. Whatever runs out is recorded as the outcome's cause."""

    max_tokens: int | None = None
    """Decoded tokens of all agents together."""
    max_critical_path: int | None = None
    """Ticks of the virtual clock: nothing is decoded after this one."""
    max_organizer_tokens: int | None = None
    """Decoded tokens of the organizer, or of each trace of parallel thinking."""
    max_worker_tokens: int | None = None
    """Decoded tokens of each worker."""
    max_forks: int | None = None
    """Workers that are started."""
    deadline: float | None = None
    """Wall seconds from the episode's start."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (
                0 < value < float("inf") or (value == 0 and field.name == "max_forks")
            ):
                raise UsageError(f"{field.name} must be above 0, not {value}")


class Meter:
    """Counts what an episode has spent."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tokens = 0
        self.forks = 0

    def fork(self) -> str | None:
        """Count a fork before it is dispatched; return why it may not be, or None."""
        if self.limits.max_forks is not None and self.forks >= self.limits.max_forks:
            return f"the limit of {self.limits.max_forks} forks is reached"
        if self.limits.max_tokens is not None and self.tokens >= self.limits.max_tokens:
            return f"the limit of {self.limits.max_tokens} tokens is reached"
        self.forks += 1
        return None


class Allowance:
    """What one agent may still decode: its own limit, the episode's, the clock and the context."""

    def __init__(self, meter: Meter, own: int | None, context: int | None) -> None:
        self.meter = meter
        self.own = own
        self.context = context
        self.used = 0
        """Tokens this agent has decoded."""
        self.length = 0
        """Tokens in its context."""
        self.tick = 0
        """Where the agent stands on the virtual clock."""

    def left(self) -> int:
        """Return how many tokens the agent may decode now; at most a million."""
        return self._left()[0]

    def cause(self) -> str:
        """Return which limit is the tightest, as a sentence."""
        return self._left()[1]

    def _left(self) -> tuple[int, str]:
        limits, rest = self.meter.limits, (1_000_000, "")
        if self.own is not None:
            rest = min(rest, (self.own - self.used, f"the agent's limit of {self.own} tokens is reached"))
        if self.context is not None:
            room = self.context - self.length
            rest = min(rest, (room, f"the model's context of {self.context} tokens is full"))
        if limits.max_tokens is not None:
            room = limits.max_tokens - self.meter.tokens
            rest = min(rest, (room, f"the limit of {limits.max_tokens} tokens is reached"))
        if limits.max_critical_path is not None:
            room = limits.max_critical_path - self.tick
            rest = min(rest, (room, f"the critical path's limit of {limits.max_critical_path} is reached"))
        return rest

    def spend(self, n_tokens: int) -> None:
        """Count decoded tokens."""
        self.used += n_tokens
        self.length += n_tokens
        self.tick += n_tokens
        self.meter.tokens += n_tokens
