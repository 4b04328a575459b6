"""Values -> the bodies and chunks that OpenAI's clients read. Everything of our own stands under `asyncthink`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from asyncthink.errors import RequestError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "engine_error",
    503: "unavailable_error",
}
"""HTTP status -> the error's type; any other is the request's own fault."""


def dumps(value: Any) -> bytes:
    """Return JSON; a lone surrogate, which no client could read, becomes a question mark."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode(errors="replace")


def error_body(error: RequestError) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def error_response(error: RequestError) -> Response:
    """Return an error as a whole response."""
    told: dict[str, str] = {}
    if error.retry_after is not None:
        told["Retry-After"] = str(error.retry_after)
    elif error.status >= 500:
        told["X-Should-Retry"] = (
            "false"  # read by the openai package, which else tries again what cannot succeed
        )
    if error.status == 401:
        told["WWW-Authenticate"] = 'Bearer, Basic realm="asyncthink"'
    return json_response(error_body(error), error.status, told)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a value as a response."""
    return Response(dumps(body), status, dict(headers or {}), media_type="application/json")


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error; a WebSocket, of which there are none, is closed."""
    if scope["type"] == "http":
        await error_response(error)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How the answer to one request is written."""

    id: str
    """The episode's."""
    model: str
    chat: bool
    """False: for /v1/completions."""
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(
        self, answer: str, reasoning: str, finish: str, usage: Mapping[str, Any], extension: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the body of a response that is not streamed."""
        thought = {"reasoning": reasoning, "reasoning_content": reasoning}
        if self.chat:
            said = {"message": {"role": "assistant", "content": answer, "refusal": None, **thought}}
        else:
            said = {"text": answer, **thought}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return {**self._head(chunk=False), "choices": [choice], "usage": usage, "asyncthink": extension}

    def begun(self) -> dict[str, Any]:
        """Return the first chunk."""
        return self._chunk({"role": "assistant", "content": ""} if self.chat else {"text": ""})

    def reasoned(self, text: str) -> dict[str, Any]:
        """Return a chunk of reasoning; one without text only carries what is added to it."""
        thought = {"reasoning": text, "reasoning_content": text} if text else {}
        return self._chunk(thought if self.chat else {"text": "", **thought})

    def answered(self, text: str) -> dict[str, Any]:
        """Return the chunk of the answer."""
        return self._chunk({"content": text} if self.chat else {"text": text})

    def finished(self, reason: str) -> dict[str, Any]:
        """Return the chunk that says why it ended."""
        return self._chunk({} if self.chat else {"text": ""}, reason)

    def counted(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the chunk that only has the usage."""
        return {**self._head(chunk=True), "choices": [], "usage": usage}

    def _chunk(self, said: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        place = {"delta": said} if self.chat else said
        choice = {"index": 0, **place, "logprobs": None, "finish_reason": finish}
        return {**self._head(chunk=True), "choices": [choice]}

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model}
