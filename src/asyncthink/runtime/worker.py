"""Workers: whatever can answer a sub-query. Here the one that is a language model."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from asyncthink.engines.base import Session
from asyncthink.episodes.events import Faulted
from asyncthink.episodes.record import FormatFault, Outcome, Role
from asyncthink.errors import EngineError
from asyncthink.protocol import tags
from asyncthink.protocol.actions import Action, FormatError, Return
from asyncthink.protocol.parser import WorkerParser
from asyncthink.runtime.agent import Agent, Result, Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a worker is asked."""

    stage: Stage
    path: str
    query: str
    """Another agent's text, unescaped: to be escaped before a model reads it."""
    tick: int
    """The virtual clock when it starts."""
    holds: list[Session]
    """Closed once the worker's end is known to all: a session closed earlier would let its siblings, who
    move in lockstep with it, go on without the organizer that it is about to wake."""


class Worker(Protocol):
    """Answers sub-queries; one instance may serve many at once."""

    def work(self, assignment: Assignment) -> Awaitable[Result]:
        """Take an assignment on.

        Called at the fork, or when a slot is free, and must return at once; what is awaited then runs in
        a task of its own. A failure is a result, not an exception.
        """
        ...


class ModelWorker:
    """The same language model that organizes, in the worker's role."""

    def work(self, assignment: Assignment) -> Awaitable[Result]:
        """Open the session now, so that agents that move in lockstep wait for it from this tick on."""
        stage = assignment.stage
        try:
            session = stage.open(Role.WORKER, assignment.path, tags.escape(assignment.query))
        except EngineError as error:
            return _failed(error)
        assignment.holds.append(session)
        return self._work(assignment, session)

    async def _work(self, assignment: Assignment, session: Session) -> Result:
        agent = Agent(
            assignment.stage,
            session,
            WorkerParser(),
            role=Role.WORKER,
            path=assignment.path,
            tick=assignment.tick,
        )
        try:
            agent.begin()
            last = await agent.decode(_ignore)
            if last is None and agent.remind():
                fault = FormatFault(error=FormatError.NO_RETURN, path=agent.path, at=agent.allowance.used)
                agent.stage.emit(Faulted(fault=fault))
                last = await agent.decode(_ignore)
            return agent.ended(tags.unescape(last.text) if isinstance(last, Return) else None)
        except EngineError as error:
            return agent.failed(error)


async def _failed(error: EngineError) -> Result:
    return Result(outcome=Outcome.ENGINE_ERROR, cause=str(error))


def _ignore(_action: Action) -> None:
    """A worker's thoughts call for nothing."""
