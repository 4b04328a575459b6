"""Who may ask at all. Pure ASGI around everything: no route, known or not, is reached past these.

A server on the loopback can be reached by every web page that its user opens, so the address it was called by and the
page that calls are checked there as well; everywhere else a token is needed, too.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Collection, Iterable
from hashlib import sha256
from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from asyncthink.errors import RequestError, UsageError
from asyncthink.server.response import refuse

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Token:
    """What opens the server. Only its digest is held: nothing can show it.

    Raises:
        UsageError: no header can carry it.
    """

    def __init__(self, value: str) -> None:
        if not (value and value.isascii() and value.isprintable()) or " " in value:
            raise UsageError("a token is one word of printable ASCII characters")
        self._digest = sha256(value.encode()).digest()

    def __repr__(self) -> str:
        return "Token()"

    def opens(self, shown: bytes) -> bool:
        """Whether this is the token; takes the same time whatever was shown."""
        return compare_digest(sha256(shown).digest(), self._digest)


class Gate:
    """Refuses requests that came by a foreign name, or from a foreign page."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str]) -> None:
        self.app = app
        self.hosts = LOOPBACK | {host.lower().rstrip(".") for host in hosts}
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may come in."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif error := self._refusal(scope):
            await refuse(error, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        hosts, origins = headers(scope, b"host"), headers(scope, b"origin")
        host = _name(hosts[0]) if len(hosts) == 1 else None
        own = (scope.get("server") or ("",))[0]
        if host is None or not (host in self.hosts or host == own):
            return RequestError(
                "this server does not go by the name in the Host header: --allowed-host NAME lets it in",
                status=403,
                code="host_not_allowed",
            )
        if any(not self._known(origin, hosts[0]) for origin in origins):
            return RequestError(
                "pages of that origin may not ask this server: --allowed-origin ORIGIN lets one in",
                status=403,
                code="origin_not_allowed",
            )
        return None

    def _known(self, origin: str, host: str) -> bool:
        """Whether a page is our own, whatever proxy may have served it, or was allowed."""
        scheme, separator, place = origin.partition("://")
        own = scheme in ("http", "https") and bool(separator) and place.lower() == host.lower()
        return own or origin.lower() in self.origins


class Lock:
    """Refuses requests without the token, which comes as `Bearer TOKEN`, or as the password of a browser."""

    def __init__(self, app: ASGIApp, *, token: Token | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what has the key."""
        if scope["type"] == "lifespan" or self.token is None or self._opened(self.token, scope):
            await self.app(scope, receive, send)
            return
        error = RequestError(
            "this server needs its token, as in `Authorization: Bearer TOKEN`",
            status=401,
            code="invalid_api_key",
        )
        await refuse(error, scope, receive, send)

    def _opened(self, token: Token, scope: Scope) -> bool:
        shown = headers(scope, b"authorization")
        return len(shown) == 1 and token.opens(_credential(shown[0]))


def headers(scope: Scope, name: bytes) -> list[str]:
    """Return all values of a header."""
    found: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return [value.decode("latin-1").strip() for key, value in found if key == name]


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def origin(text: str) -> str:
    """Return an origin that pages may be allowed by.

    Raises:
        UsageError: it is none.
    """
    parts = urlsplit(text)
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.path.strip("/")
        or "@" in parts.netloc
    ):
        raise UsageError(f"an origin is written as in https://example.org:8443, not {text!r}")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _credential(header: str) -> bytes:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _name(host: str) -> str | None:
    """Return the name in a Host header, without its port; None where it has none."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket and (not port or port.startswith(":")) else "?"
    else:
        name, _, port = host.partition(":")
    name = name.lower().rstrip(".")
    return name if name and (not port or (port.isascii() and port.isdigit())) else None
