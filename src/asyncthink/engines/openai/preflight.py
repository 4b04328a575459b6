"""What is found out of servers before the first token is spent: whether they answer, and what they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase as fnmatch
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from asyncthink.engines.openai.context import CHAT, COMPLETIONS
from asyncthink.engines.openai.dialect import DIALECTS, Dialect
from asyncthink.engines.openai.pieces import read, trouble_of
from asyncthink.engines.openai.retry import Trouble
from asyncthink.engines.openai.server import Server
from asyncthink.errors import EngineError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from asyncthink.engines.openai.tokens import Tokens

_LOG = logging.getLogger(__name__)
KEY, BASE_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
NO_ROUTE = (404, 405, 501)
_TRIES = 3
"""How often a busy server is asked for its models."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a server's list of models; whatever else stands there is left out."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    """vLLM's longest context."""
    meta: dict[str, Any] | None = None
    """llama.cpp's, with n_ctx."""

    def serves(self, name: str) -> bool:
        """Whether a request for `name` means this one: Gemini, Ollama and LiteLLM list names in forms of their own."""
        return self.id in (name, f"models/{name}", f"{name}:latest") or (
            "*" in self.id and fnmatch(name, self.id)
        )

    @property
    def context(self) -> int | None:
        """Longest context in tokens; None where the list does not tell."""
        window = self.max_model_len or (self.meta or {}).get("n_ctx")
        return window if isinstance(window, int) and window > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What an engine's servers turned out to be."""

    servers: list[Server]
    """Those that answer."""
    api: str
    """chat or completions."""
    dialect: Dialect
    context: int | None


def failure(model: str, server: Server, message: str, *, transient: bool = False) -> EngineError:
    """Return an error that names the model and its server."""
    return EngineError(f"openai:{model} at {server.url}: {message}", transient=transient)


async def meet(servers: Sequence[Server], model: str, api: str, tokens: Tokens | None) -> Found:
    """Find out which servers answer and what they are.

    Raises:
        UnknownNameError: the model is not there.
        EngineError: no server can be reached, they refuse the key, or lack what is needed.
    """
    lists: dict[Server, Model | None] = {}
    failures: dict[Server, EngineError | UsageError] = {}
    for server in servers:
        try:
            lists[server] = await _listed(server, model)
        except (EngineError, UsageError) as error:
            failures[server] = error
    alive = [server for server in servers if server in lists]
    if not alive:
        raise failures[servers[0]]
    for error in failures.values():
        _LOG.warning("left out: %s", error)
    listed = next((lists[server] for server in alive if lists[server]), None)
    dialect = DIALECTS.get((listed and listed.owned_by) or "", Dialect())
    api = await _api(alive[0], model, api, prefer_completions=tokens is not None)
    if tokens is not None and api == "completions" and not dialect.token_ids:
        dialect = replace(dialect, token_ids=await _tells_ids(alive[0], model, tokens))
    return Found(servers=alive, api=api, dialect=dialect, context=listed.context if listed else None)


async def _listed(server: Server, model: str) -> Model | None:
    """Return what the server's list of models says of this one; None where it keeps no list that can be read."""
    status, body = await _tried(server, model)
    if status in (401, 403):
        told = f": {server.hide(trouble_of(body, status))}" if body else ""
        raise failure(model, server, f"{status}{told}: the key is missing or wrong: check {KEY}")
    models = models_of(body) if status == 200 else []
    found = next((each for each in models if each.serves(model)), None)
    if found is None and models:
        raise UnknownNameError(f"model at {server.url}", model, [each.id for each in models])
    return found


def models_of(body: Any) -> list[Model]:
    """Return the models of a list, `{"data": [...]}` or a bare array; none where it cannot be read."""
    try:
        return msgspec.convert(body["data"] if isinstance(body, dict) else body, list[Model])
    except (msgspec.ValidationError, KeyError):
        return []


async def _tried(server: Server, model: str) -> tuple[int, Any]:
    """Ask for the list; a server that is only busy is asked again."""
    for failures in range(1, _TRIES + 1):
        try:
            status, body = await server.get("models")
        except Trouble as trouble:
            hint = ": is the server running, and is this its address?" if trouble.transient else ""
            raise failure(model, server, f"{trouble}{hint}") from None
        if status < 400 or failures == _TRIES or not trouble_of(body, status).transient:
            return status, body
        await anyio.sleep(server.retries.wait(failures, None))
    raise AssertionError


async def _api(server: Server, model: str, asked: str, *, prefer_completions: bool) -> str:
    """Return which API to use. An empty request costs nothing, and tells a missing route apart."""
    routes = {"chat": [CHAT], "completions": [COMPLETIONS]}.get(asked, [CHAT, COMPLETIONS])
    if prefer_completions:
        routes = [COMPLETIONS]
    for route in routes:
        try:
            status, _ = await server.post(route, {})
        except Trouble as trouble:
            raise failure(model, server, str(trouble)) from None
        if status not in NO_ROUTE:
            return "chat" if route == CHAT else "completions"
    hint = "the model cannot be asked" if server.url.endswith("/v1") else "base URLs usually end in /v1"
    raise failure(model, server, f"it has no /{' and no /'.join(routes)}: {hint}")


async def _tells_ids(server: Server, model: str, tokens: Tokens) -> bool:
    """Say whether an unknown server tells token ids: one token is decoded to see it."""
    ids = tokens.prompts.insertion("1").token_ids
    body = {"model": model, "prompt": ids, "max_tokens": 1, "return_token_ids": True}
    try:
        status, reply = await server.post(COMPLETIONS, body)
        return status == 200 and read(msgspec.json.encode(reply)).token_ids is not None
    except Trouble:
        return False
