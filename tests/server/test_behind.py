"""A server behind this server: what passes through, and what must not."""

from __future__ import annotations

import time
from collections.abc import Generator

import pytest
from fault_server.control import FaultServer
from server.serving_worlds import CHAT, LONG, SCRIPT, Serving, chat

KEY = "sk-upstream-000000000000"


@pytest.fixture
def upstream() -> Generator[FaultServer]:
    with FaultServer() as server:
        yield server


def serving(upstream: FaultServer) -> Serving:
    given = ("--served-model-name", "m", "--model", "openai:scripted", "--base-url", upstream.url)
    return Serving(*given, environment={"OPENAI_API_KEY": KEY})


def test_an_organization_over_a_server(upstream: FaultServer) -> None:
    upstream.configure({"script": SCRIPT, "query": "What is 7*6?", "key": KEY})
    with serving(upstream) as server:
        reply = server.ask(CHAT, chat())
    assert reply.status == 200
    assert reply.json["choices"][0]["message"]["content"] == "42 it is"
    assert reply.json["asyncthink"]["metrics"]["requests"] >= 3


@pytest.mark.parametrize("fault", ["no_quota", "content_filter"])
def test_a_failure_behind_is_a_502_without_the_key(upstream: FaultServer, fault: str) -> None:
    faults = {"name": fault, "times": 9, "roles": ["organizer"]}
    upstream.configure({"script": SCRIPT, "query": "What is 7*6?", "key": KEY, "faults": faults})
    with serving(upstream) as server:
        whole, streamed = server.ask(CHAT, chat()), server.ask(CHAT, chat(stream=True))
        log = "".join(server.log)
    assert whole.status == 502 and whole.error["code"] == "engine_error"
    assert (
        streamed.status == 200
        and b'"code":"engine_error"' in streamed.body
        and b"[DONE]" not in streamed.body
    )
    assert KEY not in log + whole.body.decode() + streamed.body.decode()


def test_who_leaves_closes_the_requests_behind(upstream: FaultServer) -> None:
    upstream.configure({"script": LONG, "query": "What is 7*6?", "delay": 0.01})
    with serving(upstream) as server:
        connection = server.connect()
        connection.request(
            "POST", CHAT, b'{"model":"m","messages":[{"role":"user","content":"What is 7*6?"}]}'
        )
        until = time.monotonic() + 10
        while upstream.stats()["open"] < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        connection.close()
        began = time.monotonic()
        while upstream.stats()["open"]:
            assert time.monotonic() - began < 1
            time.sleep(0.01)
