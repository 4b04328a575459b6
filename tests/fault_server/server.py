"""A server for tests that speaks the OpenAI interface, plays a script, and fails as it is told.

    python -m fault_server.server [--certfile FILE --keyfile FILE] [--until-eof]

It listens on a free port of 127.0.0.1 and prints {"port": N}. `control.FaultServer` starts and steers it;
config.py says what can be set, faults.json which faults there are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from traceback import format_exception
from typing import Any, cast

from fault_server import shapes
from fault_server.config import Config, Json, read_config
from fault_server.faults import Faults
from fault_server.reply import Reply, failure, send
from fault_server.script import (
    Ids,
    Limits,
    MismatchError,
    Tokens,
    Turn,
    Words,
    chat_turn,
    content_text,
    prompt_turn,
    speak,
)
from fault_server.wire import Connection, Request, Watch

PATHS = {"/v1/models": "models", "/v1/chat/completions": "chat", "/v1/completions": "completions"}
COMPLETIONS_LIMIT = 16
"""max_tokens of /v1/completions where the request states none, as with real servers."""
_OPENAI_FIELDS = [
    "best_of",
    "echo",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "suffix",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
]
_PREFIX_FIELDS = ("continue_final_message", "add_generation_prompt")


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply.body))
        self.reply = reply


@dataclass(slots=True)
class Stats:
    """What a test can ask about."""

    requests: int = 0
    open: int = 0
    peak_open: int = 0
    aborted: int = 0
    statuses: Counter[int] = field(default_factory=Counter[int])
    mismatch_count: int = 0
    mismatches: list[Json] = field(default_factory=list[Json])
    restarts: int = 0
    """Chats that ended in an assistant message and were not asked to go on from it, in vLLM's way."""
    errors: list[str] = field(default_factory=list[str])
    """What the server could not make sense of."""
    headers_seen: dict[str, bool] = field(default_factory=lambda: {"authorization": False})
    last_bodies: deque[Any] = field(default_factory=lambda: deque[Any](maxlen=20))
    connections: set[int] = field(default_factory=set[int])
    """Those that were asked for more than statistics."""
    all_connections: int = 0

    def begin(self, connection: Connection, request: Request) -> None:
        self.requests += 1
        self.open += 1
        self.peak_open = max(self.peak_open, self.open)
        self.headers_seen |= dict.fromkeys(request.headers, True)
        if id(connection) not in self.connections:
            self.connections.add(id(connection))
            self.all_connections += 1

    def ended(self, *, left: bool) -> None:
        self.open -= 1
        self.aborted += left

    def mismatch(self, entry: Json) -> None:
        self.mismatch_count += 1
        if len(self.mismatches) < 10:
            self.mismatches.append(entry)

    def told(self) -> Json:
        return {
            "requests": self.requests,
            "open": self.open,
            "peak_open": self.peak_open,
            "aborted": self.aborted,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "mismatch_count": self.mismatch_count,
            "mismatches": self.mismatches,
            "restarts": self.restarts,
            "errors": self.errors,
            "headers_seen": self.headers_seen,
            "last_bodies": list(self.last_bodies),
            "connections": len(self.connections),
            "all_connections": self.all_connections,
        }


class Unwatched:
    """For requests of the test itself."""

    def ended(self, *, left: bool) -> None:
        """Count nothing."""


class App:
    """Answers every request of every connection."""

    def __init__(self) -> None:
        self._set(Config())

    def _set(self, config: Config) -> None:
        tokens: Tokens = Words() if config.tokenizer is None else Ids(config.tokenizer)
        self._faults = Faults(config.faults)
        self._config, self._tokens, self._stats = config, tokens, Stats()

    def began(self, connection: Connection, request: Request) -> Watch:
        if request.path.startswith("/_"):
            return Unwatched()
        self._stats.begin(connection, request)
        return self._stats

    def lost(self, connection: Connection) -> None:
        self._stats.connections.discard(id(connection))

    async def answer(self, connection: Connection, request: Request) -> None:
        if request.path.startswith("/_"):
            await send(self._steered(request), connection)
            return
        stats = self._stats
        try:
            reply = self._reply(request)
        except RefusedError as refusal:
            reply = refusal.reply
        except Exception as error:
            stats.errors.append("".join(format_exception(error)))
            reply = failure(400, f"The server cannot make sense of it: {type(error).__name__}: {error}")
        reply.headers["x-request-id"] = f"req-{stats.requests}"
        if reply.broken is None or reply.broken.event is not None:
            stats.statuses[reply.status] += 1
        await send(reply, connection)

    def _steered(self, request: Request) -> Reply:
        if request.path == "/_config" and request.method == "POST":
            try:
                self._set(read_config(json.loads(request.body)))
            except Exception as error:
                return failure(400, f"{type(error).__name__}: {error}")
        elif request.path != "/_stats":
            return failure(404, f"there is no {request.path}")
        return Reply(body=self._stats.told() | {"by_fault": dict(self._faults.given)})

    def _reply(self, request: Request) -> Reply:
        route = self._route(request)
        if route == "models":
            return self._faults.changed(shapes.models(self._config), route, route)
        body = _parsed(request.body)
        self._stats.last_bodies.append(body)
        self._check(route, body)
        try:
            turn, ids = self._turn(route, body)
            order = self._order(route, body, turn, ids)
            self._stats.restarts += turn.restarts
        except MismatchError as mismatch:
            self._stats.mismatch(mismatch.entry)
            raise RefusedError(failure(400, str(mismatch), code="mismatch")) from mismatch
        reply = shapes.stream(order) if body.get("stream") else shapes.whole(order)
        who = (body.get("user"), request.headers.get("x-agent"))
        return self._faults.changed(reply, route, f"{turn.role}|{turn.question}|{who}", turn.role)

    def _route(self, request: Request) -> str:
        config = self._config
        given = request.headers.get("authorization", "")
        if config.key is not None and given != f"Bearer {config.key}":
            # The whole key comes back, as hostile servers do it: a client must not show it.
            message = f"Incorrect API key provided: {given.removeprefix('Bearer ')}"
            raise RefusedError(failure(401, message, code="invalid_api_key"))
        route = PATHS.get(request.path.partition("?")[0])
        if route is None or not config.routes.get(route, True):
            message = f"Unknown request URL: {request.method} {request.path}"
            raise RefusedError(failure(404, message, code="unknown_url"))
        if request.method != ("GET" if route == "models" else "POST"):
            raise RefusedError(failure(405, f"Not allowed: {request.method} {request.path}"))
        return route

    def _check(self, route: str, body: Json) -> None:
        config = self._config
        unknown = sorted(set(body) - _known_fields(config)) if config.strict else []
        if not config.prefix:
            unknown += [name for name in _PREFIX_FIELDS[:1] if name in body]
        if unknown:
            message = f"Unrecognized request argument supplied: {unknown[0]}"
            raise RefusedError(failure(400, message, param=unknown[0], code="unknown_parameter"))
        if "model" in body and body["model"] not in config.models:
            message = f"The model `{body['model']}` does not exist."
            raise RefusedError(failure(404, message, param="model", code="model_not_found"))
        if route == "chat" and not isinstance(body.get("messages"), list):
            raise RefusedError(failure(400, "Missing required parameter: 'messages'.", param="messages"))
        if route == "completions" and not isinstance(body.get("prompt"), str | list):
            raise RefusedError(failure(400, "Missing required parameter: 'prompt'.", param="prompt"))
        if body.get("stream_options") and not body.get("stream"):
            raise RefusedError(failure(400, "Stream options can only be defined when `stream=True`."))
        if route == "chat" and body.get("continue_final_message"):
            _check_continuation(body)

    def _turn(self, route: str, body: Json) -> tuple[Turn, tuple[int, ...]]:
        """Return where the conversation stands, and the prompt's ids where it was given in ids."""
        if route == "chat":
            return chat_turn(self._config, body), ()
        prompt: Any = body["prompt"]
        if isinstance(prompt, str):
            return prompt_turn(self._config, prompt), ()
        if not isinstance(self._tokens, Ids):
            raise RefusedError(failure(400, "This server takes no token ids.", param="prompt"))
        ids = tuple(cast("list[int]", prompt))
        text, held = self._tokens.read(ids)
        return prompt_turn(self._config, text, held), ids

    def _order(self, route: str, body: Json, turn: Turn, ids: tuple[int, ...]) -> shapes.Order:
        chat, tokens = route == "chat", self._tokens
        text = _prompt_text(body)
        limits = _limits(self._config, body, chat=chat)
        needed = self._config.max_model_len is not None or self._config.usage
        prompt_tokens = len(ids) or (tokens.count(text) if needed else 0)
        self._check_length(prompt_tokens, limits)
        prompt_ids: tuple[int, ...] | None = None
        if limits.tells_ids and isinstance(tokens, Ids):
            prompt_ids = ids or tuple(tokens.encode(text))
        return shapes.Order(
            config=self._config,
            body=body,
            chat=chat,
            name=f"{'chatcmpl' if chat else 'cmpl'}-{self._stats.requests}",
            model=body.get("model") or self._config.models[0],
            speech=speak(self._config, tokens, turn, limits),
            prompt_tokens=prompt_tokens,
            prompt_ids=prompt_ids,
        )

    def _check_length(self, prompt_tokens: int, limits: Limits) -> None:
        longest = self._config.max_model_len
        if longest is None or prompt_tokens + (limits.max_tokens or 1) <= longest:
            return
        message = (
            f"This model's maximum context length is {longest} tokens. However, you requested "
            f"{prompt_tokens + (limits.max_tokens or 1)} tokens ({prompt_tokens} in the messages, "
            f"{limits.max_tokens or 1} in the completion)."
        )
        raise RefusedError(failure(400, message, code="context_length_exceeded"))


def _parsed(raw: bytes) -> Json:
    try:
        body: Any = json.loads(raw)
    except ValueError as error:
        raise RefusedError(failure(400, f"The body is no JSON: {error}")) from error
    if not isinstance(body, dict):
        raise RefusedError(failure(400, "The body is no JSON object."))
    return cast("Json", body)


def _check_continuation(body: Json) -> None:
    # vLLM's default for add_generation_prompt is true.
    if body.get("add_generation_prompt", True):
        message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        raise RefusedError(failure(400, message))
    if not body["messages"] or body["messages"][-1].get("role") != "assistant":
        raise RefusedError(failure(400, "There is no last assistant message to continue."))


def _known_fields(config: Config) -> set[str]:
    known = set(_OPENAI_FIELDS)
    if config.prefix:
        known.update(_PREFIX_FIELDS)
    if config.stop_kept:
        known.add("include_stop_str_in_output")
    if config.tokenizer is not None:
        known.add("return_token_ids")
    return known


def _limits(config: Config, body: Json, *, chat: bool) -> Limits:
    stop: Any = body.get("stop") or ()
    stops: tuple[str, ...] = (stop,) if isinstance(stop, str) else tuple(stop)
    wish: Any = body.get("max_completion_tokens", body.get("max_tokens"))
    if wish is not None and (not isinstance(wish, int) or wish < 1):
        raise RefusedError(failure(400, f"max_tokens must be at least 1, got {wish}.", param="max_tokens"))
    return Limits(
        max_tokens=wish if wish is not None or chat else COMPLETIONS_LIMIT,
        stops=stops,
        keeps_stop=config.stop_kept and bool(body.get("include_stop_str_in_output")),
        tells_ids=not chat and config.tokenizer is not None and bool(body.get("return_token_ids")),
    )


def _prompt_text(body: Json) -> str:
    if "messages" in body:
        return "\n".join(content_text(each.get("content")) for each in body["messages"])
    return body["prompt"] if isinstance(body["prompt"], str) else ""


async def serve(context: ssl.SSLContext | None, *, until_eof: bool) -> None:
    """Serve until the process is ended, or whoever started it is gone and has closed its standard input."""
    app = App()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(app), "127.0.0.1", 0, ssl=context, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)  # noqa: T201
    gone = asyncio.Event()
    if until_eof:
        loop.add_reader(sys.stdin.fileno(), gone.set)
    await gone.wait()
    server.close()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--certfile")
    parser.add_argument("--keyfile")
    parser.add_argument("--until-eof", action="store_true")
    arguments = parser.parse_args()
    context = None
    if arguments.certfile:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certfile, arguments.keyfile)
    asyncio.run(serve(context, until_eof=arguments.until_eof))


if __name__ == "__main__":
    main()
