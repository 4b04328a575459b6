"""One organizer with more and more workers: CPU, wall time and memory of a worker as their number grows.

    python benchmarks/growth.py [--workers 1 10 100 1000 9998] [--rounds 3] [--json FILE]

One episode: c = W + 1, all W forked, then all joined. 9,998 is the most that one organizer can have: a
capacity of 9,999 counts the organizer. Two engines: `scripted` plays token by token and in lockstep, so
that a worker ends a few tokens behind its fork; `pieces` returns whole texts, so that all W are started
before the first of them ends. Few workers are played many times. Memory is how much more a process's peak
is with one episode of W workers than with one of a single worker. Each number of workers runs in a process
of its own, in turns, and the medians count. Aim: what a worker costs does not grow from 100 to 9,998.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import anyio
from results import save

WORKERS = (1, 10, 100, 1_000, 9_998)
ENGINES = ("scripted", "pieces")
PLAYED = 1_000
"""Workers that a process plays at least, in as many episodes as that takes."""
BASE = 100
"""What growth is told from: with fewer workers an episode's own cost is much of it, and memory is noise."""
MEASURES = ("cpu_ms", "wall_ms", "kib")


async def measure_one(kind: str, workers: int) -> dict[str, Any]:
    """Return what a worker costs, in this process."""
    from fan_out import ANSWER, QUERY, WORKER_TEXT, Fan
    from whole_pieces import PieceEngine

    from asyncthink import Organization
    from asyncthink.engines.scripted import ScriptedEngine

    async def play(count: int, episodes: int) -> None:
        fan = Fan(workers=count, together=False)
        script = {"organizer": " ".join(fan.organizer), "workers": {"*": WORKER_TEXT}}
        engine = ScriptedEngine(script) if kind == "scripted" else PieceEngine(fan)
        async with Organization(engine, capacity=count + 1) as organization:
            for _ in range(episodes):
                episode = await organization.think(QUERY)
                assert episode.answer == ANSWER, episode.cause
                assert len(episode.traces) == count + 1

    await play(1, 20)  # all is imported and warm
    cpu, wall = time.process_time(), time.perf_counter()
    await play(workers, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    episodes = -(-PLAYED // workers)
    await play(workers, episodes - 1)
    played = workers * episodes
    return {
        "episodes": episodes,
        "cpu_ms": round(1000 * (time.process_time() - cpu) / played, 4),
        "wall_ms": round(1000 * (time.perf_counter() - wall) / played, 4),
        "peak_mib": round(peak / 1024, 2),
    }


def in_turns(sizes: Sequence[int], rounds: int) -> dict[tuple[str, int], list[Any]]:
    """Return what each process found: by engine and number of workers, one a round."""
    found: dict[tuple[str, int], list[Any]] = {(engine, size): [] for engine in ENGINES for size in sizes}
    for number in range(rounds):
        for (engine, size), runs in found.items():
            command = [sys.executable, __file__, "--one", engine, "--workers", str(size)]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if ran.returncode:
                sys.exit(ran.returncode)  # it has said why
            runs.append(json.loads(ran.stdout))
        print(f"round {number + 1} of {rounds}", flush=True)
    return found


def summary(engine: str, found: dict[tuple[str, int], list[Any]]) -> list[dict[str, Any]]:
    """Return the medians of an engine, a row for each number of workers."""
    rows: list[dict[str, Any]] = []
    for (kind, size), runs in found.items():
        if kind == engine:
            row = {name: median(run[name] for run in runs) for name in runs[0]}
            alone = rows[0]["peak_mib"] if rows else row["peak_mib"]
            kib = round(1024 * (row["peak_mib"] - alone) / size, 2)
            rows.append({"engine": engine, "workers": size, **row, "kib": kib if size >= BASE else None})
    return rows


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how many times what a worker costs at the last number it costs at the one of a hundred."""
    base = next((row for row in rows if row["workers"] >= BASE), rows[-1])
    return {name: round(rows[-1][name] / base[name], 3) for name in MEASURES if base[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS), help="in rising order")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=ENGINES, help="measure one number of workers in this process")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(anyio.run(measure_one, arguments.one, arguments.workers[0])))
        return
    found = in_turns(arguments.workers, arguments.rounds)
    rows = {engine: summary(engine, found) for engine in ENGINES}
    for row in (row for each in rows.values() for row in each):
        print(row)
    ratios = {engine: growth(each) for engine, each in rows.items()}
    print(f"cost of a worker, {arguments.workers[-1]} over {BASE}: {ratios}")
    flat = [row for each in rows.values() for row in each]
    save(arguments.json, {"rounds": arguments.rounds, "rows": flat, "growth": ratios})


if __name__ == "__main__":
    main()
