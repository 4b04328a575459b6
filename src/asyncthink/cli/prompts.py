"""`asyncthink prompts`: what untrained models are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from asyncthink.cli.options import one_line_errors, option


@one_line_errors
def prompts_command(
    role: Annotated[
        str | None,
        typer.Argument(help="organizer or worker: its prompt, filled in. Without: the file to copy."),
    ] = None,
    prompts: Annotated[str | None, option("--prompts", "A file of your own.")] = None,
    capacity: Annotated[int, option("--capacity", "c, as the organizer is told it.")] = 4,
    turns: Annotated[
        bool, option("--turns", "As for servers where a result is the next user message.")
    ] = False,
) -> None:
    """Print the prompts for models that were not trained on the protocol.

    asyncthink prompts > mine.toml; change it; asyncthink think ... --prompts mine.toml
    """
    from asyncthink.errors import UnknownNameError
    from asyncthink.protocol.prompts import DEFAULT, load_prompts

    path = Path(prompts) if prompts else DEFAULT
    texts = load_prompts(path)
    if role is None:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    elif role == "organizer":
        sys.stdout.write(texts.for_organizer(capacity, turns=turns) + "\n")
    elif role == "worker":
        sys.stdout.write(texts.for_worker() + "\n")
    else:
        raise UnknownNameError("role", role, ["organizer", "worker"])
