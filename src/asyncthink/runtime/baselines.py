"""What AsyncThink is compared with, as organizers over the same runtime and record (docs/paper.md).

Sequential thinking is an organizer that never forks. Parallel thinking is one whose runtime forks the
whole query to everybody at zero ticks: trace 0 is the organizer, the others stand at 0/1 to 0/c-1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import anyio

from asyncthink.episodes.events import Joined
from asyncthink.episodes.record import Outcome
from asyncthink.errors import EngineError
from asyncthink.runtime.agent import Result, Stage
from asyncthink.runtime.organizer import ModelOrganizer

Merge = Callable[[Sequence[str]], str]


async def think_alone(stage: Stage, query: str, traces: int, merge: Merge) -> Result:
    """Run independent traces of the query that cannot fork, and merge their answers.

    The result's outcome and counts are trace 0's.

    Raises:
        EngineError: the engine refuses to open one of the sessions.
    """
    with ExitStack() as held:
        organizers: list[ModelOrganizer] = []
        try:
            for trace in range(traces):
                organizers.append(ModelOrganizer(stage, query, path="0" if trace == 0 else f"0/{trace}"))
                held.callback(organizers[-1].session.close)
        except EngineError:
            for organizer in organizers:
                organizer.tell_end(Result(outcome=Outcome.CANCELLED))
            raise
        return await _think_alone(stage, organizers, merge)


async def _think_alone(stage: Stage, organizers: Sequence[ModelOrganizer], merge: Merge) -> Result:
    results: dict[str, Result] = {}

    async def run(organizer: ModelOrganizer) -> None:
        try:
            with closing(organizer.session):
                result = await organizer.run(None)
        except anyio.get_cancelled_exc_class():
            organizer.tell_end(organizer.agent.result(Outcome.CANCELLED))
            raise
        results[organizer.path] = result
        if organizer.path != "0":
            organizer.tell_end(result)

    first = organizers[0]
    try:
        async with anyio.create_task_group() as group:
            for organizer in organizers:
                group.start_soon(run, organizer)
    except BaseException:
        if "0" in results:  # done before the others were stopped; its end is told last
            first.tell_end(results["0"])
        raise
    own = results["0"]
    for organizer in organizers[1:]:
        stage.emit(Joined(path=organizer.path, joined_at=own.decoded))
    answers = [text for organizer in organizers if (text := results[organizer.path].text) is not None]
    if not answers and own.outcome is not Outcome.ENGINE_ERROR:
        first.fault_missing()
    first.tell_end(own)
    text = merge(answers) if answers else None
    return Result(outcome=own.outcome, text=text, cause=own.cause, decoded=own.decoded)
