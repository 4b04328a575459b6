"""`asyncthink think`: one question, thought through."""

from __future__ import annotations

import sys
from contextlib import nullcontext
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
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rich.console import Console

    from asyncthink.episodes.events import Event
    from asyncthink.episodes.record import Episode
    from asyncthink.runtime.organization import Organization
    from asyncthink.tasks import Score

NO_ANSWER, ENGINE = 3, 4


@one_line_errors
def think_command(
    query: Annotated[str | None, typer.Argument(help="The question; - reads standard input.")] = None,
    model: Annotated[str, option("--model", MODEL)] = "embedded",
    base_url: BaseUrl = None,
    api: Api = None,
    tokenizer: Tokenizer = None,
    continuation: Continuation = None,
    max_concurrency: MaxConcurrency = None,
    method: Annotated[str, option("--method", "asyncthink, sequential or parallel.")] = "asyncthink",
    capacity: Annotated[
        int | None,
        option("--capacity", "c: the organizer and c-1 workers at a time. [default: the model's, else 4]"),
    ] = None,
    task: Annotated[str | None, option("--task", "Make the question from a task's problem.")] = None,
    numbers: Annotated[str | None, option("--numbers", "countdown: the numbers, as in 2,3,5,7.")] = None,
    target: Annotated[int | None, option("--target", "countdown: the target.")] = None,
    seed: Annotated[int, option("--seed", "Seed of sampling, and of a problem drawn with --task.")] = 0,
    temperature: Annotated[
        float | None, option("--temperature", "0 is greedy. [default: what the model declares]")
    ] = None,
    top_p: Annotated[float, option("--top-p", "Sample from the likeliest tokens of this mass.")] = 1.0,
    max_tokens: MaxTokens = None,
    max_critical_path: MaxCriticalPath = None,
    max_organizer_tokens: MaxOrganizerTokens = None,
    max_worker_tokens: MaxWorkerTokens = None,
    max_forks: MaxForks = None,
    deadline: Deadline = None,
    max_cost: MaxCost = None,
    prices: Prices = None,
    prompts: PromptsFile = None,
    reminders: Reminders = None,
    output: Annotated[
        str | None, option("--output", "Run directory to which the episode is appended.")
    ] = None,
    json: Annotated[bool, option("--json", "Print one JSON object on standard output.")] = False,
) -> None:
    """Think one question through with an organizer and its workers.

    asyncthink think "Using the numbers 3, 4, 6, 8, find 4 different expressions that equal 24."

    asyncthink think --task countdown --numbers 2,3,5,7 --target 28
    """
    from dataclasses import asdict
    from pathlib import Path

    from asyncthink.engines.models import load_engine
    from asyncthink.protocol.prompts import load_prompts
    from asyncthink.runtime.budget import Limits
    from asyncthink.runtime.organization import Organization
    from asyncthink.runtime.prices import load_price
    from asyncthink.viewer.index import score_of

    question = _question(query, task, numbers, target, seed)
    limits = Limits(
        max_tokens=max_tokens,
        max_critical_path=max_critical_path,
        max_organizer_tokens=max_organizer_tokens,
        max_worker_tokens=max_worker_tokens,
        max_forks=max_forks,
        deadline=deadline,
        max_cost=max_cost,
    )
    server = {
        "base_url": base_url,
        "api": api,
        "tokenizer": tokenizer,
        "continuation": continuation,
        "max_concurrency": max_concurrency,
    }
    organization = Organization(
        load_engine(model, server),
        method=method,
        capacity=capacity,
        limits=limits,
        temperature=temperature,
        top_p=top_p,
        prompts=load_prompts(Path(prompts)) if prompts else None,
        price=load_price(Path(prices), model) if prices else None,
        reminders=reminders,
    )
    settings = {
        "command": "think",
        "model": model,
        **server,
        "prompts": prompts,
        "prices": prices,
        "reminders": reminders,
        "method": method,
        "capacity": capacity,
        "seed": seed,
        "temperature": temperature,
        "top_p": top_p,
        **asdict(limits),
    }
    with _saver(output, settings) as save:
        episode, interrupted = _think(organization, question, seed, json)
        save(episode)
    score = score_of(episode)
    _print(episode, score, json)
    if interrupted:
        fail("interrupted", INTERRUPTED)
    if episode.answer is None:
        failed = episode.stop_reason.value == "engine_error"
        fail(f"no answer: {episode.cause or episode.stop_reason}", ENGINE if failed else NO_ANSWER)


def _question(query: str | None, task: str | None, numbers: str | None, target: int | None, seed: int) -> str:
    from asyncthink.tasks import Countdown, Split, get_task
    from asyncthink.tasks.countdown import parse_numbers

    if task is None:
        if numbers is not None or target is not None:
            raise UsageError("--numbers and --target need --task countdown")
        text = _standard_input() if query == "-" else (query or "").strip()
        if not text:
            raise UsageError('there is no question: asyncthink think "Using the numbers 3, 4, 6, 8, ..."')
        return text
    if query is not None:
        raise UsageError("give either a question or --task, not both")
    known = get_task(task)
    if (numbers is None) != (target is None):
        raise UsageError("--numbers and --target belong together")
    if numbers is None or target is None:
        return known.prompt(known.problem(Split.DEV, seed, 0))
    if not isinstance(known, Countdown):
        raise UsageError("--numbers and --target need --task countdown")
    return known.prompt(parse_numbers(numbers, target))


def _standard_input() -> str:
    try:
        return sys.stdin.read().strip() if sys.stdin else ""
    except UnicodeDecodeError as error:
        raise UsageError("standard input is no text") from error


def _saver(output: str | None, settings: dict[str, Any]) -> AbstractContextManager[Callable[[Episode], None]]:
    """Open the run directory before anything is spent; yield what appends to it."""
    if output is None:
        return nullcontext(lambda _: None)
    from asyncthink.cli.saving import open_run

    return open_run(output, settings)


def _think(organization: Organization, question: str, seed: int, json: bool) -> tuple[Episode, bool]:
    """Run one thought; return its episode and whether it was interrupted."""
    import anyio
    from rich.console import Console

    from asyncthink.cli.notes import told_to
    from asyncthink.episodes.fold import EpisodeBuilder
    from asyncthink.viewer.terminal import LiveTimeline

    builder = EpisodeBuilder()
    console = Console(stderr=json)
    with LiveTimeline(console) as timeline, told_to(timeline.note):

        def listen(event: Event) -> None:
            builder.apply(event)
            timeline.listen(event)

        async def main() -> Episode:
            async with organization:
                return await organization.think(question, seed=seed, listen=listen)

        try:
            return anyio.run(main), False
        except KeyboardInterrupt:
            if not builder.finished:
                raise
            return builder.episode(), True


def _print(episode: Episode, score: Score | None, json: bool) -> None:
    from rich.console import Console

    from asyncthink.episodes.metrics import measure

    metrics = measure(episode)
    if json:
        import msgspec

        shown = {
            "answer": episode.answer,
            "score": score.value if score else None,
            "stop_reason": episode.stop_reason,
            "cause": episode.cause,
            "format_errors": episode.format_errors,
            "metrics": metrics,
        }
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
        return
    from asyncthink.viewer.terminal import render_episode

    console: Console = Console()
    console.print(render_episode(episode, score, metrics))
