"""What a test can set: one JSON object, sent to /_config. Every key has a default; an unknown one is an error."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, cast

Json = dict[str, Any]
ROUTES = ("models", "chat", "completions")


@dataclass(kw_only=True, slots=True)
class Config:
    models: list[str] = field(default_factory=lambda: ["scripted"])
    owned_by: str = "asyncthink"
    max_model_len: int | None = None
    """Stated in /v1/models; prompt and max_tokens beyond it answer 400, as vLLM does."""
    routes: dict[str, bool] = field(default_factory=dict[str, bool])
    """models, chat, completions: one that is false answers 404."""
    key: str | None = None
    script: Json = field(default_factory=Json)
    """{"organizer": text, "workers": {sub-query: text, "*": text}}."""
    query: str = ""
    """The organizer's question as it stands in prompts."""
    prompt_tail: str = "\n\n"
    """What stands between the query and the decoded text in a completions prompt."""
    worker_tail: str | None = None
    """The same for workers; None: prompt_tail."""
    worker_mark: str = "You are a worker"
    """A conversation with this in its system message or prompt is a worker's."""
    prefix: bool = True
    """Chat goes on from a last assistant message when it is asked to in vLLM's way."""
    tokenizer: str | None = None
    """tokenizer.json; None: a token is what the scripted engine takes for one, and there are no ids."""
    stop_kept: bool = True
    """include_stop_str_in_output is known, and stop_reason given."""
    strict: bool = False
    """An unknown field of the body answers 400."""
    reasoning: dict[str, str] | None = None
    """{"field": "reasoning", "text": ...}: streamed before the content of each new chat turn."""
    pieces: int | None = None
    """Characters an event; None: one token an event."""
    finish_joined: bool = False
    """The last text event has the finish_reason (vLLM); else an event of its own has it (OpenAI)."""
    end_at_join: bool = False
    """A turn of an organizer ends at a join, as instructed models do."""
    delay: float = 0.0
    """Seconds behind each event."""
    burst: int = 1
    """Events a TCP write, for soak tests."""
    usage: bool = True
    event_ids: bool = False
    """Each event has an `id: N` line, from 0 up."""
    faults: Json | None = None
    """{"name": NAME, "times": K} or {"rate": 0.3, "names": [...], "seed": 1}; "override": {key: value} changes
    steps, "routes": [...] says which requests can have one (default: chat and completions), and "roles" which
    agents (default: organizer and worker)."""


def read_config(raw: Json) -> Config:
    """Return the configuration that this object means.

    Raises:
        ValueError: it has a key that does not exist.
    """
    known = [each.name for each in fields(Config)]
    _check("the configuration", raw, known)
    _check("routes", raw.get("routes", {}), ROUTES)
    _check("script", raw.get("script", {}), ("organizer", "workers"))
    _check(
        "faults",
        raw.get("faults") or {},
        ("name", "times", "rate", "names", "seed", "override", "routes", "roles"),
    )
    return Config(**cast("Any", raw))


def _check(what: str, raw: Json, known: list[str] | tuple[str, ...]) -> None:
    if unknown := sorted(set(raw) - set(known)):
        raise ValueError(f"{what} has an unknown key {unknown[0]!r} (known: {', '.join(known)})")
