"""`asyncthink doctor`: what works here, and what mends what does not."""

from __future__ import annotations

import platform
import sys
from typing import Annotated

import typer

from asyncthink.cli.options import one_line_errors, option
from asyncthink.errors import AsyncThinkError
from asyncthink.extras import EXTRAS, mend, missing


@one_line_errors
def doctor_command(
    model: Annotated[str, option("--model", "The model to try.")] = "embedded",
) -> None:
    """Check the installation and decode a few tokens with a model."""
    from importlib.metadata import version

    import anyio

    from asyncthink import __version__

    _line(True, "asyncthink", f"{__version__}, Python {platform.python_version()}")
    for extra, modules in EXTRAS.items():
        absent = missing(extra)
        found = ", ".join(f"{module} {version(module)}" for module in modules if module not in absent)
        told = f"missing {', '.join(absent)}: {mend(extra)}" if absent else found
        _line(not absent, f"extra {extra}", told)
    try:
        told = anyio.run(_try_model, model)
    except AsyncThinkError as error:
        _line(False, f"model {model}", str(error))
        raise typer.Exit(error.exit_status) from None
    _line(True, f"model {model}", told)


def _line(good: bool, what: str, text: str) -> None:
    sys.stdout.write(f"{'ok  ' if good else 'FAIL'}  {what}: {text}\n")


async def _try_model(name: str) -> str:
    from asyncthink.engines.models import load_engine
    from asyncthink.runtime.budget import Limits
    from asyncthink.runtime.think import Organization
    from asyncthink.tasks import Split, get_task

    engine = load_engine(name)
    task = get_task(next(iter(engine.profile.tasks or ["countdown"])))
    query = task.prompt(task.problem(Split.DEV, 0, 0))
    async with Organization(engine, limits=Limits(max_tokens=64)) as organization:
        episode = await organization.think(query)
    tokens = sum(segment.n_tokens for trace in episode.traces for segment in trace.segments)
    can = engine.capabilities
    abilities = [name for name in ("token_ids", "streaming", "continues", "aborts") if getattr(can, name)]
    known = ", ".join(engine.profile.tasks) if engine.profile.tasks else "any question"
    return f"answers {known}; {', '.join(abilities)}; {tokens} tokens in {episode.wall_seconds:.2f} s"
