"""The organizer: decode, parse, act. docs/paper.md gives the definitions."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing, suppress
from typing import TypeAlias

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

from asyncthink.episodes.events import Began, Ended, Faulted, Joined, Opened
from asyncthink.episodes.record import FormatFault, Outcome, Role, Usage
from asyncthink.errors import EngineError
from asyncthink.protocol import tags
from asyncthink.protocol.actions import Action, Answer, Fork, FormatError, Join
from asyncthink.protocol.parser import OrganizerParser
from asyncthink.protocol.rules import Rules
from asyncthink.runtime.agent import Agent, Result, Stage
from asyncthink.runtime.pool import Pool
from asyncthink.runtime.worker import Worker

Plan: TypeAlias = Generator[Action, str | None, None]
"""An organizer's actions, one by one. A join is sent what its worker returned, None where that is nothing; every
other action is sent None."""


class ModelOrganizer:
    """A language model that drives one query.

    Like the paper's loop: think on, start a worker at each fork, stand still at each join until that one
    worker is done, end with the answer.

    Raises:
        EngineError: the engine refuses to open a session.
    """

    def __init__(self, stage: Stage, query: str, *, path: str = "0") -> None:
        self.stage, self.path = stage, path
        stage.emit(Opened(path=path, role=Role.ORGANIZER, query=query, forked_at=None if path == "0" else 0))
        try:
            self.session = stage.open(Role.ORGANIZER, path, query)
        except EngineError as error:
            self._emit_end(Result(outcome=Outcome.ENGINE_ERROR, cause=str(error)), None)
            raise
        self.agent = Agent(stage, self.session, OrganizerParser(), role=Role.ORGANIZER, path=path)
        self.rules = Rules()
        self._missing = False

    async def run(self, pool: Pool | None) -> Result:
        """Think the query through. A failure of the engine, or a budget's end, is a result.

        The session is left open, for the caller to close.

        Args:
            pool: where forks go; None for one who thinks alone: a fork then overflows and starts nothing.
        """
        seconds = self.stage.meter.limits.deadline
        try:
            with anyio.move_on_after(seconds):
                return await self._think(pool)
            return self.agent.result(Outcome.BUDGET, cause=f"the limit of {seconds} seconds is reached")
        except EngineError as error:
            return self.agent.failed(error)

    async def _think(self, pool: Pool | None) -> Result:
        self.stage.emit(Began(path=self.path, wall=self.stage.now()))
        self.agent.begin()
        while True:
            last = await self.agent.decode(lambda action: self._act(action, pool))
            if isinstance(last, Join):
                await self._join(last, pool)
            elif last is None and self.agent.remind():
                self.fault_missing()
            else:
                break
        return self.agent.ended(tags.unescape(last.text) if isinstance(last, Answer) else None)

    def _act(self, action: Action, pool: Pool | None) -> None:
        legal = self._judge(action)
        if isinstance(action, Fork) and legal:
            spent = self.agent.allowance
            if pool is None:
                self.fault(FormatError.POOL_OVERFLOW)
            else:
                pool.dispatch(self.path, action, at=spent.used, tick=spent.tick)

    async def _join(self, join: Join, pool: Pool | None) -> str | None:
        """Wait for a worker and insert what it returned; give that back."""
        if not self._judge(join):
            self._insert(join, "")
            return None
        text = None
        if pool is not None:
            spent = self.agent.allowance
            self.stage.emit(Joined(path=f"{self.path}/{join.index}", joined_at=spent.used))
            job = await pool.join(join.index, self.session)
            spent.tick = max(spent.tick, job.end_tick)
            text = job.result.text if job.result else None
        self._insert(join, tags.NO_RESULT if text is None else text)
        return text

    def _insert(self, join: Join, text: str) -> None:
        spelled = tags.joined if self.stage.engine.capabilities.continues else tags.told
        self.agent.insert(spelled(join.index, text))

    def _judge(self, action: Action) -> bool:
        error = self.rules.judge(action)
        if error:
            self.fault(error)
        return error is None

    def fault(self, error: FormatError) -> None:
        """Record a format error where the organizer stands."""
        at = self.agent.allowance.used
        self.stage.emit(Faulted(fault=FormatFault(error=error, path=self.path, at=at)))

    def fault_missing(self) -> None:
        """Record that there is no answer; once, however often the model was reminded of it."""
        if not self._missing:
            self._missing = True
            self.fault(FormatError.NO_ANSWER)

    def tell_end(self, result: Result) -> None:
        """Record how the organizer ended."""
        self._emit_end(result, self.stage.usage(self.session))

    def _emit_end(self, result: Result, usage: Usage | None) -> None:
        end = Ended(
            path=self.path,
            outcome=result.outcome,
            result=result.text,
            cause=result.cause,
            wall=self.stage.now(),
            overrun_tokens=result.overrun,
            usage=usage,
        )
        self.stage.emit(end)


class PlannedOrganizer(ModelOrganizer):
    """A plan in the model's place: what it writes costs its tokens, its workers are the usual ones."""

    def __init__(self, stage: Stage, query: str, plan: Plan) -> None:
        super().__init__(stage, query)
        self._plan = plan

    async def _think(self, pool: Pool | None) -> Result:
        self.stage.emit(Began(path=self.path, wall=self.stage.now()))
        self.agent.begin()
        told: str | None = None
        with closing(self._plan), suppress(StopIteration):
            while True:
                action = self._plan.send(told)
                if not self.agent.dictate(tags.render([action])):
                    return self.agent.result(Outcome.BUDGET, cause=self.agent.allowance.cause())
                if isinstance(action, Answer):
                    return self.agent.ended(action.text)
                told = await self._join(action, pool) if isinstance(action, Join) else None
                if not isinstance(action, Join):
                    self._act(action, pool)
        return self.agent.ended(None)


async def organize(
    stage: Stage, query: str, workers: Mapping[str, Worker], plan: Plan | None = None
) -> Result:
    """Run one organizer, the model or a plan, with its pool of `stage.capacity - 1` workers; none outlives it."""
    organizer = ModelOrganizer(stage, query) if plan is None else PlannedOrganizer(stage, query, plan)
    # Its session stays awake until the workers are gone: they decode nothing behind the answer.
    with closing(organizer.session):
        return await _organize(stage, organizer, workers)


async def _organize(stage: Stage, organizer: ModelOrganizer, workers: Mapping[str, Worker]) -> Result:
    result: Result | None = None
    async with anyio.create_task_group() as group:
        pool = Pool(stage, group, workers, stage.capacity - 1) if stage.capacity > 1 else None
        try:
            result = await organizer.run(pool)
        except anyio.get_cancelled_exc_class():
            organizer.tell_end(organizer.agent.result(Outcome.CANCELLED))
            if pool:
                pool.dismiss(Outcome.CANCELLED)
            raise
        if result.text is None and result.outcome is not Outcome.ENGINE_ERROR:
            organizer.fault_missing()
        # Whoever moved in the answer's own tick records its token before the workers are dismissed.
        await cancel_shielded_checkpoint()
        organizer.tell_end(result)
        if pool:
            pool.dismiss(Outcome.UNJOINED)
    assert result is not None, "a cancellation from outside does not end here"
    return result
