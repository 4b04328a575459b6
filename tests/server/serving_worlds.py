"""Servers to test: an application that is called without a network, and `asyncthink serve` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import anyio
from starlette.applications import Starlette

from asyncthink import Organization
from asyncthink.engines.base import Engine
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.server.app import create_app
from asyncthink.server.settings import Settings

SCRIPT: dict[str, Any] = {
    "organizer": "first <FORK-1>7*6</FORK-1> <FORK-2>idle</FORK-2> then\nmore <JOIN-1> so <ANSWER>42 it is</ANSWER>",
    "workers": {"7*6": "six\nsevens <RETURN>42</RETURN>", "idle": "w w w"},
}
LONG: dict[str, Any] = {
    "organizer": f"<FORK-1>a</FORK-1> <FORK-2>b</FORK-2> {'w ' * 20}<JOIN-1> <JOIN-2> <ANSWER>done</ANSWER>",
    "workers": {"*": "w " * 2000 + "<RETURN>r</RETURN>"},
}
"""Takes 2000 ticks."""
CHAT = "/v1/chat/completions"
SECONDS = 120


def chat(query: str = "What is 7*6?", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": query}], **more}


@dataclass
class Reply:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    whole: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def chunks(self) -> list[Any]:
        """What a stream carried; its end is checked."""
        *data, done = [
            line.removeprefix("data: ") for line in self.body.decode().split("\n") if line[:1] == "d"
        ]
        assert done == "[DONE]"
        return [json.loads(each) for each in data]


@asynccontextmanager
async def world(
    script: dict[str, Any] | Engine = SCRIPT,
    *,
    settings: Mapping[str, Any] | None = None,
    **organization: Any,
) -> AsyncGenerator[Starlette]:
    engine = ScriptedEngine(script) if isinstance(script, dict) else script
    async with Organization(engine, **organization) as held:
        given: dict[str, Any] = {"model": "m", **(settings or {})}
        yield create_app(held, Settings(**given))


async def ask(
    app: Starlette,
    path: str = CHAT,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    host: str | None = "localhost:8000",
    server: str = "127.0.0.1",
    leave: anyio.Event | None = None,
    heard: Callable[[bytes], None] | None = None,
) -> Reply:
    """Call the application as uvicorn would, its query behind `?`; the client leaves when `leave` is set."""
    path, _, query = path.partition("?")
    reply, gone, sent = Reply(), leave or anyio.Event(), False
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    named = [*([("host", host)] if host is not None else []), *headers]

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": raw, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            reply.body += message["body"]
            if heard:
                heard(message["body"])
            if not message.get("more_body", False):
                reply.whole = True
                gone.set()
        await anyio.lowlevel.checkpoint()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method or ("GET" if body is None else "POST"),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named],
        "server": (server, 8000),
        "client": ("127.0.0.1", 9),
    }
    await app(scope, receive, send)
    return reply


class Serving:
    """A server process; its address is known once the block is entered."""

    def __init__(
        self,
        *arguments: str,
        slow: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        setup: str = "",
    ) -> None:
        launcher = str(Path(__file__).with_name("slow_server.py"))
        plain = ["-c", f"{setup}\nfrom asyncthink.cli.main import run; run()"]
        start = plain if slow is None else [launcher, json.dumps(slow)]
        self._command = [sys.executable, *start, "serve", "--port", "0", *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self.log: list[str] = []
        """Lines of standard error so far."""
        self.url = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self._environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        line = self.wait_for("serving ")
        self.url = line.rpartition(" at ")[2].removesuffix("/v1")
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))

    def wait_for(self, text: str, seconds: float = SECONDS) -> str:
        """Return the first line of the log with this text."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in tuple(self.log):
                if text in line:
                    return line
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"no {text!r} in the log: {self.log}")

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Make one request to its end."""
        connection = self.connect()
        try:
            raw = None if body is None else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", path, raw, dict(headers or {}))
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Reply(status=response.status, headers=told, body=response.read(), whole=True)
        finally:
            connection.close()

    def settled(self, within: float, **wanted: int) -> float:
        """Wait until the probe tells these numbers; return how many seconds that took."""
        began = time.monotonic()
        while True:
            found = self.ask("/_probe").json
            seconds = time.monotonic() - began
            if all(found[name] == value for name, value in wanted.items()):
                return seconds
            assert seconds < within, found
            time.sleep(0.01)
