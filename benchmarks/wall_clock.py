"""Wall time beside the critical path: what the runtime itself costs.

    python benchmarks/wall_clock.py [--delays 0.005 0.01 0.05] [--json FILE]

The scripted engine takes 5, 10 and 50 ms a token, in turns; an organizer with 7 workers (c = 8) forks, goes
on, and joins in another order. Without any cost of the runtime, wall time = critical path x delay. Aim: a
ratio <= 1.05.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from results import save

from asyncthink import Episode, Organization, measure
from asyncthink.engines.scripted import ScriptedEngine

DELAYS = (0.005, 0.010, 0.050)
CAPACITY = 8


def script() -> dict[str, Any]:
    workers = range(1, CAPACITY)
    forks = " ".join(f"<FORK-{i}>q{i}</FORK-{i}> go on" for i in workers)
    joins = " ".join(f"<JOIN-{i}> and" for i in reversed(workers))
    return {
        "organizer": f"{forks} {joins} <ANSWER>x</ANSWER>",
        "workers": {f"q{i}": "w " * (40 * i) + "<RETURN>r</RETURN>" for i in workers},
    }


async def think(delay: float) -> Episode:
    async with Organization(ScriptedEngine(script(), delay=delay), capacity=CAPACITY) as organization:
        return await organization.think("q")


def in_turns(delays: Sequence[float], rounds: int) -> tuple[int, list[dict[str, Any]]]:
    """Return the critical path in ticks, and for each delay wall time over critical path x delay."""
    ticks = 0
    ratios: dict[float, list[float]] = {delay: [] for delay in delays}
    for _ in range(rounds):
        for delay, found in ratios.items():
            episode = anyio.run(think, delay)
            ticks = measure(episode).critical_path
            found.append(round(episode.wall_seconds / (ticks * delay), 4))
            wall = f"wall {episode.wall_seconds:.3f} s"
            print(f"{ticks} ticks x {1000 * delay:g} ms, {wall}: {found[-1]:.4f}x", flush=True)
    rows = [
        {"seconds_per_token": delay, "ratios": found, "worst": max(found)} for delay, found in ratios.items()
    ]
    return ticks, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--delays", type=float, nargs="+", default=list(DELAYS), help="seconds a token takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    ticks, rows = in_turns(arguments.delays, arguments.rounds)
    for row in rows:
        print(f"worst of {arguments.rounds} at {1000 * row['seconds_per_token']:g} ms: {row['worst']:.4f}x")
    save(arguments.json, {"critical_path": ticks, "rows": rows})


if __name__ == "__main__":
    main()
