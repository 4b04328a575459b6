"""The agent pool: an organizer's workers, their slots and their queue.

Everything that changes who runs happens without a wait in between: when a worker ends, its slot passes to
the first in the queue and the organizer that waits for it is awake again before anybody moves on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from asyncthink.engines.base import Session
from asyncthink.episodes.events import Began, Ended, Opened
from asyncthink.episodes.record import Outcome, Role
from asyncthink.protocol import tags
from asyncthink.protocol.actions import Fork
from asyncthink.runtime.agent import Result, Stage
from asyncthink.runtime.worker import Assignment, Worker

DEFAULT = "model"
"""Name of the worker that a fork without a name goes to."""


@dataclass(kw_only=True, slots=True)
class Job:
    """A sub-query on its way."""

    path: str
    query: str
    worker: Worker
    tick: int
    """The virtual clock at its fork; then when it starts."""
    result: Result | None = None
    done: anyio.Event | None = None
    """Set at its end, where somebody waits for that."""
    awaited_by: Session | None = None
    """The session of the organizer that waits for it."""
    end_tick: int = 0


class Pool:
    """Runs the workers of one organizer, at most `slots` at a time."""

    def __init__(self, stage: Stage, group: TaskGroup, workers: Mapping[str, Worker], slots: int) -> None:
        self.stage, self.group, self.workers = stage, group, workers
        self.free = slots
        self.jobs: dict[int, Job] = {}
        self.queue: deque[Job] = deque()
        self.leaving = Outcome.CANCELLED
        """Outcome of a worker that is cancelled, unless the organizer dismisses it first."""

    def dispatch(self, parent: str, fork: Fork, *, at: int, tick: int) -> None:
        """Start a fork's worker, or queue it; the organizer never waits.

        Args:
            parent: path of the organizer.
            fork: what it wrote.
            at: tokens the organizer had decoded.
            tick: the same on the virtual clock.
        """
        path = f"{parent}/{fork.index}"
        query = tags.unescape(fork.query)
        self.stage.emit(Opened(path=path, role=Role.WORKER, query=query, to=fork.to, forked_at=at))
        worker = self.workers.get(fork.to or DEFAULT)
        job = Job(path=path, query=query, worker=worker or self.workers[DEFAULT], tick=tick)
        self.jobs[fork.index] = job
        cause = self.stage.meter.fork() if worker else f"there is no worker {fork.to!r}"
        if cause:
            self._end(job, Result(outcome=Outcome.REFUSED, cause=cause))
        elif self.free:
            self._start(job)
        else:
            self.queue.append(job)

    def _start(self, job: Job) -> None:
        self.free -= 1
        self.stage.emit(Began(path=job.path, wall=self.stage.now()))
        holds: list[Session] = []
        assignment = Assignment(stage=self.stage, path=job.path, query=job.query, tick=job.tick, holds=holds)
        try:
            work = job.worker.work(assignment)
        except Exception as error:
            work = _raising(error)
        self.group.start_soon(self._run, job, work, holds)

    async def _run(self, job: Job, work: Awaitable[object], holds: list[Session]) -> None:
        try:
            try:
                result = await work
                if not isinstance(result, Result):
                    raise TypeError(f"a worker gives a Result, not {type(result).__name__}")
            except anyio.get_cancelled_exc_class():
                self._end(job, Result(outcome=self.leaving), holds)
                raise
            except Exception as error:  # a worker may be anybody's code
                result = Result(outcome=Outcome.FAILED, cause=f"{type(error).__name__}: {error}")
            self._end(job, result, holds)
            self.free += 1
            if self.queue:
                following = self.queue.popleft()
                following.tick = max(following.tick, job.end_tick)
                self._start(following)
        finally:
            for session in holds:
                session.close()

    def _end(self, job: Job, result: Result, holds: Sequence[Session] = ()) -> None:
        job.result = result
        job.end_tick = job.tick + (result.decoded if result.ticks is None else result.ticks)
        end = Ended(
            path=job.path,
            outcome=result.outcome,
            result=result.text,
            cause=result.cause,
            wall=self.stage.now(),
            ticks=result.ticks,
            overrun_tokens=result.overrun,
            usage=self.stage.usage(holds[0]) if holds else None,
        )
        self.stage.emit(end)
        if job.awaited_by:
            job.awaited_by.wake()
        if job.done:
            job.done.set()

    async def join(self, index: int, session: Session) -> Job:
        """Wait for one worker, never for its siblings."""
        job = self.jobs[index]
        if job.result is None:
            job.awaited_by = session
            job.done = anyio.Event()
            session.rest()
            await job.done.wait()
        return job

    def dismiss(self, leaving: Outcome) -> None:
        """Stop all workers that are still at work or queued, with that outcome."""
        self.leaving = leaving
        for job in self.queue:
            self._end(job, Result(outcome=leaving))
        self.queue.clear()
        self.group.cancel_scope.cancel()


async def _raising(error: Exception) -> Result:
    raise error
