"""`asyncthink train`: format fine-tuning, reinforcement learning, and the report of both."""

from __future__ import annotations

import sys
from typing import Annotated, TypeAlias

import typer

from asyncthink.cli.options import one_line_errors
from asyncthink.extras import missing, require

PLAIN_WIDTH = 160
"""Columns of a table that goes into a file."""
Changes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, such as seed=2 or update.steps=60; repeatable.",
    ),
]
Track: TypeAlias = Annotated[
    str | None,
    # No environment variable sets it: nothing is sent anywhere by accident.
    typer.Option(metavar="NAME", help="Log each step's figures with trackio, wandb or tensorboard."),
]

train_app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)


@train_app.callback()
def train() -> None:
    """Train a model. A killed run goes on when the same command is given again."""


@train_app.command("sft")
@one_line_errors
def sft_command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, such as recipes/embedded-sft.toml.")],
    changes: Changes = None,
    track: Track = None,
) -> None:
    """Format fine-tuning: make a model that speaks the protocol."""
    require("local", "training")
    from rich.console import Console

    from asyncthink.cli.train_progress import SFTProgress, shown, tracker_of
    from asyncthink.training.recipe import load_recipe

    settings = load_recipe(recipe, changes or ())
    if settings.trainer == "trl":
        require("trl", 'trainer = "trl"')
        from asyncthink.training.trl.sft import train_sft
    else:
        from asyncthink.training.sft import train_sft
    tracker = tracker_of(track, settings.output, settings.source)
    progress = SFTProgress(Console(stderr=True), settings.output, settings.train.tokens, tracker=tracker)
    with shown(progress):
        folder = train_sft(settings, progress)
    sys.stdout.write(f"{folder}\n")


@train_app.command("rl")
@one_line_errors
def rl_command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, such as recipes/embedded-rl.toml.")],
    changes: Changes = None,
    track: Track = None,
) -> None:
    """Organizer-worker policy optimisation: learn to organise from rewards."""
    require("local", "training")
    from rich.console import Console

    from asyncthink.cli.train_progress import RLProgress, shown, tracker_of
    from asyncthink.training.rl_recipe import load_rl_recipe

    settings = load_rl_recipe(recipe, changes or ())
    if settings.trainer == "trl":
        require("trl", 'trainer = "trl"')
        from asyncthink.training.trl.rl import train_trl as train_rl
    else:
        from asyncthink.training.owpo import train_rl
    tracker = tracker_of(track, settings.output, settings.source)
    progress = RLProgress(Console(stderr=True), settings.output, tracker=tracker)
    with shown(progress):
        folder = train_rl(settings, progress)
    sys.stdout.write(f"{folder}\n")


@train_app.command("verl-data")
@one_line_errors
def verl_data_command(
    recipe: Annotated[str, typer.Argument(help="An RL recipe, such as recipes/verl-countdown.toml.")],
    folder: Annotated[str, typer.Argument(help="Where train.jsonl, dev.jsonl and recipe.toml go.")],
    dev: Annotated[int, typer.Option(min=1, help="Problems of the dev split.")] = 128,
    changes: Changes = None,
) -> None:
    """Write a recipe and its problems for verl's trainer, and print the command that trains on them."""
    require("local", "training")
    import shlex
    from importlib import resources
    from pathlib import Path

    from asyncthink.training.rl_recipe import load_rl_recipe
    from asyncthink.training.verl_data import RECIPE, write_problems

    settings, place = load_rl_recipe(recipe, changes or ()), Path(folder).resolve()
    train, held_out = write_problems(settings, place, dev)
    packaged = resources.files("asyncthink") / "recipes"
    command = [
        *("python", "-m", "verl.trainer.main_ppo", "--config-dir", str(packaged)),
        *("--config-name", "verl-countdown", f"asyncthink.recipe={place / RECIPE}"),
        *(f"data.train_files={train}", f"data.val_files={held_out}"),
    ]
    sys.stdout.write(f"{shlex.join(command)} actor_rollout_ref.model.path=FOLDER\n")


@train_app.command("report")
@one_line_errors
def report_command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Run directories, several to compare them.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            help="Folder of the report. [default: the run's; of several, `report` beside the first]"
        ),
    ] = None,
) -> None:
    """Write the curves of a training, or of several side by side; a run may still be training."""
    if "numpy" in missing("plots"):
        require("plots", "a report")
    from pathlib import Path

    from rich.console import Console

    from asyncthink.evaluation.report.cells import Fitted
    from asyncthink.training.report.write import default_folder, write_report

    paths = [Path(run) for run in runs]
    folder = default_folder(paths) if output is None else Path(output)
    main = write_report(paths, folder)
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(Fitted(main))
    sys.stdout.write(f"report: {folder / 'report.html'}\n")
