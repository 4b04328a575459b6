"""Thousands of episodes in one process at a server of whose requests a third fails: nothing lost, twice or left over.

The load runs in a process of its own, which this file is as well (`python test_soak.py URL EPISODES`), so that
its memory, sockets and tasks are its own. A worker's sub-query is the same in every episode: so is the text that it
must come to, and the server checks of every request that it goes on exactly where that text was broken off.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

LASTING = {
    *("hang_before_headers", "hang_after_headers", "hang", "hang_inside_event", "trickle", "trickle_midway"),
    *("rate_limit_after_1", "rate_limit_date", "huge_line", "gzip_bomb"),
}
"""Faults that take seconds each, of waiting or of work; test_openai_faults.py has them all."""
A_SECOND = {"chunk_size_no_number", "chunk_size_too_small", "chunk_size_negative"}
"""Noticed within a second."""
LIMITING = {
    *("status_503", "status_529", "rate_limit_after_0", "rate_limit_ms", "rate_limit_bare"),
    *("rate_limit_garbage", "error_event_named"),
}
"""Under these the engine sends fewer and fewer requests at a time."""
RATE = 0.3
ATTEMPTS = 24
"""0.3^24 is nothing, even for a hundred thousand requests."""
AT_A_TIME = 256
PEAK_MIB = 400
SUB_QUERIES = {
    f"part {number} é": f"thinking about {number} 中😀 "
    + " ".join(f"w{number}{place}" for place in range(12))
    + f" <RETURN>r{number}</RETURN>"
    for number in range(1, 5)
}
ORGANIZER = (
    "Four parts: "
    + " ".join(f"<FORK-{number}>{query}</FORK-{number}>" for number, query in enumerate(SUB_QUERIES, 1))
    + " meanwhile é中😀 <JOIN-1> so <JOIN-2> then <JOIN-4> and <JOIN-3> all done <ANSWER>forty two</ANSWER>"
)
JOINS = [1, 2, 4, 3]


def names(*, limiting: bool, a_second: bool) -> list[str]:
    """Return the faults that every episode must get over."""
    from fault_server.control import FAULTS

    left_out = set(LASTING)
    if not limiting:
        left_out |= LIMITING
    if not a_second:
        left_out |= A_SECOND
    mended = [name for name, fault in FAULTS.items() if fault["then"] in ("retried", "ignored")]
    return [name for name in mended if name not in left_out]


def soak(episodes: int, faults: list[str], seconds: float) -> dict[str, Any]:
    """Run a load and check all that must hold after it; return what was counted."""
    from fault_server.control import FaultServer

    with FaultServer() as server:
        config = {
            "owned_by": "vllm",
            "script": {"organizer": ORGANIZER, "workers": SUB_QUERIES},
            "burst": 4,
            "faults": {"rate": RATE, "names": faults, "seed": 1},
        }
        server.configure(config)
        command = [sys.executable, __file__, server.url, str(episodes)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        assert (ran.returncode, ran.stderr) == (0, "")
        told: dict[str, Any] = json.loads(ran.stdout)
        within = time.monotonic() + 1  # a server learns of a closed connection from the next packet
        while (stats := server.stats())["open"] and time.monotonic() < within:
            time.sleep(0.05)
    summary = {key: told[key] for key in ("seconds", "cpu", "peak_mib", "began_mib", "requests", "retries")}
    kept = {key: stats[key] for key in ("requests", "peak_open", "aborted", "all_connections")}
    print(f"{episodes} episodes: {summary}; the server: {kept}")  # noqa: T201 - shown with -s
    assert told["wrong"] == []
    assert told["twice_or_never"] == []
    assert told["troubles"] == []
    assert told["after"] == told["before"]
    assert told["agents"] == 0
    assert told["peak_mib"] <= PEAK_MIB
    assert (stats["open"], stats["mismatches"], stats["errors"], stats["restarts"]) == (0, [], [], 0)
    given = Counter[str](stats["by_fault"])
    assert 0.25 < given.total() / stats["requests"] < 0.35
    return told | {"faults": given, "peak_open": stats["peak_open"]}


def test_a_hundred_episodes_at_a_failing_server() -> None:
    told = soak(100, names(limiting=True, a_second=False), seconds=60)
    assert told["retries"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("limiting", [False, True])
def test_five_thousand_episodes_at_a_failing_server(limiting: bool) -> None:
    """Without the faults that ask for less, as many requests are under way at a time as there may be."""
    faults = names(limiting=limiting, a_second=not limiting)
    told = soak(5000, faults, seconds=900)
    assert told["faults"].keys() == set(faults)
    assert limiting or told["peak_open"] > 0.9 * AT_A_TIME


class Troubles(logging.Handler):
    """What must not happen: exceptions that nobody caught, warnings, and log lines that say as much."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("asyncthink."):  # the engine itself tells of each retry
            self.found.append(f"logged: {record.name}: {record.getMessage()}")

    def unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.found.append(f"in the loop: {context}")

    def unraisable(self, found: Any) -> None:
        self.found.append(f"unraisable: {found.exc_value!r} in {found.object!r}")


def _held() -> dict[str, int]:
    """Return what a process must have given back in the end."""
    return {"files": len(list(Path("/dev/fd").iterdir())), "tasks": len(asyncio.all_tasks())}


def _mib(name: str) -> float:
    """Return VmHWM, the peak of this process, or VmRSS, what it has now.

    `ru_maxrss` has the peak of whoever started the process in it.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.splitlines() if line.startswith(name))
    return round(int(line.split()[1]) / 1024, 1)


def _faulty(episode: Any) -> list[str]:
    """Return what is not as the script has it."""
    wrong: list[str] = []
    if episode.answer != "forty two" or episode.format_errors or len(episode.traces) != 5:
        wrong.append(f"{episode.answer} {episode.cause} {episode.format_errors} {len(episode.traces)}")
    scripts = [ORGANIZER, *SUB_QUERIES.values()]
    for trace, script in zip(episode.traces, scripts, strict=False):
        decoded = "".join(each.text for each in trace.segments if each.kind == "decoded")
        if decoded != script:
            wrong.append(f"{trace.path}: {decoded!r} {trace.cause}")
    inserted = [each.text for each in episode.traces[0].segments if each.kind == "inserted"]
    if inserted != [f"r{number}</JOIN-{number}>" for number in JOINS]:
        wrong.append(f"inserted: {inserted}")
    return wrong


async def _load(url: str, episodes: int) -> dict[str, Any]:
    """Think so many questions through, all at once."""
    from asyncthink import Organization
    from asyncthink.engines.openai import OpenAIEngine
    from asyncthink.engines.openai.retry import Retries
    from asyncthink.episodes.events import Event, Finished

    troubles = Troubles()
    logging.getLogger().addHandler(troubles)
    asyncio.get_running_loop().set_exception_handler(troubles.unhandled)
    sys.unraisablehook = troubles.unraisable
    began, ends, wrong = time.monotonic(), Counter[str](), list[str]()
    requests = retries = 0
    before, began_mib = _held(), _mib("VmRSS")
    engine = OpenAIEngine(
        "scripted",
        base_url=url,
        key="",
        retries=Retries(attempts=ATTEMPTS, base=0.01, longest=0.05, connect=30, idle=30),
        max_concurrency=AT_A_TIME,
    )
    async with Organization(engine, capacity=5) as organization:

        async def one(number: int) -> None:
            nonlocal requests, retries
            query = f"Question {number}?"

            def heard(event: Event) -> None:
                ends[query] += isinstance(event, Finished)

            episode = await organization.think(query, seed=number, listen=heard)
            wrong.extend(f"{query}: {each}" for each in _faulty(episode))
            requests += sum(trace.usage.requests for trace in episode.traces if trace.usage)
            retries += sum(trace.usage.retries for trace in episode.traces if trace.usage)

        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            async with anyio.create_task_group() as group:
                for number in range(episodes):
                    group.start_soon(one, number)
            gc.collect()
            troubles.found += [str(each.message) for each in warned]
        agents = sum(server.agents for server in engine.servers)
    with anyio.move_on_after(1):  # a transport closes its socket in the loop's next turn
        while _held() != before:
            await anyio.sleep(0.01)
    gc.collect()
    return {
        "seconds": round(time.monotonic() - began, 1),
        "cpu": round(time.process_time(), 1),
        "peak_mib": _mib("VmHWM"),
        "began_mib": began_mib,
        "requests": requests,
        "retries": retries,
        "before": before,
        "after": _held(),
        "agents": agents,
        "wrong": wrong[:10],
        "twice_or_never": [q for q in map("Question {}?".format, range(episodes)) if ends[q] != 1][:10],
        "troubles": troubles.found[:10],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(anyio.run(_load, sys.argv[1], int(sys.argv[2]))))
