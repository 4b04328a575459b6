"""Who may ask: no route is reached past the token, the Host header or the Origin header; and no token is ever shown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
from server.serving_worlds import CHAT, ask, chat, world
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asyncthink import Organization
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.errors import UsageError
from asyncthink.server.app import create_app
from asyncthink.server.security import Token, is_loopback, origin
from asyncthink.server.settings import Settings

pytestmark = pytest.mark.anyio
KEY = "a-token-of-some-length"
RIGHT = ("authorization", f"Bearer {KEY}")


def basic(password: str) -> tuple[str, str]:
    return ("authorization", "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode())


async def page(request: Request) -> PlainTextResponse:
    del request
    return PlainTextResponse("the page")


def locked(note: Any = None, **more: Any) -> Starlette:
    settings = Settings(model="m", token=Token(KEY), **({"note": note} if note else {}), **more)
    routes = [Route("/", page), Mount("/static", routes=[Route("/a.js", page)])]
    organization = Organization(ScriptedEngine({"organizer": "<ANSWER>x</ANSWER>"}))
    return create_app(organization, settings, routes=routes)


def paths(app: Starlette) -> list[tuple[str, str]]:
    """Every method and path that a route takes, mounted ones included, and some that none takes."""
    found = [("GET", "/nowhere"), ("POST", "/"), ("OPTIONS", CHAT), ("HEAD", "/health")]
    for route in app.routes:
        inner = route.routes if isinstance(route, Mount) else [route]
        prefix = route.path if isinstance(route, Mount) else ""
        for each in inner:
            assert isinstance(each, Route) and each.methods
            path = prefix + each.path.replace("{name:path}", "m")
            found += [(method, path) for method in sorted(each.methods)]
    return found


async def test_no_route_is_reached_without_the_token() -> None:
    app = locked()
    assert len(paths(app)) > 10
    for method, path in paths(app):
        for shown in ((), [("authorization", "Bearer wrong")], [RIGHT, RIGHT], [basic("wrong")]):
            reply = await ask(app, path, {} if method == "POST" else None, method=method, headers=shown)
            assert reply.status == 401, (method, path)
            assert reply.headers["www-authenticate"].startswith("Bearer")
            assert b"the page" not in reply.body
        assert (await ask(app, path, method=method, headers=[RIGHT])).status != 401


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (RIGHT, 200),
        (("authorization", f"bearer   {KEY} "), 200),
        (basic(KEY), 200),
        (("authorization", KEY), 401),
        (("authorization", f"Token {KEY}"), 401),
        (("authorization", "Bearer "), 401),
        (("authorization", "Bearer \xff\xfe"), 401),
        (("authorization", "Basic not-base64!"), 401),
        (("authorization", f"Bearer {KEY}x"), 401),
        (("x-api-key", KEY), 401),
    ],
)
async def test_how_the_token_is_shown(shown: tuple[str, str], status: int) -> None:
    assert (await ask(locked(), "/health", headers=[shown])).status == status


async def test_a_socket_is_refused_like_a_request() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/",
        "headers": [(b"host", b"localhost")],
        "server": ("127.0.0.1", 1),
    }
    await locked()(scope, None, send)  # pyright: ignore[reportArgumentType]
    assert sent == [{"type": "websocket.close", "code": 1008}]


HOSTS: list[tuple[str | None, str, Sequence[str], int]] = [
    ("localhost:8000", "127.0.0.1", (), 200),
    ("LOCALHOST.", "127.0.0.1", (), 200),
    ("127.0.0.1:1", "127.0.0.1", (), 200),
    ("[::1]:8000", "::1", (), 200),
    ("192.168.0.7:8000", "192.168.0.7", (), 200),
    ("192.168.0.8:8000", "192.168.0.7", (), 403),
    ("evil.example", "127.0.0.1", (), 403),
    ("localhost.evil.example:8000", "127.0.0.1", (), 403),
    ("localhost@evil.example", "127.0.0.1", (), 403),
    ("localhost:80:80", "127.0.0.1", (), 403),
    ("[::1", "127.0.0.1", (), 403),
    ("[::1]evil", "127.0.0.1", (), 403),
    ("", "127.0.0.1", (), 403),
    (None, "127.0.0.1", (), 403),
    ("box.lan:8000", "127.0.0.1", ("Box.lan",), 200),
    ("abox.lan", "127.0.0.1", ("box.lan",), 403),
]


@pytest.mark.parametrize(("host", "server", "allowed", "status"), HOSTS)
async def test_only_its_own_names_reach_the_server(
    host: str | None, server: str, allowed: Sequence[str], status: int
) -> None:
    async with world(settings={"allowed_hosts": allowed}) as app:
        reply = await ask(app, "/health", host=host, server=server)
    assert reply.status == status
    if status == 403:
        assert (reply.error["type"], reply.error["code"]) == ("permission_error", "host_not_allowed")


ORIGINS: list[tuple[str, Sequence[str], int]] = [
    ("http://localhost:8000", (), 200),
    ("https://localhost:8000", (), 200),
    ("http://localhost:9000", (), 403),
    ("http://localhost", (), 403),
    ("https://evil.example", (), 403),
    ("null", (), 403),
    ("", (), 403),
    ("file://localhost:8000", (), 403),
    ("https://app.example", ("https://app.example",), 200),
    ("https://app.example.evil", ("https://app.example",), 403),
]


@pytest.mark.parametrize(("given", "allowed", "status"), ORIGINS)
async def test_pages_of_others_may_not_ask(given: str, allowed: Sequence[str], status: int) -> None:
    async with world(settings={"allowed_origins": allowed}) as app:
        reply = await ask(app, body=chat(), headers=[("origin", given)])
        both = await ask(app, body=chat(), headers=[("origin", given), ("origin", "http://localhost:8000")])
    assert reply.status == both.status == status
    if status == 403:
        assert reply.error["code"] == "origin_not_allowed"
    assert ("access-control-allow-origin" in reply.headers) is (given in allowed)


async def test_a_preflight_of_an_allowed_page_needs_no_token() -> None:
    asks = [("origin", "https://app.example"), ("access-control-request-method", "POST")]
    asks.append(("access-control-request-headers", "authorization,content-type"))
    app = locked(allowed_origins=("https://app.example",))
    reply = await ask(app, CHAT, method="OPTIONS", headers=asks)
    assert reply.status == 200 and reply.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in reply.headers["access-control-allow-headers"]
    unlocked = await ask(app, "/health", headers=asks[:1])
    assert unlocked.status == 401 and unlocked.headers["access-control-allow-origin"] == "https://app.example"
    assert unlocked.headers["access-control-expose-headers"] == "X-Request-Id, Retry-After"
    other = await ask(app, CHAT, method="OPTIONS", headers=[("origin", "https://evil.example"), *asks[1:]])
    assert other.status == 403


async def test_the_token_is_in_no_log_error_or_representation() -> None:
    lines: list[str] = []
    app = locked(lines.append)
    for shown in (RIGHT, ("authorization", f"Token {KEY}"), basic(KEY)):
        for path in ("/health", "/nowhere"):
            reply = await ask(app, path, headers=[shown])
            assert KEY not in reply.body.decode() + str(reply.headers)
    assert KEY not in "".join(lines) + repr(Token(KEY)) + repr(vars(Token(KEY)))


@pytest.mark.parametrize("value", ["", "two words", "caf\xe9", "line\n"])
def test_a_token_is_one_word(value: str) -> None:
    with pytest.raises(UsageError, match="one word") as caught:
        Token(value)
    assert not value.strip() or value not in str(caught.value)


@pytest.mark.parametrize("text", ["example.org", "ftp://a", "https://", "https://a/b", "https://me@a", "*"])
def test_an_origin_has_scheme_and_host(text: str) -> None:
    with pytest.raises(UsageError, match="an origin is written as"):
        origin(text)
    assert origin("https://Example.org:8443/") == "https://example.org:8443"


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "fe80::1%eth0")))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2_3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("a\x1b[2J", False),
        ("", False),
    ],
)
async def test_request_ids_are_echoed_if_sane(given: str, kept: bool) -> None:
    lines: list[str] = []
    async with world(settings={"note": lines.append}) as app:
        for path, status in (("/health", 200), ("/nowhere", 404)):
            reply = await ask(app, path, headers=[("x-request-id", given)])
            found = reply.headers["x-request-id"]
            assert reply.status == status and found
            assert (found == given) is kept
            assert f"request {found}: GET {path} {status}" in lines[-1]
        evil = await ask(app, CHAT, {}, host="evil.example")
        assert evil.headers["x-request-id"] in lines[-1]


async def test_the_log_is_one_harmless_line() -> None:
    lines: list[str] = []
    async with world(settings={"note": lines.append}) as app:
        await ask(app, "/\x1b[2J\n\u202e" + "x" * 500)
        await ask(app, body=chat())
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 200 for line in lines)
    assert lines[1].endswith("24 tokens")


async def test_a_fault_of_our_own_is_a_500_and_a_trace_in_the_log() -> None:
    lines: list[str] = []

    async def broken(request: Request) -> PlainTextResponse:
        raise ZeroDivisionError(f"\x1b[2J {request.url.path}")

    app = create_app(
        Organization(ScriptedEngine({"organizer": "x"})),
        Settings(model="m", note=lines.append),
        routes=[Route("/broken", broken)],
    )
    reply = await ask(app, "/broken")
    assert reply.status == 500 and reply.headers["x-request-id"] in reply.error["message"]
    assert "ZeroDivisionError" not in reply.body.decode()
    assert any("ZeroDivisionError" in line for line in lines) and all(line.isprintable() for line in lines)


async def test_no_answer_is_kept_guessed_at_or_held_back() -> None:
    async with world() as app:
        for reply in (await ask(app, "/health"), await ask(app, body=chat(stream=True))):
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-accel-buffering"] == "no"
