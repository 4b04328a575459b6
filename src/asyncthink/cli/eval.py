"""`asyncthink eval`: methods side by side on a task's problems."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncthink.cli.options import (
    INTERRUPTED,
    MODEL,
    Api,
    BaseUrl,
    Continuation,
    Deadline,
    MaxConcurrency,
    MaxCost,
    MaxCriticalPath,
    MaxForks,
    MaxOrganizerTokens,
    MaxTokens,
    MaxWorkerTokens,
    Prices,
    PromptsFile,
    Reminders,
    Tokenizer,
    fail,
    one_line_errors,
    option,
)
from asyncthink.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from rich.console import Console

    from asyncthink.evaluation.run import Run

ENGINE = 4
PLAIN_WIDTH = 160
"""Columns of a table that goes into a file."""
PLAIN_SECONDS = 10.0
"""Seconds between lines of progress where nobody watches a terminal."""


@one_line_errors
def eval_command(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="A recipe file (TOML); options change it.")] = None,
    task: Annotated[str | None, option("--task", "What is asked: see `asyncthink tasks`.")] = None,
    methods: Annotated[
        str | None,
        option(
            "--methods", "With commas: asyncthink, sequential, parallel, or probes: see docs/evaluation.md."
        ),
    ] = None,
    model: Annotated[str | None, option("--model", MODEL)] = None,
    base_url: BaseUrl = None,
    api: Api = None,
    tokenizer: Tokenizer = None,
    continuation: Continuation = None,
    max_concurrency: MaxConcurrency = None,
    samples: Annotated[int | None, option("--samples", "Trials of each problem. [default: 1]")] = None,
    limit: Annotated[int | None, option("--limit", "Problems. [default: 100, or the whole file]")] = None,
    problems: Annotated[
        str | None, option("--problems", "Your own problems: FILE.jsonl, or hf:NAME for a data set.")
    ] = None,
    split: Annotated[str | None, option("--split", "train, dev or test. [default: dev]")] = None,
    seed: Annotated[int | None, option("--seed", "Of drawn problems and of sampling. [default: 0]")] = None,
    capacity: Annotated[
        int | None, option("--capacity", "c. [default: the model's, else the task's]")
    ] = None,
    temperature: Annotated[
        float | None, option("--temperature", "[default: the model's; 0.5 for samples of a greedy one]")
    ] = None,
    top_p: Annotated[
        float | None, option("--top-p", "Sample from the likeliest tokens of this mass.")
    ] = None,
    max_critical_path: MaxCriticalPath = None,
    max_tokens: MaxTokens = None,
    max_organizer_tokens: MaxOrganizerTokens = None,
    max_worker_tokens: MaxWorkerTokens = None,
    max_forks: MaxForks = None,
    deadline: Deadline = None,
    max_cost: MaxCost = None,
    prices: Prices = None,
    prompts: PromptsFile = None,
    reminders: Reminders = None,
    at_once: Annotated[int | None, option("--at-once", "Episodes in flight. [default: 64]")] = None,
    output: Annotated[str | None, option("--output", "Run directory. [default: runs/TASK-TIME]")] = None,
    resume: Annotated[str | None, option("--resume", "Go on with this run; needs nothing else.")] = None,
    json: Annotated[bool, option("--json", "Print the summary as JSON on standard output.")] = False,
) -> None:
    """Try methods on the same problems; end with a table, figures and report.html.

    asyncthink eval --task countdown --methods asyncthink,sequential,parallel --samples 4

    A killed run goes on with --resume RUN. Given again with the same --output, the same command does that too.
    """
    options = {name: value for name, value in locals().items() if value is not None}
    for name in ("context", "recipe", "methods", "output", "resume", "json"):
        options.pop(name, None)
    if resume is not None:  # the run has its own, whatever the environment says
        sources = {name: context.get_parameter_source(name) for name in options}
        options = {
            name: options[name] for name, found in sources.items() if found and found.name != "ENVIRONMENT"
        }
    from rich.console import Console

    console = Console(stderr=True)
    with _run(recipe, options, methods, output, resume) as run:
        from asyncthink.evaluation.report.write import write_report

        console.print(f"run directory: {run.directory.path}", highlight=False, markup=False, soft_wrap=True)
        interrupted, error = _carry_out(run, console)
        if run.done:
            console.print(f"writing the report of {len(run.done):,} episodes", highlight=False)
        summary = write_report(run.evaluation, run.directory) if run.done else None
    if json and summary is not None:
        import msgspec

        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    elif summary is not None:
        from asyncthink.evaluation.report.tables import printed

        wide = None if sys.stdout.isatty() else PLAIN_WIDTH
        Console(width=wide).print(printed(summary))
        sys.stdout.write(f"report: {run.directory.path / 'report.html'}\n")
    _end(run, interrupted, error)


def _run(
    recipe: str | None, options: dict[str, Any], methods: str | None, output: str | None, resumed: str | None
) -> AbstractContextManager[Run]:
    """Open the run that the arguments ask for."""
    from pathlib import Path

    from asyncthink.evaluation.recipe import resolve
    from asyncthink.evaluation.run import begin, resume
    from asyncthink.settings import find_recipe, parse

    for name, value in {**options, "methods": methods, "output": output, "resume": resumed}.items():
        if value == "":
            raise UsageError(f"--{name.replace('_', '-')} is empty")
    if resumed is not None:
        others = {"recipe": recipe, "methods": methods, "output": output}
        at_once = options.pop("at_once", None)
        given = [*options, *(name for name, value in others.items() if value)]
        if given:
            raise UsageError(
                f"--resume takes everything but --at-once from the run: leave out {', '.join(given)}"
            )
        return resume(Path(resumed), at_once)
    raw = parse(find_recipe(recipe), recipe) if recipe else {}
    if methods is not None:
        chosen = [name.strip() for name in methods.split(",") if name.strip()]
        if len(set(chosen)) < len(chosen):
            raise UsageError(f"--methods names one twice: {methods}")
        known: Any = raw.get("methods", {})
        if not isinstance(known, dict):
            raise UsageError(f"{recipe}: methods must be tables: [methods.asyncthink]")
        raw["methods"] = {name: known.get(name, {}) for name in chosen}
    whole = resolve({**raw, **options}, recipe or "options")
    return begin(whole, Path(output) if output is not None else _folder(whole.task), _typed())


def _typed() -> str:
    """Return the command as it was typed."""
    import shlex

    return shlex.join(["asyncthink", *sys.argv[1:]])


def _folder(task: str) -> Path:
    """Return a run directory that is named by the clock and not there yet."""
    from datetime import datetime
    from itertools import count
    from pathlib import Path

    name = f"{task}-{datetime.now():%Y%m%d-%H%M%S}"
    tries = (Path("runs") / (name if not n else f"{name}-{n}") for n in count())
    return next(path for path in tries if not path.exists())


def _carry_out(run: Run, console: Console) -> tuple[bool, Exception | None]:
    """Try what is left; return whether that was interrupted, and what ended it early."""
    import anyio

    from asyncthink.cli.notes import told_to
    from asyncthink.cli.watching import watched
    from asyncthink.errors import AsyncThinkError
    from asyncthink.evaluation.board import Board

    board = Board()
    for warning in run.directory.warnings:
        board.note(warning)
    with watched(board, console, PLAIN_SECONDS), told_to(board.note):
        try:
            anyio.run(run.go_on, board)
        except KeyboardInterrupt:
            return True, None
        except AsyncThinkError as error:
            return False, error
    return False, None


def _end(run: Run, interrupted: bool, error: Exception | None) -> None:
    """Say what is missing, and how to go on."""
    from asyncthink.errors import AsyncThinkError

    left = len(run.left)
    again = f"go on with: asyncthink eval --resume {run.directory.path}"
    if interrupted:
        fail(f"interrupted with {left} episodes to go; {again}", INTERRUPTED)
    if error is not None:
        fail(
            f"{error}; {left} episodes to go, {again}",
            error.exit_status if isinstance(error, AsyncThinkError) else 1,
        )
    if left:
        fail(f"{left} episodes failed, the last with: {run.failures[-1]}; {again}", ENGINE)
