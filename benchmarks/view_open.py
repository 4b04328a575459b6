"""How long a run takes to open: `asyncthink view` and a real browser, beside plain decoding of the same file.

    python benchmarks/view_open.py [--megabytes 100] [--episodes 1500] [--json FILE]

Two runs of episodes of the embedded model, repeated under other names: one of so many episodes, one of so many
megabytes. For each a new `asyncthink view` and a new browser. First rows: from the click on the run to the first line of
its table. All: to the last. Decoding: reading every episode in this process, drawing nothing. Aims: first rows <= 2 s, and
the large run opens (first rows) in <= 3 s.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
from results import save

sys.path.insert(0, str(Path(__file__).parents[1]))

from asyncthink import think_sync
from asyncthink.episodes import Episode
from asyncthink.episodes.store import RunDirectory, sealed
from asyncthink.tasks import get_task
from asyncthink.tasks.base import Split
from tests.browser import browser

SEEDS = 8


def templates() -> list[Episode]:
    task = get_task("countdown")
    queries = [task.prompt(task.problem(Split.DEV, 0, number)) for number in range(SEEDS)]
    return [think_sync(query, model="embedded", temperature=0.7, seed=n) for n, query in enumerate(queries)]


def make(path: Path, found: list[Episode], *, episodes: int = 0, megabytes: float = 0) -> None:
    """Write a run of so many episodes, or so many megabytes."""
    RunDirectory.create(path, 'command = "think"\n', {"command": "think"}).close()
    with (path / "episodes.jsonl").open("wb") as file:
        number = 0
        while number < episodes or file.tell() < megabytes * 1e6:
            one = msgspec.structs.replace(found[number % len(found)], id=f"episode-{number:06}")
            file.write(sealed(one) + b"\n")
            number += 1


@contextmanager
def viewing(folder: Path) -> Generator[str]:
    run = "from asyncthink.cli.main import run; run()"
    command = [sys.executable, "-c", run, "view", str(folder), "--no-browser"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        match = re.match(r"http://\S+", process.stderr.readline())
        assert match is not None
        yield match[0]
    finally:
        process.terminate()
        process.wait()
        if process.stderr:
            process.stderr.close()


async def opened(url: str, name: str, profile: Path) -> tuple[float, float, int]:
    """Return the seconds to the first rows and to all, and how many there are."""
    async with browser(profile) as tab:
        await tab.goto(url)
        began = time.perf_counter()
        await tab.run(f"document.querySelector('#runs a[href$={name}]').click()")
        await tab.until("document.querySelectorAll('#episodes tbody tr').length > 0")
        first = time.perf_counter() - began
        count, changed = None, first
        while True:
            now = await tab.run("document.getElementById('told').textContent")
            if now == count:
                break
            count = now
            changed = time.perf_counter() - began
            await anyio.sleep(1.0)
        assert tab.errors == [], tab.errors
        return first, changed, int(str(count).partition(" ")[0].replace(",", ""))


def decoding(path: Path) -> float:
    began = time.perf_counter()
    sum(1 for _ in RunDirectory.open(path).episodes())
    return time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--megabytes", type=float, default=100)
    arguments.add_argument("--episodes", type=int, default=1500)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = Path(temporary) / "runs", templates()
        make(folder / "many", found, episodes=given.episodes)
        make(folder / "large", found, megabytes=given.megabytes)
        for name in ("many", "large"):
            with viewing(folder) as url:
                first, whole, count = anyio.run(opened, url, name, Path(temporary) / f"profile-{name}")
            alone = decoding(folder / name)
            size = (folder / name / "episodes.jsonl").stat().st_size
            rows.append(
                {
                    "run": name,
                    "episodes": count,
                    "megabytes": round(size / 1e6, 1),
                    "first_rows_seconds": round(first, 2),
                    "all_seconds": round(whole, 2),
                    "decoding_seconds": round(alone, 2),
                    "ratio_all": round(whole / alone, 2),
                }
            )
            print(rows[-1], flush=True)
    save(given.json, {"rows": rows})


if __name__ == "__main__":
    main()
