"""Wall time beside the critical path: what the runtime itself costs.

    python benchmarks/wall_clock.py [--json FILE]

The scripted engine takes 5 ms a token; an organizer with 7 workers (c = 8) forks, goes on, and joins in
another order. Without any cost of the runtime, wall time = critical path x 5 ms. Aim: a ratio <= 1.05.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anyio
from results import save

from asyncthink import Episode, Organization, measure
from asyncthink.engines.scripted import ScriptedEngine

DELAY = 0.005
CAPACITY = 8


def script() -> dict[str, Any]:
    workers = range(1, CAPACITY)
    forks = " ".join(f"<FORK-{i}>q{i}</FORK-{i}> go on" for i in workers)
    joins = " ".join(f"<JOIN-{i}> and" for i in reversed(workers))
    return {
        "organizer": f"{forks} {joins} <ANSWER>x</ANSWER>",
        "workers": {f"q{i}": "w " * (40 * i) + "<RETURN>r</RETURN>" for i in workers},
    }


async def think() -> Episode:
    async with Organization(ScriptedEngine(script(), delay=DELAY), capacity=CAPACITY) as organization:
        return await organization.think("q")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    ratios: list[float] = []
    ticks = 0
    for _ in range(arguments.rounds):
        episode = anyio.run(think)
        ticks = measure(episode).critical_path
        ratios.append(round(episode.wall_seconds / (ticks * DELAY), 4))
        print(f"{ticks} ticks x {DELAY * 1000:.0f} ms, wall {episode.wall_seconds:.3f} s: {ratios[-1]:.4f}x")
    print(f"worst of {len(ratios)}: {max(ratios):.4f}x")
    save(arguments.json, {"critical_path": ticks, "seconds_per_token": DELAY, "ratios": ratios})


if __name__ == "__main__":
    main()
