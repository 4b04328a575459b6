"""Organization: an engine held open for many queries. Everything that a query starts ends with it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Self
from uuid import uuid4

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncthink.engines.base import Engine, Sampling
from asyncthink.episodes.events import Event, Finished, Started
from asyncthink.episodes.fold import EpisodeBuilder
from asyncthink.episodes.record import Episode, Outcome, Role, StopReason, Trial
from asyncthink.errors import (
    CheckpointError,
    EngineError,
    UnknownNameError,
    UnsupportedQueryError,
    UsageError,
)
from asyncthink.protocol.prompts import Prompts, load_prompts
from asyncthink.runtime.agent import Result, Stage, instructions
from asyncthink.runtime.baselines import think_alone
from asyncthink.runtime.budget import Limits, Meter
from asyncthink.runtime.collection import fewer_collections
from asyncthink.runtime.fanout import single_errors
from asyncthink.runtime.organizer import Plan, organize
from asyncthink.runtime.pool import DEFAULT
from asyncthink.runtime.prices import Price
from asyncthink.runtime.worker import ModelWorker, Worker
from asyncthink.tasks import Asked, recognise
from asyncthink.tasks.base import majority

DEFAULT_CAPACITY = 4
PARALLEL_TEMPERATURE = 0.5
_STOPS = {
    Outcome.ANSWERED: StopReason.ANSWER,
    Outcome.NO_RESULT: StopReason.END_OF_TEXT,
    Outcome.BUDGET: StopReason.BUDGET,
    Outcome.ENGINE_ERROR: StopReason.ENGINE_ERROR,
}
Listener = Callable[[Event], None]
Planner = Callable[[Asked | None, Stage], Plan]
"""Makes a plan for a query; `Stage.capacity` says how many agents there are, `Stage.sampling.seed` is its seed."""


class Method(StrEnum):
    """Who drives a query."""

    ASYNCTHINK = "asyncthink"
    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"
    PLAN = "plan"
    """A plan that a program wrote, over the model's own workers."""


def method_of(name: str) -> Method:
    """Return the method of that name.

    Raises:
        UnknownNameError: there is none.
    """
    try:
        return Method(name)
    except ValueError:
        raise UnknownNameError("method", name, list(Method)) from None


class Organization:
    """An engine held open for many queries.

        async with Organization(load_engine("embedded")) as organization:
            episode = await organization.think("Using the numbers 3, 4, 6, 8, find ...")

    Args:
        engine: the model; opened and closed with the organization.
        method: a `Method`: who thinks, and how traces are put together.
        capacity: c, the organizer and at most c-1 active workers; None: the model's, else the task's, else 4.
        limits: budgets of each episode; None: none.
        temperature: 0 is greedy; None: what the model declares. Parallel traces differ by sampling only, so a
            model that declares greedy decoding is sampled at `PARALLEL_TEMPERATURE` there.
        top_p: samples come from the likeliest tokens that together have so much probability.
        workers: named workers that a fork can address, beside the model itself.
        prompts: what a model is told that was not trained on the protocol; None: the package's own.
        price: of the model's tokens; with it the record has costs, and `limits.max_cost` can be kept.
        reminders: whether a model that stops without its last tag is asked for it once, which the record shows as
            a format error; None: only where the model was not trained on the protocol.
        plan: makes the plan that the method `plan` follows, anew for each query.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        method: str = Method.ASYNCTHINK,
        capacity: int | None = None,
        limits: Limits | None = None,
        temperature: float | None = None,
        top_p: float = 1.0,
        workers: Mapping[str, Worker] | None = None,
        prompts: Prompts | None = None,
        price: Price | None = None,
        reminders: bool | None = None,
        plan: Planner | None = None,
    ) -> None:
        if capacity is not None and not 1 <= capacity <= 9999:
            raise UsageError(f"capacity must be between 1 and 9999, not {capacity}")
        if temperature is not None and not 0 <= temperature <= 100:
            raise UsageError(f"temperature must be between 0 and 100, not {temperature}")
        if not 0 < top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {top_p}")
        if limits and limits.max_cost is not None and price is None:
            raise UsageError("max_cost needs the model's prices: --prices FILE, or Organization(price=...)")
        self.engine = engine
        self.method = method_of(method)
        self.capacity = capacity
        self.limits = limits or Limits()
        self.temperature = temperature
        self.top_p = top_p
        self.prompts = prompts or load_prompts()
        self.price = price
        self.reminders = reminders
        self.plan = plan
        if (plan is None) is (self.method is Method.PLAN):
            raise UsageError(
                "the method 'plan' and a plan belong together: Organization(method='plan', plan=...)"
            )
        self._held = AsyncExitStack()
        self.workers: dict[str, Worker] = {DEFAULT: ModelWorker(), **(workers or {})}

    def like(self, **changes: Any) -> Organization:
        """Return an organization with some arguments changed, over the same engine: it is open while this one is."""
        settings: dict[str, Any] = {
            name: getattr(self, name)
            for name in inspect.signature(Organization).parameters
            if name != "engine"
        }
        return Organization(self.engine, **{**settings, **changes})

    async def __aenter__(self) -> Self:
        await self._held.enter_async_context(self.engine)
        self._held.enter_context(fewer_collections())
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._held.__aexit__(*exc_info)

    async def think(
        self,
        query: str | Asked,
        *,
        seed: int = 0,
        listen: Listener | None = None,
        trial: Trial | None = None,
        name: str | None = None,
    ) -> Episode:
        """Think one query through.

        Cancelling it stops every agent; `listen` has then still been told how everything ended.

        Args:
            query: a question, of which a task's sentence is recognised as such, or a task's problem.
            seed: for sampling; the same seed, model and query give the same text.
            listen: called with each event, at once and in order.
            trial: which cell of an evaluation this is, for the record.
            name: the episode's id, which nothing else at the same time may have; None: a random one. Agents of
                an engine are served in the order of their ids, so that given ones make a run repeat bit for bit.

        Raises:
            UsageError: the query makes no sense, or this model was not made for it.
        """
        builder = EpisodeBuilder()
        apply = builder.apply
        if listen is None:
            await self._run(query, seed, apply, trial, name)
        else:
            heard = listen

            def emit(event: Event) -> None:
                apply(event)
                heard(event)

            await self._run(query, seed, emit, trial, name)
        return builder.episode()

    @asynccontextmanager
    async def stream(
        self, query: str, *, seed: int = 0, listen: Listener | None = None, name: str | None = None
    ) -> AsyncGenerator[MemoryObjectReceiveStream[Event]]:
        """Think one query through in the background; yield its events. Leaving the block stops it.

        The episode is their fold (`asyncthink.episodes.fold`). `listen` is told every event as well, those behind the
        end of the block included; arguments are those of `think`.
        """
        send, receive = anyio.create_memory_object_stream[Event](float("inf"))
        with single_errors():
            async with anyio.create_task_group() as group, receive:

                def emit(event: Event) -> None:
                    if listen is not None:
                        listen(event)
                    with suppress(anyio.BrokenResourceError):  # nobody reads any more
                        send.send_nowait(event)

                async def run() -> None:
                    with send:
                        await self._run(query, seed, emit, name=name)

                group.start_soon(run)
                yield receive
                group.cancel_scope.cancel()

    @property
    def used_temperature(self) -> float:
        """The temperature that agents are sampled at."""
        if self.temperature is not None:
            return self.temperature
        declared = self.engine.profile.temperature
        return declared or PARALLEL_TEMPERATURE if self.method is Method.PARALLEL else declared

    def capacity_for(self, query: str | Asked) -> int:
        """Return the capacity that a query will be thought through with.

        Raises:
            UsageError: the model was not made for it.
        """
        return self._capacity(self._known(query))

    def _capacity(self, known: Asked | None) -> int:
        usual = self.engine.profile.capacity or (known.task.capacity if known else DEFAULT_CAPACITY)
        return self.capacity or usual

    def _known(self, query: str | Asked) -> Asked | None:
        """Return the task's problem that a query is, and make sure that the model was made for it."""
        tasks = self.engine.profile.tasks
        try:
            known = recognise(query, tasks) if isinstance(query, str) else query
        except UsageError:  # worded like a task's problem, and none that the task can judge
            if tasks is not None:
                raise
            known = None
        if tasks is None:
            return known
        if known is None or known.task.name not in tasks:
            raise UnsupportedQueryError(
                f"the model {self.engine.name!r} only knows {', '.join(tasks)} (see: asyncthink tasks); "
                "any other question needs an engine such as --model openai:MODEL or hf:FOLDER"
            )
        try:
            reason = known.task.outside(known.problem, tasks[known.task.name])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the model {self.engine.name!r} declares limits of {known.task.name} that cannot be read"
            ) from error
        if reason:
            raise UnsupportedQueryError(
                f"the model {self.engine.name!r} was not made for {reason}; another engine, such as "
                "--model openai:MODEL, may be"
            )
        return known

    async def _run(
        self,
        query: str | Asked,
        seed: int,
        emit: Listener,
        trial: Trial | None = None,
        name: str | None = None,
    ) -> None:
        known = self._known(query)
        capacity = self._capacity(known)
        own = known and (self.engine.profile.tasks or not isinstance(query, str))
        asked = known.task.prompt(known.problem) if known and own else str(query)
        stage = self._stage(name or uuid4().hex, capacity, seed, emit)
        started = Started(
            id=stage.id,
            task=known.task.name if known else None,
            problem=asdict(known.problem) if known else None,
            query=query if isinstance(query, str) else asked,
            method=self.method,
            model=self.engine.name,
            capacity=capacity,
            seed=seed,
            trial=trial,
        )
        emit(started)
        try:
            with single_errors():
                result = await self._drive(stage, asked, capacity, known)
        except anyio.get_cancelled_exc_class():
            emit(_finished(stage, None, StopReason.CANCELLED, "the caller gave up"))
            raise
        except EngineError as error:
            emit(_finished(stage, None, StopReason.ENGINE_ERROR, str(error)))
            return
        reason = _STOPS[result.outcome] if result.text is None else StopReason.ANSWER
        emit(_finished(stage, result.text, reason, result.cause if result.text is None else None))

    def _stage(self, name: str, capacity: int, seed: int, emit: Listener) -> Stage:
        told = capacity if self.method in (Method.ASYNCTHINK, Method.PLAN) else 1
        profile = self.engine.profile
        limits, prompts = self.limits, self.prompts
        reminded = not profile.trained if self.reminders is None else self.reminders
        return Stage(
            id=name,
            engine=self.engine,
            capacity=told,
            sampling=Sampling(temperature=self.used_temperature, top_p=self.top_p, seed=seed),
            meter=Meter(limits=limits, price=self.price, emit=emit),
            emit=emit,
            prompts=instructions(prompts, told, turns=not self.engine.capabilities.continues, limits=limits),
            reminders={role: prompts.reminder(worker=role is Role.WORKER) for role in Role}
            if reminded
            else {},
        )

    async def _drive(self, stage: Stage, query: str, capacity: int, known: Asked | None) -> Result:
        match self.method:
            case Method.ASYNCTHINK:
                return await organize(stage, query, self.workers)
            case Method.SEQUENTIAL:
                return await think_alone(stage, query, 1, majority)
            case Method.PLAN:
                assert self.plan is not None, "checked when this was made"
                return await organize(stage, query, self.workers, self.plan(known, stage))
            case Method.PARALLEL:
                return await think_alone(stage, query, capacity, known.task.merge if known else majority)


def _finished(stage: Stage, answer: str | None, reason: StopReason, cause: str | None) -> Finished:
    return Finished(answer=answer, stop_reason=reason, cause=cause, wall_seconds=stage.now())
