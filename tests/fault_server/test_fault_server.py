"""The fault server is itself held to what its faults and its script say."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from fault_server.control import FAULTS, FaultServer

TEXT = "Two. <FORK-1>7*6</FORK-1> Meanwhile é 😀 <JOIN-1> so <ANSWER>42</ANSWER>"
WORKER = "hm <RETURN>42</RETURN>"
CONFIG: dict[str, Any] = {
    "script": {"organizer": TEXT, "workers": {"7*6": WORKER, "*": "any <RETURN>?</RETURN>"}},
    "query": "What?",
}
TOKENIZER = Path(__file__).parents[2] / "src/asyncthink/embedded/tokenizer.json"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "What?"}
GO_ON = {"continue_final_message": True, "add_generation_prompt": False}
# What a stream must be read for longer than a test wants to wait.
ENDLESS = {name for name in FAULTS if "hang" in name or "trickle" in name}
REARRANGED = {"duplicates", "reordered"}


@pytest.fixture(scope="module")
def process() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(process: FaultServer) -> Iterator[FaultServer]:
    process.configure(CONFIG)
    yield process
    assert process.stats()["errors"] == []


def ask(server: FaultServer, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("GET" if body is None else "POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [USER, *messages], "stream": True} | fields


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def events(raw: bytes) -> list[dict[str, Any]]:
    """Read a stream as the standard has it."""
    lines = raw.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    blocks = (block.split("\n") for block in lines.split("\n\n"))
    texts = ["\n".join(line[5:] for line in block if line.startswith("data:")) for block in blocks]
    return [json.loads(text) for text in texts if text and text.strip() != "[DONE]"]


def choices(raw: bytes) -> list[dict[str, Any]]:
    return [choice for event in events(raw) for choice in event["choices"]]


def text_of(raw: bytes, field: str = "content") -> str:
    found = (choice["delta"].get(field) if "delta" in choice else choice["text"] for choice in choices(raw))
    return "".join(text or "" for text in found)


def finish_of(raw: bytes) -> dict[str, Any]:
    return next(choice for choice in choices(raw) if choice["finish_reason"])


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def smaller(name: str) -> dict[str, int]:
    return {"fill": 1 << 16} if any("fill" in step for step in FAULTS[name]["steps"]) else {}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def raw_request(body: Any, path: str = CHAT) -> bytes:
    content = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )


def raw_ask(server: FaultServer, body: Any, wait: float = 3) -> tuple[bytes, str]:
    """Return all that comes over the wire, and how it ended."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        connection.sendall(raw_request(body))
        seen = b""
        try:
            while data := connection.recv(1 << 16):
                seen += data
                if seen.endswith(b"0\r\n\r\n"):
                    return seen, "end"
        except ConnectionResetError:
            return seen, "reset"
        except TimeoutError:
            return seen, "hang"
    return seen, "close"


def test_a_chat_is_played_with_usage(server: FaultServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    status, raw = ask(server, CHAT, chat(stream_options=options))
    assert (status, text_of(raw), finish_of(raw)["finish_reason"]) == (200, TEXT, "stop")
    assert raw.endswith(b"data: [DONE]\n\n")
    usages = [event["usage"]["completion_tokens"] for event in events(raw)]
    assert usages == [*range(13), 12, 12]
    assert events(raw)[-1]["choices"] == []
    _, whole = ask(server, CHAT, chat(stream=False))
    reply = json.loads(whole)
    assert (reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]) == (TEXT, 12)


@pytest.mark.parametrize("cut", range(0, len(TEXT), 7))
def test_a_chat_goes_on_behind_what_it_said(server: FaultServer, cut: int) -> None:
    text = TEXT[:cut].replace("<JOIN-1>", "<JOIN-1>42 <\\ANSWER></JOIN-1>")
    _, raw = ask(server, CHAT, chat(said(text), **GO_ON))
    assert TEXT[:cut] + text_of(raw) == TEXT


def test_a_chat_in_turns_goes_on_behind_a_join(server: FaultServer) -> None:
    head = TEXT[: TEXT.index(" so")]
    turns = (said(head), {"role": "user", "content": "JOIN-1: 42"})
    _, raw = ask(server, CHAT, chat(*turns))
    assert head + text_of(raw) == TEXT


def test_a_last_assistant_message_is_history_unless_it_is_asked_for(server: FaultServer) -> None:
    _, raw = ask(server, CHAT, chat(said("Two.")))
    assert text_of(raw) == TEXT
    assert server.stats()["restarts"] == 1
    assert ask(server, CHAT, chat(said("Two."), continue_final_message=True))[0] == 400
    assert ask(server, CHAT, chat(**GO_ON))[0] == 400
    server.configure(CONFIG | {"prefix": False})
    status, raw = ask(server, CHAT, chat(said("Two."), **GO_ON))
    assert (status, json.loads(raw)["error"]["param"]) == (400, "continue_final_message")


@pytest.mark.parametrize("text", ["Two. Two.", "Two.  <", TEXT + "!", "<JOIN-1>x"])
def test_a_lost_or_doubled_piece_is_found(server: FaultServer, text: str) -> None:
    assert ask(server, CHAT, chat(said(text), **GO_ON))[0] == 400
    assert ask(server, COMPLETIONS, {"prompt": "What?\n\n" + text})[0] == 400
    stats = server.stats()
    assert stats["mismatch_count"] == 2
    assert stats["mismatches"][0] == {"role": "organizer", "written": text, "script": TEXT}


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Be clever.\n\nWhat?\n\nTwo. <FORK-1>7*6</FORK-1>", TEXT[25:]),
        ("You are a worker.\n\n7*6\n\nhm", WORKER[2:]),
        ("You are a worker.\n\n17*6\n\nany", " <RETURN>?</RETURN>"),
    ],
)
def test_completions_go_on_behind_the_prompt(server: FaultServer, prompt: str, text: str) -> None:
    workers = {"7*6": WORKER, "17*6": "any <RETURN>?</RETURN>"}
    server.configure(CONFIG | {"script": {"organizer": TEXT, "workers": workers}})
    _, raw = ask(server, COMPLETIONS, {"prompt": prompt, "stream": True, "max_tokens": 99})
    assert text_of(raw) == text
    server.configure(CONFIG)
    if "17*6" in prompt:
        _, raw = ask(server, COMPLETIONS, {"prompt": prompt.replace("17", "19"), "stream": True})
        assert text_of(raw) == text


def test_ids_go_on_in_the_middle_of_a_character(server: FaultServer) -> None:
    server.configure(CONFIG | {"tokenizer": str(TOKENIZER)})
    fields = {"stream": True, "return_token_ids": True, "logprobs": 0, "max_tokens": 1}
    _, raw = ask(server, COMPLETIONS, fields | {"prompt": "What?\n\n", "max_tokens": 999})
    prompt, ids = choices(raw)[0]["prompt_token_ids"], [each["token_ids"][0] for each in choices(raw)[:-1]]
    assert text_of(raw) == TEXT
    assert choices(raw)[0]["logprobs"]["token_logprobs"] == [-0.5]
    texts = ""
    for end in range(len(ids)):
        _, raw = ask(server, COMPLETIONS, fields | {"prompt": prompt + ids[:end]})
        assert choices(raw)[0]["token_ids"] == ids[end : end + 1]
        texts += text_of(raw)
    assert texts == TEXT


def test_stops_and_limits(server: FaultServer) -> None:
    fields = {"stop": ["</ANSWER>", "<JOIN-"], "include_stop_str_in_output": True}
    _, raw = ask(server, CHAT, chat(**fields))
    assert text_of(raw) == TEXT[: TEXT.index("1> so")]
    assert finish_of(raw)["stop_reason"] == "<JOIN-"
    _, raw = ask(server, CHAT, chat(max_tokens=2, **fields))
    assert (text_of(raw), finish_of(raw)["finish_reason"]) == ("Two. <FORK-1>", "length")
    server.configure(CONFIG | {"stop_kept": False})
    _, raw = ask(server, CHAT, chat(**fields))
    assert text_of(raw) == TEXT[: TEXT.index("<JOIN")]
    assert "stop_reason" not in finish_of(raw)
    server.configure(CONFIG | {"stop_kept": False, "strict": True})
    assert b"supplied: include_stop_str_in_output" in ask(server, CHAT, chat(**fields))[1]
    server.configure(CONFIG | {"max_model_len": 20})
    assert ask(server, CHAT, chat(max_tokens=19))[0] == 200
    assert b"context_length_exceeded" in ask(server, CHAT, chat(max_tokens=20))[1]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_pieces_lose_nothing(server: FaultServer, size: int, joined: bool) -> None:
    reasoning = {"field": "reasoning_content", "text": "let me think"}
    server.configure(CONFIG | {"pieces": size, "reasoning": reasoning, "finish_joined": joined})
    _, raw = ask(server, CHAT, chat(stream_options={"include_usage": True}))
    assert (text_of(raw), text_of(raw, "reasoning_content")) == (TEXT, "let me think")
    assert events(raw)[-1]["usage"]["completion_tokens"] == 15
    assert bool(finish_of(raw)["delta"]) == joined


def test_keys_routes_and_models(server: FaultServer) -> None:
    server.configure(CONFIG | {"key": "sk-1", "routes": {"completions": False}, "max_model_len": 99})
    assert ask(server, "/v1/models", None, Authorization="Bearer sk-2")[0] == 401
    status, raw = ask(server, "/v1/models", None, Authorization="Bearer sk-1")
    assert (status, json.loads(raw)["data"][0]["max_model_len"]) == (200, 99)
    assert ask(server, COMPLETIONS, {"prompt": ""}, Authorization="Bearer sk-1")[0] == 404
    assert server.stats()["headers_seen"]["authorization"]
    assert server.stats()["statuses"] == {"401": 1, "200": 1, "404": 1}


def test_one_connection_takes_many_requests_and_chunked_ones(server: FaultServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    for _ in range(3):
        connection.request("POST", CHAT, iter([json.dumps(chat()).encode()]), encode_chunked=True)
        assert text_of(connection.getresponse().read()) == TEXT
    stats = server.stats()
    assert (stats["requests"], stats["all_connections"], stats["connections"]) == (3, 1, 1)
    connection.close()
    wait_until(lambda: server.stats()["connections"] == 0)
    assert server.stats()["aborted"] == 0


@pytest.mark.parametrize("fault", [None, "hang_before_headers", "hang", "trickle"])
def test_who_leaves_is_noticed_at_once(server: FaultServer, fault: str | None) -> None:
    server.configure(CONFIG | {"delay": 5, "faults": fault and {"name": fault}})
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(raw_request(chat()))
    wait_until(lambda: server.stats()["open"] == 1)
    connection.close()
    wait_until(lambda: server.stats()["open"] == 0)
    assert server.stats()["aborted"] == 1


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_given_once_and_then_no_more(server: FaultServer, name: str) -> None:
    server.configure(CONFIG | {"faults": {"name": name, "override": smaller(name)}})
    seen, end = raw_ask(server, chat(), wait=0.1 if name in ENDLESS else 0.5)
    assert server.stats()["by_fault"] == {name: 1}
    clean, _ = raw_ask(server, chat())
    assert seen != clean
    assert text_of(ask(server, CHAT, chat())[1]) == TEXT
    steps = FAULTS[name]["steps"]
    if steps[-1]["do"] == "break":
        assert end == steps[-1]["by"]


@pytest.mark.parametrize(
    ("name", "said_last"),
    [
        ("error_event", b'"code":500}}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n'),
        ("error_event_named", b'"message":"Overloaded"}}\n\n\r\n'),
        ("done_without_finish", b"\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"),
        ("chunk_size_no_number", b"\r\n0\r\n\r\n"),
        ("close_inside_event", b'"model":"scripted","c\r\n'),
    ],
)
def test_a_broken_stream_ends_as_it_should(server: FaultServer, name: str, said_last: bytes) -> None:
    server.configure(CONFIG | {"faults": {"name": name}})
    seen, _ = raw_ask(server, chat())
    assert seen.endswith(said_last)
    assert seen.count(b'"content":') <= 13 + 1


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault["then"] == "ignored"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_is_to_be_ignored_has_the_whole_text(server: FaultServer, name: str, path: str) -> None:
    server.configure(CONFIG | {"pieces": 3, "faults": {"name": name}})
    prompt = {"prompt": "What?\n\n", "stream": True, "max_tokens": 99}
    status, raw = ask(server, path, chat() if path == CHAT else prompt)
    assert status == 200
    text = text_of(zlib.decompress(raw, wbits=31) if name == "gzip" else raw)
    if name in REARRANGED:
        assert text != TEXT
        assert set(text) == set(TEXT)
    else:
        assert text == TEXT


@pytest.mark.parametrize("script", ["", "one", "one two"])
@pytest.mark.parametrize("joined", [False, True])
def test_no_fault_fails_on_a_short_text(server: FaultServer, script: str, joined: bool) -> None:
    base = CONFIG | {"script": {"organizer": script}, "finish_joined": joined}
    for name in FAULTS.keys() - ENDLESS:
        server.configure(base | {"faults": {"name": name, "times": 2, "override": smaller(name)}})
        for stream in (True, False):
            with contextlib.suppress(OSError, HTTPException, ValueError):
                ask(server, CHAT, chat(stream=stream))
        stats = server.stats()
        assert (stats["by_fault"], stats["errors"]) == ({name: 2}, [])


@pytest.mark.parametrize(("name", "after"), [("length_early", 2), ("content_filter", 2), ("end", 2)])
def test_a_cut_text_is_a_beginning(server: FaultServer, name: str, after: int) -> None:
    server.configure(
        CONFIG | {"finish_joined": True, "faults": {"name": name, "override": {"after": after + 1}}}
    )
    _, raw = ask(server, CHAT, chat())
    assert text_of(raw) == "Two. <FORK-1>7*6"


def test_ids_say_how_to_mend_what_was_rearranged(server: FaultServer) -> None:
    for name in REARRANGED:
        server.configure(CONFIG | {"faults": {"name": name}})
        _, raw = ask(server, CHAT, chat())
        blocks = [block.split("\n") for block in raw.decode().split("\n\n")[:-2]]
        pieces = {int(block[0][4:]): json.loads(block[1][6:]) for block in blocks}
        assert len(pieces) < len(blocks) or list(pieces) != sorted(pieces)
        text = "".join(pieces[place]["choices"][0]["delta"].get("content", "") for place in sorted(pieces))
        assert text == TEXT


def test_a_bomb_is_small_on_the_wire(server: FaultServer) -> None:
    server.configure(CONFIG | {"faults": {"name": "gzip_bomb", "override": {"fill": 32 << 20}}})
    _, raw = ask(server, CHAT, chat())
    assert len(raw) < 1 << 17
    assert len(zlib.decompress(raw, wbits=31)) > 32 << 20


def test_faults_at_a_rate_repeat_with_their_seed(server: FaultServer) -> None:
    faults = {"rate": 0.5, "names": ["status_500", "status_503"], "seed": 3}
    runs: list[list[int]] = []
    for order in (range(40), reversed(range(40))):
        server.configure(CONFIG | {"faults": faults})
        found = {agent: ask(server, CHAT, chat(), **{"X-Agent": str(agent)})[0] for agent in order}
        runs.append([found[agent] for agent in range(40)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500, 503}


def test_each_conversation_has_its_own_faults(server: FaultServer) -> None:
    server.configure(CONFIG | {"faults": {"name": "rate_limit_date", "times": 2}})
    for user in ("a", "b"):
        assert [ask(server, CHAT, chat(user=user))[0] for _ in range(3)] == [429, 429, 200]


@pytest.mark.parametrize(
    "config",
    [
        {"scripts": {}},
        {"routes": {"chats": True}},
        {"faults": {"name": "x"}},
        {"faults": {"rate": 1}},
        {"faults": {"name": "end", "override": {"fill": 1}}},
    ],
)
def test_a_wrong_configuration_is_refused(server: FaultServer, config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"known|names"):
        server.configure(config)


def test_the_process_ends_with_its_parent() -> None:
    parent = "import os; from fault_server.control import FaultServer as F; print(F().__enter__().port, flush=True)"
    path = str(Path(__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", parent + "; os._exit(0)"],
        env={"PYTHONPATH": path},
        capture_output=True,
        check=True,
    )
    wait_until(lambda: not listens(int(ran.stdout)))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="it makes the certificate")
def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    subject = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made.split(), *subject, *files], check=True, capture_output=True)
    with FaultServer(certfile=certificate, keyfile=key) as server:
        server.configure(CONFIG)
        assert server.url.startswith("https://")
        assert server.stats()["requests"] == 0
