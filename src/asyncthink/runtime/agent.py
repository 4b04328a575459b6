"""A language model at work on one query: its session, its parser, and what it may still spend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import anyio

from asyncthink.engines.base import Chunk, Engine, Message, Sampling, Session
from asyncthink.episodes.events import Event, Text
from asyncthink.episodes.record import Outcome, Role, SegmentKind, Usage
from asyncthink.errors import ContextFullError, EngineError
from asyncthink.protocol import tags
from asyncthink.protocol.actions import Action, Answer, Join, Return
from asyncthink.protocol.parser import Parser
from asyncthink.protocol.prompts import Prompts
from asyncthink.runtime.budget import Allowance, Limits, Meter

GRACE = 1.0
"""Seconds that the end of a turn is waited for, where a join ends one."""
LONGEST_STOP = 16
"""Characters that any stop string fits into."""


def instructions(
    prompts: Prompts, capacity: int, *, turns: bool = False, limits: Limits | None = None
) -> dict[Role, str]:
    """Return what organizers and workers are told; `turns` as in `Prompts.for_organizer`."""
    limits = limits or Limits()
    return {
        Role.ORGANIZER: prompts.for_organizer(capacity, turns=turns, limits=limits.sentences(worker=False)),
        Role.WORKER: prompts.for_worker(limits.sentences(worker=True)),
    }


def told(instruction: str, query: str) -> tuple[Message, ...]:
    """Return the messages that an agent's context begins with."""
    return Message(role="system", content=instruction), Message(role="user", content=query)


@dataclass(kw_only=True, slots=True)
class Stage:
    """One episode under way: what its agents share."""

    id: str
    engine: Engine
    capacity: int
    """c, as models are told it: 1 for traces that think alone."""
    sampling: Sampling
    meter: Meter
    emit: Callable[[Event], None]
    prompts: Mapping[Role, str]
    """What organizers and workers are told, for models without templates of their own."""
    reminders: Mapping[Role, str] = field(default_factory=dict[Role, str])
    """What a model is told once that stops without the tag that ends its work; empty: nothing is said."""
    origin: float = field(default_factory=anyio.current_time)

    def now(self) -> float:
        """Return the seconds since the episode began."""
        return anyio.current_time() - self.origin

    def open(self, role: Role, path: str, query: str) -> Session:
        """Open a session for an agent; never waits.

        Raises:
            EngineError: the engine refuses.
        """
        messages = told(self.prompts[role], query)
        return self.engine.open(messages, role=role, episode=self.id, path=path, capacity=self.capacity)

    def usage(self, session: Session) -> Usage | None:
        """Return what a session's requests came to, for the record; None where nobody counts."""
        counted = session.usage
        if counted is None:
            return None
        price = self.meter.price
        return Usage(**asdict(counted), cost=None if price is None else price.of(counted))


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How an agent ended."""

    outcome: Outcome
    text: str | None = None
    """The answer or the returned text; None where there is none."""
    cause: str | None = None
    """Why not, in one line."""
    decoded: int = 0
    """Tokens it decoded."""
    ticks: int | None = None
    """For a worker that decodes nothing: what it counts for on the virtual clock."""
    overrun: int = 0
    """Tokens decoded past a cut and dropped."""


class Agent:
    """Decodes, parses and records."""

    def __init__(
        self, stage: Stage, session: Session, parser: Parser, *, role: Role, path: str, tick: int = 0
    ) -> None:
        self.stage, self.session, self.parser, self.role, self.path = stage, session, parser, role, path
        limits = stage.meter.limits
        own = limits.max_worker_tokens if role is Role.WORKER else limits.max_organizer_tokens
        self.allowance = Allowance(stage.meter, own, stage.engine.capabilities.context)
        self.allowance.tick = tick
        self.allowance.length = session.prompt.n_tokens
        self.overrun = 0
        self._cost = 0.0
        self._reminder = stage.reminders.get(role)

    def begin(self) -> None:
        """Record the prompt."""
        self._text(SegmentKind.PROMPT, self.session.prompt)

    async def decode(self, act: Callable[[Action], None]) -> Action | None:
        """Decode up to a join, answer or return, and give it back; None if the text ends without one.

        Every other action is handed to `act` the moment it is complete. What a budget cuts short is no
        mistake of the model: a tag that is still open then is not reported.
        """
        watched = self.stage.engine.capabilities.streaming and self.role is Role.ORGANIZER
        resumed = self.allowance.resending = True
        self.allowance.forget()
        while resumed and self.allowance.left() > 0:
            stops = tags.STREAMED_STOPS if watched else self.parser.stops
            text = ""
            left = self.allowance.left()
            self._reserve()
            async with self.session.decode(stops, left, self.stage.sampling) as chunks:
                self.allowance.resending = False
                async for chunk in chunks:
                    if self.allowance.left() <= 0:
                        self.overrun += chunk.n_tokens
                        break
                    if last := self._take(chunk, act):
                        if isinstance(last, Join) and not self.stage.engine.capabilities.continues:
                            await self._drain(chunks)
                        return last
                    if not chunk.hidden:
                        text = text[-LONGEST_STOP:] + chunk.text
            self._settle()
            if resumed := any(stop in text for stop in stops):
                self.allowance.forget()
        if self.allowance.left() > 0:
            for parsed in self.parser.close():
                act(parsed.action)
        return None

    async def _drain(self, chunks: AsyncIterator[Chunk]) -> None:
        """Take what follows a join where the model was told to end its turn there: hidden tokens count, text is
        dropped and the rest left.
        """
        with anyio.move_on_after(GRACE), suppress(EngineError):
            async for chunk in chunks:
                if not chunk.hidden:
                    self.overrun += chunk.n_tokens
                    self.session.trim(len(chunk.text))
                    return
                self._take(chunk, _ignore)

    def remind(self) -> bool:
        """Ask once more of a model that stopped without its last tag; say whether it may go on.

        Never silent: whoever calls this records what the model got wrong.
        """
        if self._reminder is None or self.allowance.left() <= 0:
            return False
        continues = self.stage.engine.capabilities.continues
        self.insert(f"\n\n({self._reminder})\n" if continues else self._reminder)
        self.parser.reopen()
        self._reminder = None
        return True

    def _reserve(self) -> None:
        """Charge what sending the context will cost, before siblings count on the same money."""
        meter = self.stage.meter
        if meter.price is not None and self.session.usage is not None:
            cost = meter.price.of_input(self.allowance.length)
            meter.charge(cost)
            self._cost += cost

    def _settle(self) -> None:
        """Charge what the session's requests have cost since this was last done."""
        meter = self.stage.meter
        if meter.price is not None and (usage := self.session.usage) is not None:
            cost = meter.price.of(usage)
            meter.charge(cost - self._cost)
            self._cost = cost

    def _take(self, chunk: Chunk, act: Callable[[Action], None]) -> Action | None:
        if chunk.hidden:
            self._spend(chunk)
            self._text(SegmentKind.REASONED, chunk)
            return None
        found = self.parser.feed(chunk.text)
        self._keep(chunk, self.parser.taken)
        for parsed in found:
            if isinstance(parsed.action, Join | Answer | Return):
                return parsed.action
            act(parsed.action)
        return None

    def _keep(self, chunk: Chunk, taken: int) -> None:
        """Record a chunk up to a cut; a single token that carries the cut is kept whole."""
        rest = len(chunk.text) - taken
        if rest and (chunk.n_tokens > 1 or not chunk.exact):
            kept = max(1, -(-chunk.n_tokens * taken // len(chunk.text)))
            self.overrun += chunk.n_tokens - kept
            self.session.trim(rest)
            chunk = Chunk(text=chunk.text[:taken], n_tokens=kept, exact=False)
        elif rest:
            self.parser.skip(rest)
        self._spend(chunk)
        self._text(SegmentKind.DECODED, chunk)

    def _spend(self, chunk: Chunk) -> None:
        self.allowance.spend(chunk.n_tokens, hidden=chunk.hidden)
        self._settle()
        meter = self.stage.meter
        if meter.limits.deadline is not None:
            meter.near("deadline", self.stage.now(), meter.limits.deadline)

    def insert(self, text: str) -> None:
        """Append what the model did not write."""
        chunk = self.session.insert(text)
        self.allowance.length += chunk.n_tokens
        self._text(SegmentKind.INSERTED, chunk)

    def dictate(self, text: str) -> bool:
        """Append what a plan writes in the model's place; say whether the budget still held it."""
        chunk = self.session.insert(text)
        if chunk.n_tokens > self.allowance.left():
            return False
        self.allowance.spend(chunk.n_tokens)
        self._text(SegmentKind.DICTATED, chunk)
        return True

    def ended(self, text: str | None) -> Result:
        """Say how a text ended: with an answer or a return, or why without."""
        if text is not None:
            outcome = Outcome.RETURNED if self.role is Role.WORKER else Outcome.ANSWERED
            return self.result(outcome, text=text)
        if self.allowance.left() <= 0:
            return self.result(Outcome.BUDGET, cause=self.allowance.cause())
        return self.result(Outcome.NO_RESULT, cause="the model stopped by itself")

    def failed(self, error: EngineError) -> Result:
        """Say how a text ended that its engine ended; a full context is a budget like any other."""
        self._settle()
        full = isinstance(error, ContextFullError)
        return self.result(Outcome.BUDGET if full else Outcome.ENGINE_ERROR, cause=str(error))

    def result(self, outcome: Outcome, *, text: str | None = None, cause: str | None = None) -> Result:
        """Return a result with the agent's counts."""
        decoded = self.allowance.used
        return Result(outcome=outcome, text=text, cause=cause, decoded=decoded, overrun=self.overrun)

    def _text(self, kind: SegmentKind, chunk: Chunk) -> None:
        event = Text(
            path=self.path,
            kind=kind,
            text=chunk.text,
            n_tokens=chunk.n_tokens,
            exact=chunk.exact,
            token_ids=chunk.token_ids,
            logprobs=chunk.logprobs,
        )
        self.stage.emit(event)


def _ignore(_action: Action) -> None:
    """Nothing follows from a thought."""
