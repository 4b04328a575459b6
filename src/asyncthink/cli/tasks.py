"""`asyncthink tasks`: what there is to be asked."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from asyncthink.cli.options import one_line_errors, option
from asyncthink.errors import UnknownNameError, UsageError

_NO_PROBLEMS = "it has no problems of its own; they are read from a file of problems"


@one_line_errors
def tasks_command(
    name: Annotated[str | None, typer.Argument(help="A task, to see some of its problems.")] = None,
    split: Annotated[str, option("--split", "train, dev or test.")] = "dev",
    seed: Annotated[int, option("--seed", "Seed of the problems.")] = 0,
    limit: Annotated[int, option("--limit", "How many problems.", min=1, max=10_000)] = 5,
    json: Annotated[
        bool, option("--json", "One JSON object a line, as `eval --problems` reads them.")
    ] = False,
) -> None:
    """List the tasks, or some problems of one."""
    import msgspec

    from asyncthink.tasks import TASKS, Split, get_task

    tasks = [get_task(name)] if name else list(TASKS.values())
    if split not in list(Split):
        raise UnknownNameError("split", split, list(Split))
    for task in tasks:
        count = task.available(Split.DEV if name is None else Split(split))
        if not name:
            example = _NO_PROBLEMS if count == 0 else task.prompt(task.problem(Split.DEV, seed, 0))
            _write({"task": task.name, "example": example}, json)
            continue
        if count == 0:
            task.problem(Split(split), seed, 0)  # a task says itself what mends it
            raise UsageError(f"{name}: {_NO_PROBLEMS}")
        for index in range(limit if count is None else min(limit, count)):
            problem = task.problem(Split(split), seed, index)
            if json:
                _write({"id": index, **msgspec.to_builtins(problem)}, json)
            else:
                sys.stdout.write(task.prompt(problem) + "\n")


def _write(row: dict[str, object], json: bool) -> None:
    import msgspec

    line = msgspec.json.encode(row).decode() if json else "  ".join(map(str, row.values()))
    sys.stdout.write(line + "\n")
