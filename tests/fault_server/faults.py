"""From a fault's name to a changed reply: the interpreter of faults.json.

A definition is {"about": ..., "then": "retried" | "fatal" | "ignored", "steps": [...]}. A step is {"do": NAME, ...};
the functions in `_STEPS` are the names, and each says which keys it has. "after": n means behind the n-th
text event, or earlier where the text is shorter: at least one text event is always left.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

from fault_server.config import Json
from fault_server.reply import Break, End, Event, Framing, Kind, Reply, Slow, dump
from fault_server.shapes import number

FILE = Path(__file__).with_name("faults.json")
_DATE = re.compile(r"\{now([+-][0-9]+)\}")
_MODEL_ROUTES = ("chat", "completions")


class Faults:
    """Decides which request has which fault."""

    def __init__(self, settings: Json | None) -> None:
        self._settings = settings or {}
        self._routes: list[str] = self._settings.get("routes", _MODEL_ROUTES)
        self._override: Json = self._settings.get("override", {})
        self._asked: Counter[str] = Counter()
        self._known: dict[str, Json] = json.loads(FILE.read_text(encoding="utf-8"))
        self.given: Counter[str] = Counter()
        single: list[str] = [self._settings["name"]] if "name" in self._settings else []
        names: list[str] = single or self._settings.get("names", [])
        if self._settings and not names:
            raise ValueError("faults need a name, or names and a rate")
        if unknown := [name for name in names if name not in self._known]:
            raise ValueError(f"there is no fault {unknown[0]!r} (known: {', '.join(self._known)})")
        keys: set[str] = {key for name in names for step in self._known[name]["steps"] for key in step}
        if unused := self._override.keys() - keys:
            raise ValueError(f"no step of these faults has the key {min(unused)!r} (known: {sorted(keys)})")

    def changed(self, reply: Reply, route: str, conversation: str, role: str | None = None) -> Reply:
        """Return the reply as this request of the conversation gets it."""
        if not self._settings or route not in self._routes:
            return reply
        if role is not None and role not in self._settings.get("roles", (role,)):
            return reply
        self._asked[conversation] += 1
        name = self._choose(conversation, self._asked[conversation])
        if name is None:
            return reply
        self.given[name] += 1
        for step in self._known[name]["steps"]:
            # A step has the keys of its definition only, so that an override reaches whom it is meant for.
            own: Json = {
                key: value if value is None else self._override.get(key, value) for key, value in step.items()
            }
            reply = _STEPS[own["do"]](reply, own)
        return reply

    def _choose(self, conversation: str, turn: int) -> str | None:
        settings = self._settings
        if "name" in settings:
            return settings["name"] if turn <= settings.get("times", 1) else None
        # Drawn by conversation, so that it does not depend on the order in which requests come in.
        draw = random.Random(f"{settings.get('seed', 0)}|{conversation}|{turn}")
        return draw.choice(settings["names"]) if draw.random() < settings["rate"] else None


def _answer(reply: Reply, step: Json) -> Reply:
    """status, headers, and json or text: another reply altogether; {now+1} in a header is a date."""
    headers: dict[str, str] = {"Content-Type": "application/json" if "json" in step else "text/html"}
    for name, value in step.get("headers", {}).items():
        headers[name] = _DATE.sub(lambda match: formatdate(time() + int(match[1]), usegmt=True), value)
    return Reply(status=step["status"], headers=headers, body=step.get("json", step.get("text", "")))


def _break(reply: Reply, step: Json) -> Reply:
    """by: end, close, reset, hang; at: start, head, end, or by default after; inside: bytes of the next event."""
    places = {"start": None, "head": 0, "end": len(reply.events)}
    place = places[step["at"]] if "at" in step else _place(reply, step["after"])
    reply.broken = Break(End(step["by"]), place, step.get("inside", 0))
    return reply


def _shorten(reply: Reply, step: Json) -> Reply:
    """after, keep: kinds of events that stay although they are behind that place."""
    place = _place(reply, step["after"])
    kept = [event for event in reply.events[place:] if event.kind in step["keep"]]
    for event in kept:
        if event.kind == Kind.FINISH and isinstance(event.data, dict):
            # It has the last text with it where the server joins the two.
            _write(event.data, {"@text": ""})
    reply.events[place:] = kept
    return reply


def _drop(reply: Reply, step: Json) -> Reply:
    """kind: events of this kind are left out, and the key of this name everywhere."""
    reply.events = [event for event in reply.events if event.kind != step["kind"]]
    for data in [reply.body, *(event.data for event in reply.events)]:
        if isinstance(data, dict):
            data.pop(step["kind"], None)
    return reply


def _insert(reply: Reply, step: Json) -> Reply:
    """at: first, each (behind each text event), end, or by default after. One of data (JSON, or text as it is), raw (a
    whole event, with its encoding), copy: true (of a text event, with set). fill: bytes of x behind the data.
    """
    if reply.body is not None:
        return reply
    places = {"first": 0, "end": len(reply.events)}
    if step.get("at") == "each":
        reply.events = [new for each in reply.events for new in _followed(each, step)]
    else:
        place = places[step["at"]] if "at" in step else _place(reply, step["after"])
        model = next((event for event in reply.events if event.kind == Kind.TEXT), None)
        reply.events.insert(place, _inserted(model, step))
    return reply


def _followed(event: Event, step: Json) -> list[Event]:
    return [event, _inserted(event, step)] if event.kind == Kind.TEXT else [event]


def _inserted(model: Event | None, step: Json) -> Event:
    if "raw" in step:
        return Event(Kind.OTHER, step["raw"].encode(step.get("encoding", "utf-8")))
    if not step.get("copy"):
        return Event(Kind.OTHER, step["data"], fill=step.get("fill", 0))
    if model is None:
        return Event(Kind.OTHER, b": there was no text event to copy\n\n")
    data: Json = json.loads(dump(model.data))
    _write(data, step["set"])
    return Event(Kind.OTHER, data)


def _set(reply: Reply, step: Json) -> Reply:
    """kind, set: {path: value} in events of this kind, or in a whole body. @text is wherever the text is."""
    for event in reply.events:
        if event.kind == step["kind"] and isinstance(event.data, dict):
            _write(event.data, step["set"])
    if isinstance(reply.body, dict):
        _write(reply.body, step["set"])
    return reply


def _write(data: Json, values: Json) -> None:
    for path, value in values.items():
        *parents, last = _spelled(data, path).split(".")
        target: Any = data
        for name in parents:
            target = target[int(name)] if name.isdigit() else target[name]
        target[last] = value


def _spelled(data: Json, path: str) -> str:
    if path != "@text":
        return path
    return "choices.0.delta.content" if "delta" in data["choices"][0] else "choices.0.text"


def _number(reply: Reply, step: Json) -> Reply:
    """Event ids."""
    del step
    number(reply.events)
    return reply


def _repeat(reply: Reply, step: Json) -> Reply:
    """window: each run of so many text events is sent twice."""
    return _windows(reply, step["window"], lambda events: events * 2)


def _reverse(reply: Reply, step: Json) -> Reply:
    """window: each run of so many text events is sent backwards."""
    return _windows(reply, step["window"], lambda events: events[::-1])


def _windows(reply: Reply, size: int, change: Callable[[list[Event]], list[Event]]) -> Reply:
    places = [place for place, event in enumerate(reply.events) if event.kind == Kind.TEXT]
    if places:
        first, end = places[0], places[-1] + 1
        texts = reply.events[first:end]
        changed = [event for at in range(0, len(texts), size) for event in change(texts[at : at + size])]
        reply.events[first:end] = changed
    return reply


def _trickle(reply: Reply, step: Json) -> Reply:
    """after (null: from the first byte of the head), bytes, seconds between them."""
    after = step["after"]
    reply.slow = Slow(None if after is None else _place(reply, after), step["bytes"], step["seconds"])
    return reply


def _cut(reply: Reply, step: Json) -> Reply:
    """bytes: the size of each TCP write."""
    reply.cut = step["bytes"]
    return reply


def _spell(reply: Reply, step: Json) -> Reply:
    """newline, comments, event_names: legal ways to write events."""
    reply.newline = step.get("newline", reply.newline)
    reply.comments = step.get("comments", reply.comments)
    reply.event_names = step.get("event_names", reply.event_names)
    return reply


def _gzip(reply: Reply, step: Json) -> Reply:
    """Content-Encoding: gzip, flushed behind each event."""
    del step
    reply.gzip = True
    return reply


def _headers(reply: Reply, step: Json) -> Reply:
    """remove: names; set: {name: value}."""
    reply.headers = {
        name: value for name, value in reply.headers.items() if name not in step.get("remove", ())
    }
    reply.headers |= step.get("set", {})
    return reply


def _frame(reply: Reply, step: Json) -> Reply:
    """version, framing: chunked or until_close."""
    reply.version, reply.framing = step["version"], Framing(step["framing"])
    return reply


def _chunk(reply: Reply, step: Json) -> Reply:
    """after, size: what the chunks from there on state as their size."""
    reply.framing = Framing.CHUNKED
    reply.bad_chunk = (_place(reply, step["after"]), step["size"])
    return reply


def _place(reply: Reply, after: int) -> int:
    """Return how many events there are up to the n-th text event."""
    texts = [place for place, event in enumerate(reply.events) if event.kind == Kind.TEXT]
    if not texts:
        return next((place for place, event in enumerate(reply.events) if event.kind == Kind.FINISH), 0)
    return texts[min(after, len(texts) - 1)]


_STEPS: dict[str, Callable[[Reply, Json], Reply]] = {
    "answer": _answer,
    "break": _break,
    "shorten": _shorten,
    "drop": _drop,
    "insert": _insert,
    "set": _set,
    "number": _number,
    "repeat": _repeat,
    "reverse": _reverse,
    "trickle": _trickle,
    "cut": _cut,
    "spell": _spell,
    "gzip": _gzip,
    "headers": _headers,
    "frame": _frame,
    "chunk": _chunk,
}
