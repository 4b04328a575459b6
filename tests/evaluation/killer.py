"""A process that runs evaluations in children of its own and kills them: `python killer.py COMMAND RUN ...`.

Forking after everything is imported makes a child cost a tenth of a second instead of one. A child is killed at a
moment (by this process, with SIGKILL) or at a write boundary: before a file is opened to be written, renamed or
synced, or in the middle of a write (by itself, with SIGKILL).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import anyio

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import RunDirectory
from asyncthink.evaluation import run
from asyncthink.evaluation.recipe import resolve
from asyncthink.evaluation.report import write
from asyncthink.evaluation.rows import row_of
from asyncthink.tasks import Asked, get_task

del write  # imported here once, so that no child has to
DELAY = 0.001
"""Seconds a token of a scripted engine takes, so that there are moments to be killed at."""
(ScriptedEngine.__init__.__kwdefaults__ or {})["delay"] = DELAY


class Boundaries:
    """Counts what changes the disk, and kills its own process at one of them."""

    def __init__(self, last: int | None) -> None:
        self.count, self.last = 0, last
        self.write, self.sync, self.open = os.write, os.fsync, os.open
        sys.addaudithook(self.audit)
        os.write, os.fsync = self.watched_write, self.watched_sync

    def pass_one(self) -> bool:
        """Count one; say whether it is the last."""
        self.count += 1
        return self.count - 1 == self.last

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (event in ("os.rename", "os.mkdir", "os.truncate") or writes) and self.pass_one():
            os.kill(os.getpid(), signal.SIGKILL)

    def watched_sync(self, fd: int) -> None:
        if self.pass_one():
            os.kill(os.getpid(), signal.SIGKILL)
        self.sync(fd)

    def watched_write(self, fd: int, data: Any) -> int:
        if len(data) > 100 and self.pass_one():
            self.write(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.write(fd, data)


def child(work: Callable[[], None]) -> int:
    """Do work in a forked child; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def go_on(recipe: dict[str, Any], path: Path) -> None:
    """What a user does after whatever happened: resume what can be resumed, else give the command again."""
    resolved = resolve(recipe, "options")
    begun = (path / "config.toml").exists()
    with run.resume(path) if begun else run.begin(resolved, path) as one:
        anyio.run(one.go_on, run.Watcher())
        assert not one.left and not one.failures


def again(recipe: dict[str, Any], path: Path) -> None:
    """The other thing a user does: give the same command again."""
    with run.begin(resolve(recipe, "options"), path) as one:
        anyio.run(one.go_on, run.Watcher())


def trials(path: Path) -> list[Any]:
    """Return what a finished run holds, without what depends on the machine's speed."""
    found: list[Any] = []
    for episode in RunDirectory.open(path).episodes():
        assert episode.trial is not None and episode.task is not None and episode.problem is not None
        task = get_task(episode.task)
        row = row_of(episode, Asked(task, task.read(episode.problem)))
        texts = [[one.text for one in trace.segments] for trace in episode.traces]
        place = [episode.trial.arm, episode.trial.problem, episode.trial.sample]
        found.append([place, row.score, row.metrics.critical_path, row.metrics.decoded_tokens, texts])
    return sorted(found, key=lambda one: one[0])


def wait(pid: int) -> int:
    """Return a child's end: 0, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(seconds: float, work: Callable[[], None]) -> bool:
    """Kill a child after so long; say whether it was still at work."""
    pid = child(work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return wait(pid) != 0


def kill_at(boundary: int, work: Callable[[], None]) -> bool:
    """Let a child kill itself at a boundary; say whether it came to it."""

    def watched() -> None:
        Boundaries(boundary)
        work()

    return wait(child(watched)) != 0


def count_boundaries(work: Callable[[], None]) -> int:
    """Run a child to its end; return how many boundaries it passed."""
    reading, writing = os.pipe()

    def watched() -> None:
        boundaries = Boundaries(None)
        work()
        boundaries.write(writing, str(boundaries.count).encode())

    status = wait(child(watched))
    os.close(writing)
    assert status == 0
    with os.fdopen(reading) as told:
        return int(told.read())


def at_moments(recipe: dict[str, Any], folder: Path, times: int, seed: int) -> dict[str, Any]:
    """Kill at random moments, once more during the resume, and finish."""
    began = time.monotonic()
    assert wait(child(lambda: go_on(recipe, folder / "whole"))) == 0
    length, random = time.monotonic() - began, Random(seed)
    runs: list[Any] = []
    kills = 0
    for i in range(4 * times):  # some end before they are killed
        if kills >= times:
            break
        path = folder / str(i)
        kills += kill_after(random.uniform(0, length), lambda path=path: go_on(recipe, path))
        kills += kill_after(random.uniform(0, length), lambda path=path: go_on(recipe, path))
        finish = go_on if i % 2 else again
        assert wait(child(lambda path=path, finish=finish: finish(recipe, path))) == 0, i
        runs.append(trials(path))
    return {"whole": trials(folder / "whole"), "runs": runs, "kills": kills}


def at_boundaries(recipe: dict[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    """Kill at every write boundary, at a random one during the resume, and finish."""
    count, random = count_boundaries(lambda: go_on(recipe, folder / "whole")), Random(seed)
    runs: list[Any] = []
    kills = 0
    for boundary in range(count):
        path = folder / str(boundary)
        kills += kill_at(boundary, lambda path=path: go_on(recipe, path))
        kills += kill_at(random.randrange(count), lambda path=path: go_on(recipe, path))
        finish = go_on if boundary % 2 else again
        assert wait(child(lambda path=path, finish=finish: finish(recipe, path))) == 0, boundary
        runs.append(trials(path))
    return {"whole": trials(folder / "whole"), "runs": runs, "kills": kills, "boundaries": count}


def full_disk(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Let the disk take less and less, then enough; return what was said and what came of it."""
    said: list[str] = []
    path = folder / "full"

    def limited(n_bytes: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        try:
            go_on(recipe, path)
        except Exception as error:
            os.write(writing, f"{type(error).__name__}: {error}\n".encode())

    for n_bytes in (0, 300, 3_000, 12_000):
        reading, writing = os.pipe()
        assert wait(child(lambda n_bytes=n_bytes: limited(n_bytes))) == 0
        os.close(writing)
        with os.fdopen(reading) as told:
            said.append(told.read())
    assert wait(child(lambda: go_on(recipe, path))) == 0
    assert wait(child(lambda: go_on(recipe, folder / "whole"))) == 0
    return {"said": said, "runs": [trials(path)], "whole": trials(folder / "whole")}


def main() -> None:
    command, folder, recipe, *numbers = sys.argv[1:]
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "moments": at_moments,
        "boundaries": at_boundaries,
        "full": full_disk,
    }
    found = commands[command](json.loads(recipe), Path(folder), *map(int, numbers))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
