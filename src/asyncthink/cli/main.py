"""The command line: arguments -> configuration -> one call. Heavy imports wait for the command that needs them.

Exit status: 0 done or answered, 1 the output could not be written or a training diverged, 2 usage, 3 no answer, 4 engine, 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from asyncthink.cli.doctor import doctor_command
from asyncthink.cli.eval import eval_command
from asyncthink.cli.prompts import prompts_command
from asyncthink.cli.serve import serve_command
from asyncthink.cli.simulate import simulate_command
from asyncthink.cli.synth import synth_command
from asyncthink.cli.tasks import tasks_command
from asyncthink.cli.think import think_command
from asyncthink.cli.train import train_app
from asyncthink.cli.view import view_command

app = typer.Typer(
    name="asyncthink",
    epilog="Exit status: 0 answered or done, 1 output or training failed, 2 usage, 3 no answer, 4 engine, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from asyncthink import __version__

        typer.echo(f"asyncthink {__version__}")
        raise typer.Exit


@app.callback()
def asyncthink(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Language models that organise their own thinking: fork, go on, join, answer."""
    del version


app.command("think")(think_command)
app.command("eval")(eval_command)
app.command("view")(view_command)
app.add_typer(train_app, name="train")
app.command("serve")(serve_command)
app.command("simulate")(simulate_command)
app.command("synth")(synth_command)
app.command("tasks")(tasks_command)
app.command("prompts")(prompts_command)
app.command("doctor")(doctor_command)


def run() -> None:
    """Entry point of the `asyncthink` command."""
    app()
