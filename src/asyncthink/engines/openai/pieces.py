"""An event's JSON -> what it says. Servers agree on the names only by and large; what cannot be read is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec

from asyncthink.engines.openai.retry import NO_USE_CODES, TRANSIENT_STATUS, Trouble

LONGEST_MESSAGE = 300
"""Characters of a server's error message that are shown."""


@dataclass(slots=True)
class Counts:
    """Tokens as a server reports them; None: not reported."""

    input: int | None = None
    output: int | None = None
    cached: int = 0
    reasoning: int = 0


@dataclass(slots=True)
class Piece:
    """What one event, or one whole reply, says."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    """What a model says that will not answer, where its server keeps that apart."""
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    finish: str | None = None
    counts: Counts | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: None = None
    refusal: None = None


class _Logprobs(msgspec.Struct, gc=False):
    token_logprobs: list[float]
    content: None = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = 0
    delta: _Delta | None = None
    text: str | None = None
    message: None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    usage: None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)]
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)]
    prompt_tokens_details: None = None
    completion_tokens_details: None = None
    input_tokens_details: None = None
    output_tokens_details: None = None
    prompt_cache_hit_tokens: None = None
    reasoning_tokens: None = None


class _Event(msgspec.Struct, gc=False):
    """The usual shape. What has a meaning of its own must be null here: else the event is read the long way."""

    choices: list[_Choice]
    usage: _Usage | None = None
    error: None = None
    x_groq: None = None
    timings: None = None


_JSON = msgspec.json.Decoder()
_USUAL = msgspec.json.Decoder(_Event)


def read(data: bytes) -> Piece:
    """Read one event or reply.

    Raises:
        Trouble: it is not JSON, no object, or an error.
    """
    try:
        piece = _usual(_USUAL.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        piece = None
    return _read_any(data) if piece is None else piece


def _usual(event: _Event) -> Piece | None:
    """Return what an event of the usual shape says; None for any other. Nine events of ten end here."""
    piece = Piece()
    if event.choices:
        choice = event.choices[0]
        delta = choice.delta
        if choice.index or (delta and choice.text):
            return None
        if delta is None:
            piece.text = choice.text or ""
        else:
            piece.text = delta.content or ""
            piece.reasoning = delta.reasoning_content or delta.reasoning or ""
        piece.finish = choice.finish_reason or None
        if choice.token_ids is not None:
            piece.token_ids = _numbers(choice.token_ids)
        if choice.logprobs is not None:
            piece.logprobs = _reals(choice.logprobs.token_logprobs)
    if (usage := event.usage) is not None:
        piece.counts = Counts(input=usage.prompt_tokens, output=usage.completion_tokens)
    return piece


def _read_any(data: bytes) -> Piece:
    try:
        event: Any = _JSON.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Trouble(f"the reply is not JSON: {str(error).splitlines()[0]}", transient=True) from error
    if not isinstance(event, dict):
        raise Trouble("the reply is JSON, but no object", transient=True)
    event = cast("dict[str, Any]", event)
    if event.get("error") or event.get("object") == "error":
        raise trouble_of(event, None)
    piece = Piece()
    choices = event.get("choices")
    choice = _object(cast("list[Any]", choices)[0]) if isinstance(choices, list) and choices else {}
    if choice.get("index"):
        choice = {}  # one of several texts that nobody asked for
    if choice:
        _choice(piece, choice)
    piece.counts = _counts(event, choice)
    return piece


def _choice(piece: Piece, choice: dict[str, Any]) -> None:
    said = _object(choice.get("delta")) or _object(choice.get("message"))
    if said:
        piece.text = _text(said.get("content"))
        piece.refusal = _text(said.get("refusal"))
        for name in ("reasoning_content", "reasoning", "thinking"):
            if reasoning := _text(said.get(name)):
                piece.reasoning = reasoning
                break
    else:
        piece.text = _text(choice.get("text"))
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        piece.token_ids = _numbers(cast("list[Any]", ids))
    if logprobs := _object(choice.get("logprobs")):
        piece.logprobs = _logprobs(logprobs)
        if piece.token_ids is None:
            piece.token_ids = _ids_of(logprobs)
    finish = choice.get("finish_reason")
    piece.finish = finish if isinstance(finish, str) and finish else None


def _logprobs(found: dict[str, Any]) -> tuple[float, ...] | None:
    content = found.get("content")
    if isinstance(content, list):
        values: list[Any] = [_object(each).get("logprob") for each in cast("list[Any]", content)]
    else:
        told = found.get("token_logprobs")
        values = cast("list[Any]", told) if isinstance(told, list) else []
    return _reals(values)


def _ids_of(found: dict[str, Any]) -> tuple[int, ...] | None:
    """Return the token ids that llama.cpp puts beside its log-probabilities."""
    content = found.get("content")
    entries = cast("list[Any]", content) if isinstance(content, list) else []
    return _numbers([_object(each).get("id") for each in entries]) if entries else None


def _reals(values: list[Any]) -> tuple[float, ...] | None:
    """Return log-probabilities; None where any is none."""
    if not values or not all(type(each) in (int, float) and -1e9 < each < 1e9 for each in values):
        return None
    return tuple(map(float, values))


def _numbers(values: list[Any]) -> tuple[int, ...] | None:
    """Return token ids; None where any is none."""
    return tuple(values) if all(type(each) is int and 0 <= each < 1 << 32 for each in values) else None


def _counts(event: dict[str, Any], choice: dict[str, Any]) -> Counts | None:
    usage = (
        _object(event.get("usage"))
        or _object(choice.get("usage"))
        or _object(_object(event.get("x_groq")).get("usage"))
    )
    if not usage:
        timings = _object(event.get("timings"))
        if not timings:
            return None
        cached = _count(timings.get("cache_n")) or 0
        prompt = _count(timings.get("prompt_n"))
        return Counts(
            input=None if prompt is None else prompt + cached,
            output=_count(timings.get("predicted_n")),
            cached=cached,
        )
    sent = _object(usage.get("prompt_tokens_details")) or _object(usage.get("input_tokens_details"))
    decoded = _object(usage.get("completion_tokens_details")) or _object(usage.get("output_tokens_details"))
    return Counts(
        input=_first_count(usage.get("prompt_tokens"), usage.get("input_tokens")),
        output=_first_count(usage.get("completion_tokens"), usage.get("output_tokens")),
        cached=_first_count(sent.get("cached_tokens"), usage.get("prompt_cache_hit_tokens")) or 0,
        reasoning=_first_count(decoded.get("reasoning_tokens"), usage.get("reasoning_tokens")) or 0,
    )


def trouble_of(body: Any, status: int | None, asked: float | None = None) -> Trouble:
    """Return what an error body says: OpenAI's, vLLM's, FastAPI's, Ollama's, or any text."""
    found = _object(body)
    inner: Any = found.get("error") or found.get("detail") or found.get("message") or body
    if isinstance(inner, dict):
        told = cast("dict[str, Any]", inner)
        message = told.get("message") or told.get("msg") or msgspec.json.encode(told).decode()
    else:
        told = found
        message = inner if isinstance(inner, str) else msgspec.json.encode(inner).decode()
    code = told.get("code", found.get("code"))
    kind = str(told.get("type") or "")
    if status is None:
        status = _status(code) or _STATUS_OF.get(kind) or _STATUS_OF.get(str(code))
    parameter = told.get("param")
    full = _FULL.search(f"{code} {kind} {message}") is not None
    useless = full or str(code) in NO_USE_CODES or kind in NO_USE_CODES
    return Trouble(
        one_line(str(message)),
        transient=not useless and (status is None or status in TRANSIENT_STATUS),
        status=status,
        retry_after=asked,
        parameter=parameter if isinstance(parameter, str) else None,
        full=full,
    )


_FULL = re.compile(
    r"max_(completion_)?tokens\b.{0,60}(too large|at most|exceed|greater)|supports at most|"
    r"context_length_exceeded|exceed_context_size|maximum context length|exceeds? the (available )?context|"
    r"context (window|length) exceeded",
    re.I,
)
"""How servers say that a request has, or asks for, more tokens than the model can take."""
_STATUS_OF = {
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
    "server_error": 500,
    "api_error": 500,
    "internal_server_error": 500,
    "InternalServerError": 500,
    "timeout_error": 504,
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
}


def _status(code: Any) -> int | None:
    """Return a code that is an HTTP status, as a number or, as LiteLLM has it, as text."""
    text = str(code)
    return int(text) if re.fullmatch("[1-5][0-9][0-9]", text) else None


def one_line(text: str) -> str:
    """Return a message in one line, cut where it is long."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + "…"


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Return content, a string or a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [_object(part).get("text") for part in cast("list[Any]", value)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _first_count(*values: Any) -> int | None:
    return next((count for value in values if (count := _count(value)) is not None), None)
