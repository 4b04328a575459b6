"""Many episodes at once: CPU seconds, memory, and time per episode as their number grows.

    python benchmarks/scale.py [--json FILE]

Each episode is an organizer and 4 workers with 20 tokens an agent, on the scripted engine, all of them
concurrent in one process. Aim: 10,000 episodes in <= 30 s CPU and <= 600 MiB, time per episode flat.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from results import save

SIZES = (100, 1_000, 10_000)


def script() -> dict[str, Any]:
    forks = " ".join(f"<FORK-{i}>q{i}</FORK-{i}>" for i in range(1, 5))
    joins = " ".join(f"<JOIN-{i}>" for i in range(1, 5))
    work = " ".join(f"w{i}" for i in range(17))
    return {
        "organizer": f"{forks} {joins} a <ANSWER>x</ANSWER>",
        "workers": {"*": f"{work} <RETURN>r</RETURN>"},
    }


def measure_one(episodes: int) -> dict[str, float]:
    import anyio

    from asyncthink import Episode, Organization, measure
    from asyncthink.engines.scripted import ScriptedEngine

    results: list[Episode] = []

    async def main() -> None:
        async with Organization(ScriptedEngine(script()), capacity=5) as organization:

            async def one(_: int) -> None:
                results.append(await organization.think("q"))

            async with anyio.create_task_group() as group:
                for index in range(episodes):
                    group.start_soon(one, index)

    before = _cpu()
    anyio.run(main)
    seconds = _cpu() - before
    assert len(results) == episodes
    metrics = measure(results[-1])
    assert (metrics.decoded_tokens, metrics.forks, metrics.joins) == (100, 4, 4), metrics
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "episodes": episodes,
        "cpu_seconds": round(seconds, 3),
        "ms_per_episode": round(1000 * seconds / episodes, 3),
        "peak_mib": round(peak, 1),
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--one", type=int, help="measure this many episodes in this process")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_one(arguments.one)))
        return
    rows: list[dict[str, float]] = []
    for size in SIZES:
        command = [sys.executable, __file__, "--one", str(size)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(rows[-1], flush=True)
    ratio = rows[-1]["ms_per_episode"] / rows[0]["ms_per_episode"]
    print(f"time per episode, {SIZES[-1]} over {SIZES[0]}: {ratio:.2f}x")
    save(arguments.json, {"rows": rows, "growth": round(ratio, 3)})


if __name__ == "__main__":
    main()
