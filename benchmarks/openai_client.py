"""CPU time of a streamed request: this package's client beside the `openai` package, at one server.

    pip install openai
    python benchmarks/openai_client.py [--requests 2000] [--in-flight 128] [--delay 0 0.03] [--json FILE]

Both send the same body and read the same text, one event a token, to its end: ours as agents do
(`engine.open`, `session.decode`), theirs with `AsyncOpenAI` as its documentation shows it. A third side,
the floor, sends the same requests with bare aiohttp and drops the bytes: where all take equally many reads
(`--delay 0.03`), the difference is what our own code costs. Only the client's process is counted, user and system.

The server is the tests' own, in a process of its own, without faults; it writes each event by itself, as
vLLM, SGLang and llama.cpp do (`--burst 4` is like one behind proxies and TLS, which put several into one packet).
With `--delay 0` it writes as fast as it can, so that clients that are slower find several events in one
read; with `--delay 0.03`, as with a model that decodes 33 tokens a second, each event is a read and a wake-up of
its own, and the operating system's part, which the floor shows, is most of it. The floor also tells how many
reads a reply took. Aim: ours <= 1/5 of openai's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import anyio
from results import save

APIS = ("chat", "completions")
SIDES = ("ours", "openai", "floor")
MODEL = "scripted"
QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."
STOPS = ["</ANSWER>"]
"""The agents' own; it does not come."""
LIMIT = 4096
TESTS = Path(__file__).parents[1] / "tests"
Ask = Callable[[int], Awaitable[int]]
"""Make one request with this seed, read its reply to the end, and return the characters of its text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    requests: int
    warm_up: int
    in_flight: int
    tokens: int
    """Of each reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    ms: float
    """CPU milliseconds a request."""
    wall: float
    """Seconds of them all."""
    reads: float | None = None
    """How many times a reply's bytes were waited for; None where the client does not tell."""


def reply_of(tokens: int) -> str:
    """Return a text of so many of the server's tokens."""
    return " ".join(f"word{place % 97}" for place in range(tokens))


async def measured(ask: Ask, load: Load) -> tuple[float, float]:
    """Return the CPU milliseconds of a request, and the seconds of all, once all is warm."""
    text = len(reply_of(load.tokens))

    async def agents(numbers: Iterator[int]) -> None:
        for number in numbers:
            characters = await ask(number)
            assert characters == text, f"{characters} characters came, not {text}"

    async def all_of(count: int) -> None:
        numbers = iter(range(count))
        async with anyio.create_task_group() as group:
            for _ in range(load.in_flight):
                group.start_soon(agents, numbers)

    await all_of(load.warm_up)
    began, before = anyio.current_time(), _cpu()
    await all_of(load.requests)
    return round(1000 * (_cpu() - before) / load.requests, 3), round(anyio.current_time() - began, 2)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def body_of(api: str) -> dict[str, Any]:
    """Return what our engine sends, for the others to send it too; the seed is the request's own."""
    context: dict[str, Any] = (
        {"messages": [{"role": "user", "content": QUERY}]} if api == "chat" else {"prompt": f"{QUERY}\n\n"}
    )
    options = {"temperature": 1.0, "top_p": 1.0, "max_tokens": LIMIT}
    return {"model": MODEL, **context, "stream": True, "stream_options": {"include_usage": True}, **options}


async def ours(url: str, api: str, load: Load) -> Cost:
    from asyncthink.engines.base import Message, Sampling
    from asyncthink.engines.openai import OpenAIEngine

    query = [Message(role="user", content=QUERY)]
    engine = OpenAIEngine(MODEL, base_url=url, api=api, key="", max_concurrency=load.in_flight)
    async with engine:

        async def ask(number: int) -> int:
            characters = 0
            session = engine.open(query, role="worker", episode="0", path=f"0/{number}", capacity=4)
            async with session.decode(STOPS, LIMIT, Sampling()) as chunks:
                async for chunk in chunks:
                    characters += len(chunk.text)
            session.close()
            return characters

        ms, wall = await measured(ask, load)
    return Cost(ms=ms, wall=wall)


async def openai(url: str, api: str, load: Load) -> Cost:
    try:
        package: Any = import_module("openai")
    except ImportError:
        sys.exit("openai_client: the package to compare with is missing: pip install openai")
    body = body_of(api)
    async with package.AsyncOpenAI(base_url=url, api_key="none") as client:

        async def chat(number: int) -> int:
            characters = 0
            async for chunk in await client.chat.completions.create(**body, seed=number):
                if chunk.choices:
                    characters += len(chunk.choices[0].delta.content or "")
            return characters

        async def completions(number: int) -> int:
            characters = 0
            async for chunk in await client.completions.create(**body, seed=number):
                if chunk.choices:
                    characters += len(chunk.choices[0].text)
            return characters

        ms, wall = await measured(chat if api == "chat" else completions, load)
    return Cost(ms=ms, wall=wall)


async def floor(url: str, api: str, load: Load) -> Cost:
    import aiohttp

    body, reads = body_of(api), 0
    address = f"{url}/{'chat/completions' if api == 'chat' else 'completions'}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def ask(number: int) -> int:
            nonlocal reads
            async with client.post(address, json={**body, "seed": number}) as response:
                while await response.content.readany():
                    reads += 1
            return len(reply_of(load.tokens))  # nobody looked

        ms, wall = await measured(ask, load)
    return Cost(ms=ms, wall=wall, reads=round(reads / (load.requests + load.warm_up), 1))


def one_side(side: str, url: str, api: str, load: Load) -> Cost:
    """Return what one side costs, in this process."""
    return anyio.run({"ours": ours, "openai": openai, "floor": floor}[side], url, api, load)


def in_turns(url: str, api: str, load: Load, rounds: int) -> dict[str, list[Cost]]:
    """Let the sides take turns, each in a process of its own, so that other work on the machine slows all."""
    costs: dict[str, list[Cost]] = {side: [] for side in SIDES}
    numbers = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(load).items()]
    for _ in range(rounds):
        for side, found in costs.items():
            command = [sys.executable, __file__, "--side", side, "--url", url, "--api", api, *numbers]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if ran.returncode:
                sys.exit(ran.returncode)  # it has said why
            found.append(Cost(**json.loads(ran.stdout)))
    return costs


def summary(costs: dict[str, list[Cost]]) -> dict[str, Any]:
    """Return the medians, and how many times cheaper we are."""
    ms = {side: round(median(cost.ms for cost in found), 3) for side, found in costs.items()}
    pairs = zip(costs["ours"], costs["openai"], strict=True)
    return {
        "cpu_ms_per_request": ms,
        "wall_seconds": {side: median(cost.wall for cost in found) for side, found in costs.items()},
        "reads_per_reply": median(cost.reads or 0 for cost in costs["floor"]),
        "our_share": round(ms["ours"] / ms["openai"], 3),
        "our_share_per_round": [round(us.ms / them.ms, 3) for us, them in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=200, help="of each reply, one event each")
    parser.add_argument("--burst", type=int, default=1, help="events that the server writes at once")
    parser.add_argument(
        "--delay",
        type=float,
        nargs="+",
        default=[0.0],
        help="seconds between two writes of a reply; several: each",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--api", choices=APIS, help="measure this one only")
    parser.add_argument("--side", choices=SIDES, help="measure one side, once, at the server of --url")
    parser.add_argument("--url")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args()
    load = Load(requests=args.requests, warm_up=args.warm_up, in_flight=args.in_flight, tokens=args.tokens)
    if args.side:
        print(json.dumps(asdict(one_side(args.side, args.url, args.api or "chat", load))))
        return
    sys.path.insert(0, str(TESTS))
    from fault_server.control import FaultServer

    rows: list[dict[str, Any]] = []
    with FaultServer() as server:
        for delay, api in product(args.delay, [args.api] if args.api else APIS):
            script = {"organizer": reply_of(load.tokens)}
            server.configure({"script": script, "query": QUERY, "burst": args.burst, "delay": delay})
            row = {"api": api, "delay": delay, **summary(in_turns(server.url, api, load, args.rounds))}
            rows.append(row)
            print(f"{api}, {delay:g} s between writes, {row['reads_per_reply']} reads a reply on the floor")
            for side, ms in row["cpu_ms_per_request"].items():
                print(f"    {side:<8} {ms:>8.2f} ms CPU a request")
            print(f"    ours / openai {row['our_share']:>6}", flush=True)
            stats = server.stats()
            assert not stats["errors"] and not stats["mismatches"], stats
    clients = {name: version(name) for name in ("openai", "aiohttp")}
    options = {"burst": args.burst, "rounds": args.rounds, "clients": clients}
    save(args.json, {**asdict(load), **options, "rows": rows})


if __name__ == "__main__":
    main()
