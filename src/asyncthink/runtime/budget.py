"""What may still be spent. One meter for all agents of an episode, so that siblings share what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

from asyncthink.episodes.events import Event, Neared
from asyncthink.errors import UsageError
from asyncthink.runtime.prices import Price

NEAR = 0.8
"""Share of a limit at which its user is told that it will soon stop something."""


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
    max_cost: float | None = None
    """What all requests may cost, in the price table's currency."""

    def __post_init__(self) -> None:
        for one in fields(Limits):
            value = getattr(self, one.name)
            if value is not None and not (
                0 < value < float("inf") or (value == 0 and one.name == "max_forks")
            ):
                raise UsageError(f"{one.name} must be above 0, not {value}")

    def within(self, ceiling: Limits) -> Limits:
        """Return the smaller of each pair of limits."""
        both = {one.name: (getattr(self, one.name), getattr(ceiling, one.name)) for one in fields(Limits)}
        return Limits(
            **{
                name: min((each for each in pair if each is not None), default=None)
                for name, pair in both.items()
            }
        )

    def sentences(self, *, worker: bool) -> list[str]:
        """Return what a model should know of its limits."""
        own = self.max_worker_tokens if worker else self.max_organizer_tokens
        found: list[str] = []
        if own is not None:
            found.append(f"You may write at most {own} tokens.")
        if not worker and self.max_tokens is not None:
            found.append(f"You and your workers may write at most {self.max_tokens} tokens together.")
        if not worker and self.max_forks is not None:
            found.append(f"You may start at most {self.max_forks} workers in all.")
        if self.deadline is not None:
            found.append(f"Everything must be done within {self.deadline:g} seconds.")
        return found


@dataclass(kw_only=True, slots=True)
class Meter:
    """Counts what an episode has spent."""

    limits: Limits
    price: Price | None = None
    emit: Callable[[Event], None] | None = None
    """Told of each limit once, when it is nearly reached."""
    tokens: int = 0
    forks: int = 0
    cost: float = 0.0
    _told: set[str] = field(default_factory=set[str])

    def near(self, limit: str, spent: float, of: float | None) -> None:
        """Tell once that a limit is nearly reached."""
        if of and self.emit and spent >= NEAR * of and limit not in self._told:
            self._told.add(limit)
            self.emit(Neared(limit=limit, spent=spent, of=of))

    def spend(self, n_tokens: int, tick: int) -> None:
        """Count decoded tokens, and where their agent now stands on the virtual clock."""
        self.tokens += n_tokens
        self.near("max_tokens", self.tokens, self.limits.max_tokens)
        self.near("max_critical_path", tick, self.limits.max_critical_path)

    def charge(self, cost: float) -> None:
        """Count money; less than nothing where an estimate was too high."""
        self.cost += cost
        self.near("max_cost", self.cost, self.limits.max_cost)

    def fork(self) -> str | None:
        """Count a fork before it is dispatched; return why it may not be, or None."""
        if self.limits.max_forks is not None and self.forks >= self.limits.max_forks:
            return f"the limit of {self.limits.max_forks} forks is reached"
        if self.limits.max_tokens is not None and self.tokens >= self.limits.max_tokens:
            return f"the limit of {self.limits.max_tokens} tokens is reached"
        if self.limits.max_cost is not None and self.cost >= self.limits.max_cost:
            return f"the limit of {self.limits.max_cost:g} for all requests is reached"
        self.forks += 1
        self.near("max_forks", self.forks, self.limits.max_forks)
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
        self.hidden = 0
        """Of these: reasoning, which is gone with the reply that it belongs to."""
        self.tick = 0
        """Where the agent stands on the virtual clock."""
        self.resending = True
        """Its next request has still to be paid for: a server is sent the whole context."""

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
        if limits.max_cost is not None and self.meter.price is not None:
            request = self.meter.price.of_input(self.length) if self.resending else 0.0
            room = self.meter.price.affordable(limits.max_cost - self.meter.cost - request)
            spent = f"the limit of {limits.max_cost:g} for all requests is reached"
            if request and self.meter.cost < limits.max_cost:
                spent = f"the next request costs more than is left of the limit of {limits.max_cost:g}"
            rest = min(rest, (room, spent))
        return rest

    def forget(self) -> None:
        """Take reasoning out of the context: the next request does not send it."""
        self.length -= self.hidden
        self.hidden = 0

    def spend(self, n_tokens: int, *, hidden: bool = False) -> None:
        """Count decoded tokens."""
        self.used += n_tokens
        self.length += n_tokens
        self.hidden += n_tokens if hidden else 0
        self.tick += n_tokens
        self.meter.spend(n_tokens, self.tick)
