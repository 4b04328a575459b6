"""Make the pictures of docs/viewing.md and docs/serving.md: real pages in a real browser.

python scripts/screenshots.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from server.serving_worlds import Serving

from asyncthink import think_sync
from asyncthink.episodes.store import RunDirectory
from asyncthink.tasks import get_task
from asyncthink.tasks.base import Split
from tests.browser import browser

EPISODES = 24
AT_A_WALK = """
import anyio
from asyncthink.engines.local import Running
step = Running.step
async def slow(self, members):
    await anyio.sleep(0.15)
    await step(self, members)
Running.step = slow
"""
"""Run in the server first: the embedded model answers within a second, before a picture can be taken."""
SHOWN = "document.querySelectorAll('#episodes tbody tr').length"


def make_run(path: Path) -> None:
    """Let the embedded model think about some dev problems."""
    task = get_task("countdown")
    with RunDirectory.create(path, 'command = "think"\n', {"command": "think --task countdown"}) as run:
        for number in range(EPISODES):
            query = task.prompt(task.problem(Split.DEV, 0, number))
            run.append(think_sync(query, model="embedded", seed=number))


async def make(folder: Path, temporary: Path) -> None:
    """Go through the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    with Serving("--model", "embedded", "--runs", str(temporary / "runs")) as server:
        async with browser(temporary / "profile") as tab:
            await tab.goto(f"{server.url}/runs/countdown")
            await tab.until(f"{SHOWN} === {EPISODES}")
            await tab.screenshot(folder / "run.png", height=640)
            await tab.goto(f"{server.url}/runs/countdown/episodes/1")
            await tab.press("n")
            await tab.press("n")
            await tab.press("k")
            await tab.screenshot(folder / "episode.png", height=1000)
            assert tab.errors == [], tab.errors
    with Serving("--model", "embedded", "--runs", str(temporary / "runs"), setup=AT_A_WALK) as server:
        async with browser(temporary / "walking") as tab:
            await tab.goto(f"{server.url}/")
            await tab.click("#ask button[type=submit]")
            await tab.until("document.querySelector('#live > svg desc')?.textContent.includes('4 agents')")
            await tab.screenshot(folder / "live.png", height=640)
            assert tab.errors == [], tab.errors


def main() -> None:
    """Write the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "images"
    with tempfile.TemporaryDirectory() as temporary:
        make_run(Path(temporary) / "runs" / "countdown")
        anyio.run(make, folder, Path(temporary))
    for file in sorted(folder.glob("*.png")):
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
