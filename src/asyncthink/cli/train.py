"""`asyncthink train`: the lesson."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from asyncthink.cli.options import one_line_errors
from asyncthink.extras import require

if TYPE_CHECKING:
    from asyncthink.training.sft import Progress as ProgressLine

train_app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)


@train_app.callback()
def train() -> None:
    """Train a model. A killed run goes on when the same command is given again."""


@train_app.command("sft")
@one_line_errors
def sft_command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, such as recipes/embedded.toml.")],
) -> None:
    """Format fine-tuning: make a model that speaks the protocol."""
    require("local", "training")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from asyncthink.training.recipe import load_recipe
    from asyncthink.training.sft import train_sft

    settings = load_recipe(recipe)
    columns = (
        TextColumn("{task.fields[shown]}"),
        BarColumn(),
        TextColumn("{task.percentage:.1f}%"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("sft", total=settings.train.tokens, shown="making the first traces")

        def report(progress: ProgressLine) -> None:
            shown = (
                f"step {progress.step}  loss {progress.loss:.3f}  right {progress.accuracy:.1%}  "
                f"{progress.tokens_per_second:,.0f} tok/s"
            )
            bar.update(row, completed=progress.tokens, shown=shown)

        folder = train_sft(settings, report)
    sys.stdout.write(f"{folder}\n")
