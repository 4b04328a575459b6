"""`asyncthink serve`: a model behind an OpenAI-compatible endpoint, organization and all."""

from __future__ import annotations

import secrets
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

from asyncthink.cli.options import (
    INTERRUPTED,
    MODEL,
    Api,
    BaseUrl,
    Continuation,
    Deadline,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from asyncthink.episodes.record import Episode
    from asyncthink.runtime.organization import Organization
    from asyncthink.server.security import Token


@one_line_errors
def serve_command(
    model: Annotated[str, option("--model", MODEL)] = "embedded",
    host: Annotated[str, option("--host", "Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, option("--port", "0 is any that is free.", min=0, max=65535)] = 8000,
    served_model_name: Annotated[
        str | None, option("--served-model-name", "What clients call the model. [default: --model]")
    ] = None,
    token: Annotated[
        str | None,
        option("--token", "What requests must show. [default: none on the loopback, else one is made]"),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, option("--allowed-host", "A name that clients may call the server by; repeatable.")
    ] = None,
    allowed_origin: Annotated[
        list[str] | None, option("--allowed-origin", "A web page that may ask, as in https://example.org.")
    ] = None,
    base_url: BaseUrl = None,
    api: Api = None,
    tokenizer: Tokenizer = None,
    continuation: Continuation = None,
    capacity: Annotated[
        int | None, option("--capacity", "c where a request does not say. [default: the model's, else 4]")
    ] = None,
    max_capacity: Annotated[int, option("--max-capacity", "The largest c a request may ask for.")] = 16,
    temperature: Annotated[
        float | None,
        option("--temperature", "Where a request does not say. [default: what the model declares]"),
    ] = None,
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
    at_once: Annotated[int, option("--at-once", "Episodes at a time.")] = 64,
    max_waiting: Annotated[int, option("--max-waiting", "Requests that may wait; more get 429.")] = 256,
    max_body: Annotated[int, option("--max-body", "Bytes of a request's body.")] = 1 << 20,
    drain_seconds: Annotated[
        float, option("--drain-seconds", "How long requests may go on after SIGTERM or Ctrl-C.")
    ] = 60.0,
    output: Annotated[str | None, option("--output", "Run directory to which episodes are appended.")] = None,
    runs: Annotated[str, option("--runs", "Folder whose runs the page shows.")] = "runs",
) -> None:
    """Serve a model, with its organizer and workers, to any client of OpenAI's interface.

    asyncthink serve --model embedded

    Limits bind every request: it gets the smaller of its own and these.
    """
    from asyncthink.extras import require

    require("serve", "asyncthink serve")
    from dataclasses import asdict
    from functools import partial
    from pathlib import Path

    import anyio

    from asyncthink.cli.notes import told_to
    from asyncthink.engines.models import load_engine
    from asyncthink.protocol.prompts import load_prompts
    from asyncthink.runtime.budget import Limits
    from asyncthink.runtime.organization import Organization
    from asyncthink.runtime.prices import load_price
    from asyncthink.server.listening import listen, serve
    from asyncthink.server.pages import Library, routes
    from asyncthink.server.request import served
    from asyncthink.server.security import origin
    from asyncthink.server.settings import Settings

    limits = Limits(
        max_tokens=max_tokens,
        max_critical_path=max_critical_path,
        max_organizer_tokens=max_organizer_tokens,
        max_worker_tokens=max_worker_tokens,
        max_forks=max_forks,
        deadline=deadline,
        max_cost=max_cost,
    )
    server = {"base_url": base_url, "api": api, "tokenizer": tokenizer, "continuation": continuation}
    organization = Organization(
        load_engine(model, server),
        capacity=capacity,
        limits=limits,
        temperature=temperature,
        prompts=load_prompts(Path(prompts)) if prompts else None,
        price=load_price(Path(prices), model) if prices else None,
        reminders=reminders,
    )
    kept = {
        "command": "serve",
        "model": model,
        **server,
        "prompts": prompts,
        "prices": prices,
        "reminders": reminders,
        "capacity": capacity,
        "temperature": temperature,
        **asdict(limits),
    }
    origins = tuple(origin(each) for each in allowed_origin or ())
    with listen(host, port) as sock, _saver(output, kept) as save, told_to(_note):
        settings = Settings(
            model=served_model_name or model,
            token=_token(token, sock.getsockname()[0]),
            allowed_hosts=(host, *(allowed_host or ())),
            allowed_origins=origins,
            max_body=max_body,
            max_capacity=max_capacity,
            at_once=at_once,
            max_waiting=max_waiting,
            drain_seconds=drain_seconds,
            save=save,
            note=_note,
        )
        paths = routes(Library(Path(runs)), list(served(organization, settings)), _example(organization))
        cut = anyio.run(partial(serve, organization, settings, sock, routes=paths))
    if cut:
        fail("1 thought was cut off" if cut == 1 else f"{cut} thoughts were cut off", INTERRUPTED)


def _example(organization: Organization) -> str:
    """Return a question that the model was made for; empty where it takes any."""
    from asyncthink.tasks import get_task
    from asyncthink.tasks.base import Split

    for name in organization.engine.profile.tasks or ():
        task = get_task(name)
        return task.prompt(task.problem(Split.DEV, 0, 0))
    return ""


def _token(given: str | None, address: str) -> Token | None:
    """Return what requests must show: none on the loopback, unless it was asked for."""
    from asyncthink.server.security import Token, is_loopback

    if given is not None:
        return Token(given)
    if is_loopback(address):
        return None
    made = secrets.token_urlsafe(32)
    _note(f"token: {made}")
    return Token(made)


@contextmanager
def _saver(output: str | None, settings: dict[str, Any]) -> Generator[Callable[[Episode], None] | None]:
    """Open the run directory before anything is spent; yield what appends to it."""
    if output is None:
        yield None
        return
    from asyncthink.cli.saving import open_run

    with open_run(output, settings) as save:
        yield save


def _note(line: str) -> None:
    """Write a line of the log; that nobody reads it stops nothing."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"asyncthink: {line}\n")
        sys.stderr.flush()
