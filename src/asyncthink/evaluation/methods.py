"""Who drives a query, by name: the methods that are compared, and probes that change one thing about them."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from asyncthink.episodes.record import Outcome
from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.evaluation.plans import Order, Schedule, plan
from asyncthink.runtime.agent import Result, Stage
from asyncthink.runtime.organization import Method, Organization
from asyncthink.runtime.organizer import Plan
from asyncthink.runtime.pool import DEFAULT
from asyncthink.runtime.worker import Assignment, ModelWorker, Worker
from asyncthink.tasks import DIVIDERS, Asked


class SilentWorker:
    """A probe: works like the model, and returns nothing. What the organizer writes all the same was not joined."""

    def work(self, assignment: Assignment) -> Awaitable[Result]:
        """Let the model work; withhold what it returns."""
        return self._withhold(ModelWorker().work(assignment))

    async def _withhold(self, work: Awaitable[Result]) -> Result:
        result = await work
        if result.text is None:
            return result
        return replace(
            result, text=None, outcome=Outcome.NO_RESULT, cause="withheld: the probe silent-workers"
        )


class ShuffledWorker:
    """A probe: answers the sub-query of the fork before, the first one its own words in a random order.

    The organizer takes each return for the answer to what it asked. One instance serves one episode.
    """

    def __init__(self) -> None:
        self._before: str | None = None

    def work(self, assignment: Assignment) -> Awaitable[Result]:
        """Let the model work on another sub-query."""
        asked = self._before
        if asked is None:
            words = assignment.query.split()
            Random(f"shuffle:{assignment.stage.sampling.seed}").shuffle(words)
            asked = " " + " ".join(words)
        self._before = assignment.query
        return ModelWorker().work(replace(assignment, query=asked))


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A method, perhaps with one thing changed."""

    name: str
    method: Method
    about: str
    schedule: Schedule = Schedule.BUSY
    order: Order = Order.RANDOM
    """Of plans only, both."""
    workers: type[SilentWorker] | type[ShuffledWorker] | None = None
    """In the place of the model's own; None: those."""

    def of(self, organization: Organization, asked: Asked) -> Organization:
        """Return the organization that tries one problem."""
        if self.workers is not None:
            worker: Worker = self.workers()
            return organization.like(workers={DEFAULT: worker})
        if self.method is Method.PLAN:
            return organization.like(method=Method.PLAN, plan=self._plan(asked))
        return organization

    def _plan(self, asked: Asked) -> Any:
        divider = DIVIDERS[asked.task.name]

        def make(_known: Asked | None, stage: Stage) -> Plan:
            return plan(divider, asked.problem, stage, self.schedule, self.order)

        return make

    def refusal(self, asked: Asked) -> str | None:
        """Return why this method cannot try a problem, or None."""
        if self.method is not Method.PLAN:
            return None
        divider = DIVIDERS.get(asked.task.name)
        if divider is None:
            known = ", ".join(DIVIDERS)
            return f"{self.name} needs a task that a program can divide ({known}), not {asked.task.name}"
        return divider.refusal(asked.problem)


PRESETS = {
    each.name: each
    for each in (
        Preset(name="asyncthink", method=Method.ASYNCTHINK, about="the model organises itself"),
        Preset(name="sequential", method=Method.SEQUENTIAL, about="one trace"),
        Preset(name="parallel", method=Method.PARALLEL, about="c traces; voted, and pooled"),
        Preset(name="random-forks", method=Method.PLAN, about="a plan: random parts, workers always busy"),
        Preset(
            name="oracle-forks",
            method=Method.PLAN,
            order=Order.ORACLE,
            about="a plan: the parts that bring most first, workers always busy",
        ),
        Preset(
            name="forks-first",
            method=Method.PLAN,
            schedule=Schedule.WAVES,
            about="a plan: random parts, all forks and then all joins",
        ),
        Preset(
            name="fork-join-pairs",
            method=Method.PLAN,
            schedule=Schedule.PAIRS,
            about="a plan: random parts, each fork joined at once",
        ),
        Preset(
            name="shuffled-queries",
            method=Method.ASYNCTHINK,
            workers=ShuffledWorker,
            about="the model organises; each worker gets another one's sub-query",
        ),
        Preset(
            name="silent-workers",
            method=Method.ASYNCTHINK,
            workers=SilentWorker,
            about="the model organises; every return is (no result)",
        ),
    )
}


def preset(name: str, arm: str) -> Preset:
    """Return a method by name.

    Raises:
        UnknownNameError: there is none.
        UsageError: an arm of that name says nothing of its method.
    """
    if name in PRESETS:
        return PRESETS[name]
    error = UnknownNameError("method", name, PRESETS)
    if name == arm:
        raise UsageError(f'{error}; an arm with a name of its own needs method = "..."')
    raise error
