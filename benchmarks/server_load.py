"""Many streams at once: how long an admitted request takes beside one that is alone.

    python benchmarks/server_load.py [--clients 1000] [--delay 0.5] [--json FILE]

`asyncthink serve` runs in a process of its own over the scripted engine, which takes `--delay` seconds a token; an
episode is an organizer with four workers and `--ticks` ticks. First single clients come, one after the other: idle.
Then all come at once; a fifth of them leaves midway, and then, with the others half-way, the server is sent SIGTERM.
What is counted: that nothing of those who left is alive, that all others are served to their end, that whoever
comes behind the signal gets 503, and the server's CPU time. Aim: the p99 of their seconds <= 2 x idle.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import anyio
from results import save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from server.load import AGENTS, End, Stream, crowd, one, script
from server.serving_worlds import Serving

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def alone(port: int, times: int) -> list[Stream]:
    return [await one(port) for _ in range(times)]


def p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def run(clients: int, share: float, ticks: int, delay: float, times: int) -> dict[str, Any]:
    more = ("--capacity", str(AGENTS), "--at-once", str(clients), "--drain-seconds", "600")
    with Serving("--served-model-name", "m", *more, slow={"script": script(ticks), "delay": delay}) as server:
        idle = anyio.run(alone, server.port, times)
        usual = median(stream.seconds for stream in idle)
        print(f"idle: {usual:.2f} s, first token after {median(s.first for s in idle):.3f} s", flush=True)
        before = cpu_seconds(server.process.pid)
        found = anyio.run(crowd, server, clients, share, usual)
        cpu = cpu_seconds(server.process.pid) - before
        status = server.process.wait(600)
        cut = server.wait_for("stopped: ")
    served = [stream for stream in found.streams if stream.end is End.DONE]
    ends = Counter(stream.end.value for stream in found.streams)
    assert status == 0 and cut.endswith("stopped: 0 cut off"), server.log[-5:]
    slow = p99([stream.seconds for stream in served])
    return {
        "idle_seconds": round(usual, 3),
        "p50_seconds": round(median(stream.seconds for stream in served), 3),
        "p99_seconds": round(slow, 3),
        "p99_over_idle": round(slow / usual, 3),
        "idle_first_seconds": round(median(stream.first for stream in idle), 3),
        "p99_first_seconds": round(p99([stream.first for stream in served]), 3),
        "ends": dict(ends),
        "settling_seconds": round(found.settling, 3),
        "tasks_per_stream": round(found.tasks / max(1, len(served)), 1),
        "late": found.late,
        "server_cpu_seconds": round(cpu, 2),
        "server_cpu_share": round(cpu / max(stream.seconds for stream in served), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--leaving", type=float, default=0.2, help="share of clients that leave midway")
    parser.add_argument("--ticks", type=int, default=60, help="critical path of each episode")
    parser.add_argument("--delay", type=float, default=0.5, help="seconds a token takes")
    parser.add_argument("--idle", type=int, default=3, help="single clients before")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args()
    found = run(args.clients, args.leaving, args.ticks, args.delay, args.idle)
    for name, value in found.items():
        print(f"{name:<20} {value}")
    load = {"clients": args.clients, "leaving": args.leaving, "agents": AGENTS, "ticks": args.ticks}
    save(args.json, {**load, "seconds_per_token": args.delay, **found})


if __name__ == "__main__":
    main()
