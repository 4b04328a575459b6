"""Many clients at once, some of whom leave midway, and a server that is told to stop while they are served."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import anyio
from server.serving_worlds import CHAT, Serving, chat

AGENTS = 5
"""Of each episode: an organizer and four workers."""


class End(StrEnum):
    DONE = "done"
    LEFT = "left"
    REFUSED = "refused"
    BROKEN = "broken"


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What one client saw."""

    end: End
    first: float
    """Seconds to the first reasoning; 0 without any."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Crowd:
    streams: list[Stream]
    settling: float
    """Seconds after the last one left until nothing of theirs was alive."""
    tasks: int
    """Alive in the server with all who left gone."""
    late: list[int]
    """HTTP status of requests behind the signal."""


def script(tokens: int) -> dict[str, Any]:
    """Return an episode whose critical path is about so many ticks."""
    workers = range(1, AGENTS)
    forks = " ".join(f"<FORK-{n}>q{n}</FORK-{n}>" for n in workers)
    joins = " ".join(f"<JOIN-{n}>" for n in workers)
    text = "w " * max(1, tokens - 22)
    return {
        "organizer": f"{forks} {'o ' * 8}{joins} <ANSWER>x</ANSWER>",
        "workers": {"*": f"{text}<RETURN>r</RETURN>"},
    }


async def one(port: int, leave_after: float | None = None) -> Stream:
    """Make one request and read its stream to the end, or leave."""
    body = json.dumps(chat(stream=True)).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    began, first, tail, whole = anyio.current_time(), 0.0, b"", b""
    with anyio.move_on_after(leave_after) as patience:
        async with await anyio.connect_tcp("127.0.0.1", port) as sock:
            await sock.send(head.encode() + body)
            while True:
                try:
                    data = await sock.receive(65536)
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    break
                whole = whole or data[:12]
                tail = (tail + data)[-2000:]
                if not first and b'"reasoning"' in tail:
                    first = anyio.current_time() - began
    refused, done = whole[9:12] in (b"429", b"503"), b"data: [DONE]" in tail
    end = End.REFUSED if refused else End.DONE if done else End.BROKEN
    return Stream(
        end=End.LEFT if patience.cancelled_caught else end, first=first, seconds=anyio.current_time() - began
    )


async def crowd(server: Serving, clients: int, share: float, seconds: float, seed: int = 0) -> Crowd:
    """Let clients come at once, a share of them leave between a fifth and two fifths of the `seconds` that an episode
    takes, and the server be told to stop at the half.
    """
    rng = random.Random(seed)
    leaving = set(rng.sample(range(clients), round(share * clients)))
    streams: list[Stream] = []
    settling, tasks, late = 0.0, 0, list[int]()

    async def client(number: int) -> None:
        patience = rng.uniform(0.2, 0.4) * seconds if number in leaving else None
        streams.append(await one(server.port, patience))

    async def stop() -> None:
        nonlocal settling, tasks
        staying = clients - len(leaving)
        while len(streams) < len(leaving):
            await anyio.sleep(0.01)
        settling = await anyio.to_thread.run_sync(
            lambda: server.settled(30, running=staying, episodes=staying, waiting=0)
        )
        tasks = (await anyio.to_thread.run_sync(server.ask, "/_probe")).json["tasks"]
        server.signal()
        await anyio.to_thread.run_sync(server.wait_for, "stopping: ")
        for _ in range(5):
            late.append((await anyio.to_thread.run_sync(server.ask, CHAT, chat())).status)

    async with anyio.create_task_group() as group:
        for number in range(clients):
            group.start_soon(client, number)
        group.start_soon(stop)
    return Crowd(streams=streams, settling=settling, tasks=tasks, late=late)
