"""A request's body: bytes from a client -> plain values, within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import anyio
import msgspec
from starlette.types import Receive, Scope

from asyncthink.errors import RequestError
from asyncthink.server.security import headers

DEEPEST = 32
"""Levels of lists and objects."""
SECONDS = 30.0
"""For a whole body to arrive."""


async def read_body(scope: Scope, receive: Receive, longest: int) -> bytes:
    """Read a body of at most `longest` bytes.

    Raises:
        RequestError: it is longer, or comes too slowly.
        BrokenResourceError: its client left.
    """
    declared = headers(scope, b"content-length")
    if declared and declared[0].isdigit() and int(declared[0][:20]) > longest:
        raise _too_long(longest)
    body = bytearray()
    with anyio.move_on_after(SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise anyio.BrokenResourceError
            body += message.get("body", b"")
            if len(body) > longest:
                raise _too_long(longest)
            if not message.get("more_body", False):
                return bytes(body)
    raise RequestError(f"the body did not arrive in {SECONDS:g} seconds", status=408, code="body_too_slow")


def _too_long(longest: int) -> RequestError:
    return RequestError(
        f"the body is longer than {longest} bytes (--max-body)", status=413, code="body_too_long"
    )


def parse(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        RequestError: it is none, or is nested too deeply.
    """
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # msgspec's own, and bytes that are no UTF-8
        raise RequestError(f"the body is no JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("the body is no JSON object", code="invalid_json")
    found = cast("dict[str, Any]", value)
    _check_depth(found)
    return found


def _check_depth(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner = [
            one
            for each in level
            for one in (cast("Any", each).values() if isinstance(each, dict) else cast("list[Any]", each))
        ]
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> RequestError:
    return RequestError(f"the body is nested deeper than {DEEPEST} levels", code="invalid_json")
