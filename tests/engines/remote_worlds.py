"""What the tests of the OpenAI engine share."""

from __future__ import annotations

from typing import Any

from fault_server.control import FaultServer

from asyncthink import Episode, Organization
from asyncthink.engines.openai import OpenAIEngine
from asyncthink.engines.openai.retry import Retries

FAST = Retries(attempts=4, base=0.01, longest=0.05, connect=2.0, idle=0.6)
QUERY = "What is it?"
SCRIPT = {
    "organizer": "Two parts. <FORK-1>7*6</FORK-1> and <FORK-2>2*3</FORK-2> meanwhile é中😀 <JOIN-1> so <JOIN-2> done "
    "<ANSWER>48</ANSWER>",
    "workers": {"7*6": "easy <RETURN>42</RETURN>", "2*3": "six of course <RETURN>6</RETURN>"},
}
MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "turns": ({}, {}),
    "flags": ({"owned_by": "vllm"}, {}),
    "text": ({}, {"api": "completions"}),
}
"""Each way to speak with a server: configuration of the server, arguments of the engine."""


def engine_at(
    server: FaultServer, mode: str = "flags", config: dict[str, Any] | None = None, **arguments: Any
) -> OpenAIEngine:
    """Configure the server and return an engine for it."""
    defaults, own = MODES[mode]
    server.configure({"script": SCRIPT, "query": QUERY, **defaults, **(config or {})})
    settings: dict[str, Any] = {"base_url": server.url, "retries": FAST, **own, **arguments}
    return OpenAIEngine("scripted", **settings)


async def think_at(
    server: FaultServer, mode: str = "flags", config: dict[str, Any] | None = None, **arguments: Any
) -> Episode:
    """Think the question through at a server that plays the script."""
    async with Organization(engine_at(server, mode, config, **arguments)) as organization:
        return await organization.think(QUERY)


def decoded(episode: Episode, path: str = "0") -> str:
    """Return what an agent wrote."""
    trace = next(each for each in episode.traces if each.path == path)
    return "".join(each.text for each in trace.segments if each.kind == "decoded")
