"""`asyncthink doctor`: what works here, and what mends what does not."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from asyncthink.cli.options import (
    Api,
    BaseUrl,
    Continuation,
    Tokenizer,
    one_line_errors,
    option,
)
from asyncthink.errors import AsyncThinkError, EngineError
from asyncthink.extras import EXTRAS, mend, missing

_MARKS = {True: "yes ", False: "no  ", None: "?   "}


@one_line_errors
def doctor_command(
    model: Annotated[str, option("--model", "The model to try.")] = "embedded",
    base_url: BaseUrl = None,
    api: Api = None,
    tokenizer: Tokenizer = None,
    continuation: Continuation = None,
) -> None:
    """Check the installation, ask a server what it can do, and decode a few tokens with a model."""
    from importlib.metadata import version

    import anyio

    from asyncthink import __version__

    _line(True, "asyncthink", f"{__version__}, Python {platform.python_version()}")
    for extra, modules in EXTRAS.items():
        absent = missing(extra)
        found = ", ".join(f"{module} {version(module)}" for module in modules if module not in absent)
        told = f"missing {', '.join(absent)}: {mend(extra)}" if absent else found
        _line(None if absent else True, f"extra {extra}", told)
    server = {"base_url": base_url, "api": api, "tokenizer": tokenizer, "continuation": continuation}
    try:
        told = anyio.run(_try_model, model, server)
    except AsyncThinkError as error:
        _line(False, f"model {model}", str(error))
        raise typer.Exit(error.exit_status) from None
    _line(True, f"model {model}", told)


def _line(good: bool | None, what: str, text: str) -> None:
    mark = {True: "ok  ", False: "FAIL", None: "--  "}[good]
    sys.stdout.write(f"{mark}  {what}: {text}\n")


async def _ask_servers(name: str, server: Mapping[str, Any]) -> None:
    """Print what an OpenAI-compatible server can do."""
    from asyncthink.engines.openai import OpenAIEngine
    from asyncthink.engines.openai.probe import probe

    given = {key: value for key, value in server.items() if value is not None}
    async with OpenAIEngine(name.partition(":")[2], **given) as engine:
        for each in engine.servers:
            _line(True, "server", each.url)
        for finding in await probe(engine):
            detail = finding.detail.replace("; ", "\n        ")
            sys.stdout.write(f"{_MARKS[finding.works]}  {finding.name}: {detail}\n")


async def _try_model(name: str, server: Mapping[str, Any]) -> str:
    from asyncthink.engines.models import load_engine
    from asyncthink.episodes.metrics import measure
    from asyncthink.episodes.record import StopReason
    from asyncthink.runtime.budget import Limits
    from asyncthink.runtime.organization import Organization
    from asyncthink.tasks import Split, get_task

    if name.startswith("openai:"):
        await _ask_servers(name, server)
    engine = load_engine(name, server)
    task = get_task(next(iter(engine.profile.tasks or ["countdown"])))
    query = task.prompt(task.problem(Split.DEV, 0, 0))
    async with Organization(engine, limits=Limits(max_tokens=64)) as organization:
        episode = await organization.think(query)
    if episode.stop_reason is StopReason.ENGINE_ERROR:
        raise EngineError(episode.cause or "the engine failed")
    tokens = measure(episode).decoded_tokens
    can = engine.capabilities
    abilities = [name for name in ("token_ids", "streaming", "continues", "aborts") if getattr(can, name)]
    known = ", ".join(engine.profile.tasks) if engine.profile.tasks else "any question"
    return f"answers {known}; {', '.join(abilities)}; {tokens} tokens in {episode.wall_seconds:.2f} s"
