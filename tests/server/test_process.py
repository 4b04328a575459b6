"""A real `asyncthink serve`: its clients, its signals, its log."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from server.serving_worlds import CHAT, LONG, SCRIPT, SECONDS, Reply, Serving, chat

from asyncthink.episodes.store import RunDirectory

QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."
NAME = ("--served-model-name", "m")
SLOW = {"script": LONG, "delay": 0.005}


def client(server: Serving, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=SECONDS)


def open_stream(server: Serving, **more: Any) -> socket.socket:
    """Begin a chat as a bare socket; return it once the first bytes of the answer are there, or at once."""
    body = json.dumps(chat(stream=True, **more)).encode()
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


def test_the_openai_package_with_the_embedded_model() -> None:
    messages: Any = [{"role": "user", "content": QUERY}]
    with Serving("--model", "embedded") as server, client(server) as ours:
        assert next(model.id for model in ours.models.list()) == "embedded"
        whole = ours.chat.completions.create(model="embedded", messages=messages, seed=3)
        chunks = list(
            ours.chat.completions.create(
                model="embedded",
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                seed=3,
            )
        )
        with pytest.raises(openai.BadRequestError, match="only knows countdown"):
            ours.chat.completions.create(model="embedded", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(openai.NotFoundError, match="did you mean 'embedded'"):
            ours.chat.completions.create(model="embeded", messages=messages)
        left = ours.chat.completions.create(model="embedded", messages=messages, stream=True)
        for _ in zip(range(5), left, strict=False):
            assert server.ask("/health").json["running"] == 1
        left.close()
        until = time.monotonic() + 1
        while server.ask("/health").json["running"]:
            assert time.monotonic() < until
    answer = whole.choices[0].message.content
    assert answer and answer.count("\n") >= 1
    extra: Any = whole.model_extra
    assert extra["asyncthink"]["score"] > 0 and extra["asyncthink"]["metrics"]["forks"] >= 1
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == answer  # the same seed
    reasoning = [str(getattr(delta, "reasoning", None) or "") for delta in deltas]
    assert "<FORK-1>" in "".join(reasoning) and sum(map(bool, reasoning)) > 20
    assert chunks[-1].usage == whole.usage and whole.usage and whole.usage.completion_tokens > 50


def test_the_openai_package_async() -> None:
    async def main(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as ours:
            messages: Any = [{"role": "user", "content": "What is 7*6?"}]
            whole = await ours.chat.completions.create(model="m", messages=messages)
            stream = await ours.chat.completions.create(model="m", messages=messages, stream=True)
            streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
            text = await ours.completions.create(model="m:sequential", prompt="What is 7*6?")
            pieces = await ours.completions.create(model="m", prompt="What is 7*6?", stream=True)
            joined = [piece.choices[0].text async for piece in pieces]
        return [
            whole.choices[0].message.content or "",
            "".join(streamed),
            text.choices[0].text,
            "".join(joined),
        ]

    with Serving(*NAME, slow={"script": SCRIPT}) as server:
        found = anyio.run(main, f"{server.url}/v1")
    assert found == ["42 it is"] * 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl() -> None:
    with Serving(*NAME, "--token", "open-sesame", slow={"script": SCRIPT}) as server:
        command = ["curl", "-sS", "--noproxy", "*", "-i", f"{server.url}{CHAT}", "-d", json.dumps(chat())]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        command += ["-H", "Authorization: Bearer open-sesame", "-H", "X-Request-Id: mine"]
        taken = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        line = server.wait_for("request mine: POST /v1/chat/completions 200")
    assert refused.stdout.startswith("HTTP/1.1 401")
    assert "x-request-id: mine" in taken.stdout and '"content":"42 it is"' in taken.stdout
    assert line.endswith("24 tokens")
    assert "open-sesame" not in "".join(server.log)


def test_off_the_loopback_a_token_is_made() -> None:
    with Serving(*NAME, "--host", "0.0.0.0", slow={"script": SCRIPT}) as server:
        token = server.wait_for("token: ").rpartition(" ")[2]
        assert len(token) > 30
        assert server.ask("/health").status == 401
        assert server.ask("/health", headers={"Authorization": f"Bearer {token}"}).status == 200
        assert sum(token in line for line in server.log) == 1


def test_a_token_from_the_environment() -> None:
    with Serving(*NAME, slow={"script": SCRIPT}, environment={"ASYNCTHINK_TOKEN": "open-sesame"}) as server:
        assert server.ask("/v1/models").status == 401
        with client(server, "open-sesame") as ours:
            assert len(list(ours.models.list())) == 3


RAW = [
    b"\x00\xff\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]


def test_bytes_that_are_no_http_stop_nothing() -> None:
    with Serving(*NAME, slow={"script": SCRIPT}) as server:
        for raw in RAW:
            with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as sock:
                sock.sendall(raw)
                assert sock.recv(12) in [b"HTTP/1.1 %d" % status for status in (200, 400, 403, 404)]
        assert server.ask("/health").status == 200
        assert not any("Traceback" in line for line in server.log)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_workers_within_a_second(stream: bool) -> None:
    with Serving(*NAME, slow=SLOW) as server:
        before = server.ask("/_probe").json["tasks"]
        body = json.dumps(chat(stream=stream)).encode()
        connection = server.connect()
        connection.request("POST", CHAT, body)
        server.settled(10, sessions=3, running=1)
        assert connection.sock is not None
        connection.close()
        assert server.settled(1, sessions=0, running=0, tasks=before) < 1
        line = server.wait_for("POST", 5)
        assert ("200 left midway" in line) if stream else (" 499 " in line)


def test_the_limits_of_the_command_line_bind() -> None:
    limits = ("--max-body", "1000", "--max-capacity", "2", "--capacity", "1")
    with Serving(*NAME, *limits, slow={"script": SCRIPT}) as server:
        long = server.ask(CHAT, chat(user="x" * 1000))
        assert long.status == 413 and "1000 bytes (--max-body)" in long.error["message"]
        wide = server.ask(CHAT, chat(asyncthink={"capacity": 8, "episode": True}))
        assert wide.json["asyncthink"]["episode"]["capacity"] == 2
        narrow = server.ask(CHAT, chat(asyncthink={"episode": True}))
        assert narrow.json["asyncthink"]["episode"]["capacity"] == 1


def test_who_waits_and_leaves_never_thinks() -> None:
    with Serving(*NAME, "--at-once", "1", "--max-waiting", "2", slow=SLOW) as server:
        first = open_stream(server)
        server.settled(10, running=1)
        second, third = open_stream(server), open_stream(server)
        server.settled(10, running=1, waiting=2)
        refused = server.ask(CHAT, chat())
        assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
        second.close()
        third.close()
        server.settled(1, running=1, waiting=0, sessions=3)
        first.close()
        server.settled(1, running=0, sessions=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_those_inside_end(number: int, tmp_path: Path) -> None:
    slow = {"script": {"organizer": "w " * 100 + "<ANSWER>x</ANSWER>"}, "delay": 0.01}
    replies: list[Reply] = []
    output = ("--output", str(tmp_path / "run"))
    with Serving(*NAME, *output, "--at-once", "2", slow=slow) as server:

        def client(stream: bool) -> None:
            replies.append(server.ask(CHAT, chat(stream=stream)))

        inside = [threading.Thread(target=client, args=(stream,)) for stream in (True, False, True)]
        for thread in inside:
            thread.start()
        server.settled(10, running=2, waiting=1)
        server.signal(number)
        server.wait_for("stopping: 3 under way")
        late = server.ask(CHAT, chat())
        assert late.status == 503 and late.headers["retry-after"]
        assert server.ask("/health").status == 503
        for thread in inside:
            thread.join(SECONDS)
        assert server.process.wait(10) == 0
    assert [reply.status for reply in replies] == [200] * 3
    assert sum(b"[DONE]" in reply.body for reply in replies) == 2
    assert len(list(RunDirectory.open(tmp_path / "run").episodes())) == 3
    assert not any("Traceback" in line for line in server.log)


@pytest.mark.parametrize("how", ["second signal", "--drain-seconds"])
def test_an_end_that_waits_no_longer(how: str) -> None:
    more = ("--drain-seconds", "0.2") if how == "--drain-seconds" else ()
    with Serving(*NAME, *more, slow=SLOW) as server:
        stream = open_stream(server)
        server.settled(10, sessions=3)
        began = time.monotonic()
        server.signal()
        server.wait_for("stopping: 1 under way")
        if not more:
            server.signal()
        received = b"".join(iter(lambda: stream.recv(65536), b""))
        stream.close()
        assert server.process.wait(10) == 130
        assert time.monotonic() - began < 5
    assert b'"the server is stopping"' in received and b"[DONE]" not in received
    assert server.log[-1] == "asyncthink: 1 thought was cut off"


def test_a_run_directory_that_is_full_takes_no_answer(tmp_path: Path) -> None:
    """As on a full disk: files of this process may not grow beyond what the manifest needs."""
    setup = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    )
    script = tmp_path / "s.json"
    script.write_text(json.dumps(SCRIPT))
    output = ("--model", f"scripted:{script}", "--output", str(tmp_path / "full"))
    with Serving(*NAME, *output, setup=setup) as server:
        assert server.ask(CHAT, chat()).status == 200
        assert "File too large" in server.wait_for("not saved: ")
        assert server.ask("/health").status == 200
    assert list(RunDirectory.open(tmp_path / "full").episodes()) == []


def run(*arguments: str, setup: str = "") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        f"{setup}\nfrom asyncthink.cli.main import run; run()",
        "serve",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "no.such.host.invalid"), "cannot listen at no.such.host.invalid port 8000: "),
        (("--host", "192.0.2.1"), "Cannot assign requested address"),
        (("--token", "two words"), "a token is one word"),
        (("--allowed-origin", "example.org"), "an origin is written as"),
        (("--at-once", "0"), "at_once must be at least 1"),
        (("--max-tokens", "0"), "max_tokens must be above 0"),
        (("--model", "embeded"), "unknown model 'embeded': did you mean 'embedded'"),
        (("--output", ""), "--output needs a folder"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    script = tmp_path / "s.json"
    script.write_text(json.dumps(SCRIPT))
    result = run("--model", f"scripted:{script}", *arguments)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    script = tmp_path / "s.json"
    script.write_text(json.dumps(SCRIPT))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("--model", f"scripted:{script}", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 2 and "Address already in use" in result.stderr


def test_without_the_extra() -> None:
    setup = (
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('uvicorn', 'starlette') else find(name, *a)"
    )
    result = run("--port", "0", setup=setup)
    assert result.returncode == 2
    assert (
        result.stderr
        == "asyncthink: asyncthink serve needs starlette, uvicorn: pip install starlette uvicorn\n"
    )


def test_help_imports_no_server() -> None:
    setup = (
        "import atexit, sys\n"
        "atexit.register(lambda: sys.stderr.write(' '.join(m for m in ('starlette', 'uvicorn') if m in sys.modules)))"
    )
    result = run("--help", setup=setup)
    assert result.returncode == 0 and result.stderr == ""
    assert "--drain-seconds" in result.stdout
