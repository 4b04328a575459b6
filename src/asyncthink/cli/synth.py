"""`asyncthink synth`: cold-start traces, by a teacher model or by a program."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from asyncthink.cli.options import (
    INTERRUPTED,
    Api,
    BaseUrl,
    Continuation,
    MaxConcurrency,
    Tokenizer,
    fail,
    one_line_errors,
    option,
)
from asyncthink.errors import AsyncThinkError, RecordError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from asyncthink.engines.base import Engine
    from asyncthink.training.teacher.question import Settings
    from asyncthink.training.teacher.traces import Source, Traces

NOTHING_KEPT, ENGINE = 3, 4
PROGRAM = "program"
MOST_FORKS = 50
PLAIN_SECONDS = 10.0
"""Seconds between lines of progress where nobody watches a terminal."""


@one_line_errors
def synth_command(
    model: Annotated[
        str | None, option("--model", "The teacher: openai:NAME, hf:FOLDER or scripted:FILE; or program.")
    ] = None,
    base_url: BaseUrl = None,
    api: Api = None,
    tokenizer: Tokenizer = None,
    continuation: Continuation = None,
    max_concurrency: MaxConcurrency = None,
    task: Annotated[str, option("--task", "What is asked: see `asyncthink tasks`.")] = "countdown",
    limit: Annotated[int, option("--limit", "Questions, of the train split.", min=1)] = 100,
    capacity: Annotated[int | None, option("--capacity", "c. [default: the task's]", min=1, max=9999)] = None,
    max_forks: Annotated[
        int | None,
        option("--max-forks", "A teacher is asked for 1 to so many. [default: 4]", min=1, max=MOST_FORKS),
    ] = None,
    seed: Annotated[int, option("--seed", "Of the problems, the plans and the sampling.")] = 0,
    temperature: Annotated[
        float | None, option("--temperature", "The teacher's. [default: 1]", min=0, max=100)
    ] = None,
    top_p: Annotated[
        float | None, option("--top-p", "The teacher's. [default: 1]", min=0.000001, max=1)
    ] = None,
    max_tokens: Annotated[int | None, option("--max-tokens", "Of one reply. [default: 4096]", min=1)] = None,
    at_once: Annotated[int, option("--at-once", "Questions in flight.", min=1)] = 16,
    output: Annotated[str | None, option("--output", "The file of examples, FILE.jsonl.")] = None,
    data_set: Annotated[
        bool,
        option(
            "--data-set",
            "Make the file's folder a Hugging Face data set: a card, and a Parquet copy where pyarrow is installed.",
        ),
    ] = False,
    json: Annotated[bool, option("--json", "Print the statistics as JSON on standard output.")] = False,
) -> None:
    """Write traces for format fine-tuning; a filter drops what breaks the protocol.

    asyncthink synth --model openai:NAME --base-url http://127.0.0.1:8000/v1 --limit 1000 --output traces.jsonl

    asyncthink synth --model program --task sudoku --limit 1000 --output traces.jsonl

    Given again after a kill, the same command goes on; with a larger --limit it makes more.
    """
    from asyncthink.tasks import get_task
    from asyncthink.training.teacher.question import Settings
    from asyncthink.training.teacher.traces import Program, Teacher, Traces

    if not model:
        raise UsageError("there is no teacher: --model openai:NAME, or --model program")
    sampling = {"max_forks": max_forks, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    given: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    server = {
        "base_url": base_url,
        "api": api,
        "tokenizer": tokenizer,
        "continuation": continuation,
        "max_concurrency": max_concurrency,
    }
    chosen = get_task(task).capacity if capacity is None else capacity
    settings = Settings(model=model, task=task, capacity=chosen, seed=seed, **given)
    engine = _engine(settings, server, given)
    source = Program(settings) if engine is None else Teacher(settings, engine)
    with Traces(_file(output), settings) as traces:
        failures, error = _make(source, traces, engine, limit, at_once)
        if not isinstance(error, RecordError):
            traces.finish()
            if data_set and traces.done >= set(range(limit)):
                _make_data_set(traces)
        if traces.done:
            _print(traces, json)
    _end(traces, limit, failures, error)


def _make_data_set(traces: Traces) -> None:
    from asyncthink.training.cards import write_data_set

    write_data_set(traces)


def _file(output: str | None) -> Path:
    from pathlib import Path

    if not output or Path(output).suffix != ".jsonl":
        raise UsageError("--output is missing, or no file such as traces.jsonl")
    return Path(output)


def _engine(settings: Settings, server: dict[str, Any], sampling: dict[str, Any]) -> Engine | None:
    """Return the teacher, which is not open yet; None for the program."""
    from asyncthink.engines.models import load_engine

    if settings.model != PROGRAM:
        return load_engine(settings.model, server)
    useless = [name for name, value in {**server, **sampling}.items() if value is not None]
    if useless:
        raise UsageError(f"only a model takes {', '.join(useless)}: leave that out with --model {PROGRAM}")
    return None


def _make(
    source: Source, traces: Traces, engine: Engine | None, limit: int, at_once: int
) -> tuple[list[str], BaseException | None]:
    """Make what is missing; return why questions failed, and what ended it early."""
    from contextlib import nullcontext

    import anyio
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from asyncthink.cli.notes import told_to
    from asyncthink.training.teacher.traces import synthesize

    done = sum(index < limit for index in traces.done)
    if done == limit:
        return [], None
    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[shown]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console)
    row = bar.add_task("synth", total=limit, completed=done, shown="waiting for the first")
    line_due = time.monotonic() + PLAIN_SECONDS

    def tell() -> None:
        nonlocal line_due
        counts = traces.statistics
        shown = f"kept {counts.kept:,}  dropped {counts.dropped.total():,}  {counts.tokens:,} tokens"
        bar.update(row, advance=1, shown=shown)
        if not console.is_terminal and time.monotonic() > line_due:
            line_due = time.monotonic() + PLAIN_SECONDS
            note(f"{counts.questions:,} of {limit:,} questions  {shown}")

    def note(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    async def main() -> list[str]:
        async with engine or nullcontext():
            with bar:
                return await synthesize(source, traces, limit=limit, at_once=at_once, tell=tell)

    with told_to(note):
        try:
            return anyio.run(main), None
        except (AsyncThinkError, KeyboardInterrupt) as error:
            return [], error


def _print(traces: Traces, json: bool) -> None:
    """Tell what came of it."""
    import msgspec

    told = traces.statistics.told()
    if json:
        files = {"output": str(traces.path), "report": str(traces.report)}
        sys.stdout.write(msgspec.json.encode({**files, **told}).decode() + "\n")
        return
    structures = told["structures"]
    rows = {
        f"{told['questions']} questions": f"{told['kept']} kept, {sum(told['dropped'].values())} dropped",
        "dropped": _counted(told["dropped"]),
        "structures": _counted(structures["likeness"]),
        "families planned": _counted(structures["families_planned"]),
        "families kept": _counted(structures["families_kept"]),
        "forks in a trace": _counted(structures["forks"]),
        "right answers": f"{told['right']} of {told['kept']}",
        "examples": _counted(told["examples"]),
    }
    lines = (f"{name}: {value}\n" for name, value in rows.items() if value)
    sys.stdout.write("".join(lines) + f"{traces.path}, {traces.report}\n")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _end(traces: Traces, limit: int, failures: list[str], error: BaseException | None) -> None:
    """Say what is missing, and how to go on."""
    left = len(set(range(limit)) - traces.done)
    again = f"{left} questions to go: the same command goes on"
    if isinstance(error, AsyncThinkError):
        fail(f"{error}; {again}", error.exit_status)
    if error is not None:
        fail(f"interrupted; {again}", INTERRUPTED)
    if failures:
        fail(f"the engine failed {len(failures)} questions, the last with: {failures[-1]}; {again}", ENGINE)
    if not traces.statistics.kept:
        fail(f"no trace was kept: {traces.report} says why", NOTHING_KEPT)
