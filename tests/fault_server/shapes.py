"""What OpenAI's and vLLM's replies look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from fault_server.config import Config, Json
from fault_server.reply import DONE, Event, Kind, Reply
from fault_server.script import Piece, Speech

LOGPROB = -0.5
_CREATED = 1_700_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a valid request asks for, and what it is told."""

    config: Config
    body: Json
    chat: bool
    name: str
    model: str
    speech: Speech
    prompt_tokens: int
    prompt_ids: tuple[int, ...] | None
    """None: nobody asked for ids."""

    @property
    def options(self) -> Json:
        return self.body.get("stream_options") or {}

    @property
    def tells_usage(self) -> bool:
        return self.config.usage and bool(self.options.get("include_usage"))


def stream(order: Order) -> Reply:
    """Return a reply in events."""
    events = list(_events(order))
    if order.config.finish_joined:
        events = _joined(events)
    if order.config.event_ids:
        number(events)
    return Reply(
        headers={"Content-Type": "text/event-stream; charset=utf-8"},
        events=events,
        delay=order.config.delay,
        burst=order.config.burst,
    )


def whole(order: Order) -> Reply:
    """Return a reply in one piece."""
    pieces = order.speech.pieces
    choice: Json = {"index": 0, "logprobs": _logprobs(order, pieces, 0)}
    if order.chat:
        message: Json = {"role": "assistant", "content": _text(pieces, "content")}
        if order.config.reasoning:
            name = order.config.reasoning["field"]
            message[name] = _text(pieces, name)
        choice["message"] = message
    else:
        choice["text"] = _text(pieces, "content")
    if order.prompt_ids is not None:
        choice["token_ids"] = [piece.token for piece in pieces]
        choice["prompt_token_ids"] = list(order.prompt_ids)
    _finish(order, choice)
    body = _envelope(order, "chat.completion" if order.chat else "text_completion") | {"choices": [choice]}
    if order.config.usage:
        body["usage"] = _usage(order, sum(piece.n_tokens for piece in pieces))
    return Reply(body=body, delay=order.config.delay)


def models(config: Config) -> Reply:
    """Return the list of models."""
    extra = {} if config.max_model_len is None else {"max_model_len": config.max_model_len}
    entry = {"object": "model", "created": _CREATED, "owned_by": config.owned_by} | extra
    return Reply(body={"object": "list", "data": [{"id": name} | entry for name in config.models]})


def number(events: list[Event]) -> None:
    """Give each event an id."""
    for place, event in enumerate(events):
        event.number = place


def _events(order: Order) -> Iterator[Event]:
    envelope = _envelope(order, "chat.completion.chunk" if order.chat else "text_completion")
    if order.tells_usage:
        envelope["usage"] = None
    continuous = order.tells_usage and bool(order.options.get("continuous_usage_stats"))

    def event(kind: Kind, choice: Json, told: int) -> Event:
        usage = {"usage": _usage(order, told)} if continuous else {}
        return Event(kind, envelope | {"choices": [choice]} | usage)

    if order.chat:
        yield event(Kind.ROLE, _delta({"role": "assistant", "content": ""}), 0)
    told = offset = 0
    for place, piece in enumerate(order.speech.pieces):
        told += piece.n_tokens
        yield event(Kind.TEXT, _choice(order, piece, offset, first=not place), told)
        offset += len(piece.text)
    empty = _delta({}) if order.chat else _completion("")
    _finish(order, empty)
    yield event(Kind.FINISH, empty, told)
    if order.tells_usage:
        yield Event(Kind.USAGE, envelope | {"choices": [], "usage": _usage(order, told)})
    yield Event(Kind.DONE, DONE)


def _choice(order: Order, piece: Piece, offset: int, *, first: bool) -> Json:
    choice = _delta({piece.field: piece.text}) if order.chat else _completion(piece.text)
    choice["logprobs"] = _logprobs(order, [piece], offset)
    if order.prompt_ids is not None:
        choice["token_ids"] = [piece.token]
        if first:
            choice["prompt_token_ids"] = list(order.prompt_ids)
    return choice


def _joined(events: list[Event]) -> list[Event]:
    """Give the finish_reason to the last text event, where there is one."""
    place = next(place for place, event in enumerate(events) if event.kind == Kind.FINISH)
    text, finish = events[place - 1], events[place]
    if not place or text.kind != Kind.TEXT:
        return events
    own, bare = cast("Json", text.data), cast("Json", finish.data)
    ending = {key: value for key, value in bare["choices"][0].items() if key.endswith("_reason")}
    joined = Event(Kind.FINISH, own | {"choices": [own["choices"][0] | ending]})
    return [*events[: place - 1], joined, *events[place + 1 :]]


def _envelope(order: Order, kind: str) -> Json:
    return {"id": order.name, "object": kind, "created": _CREATED, "model": order.model}


def _delta(delta: Json) -> Json:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}


def _completion(text: str) -> Json:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": None}


def _finish(order: Order, choice: Json) -> None:
    choice["finish_reason"] = order.speech.finish
    if order.config.stop_kept:
        choice["stop_reason"] = order.speech.stop_reason


def _text(pieces: list[Piece], name: str) -> str:
    return "".join(piece.text for piece in pieces if piece.field == name)


def _usage(order: Order, told: int) -> Json:
    usage: Json = {
        "prompt_tokens": order.prompt_tokens,
        "completion_tokens": told,
        "total_tokens": order.prompt_tokens + told,
    }
    if order.config.reasoning:
        thought = sum(piece.n_tokens for piece in order.speech.pieces if piece.field != "content")
        usage["completion_tokens_details"] = {"reasoning_tokens": min(told, thought)}
    return usage


def _logprobs(order: Order, pieces: list[Piece], offset: int) -> Any:
    wish: Any = order.body.get("logprobs")
    texts = [piece.text for piece in pieces if piece.field == "content"]
    if wish is None or wish is False:
        return None
    if order.chat:
        return {"content": [_chat_logprob(text) for text in texts]}
    return {
        "tokens": texts,
        "token_logprobs": [LOGPROB] * len(texts),
        "top_logprobs": [{text: LOGPROB} for text in texts] if wish else None,
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=offset)) if texts else [],
    }


def _chat_logprob(text: str) -> Json:
    return {"token": text, "logprob": LOGPROB, "bytes": list(text.encode()), "top_logprobs": []}
