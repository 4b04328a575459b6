"""`asyncthink simulate`: how pools of growing size would do, on servers that nobody has to own."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from asyncthink.cli.options import one_line_errors, option


@one_line_errors
def simulate_command(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, such as recipes/scale.toml.")
    ] = "recipes/scale.toml",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key, such as workload.part_tokens=800; repeatable."
        ),
    ] = None,
    output: Annotated[
        str | None, option("--output", "Folder for scaling.json, scaling.md and the figure.")
    ] = None,
    json: Annotated[bool, option("--json", "One JSON object a pool, as soon as it is there.")] = False,
) -> None:
    """Play one question with pools of growing size, in the time that a server was measured to take.

    asyncthink simulate recipes/scale.toml --output runs/scale

    What agents write is made up, so accuracy is not spoken of; critical path, concurrency, seconds and tokens are
    those of the real runtime.
    """
    from pathlib import Path

    import msgspec
    from rich.console import Console

    from asyncthink.evaluation.report.cells import Fitted
    from asyncthink.evaluation.report.scaling import scaling_table, write_scaling
    from asyncthink.evaluation.simulation import Point, SimulationRecipe, simulate
    from asyncthink.extras import require
    from asyncthink.settings import load

    settings, source = load(recipe, SimulationRecipe, changes or ())
    if output is not None:
        require("plots", "a figure")
    notes = Console(stderr=True)

    def done(point: Point) -> None:
        if json:
            sys.stdout.write(msgspec.json.encode(point).decode() + "\n")
            sys.stdout.flush()
        elif notes.is_terminal or output is not None:
            notes.print(f"{point.workers:,} workers: T = {point.critical_path:,}", highlight=False)

    points = simulate(settings, done)
    if not json:
        Console().print(Fitted(scaling_table(points)))
    if output is not None:
        write_scaling(points, source, shlex.join(["asyncthink", *sys.argv[1:]]), Path(output))
        sys.stderr.write(f"written: {output}\n")
