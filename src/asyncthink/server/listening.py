"""The process: a socket, the server on it, and an end that loses nobody's thought."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from asyncthink.errors import UsageError
from asyncthink.runtime.fanout import until
from asyncthink.runtime.organization import Organization
from asyncthink.server.admission import Admission
from asyncthink.server.app import create_app
from asyncthink.server.settings import Settings

BACKLOG = 2048
FAREWELL = 5
"""Seconds for the last bytes to leave once all thoughts have ended."""
_FILES = 65_536


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would close the door at once, where a 503 says that we are leaving."""

    def capture_signals(self) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nullcontext()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections; port 0 is any that is free.

    Raises:
        UsageError: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)  # pyright: ignore[reportArgumentType]
    except (OSError, OverflowError, UnicodeError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot listen at {host} port {port}: {told}") from None


def url(sock: socket.socket) -> str:
    """Return where clients find it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    organization: Organization, settings: Settings, sock: socket.socket, *, routes: Sequence[BaseRoute] = ()
) -> int:
    """Serve until a signal comes and all that was admitted is done; return how many thoughts were cut off.

    `routes` are those of `create_app`.
    """
    _allow_files()
    async with organization:
        app = create_app(organization, settings, routes=routes)
        server, cut = _server(app), 0

        async def stop() -> None:
            nonlocal cut
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                settings.note(f"serving {settings.model} at {url(sock)}/v1")
                await anext(signals)
                cut = await _drained(app.state.admission, settings, signals.__anext__)
                server.should_exit = True
                await anyio.sleep_forever()

        async with until(stop):
            await server.serve(sockets=[sock])
    return cut


async def show(app: Starlette, sock: socket.socket, begun: Callable[[str], None]) -> None:
    """Serve pages until a signal comes.

    Args:
        app: from `guarded`.
        sock: where.
        begun: told the address once signals are heard.
    """
    server = _server(app)

    async def stop() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            begun(url(sock))
            await anext(signals)
            server.should_exit = True
            await anyio.sleep_forever()

    async with until(stop):
        await server.serve(sockets=[sock])


def _server(app: Starlette) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=FAREWELL,
        )
    )


async def _drained(admission: Admission, settings: Settings, again: Callable[[], Awaitable[object]]) -> int:
    """Let those inside end; return how many had to be stopped."""
    admission.close()
    inside = admission.running + admission.waiting
    settings.note(
        f"stopping: {inside} under way, {settings.drain_seconds:g} s at most; a second signal ends them"
    )
    with anyio.move_on_after(settings.drain_seconds):
        async with until(again):
            await admission.emptied()
    cut = admission.end()
    settings.note(f"stopped: {cut} cut off")
    return cut


def _allow_files() -> None:
    """Raise the soft limit of open files, which the system sets for programs with few connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
