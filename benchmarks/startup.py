"""CPU time of `asyncthink --help` beside `python -c pass`.

python benchmarks/startup.py [--json FILE]

Both are run in turns in the same environment; the medians are compared. Aim: a ratio <= 10.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from results import save

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "asyncthink --help": [sys.executable, "-c", "from asyncthink.cli.main import run; run()", "--help"],
}


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.rounds):
        for name, command in COMMANDS.items():
            seconds[name].append(cpu_seconds(command))
    found = {name: round(median(values), 4) for name, values in seconds.items()}
    for name, value in found.items():
        print(f"{name:<20} {value:.3f} s CPU")
    ratio = round(found["asyncthink --help"] / found["python -c pass"], 2)
    print(f"ratio {ratio}")
    save(arguments.json, {"cpu_seconds": found, "ratio": ratio})


if __name__ == "__main__":
    main()
