"""A conversation -> the one question that a thought begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from asyncthink.errors import RequestError, UnknownNameError

_SYSTEM = ("system", "developer")
_KNOWN = frozenset(
    {"role", "content", "name", "reasoning", "reasoning_content", "reasoning_details", "annotations"}
)
"""Keys of a message; of what an assistant sent back only its content is read."""
_EMPTY = frozenset({"refusal", "audio", "tool_calls", "function_call"})
"""Keys that may be there, but hold nothing."""


def question(messages: Sequence[Mapping[str, Any]], *, alone: bool) -> str:
    """Return the question: the last user message, with what was said before it in front.

    Args:
        messages: of a chat request.
        alone: the model takes a bare question only, so that nothing may be said before it.

    Raises:
        RequestError: there is none, or something in it is not text.
    """
    said = [(_role(message, at), _text(message, at)) for at, message in enumerate(messages)]
    if not said or said[-1][0] != "user":
        raise RequestError("the last message must be the user's question", param="messages")
    asked = said[-1][1]
    if not asked.strip():
        raise RequestError("the question is empty", param=f"messages[{len(said) - 1}].content")
    if len(said) == 1:
        return asked
    if alone:
        raise RequestError(
            "this model was made for one kind of question: it takes a single user message, without a system message "
            "or earlier turns",
            param="messages",
        )
    told = [text for role, text in said if role in _SYSTEM]
    turns = [f"{role.capitalize()}: {text}" for role, text in said[:-1] if role not in _SYSTEM]
    before = [*told, *(["The conversation so far:", *turns, "The user now asks:"] if turns else [])]
    return "\n\n".join([*before, asked])


def _role(message: Mapping[str, Any], at: int) -> str:
    role = message.get("role")
    if role in ("tool", "function"):
        raise RequestError("this server calls no tools", param=f"messages[{at}].role")
    known = (*_SYSTEM, "user", "assistant")
    if role not in known:
        unknown = UnknownNameError("role", str(role), known)
        raise RequestError(str(unknown), param=f"messages[{at}].role")
    for key, value in message.items():
        if key in _EMPTY and not value:
            continue
        if key not in _KNOWN:
            unknown = UnknownNameError("key of a message", key, ("role", "content", "name"))
            raise RequestError(str(unknown), param=f"messages[{at}].{key}")
    return cast("str", role)


def _text(message: Mapping[str, Any], at: int) -> str:
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError("content is text, or a list of text parts", param=f"messages[{at}].content")
    return "".join(
        _part(part, f"messages[{at}].content[{place}]")
        for place, part in enumerate(cast("list[Any]", content))
    )


def _part(part: Any, param: str) -> str:
    found = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    text = found.get("text")
    if found.get("type") == "text" and isinstance(text, str):
        return text
    kind = found.get("type")
    what = f"a part of type {kind!r}" if isinstance(kind, str) else "a part without a type"
    raise RequestError(f'{what} cannot be read: send {{"type": "text", "text": ...}}', param=param)
