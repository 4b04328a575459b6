"""think(): one question in, one episode out, with a model given by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio
import sniffio
from anyio.from_thread import start_blocking_portal

from asyncthink.engines.models import load_engine
from asyncthink.episodes.record import Episode
from asyncthink.protocol.prompts import Prompts
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Listener, Method, Organization
from asyncthink.runtime.prices import Price


async def think(
    prompt: str,
    *,
    model: str = "embedded",
    server: Mapping[str, Any] | None = None,
    method: str = Method.ASYNCTHINK,
    capacity: int | None = None,
    limits: Limits | None = None,
    temperature: float | None = None,
    top_p: float = 1.0,
    prompts: Prompts | None = None,
    price: Price | None = None,
    reminders: bool | None = None,
    seed: int = 0,
    listen: Listener | None = None,
) -> Episode:
    """Think one question through with a model given by name; see `Organization` for the arguments.

    `server` holds arguments of `OpenAIEngine`, such as base_url, for `openai:` models.

    Raises:
        UsageError: an argument, or the question for this model, makes no sense.
        EngineError: the model cannot be loaded.
    """
    organization = Organization(
        load_engine(model, server),
        method=method,
        capacity=capacity,
        limits=limits,
        temperature=temperature,
        top_p=top_p,
        prompts=prompts,
        price=price,
        reminders=reminders,
    )
    async with organization:
        return await organization.think(prompt, seed=seed, listen=listen)


def think_sync(prompt: str, **arguments: Any) -> Episode:
    """Run `think` to its end; also under a loop that already runs, as in a notebook."""
    call = partial(think, prompt, **arguments)
    try:
        sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return anyio.run(call)
    with start_blocking_portal() as portal:
        thought = portal.start_task_soon(call)
        try:
            return thought.result()
        except BaseException:  # as of Ctrl-C: what nobody waits for does not go on spending
            thought.cancel()
            raise
