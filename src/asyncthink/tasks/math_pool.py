"""The processes in which mathematics is compared: started when needed, killed at their limit, replaced.

Each is a plain subprocess that runs `math_worker.py` by its path. That needs nothing of the caller's `__main__`,
forks no thread's locks, and imports nothing but math-verify. It has a session of its own, so Ctrl-C in the
terminal does not reach it; it ends when its pipe is closed, so it does not outlive the caller.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from asyncthink import extras
from asyncthink.errors import MissingExtraError
from asyncthink.tasks.math_text import MAX_CHARS

WORKER = Path(__file__).with_name("math_worker.py")
PROCESSES = min(2, os.cpu_count() or 1)
SECONDS = 5.0
"""A comparison that takes longer is wrong."""
START_SECONDS = 60.0
"""Starting takes 1 s where the machine is idle; it does not count as comparing."""
CHECKS = 500
"""Comparisons after which a process is replaced: parsers and sympy keep what they saw."""
KEPT = 4096
"""Verdicts that are remembered."""
PASSED_ON = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
"""Environment variables that a child gets. Keys to servers are not among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found out about a value."""

    right: bool
    reason: str = ""
    """Why it could not be compared, as a short sentence; empty where it was."""


class MathPool:
    """At most `processes` children; usable from several threads, who wait for a free one."""

    def __init__(self, processes: int = PROCESSES) -> None:
        self._owner = os.getpid()
        self._slots = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        atexit.register(self.close)

    def compare(self, gold: str, answer: str, seconds: float = SECONDS) -> Verdict:
        """Return whether a value equals the gold one, within `seconds`.

        Raises:
            MissingExtraError: math-verify is not installed, or cannot be imported.
        """
        if max(len(gold), len(answer)) > MAX_CHARS:
            return Verdict(right=False, reason=f"it is longer than {MAX_CHARS:,} characters")
        request = {"gold": gold, "answer": answer, "seconds": seconds}
        with self._slots:
            # A process may die of something else than this comparison, so one that died is no verdict yet.
            for _ in range(2):
                with self._lock:
                    child = self._idle.pop() if self._idle else None
                child = child or _Child()
                try:
                    reply = child.ask(request, seconds)
                except TimeoutError:
                    child.end()
                    return Verdict(right=False, reason=f"comparing it takes longer than {seconds:g} s")
                except BaseException:
                    child.end()
                    raise
                if reply is not None:
                    self._put_back(child)
                    return Verdict(right=reply["right"], reason=reply["reason"])
                child.end()
        return Verdict(right=False, reason="the process that compared it died")

    def pids(self) -> list[int]:
        """Return the processes that wait for work."""
        with self._lock:
            return [child.pid for child in self._idle]

    def close(self) -> None:
        """End the processes that wait; later comparisons start new ones."""
        if os.getpid() != self._owner:
            return  # a fork of the owner: they are not its to end
        with self._lock:
            children, self._idle = self._idle, []
        for child in children:
            child.end()

    def _put_back(self, child: _Child) -> None:
        if child.asked >= CHECKS:
            child.end()
            return
        with self._lock:
            self._idle.append(child)


class _Child:
    """One process, which answers one request at a time."""

    def __init__(self) -> None:
        extras.require("math", "comparing mathematics")
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._process = subprocess.Popen(
            # -P: the folder of the script is not a place to import from.
            [sys.executable, "-P", str(WORKER), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # sympy's order of working, and with it the time, follows from hashes.
            env={**environment, "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        self._read = b""
        self.asked = 0
        self.pid = self._process.pid
        try:
            hello = self._line(START_SECONDS) or {"ready": False, "reason": "it ended"}
        except TimeoutError:
            hello = {"ready": False, "reason": f"no sign of life for {START_SECONDS:g} s"}
        except BaseException:
            self.end()
            raise
        if not hello["ready"]:
            self.end()
            raise MissingExtraError(f"math-verify does not start ({hello['reason']}): {extras.mend('math')}")

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Return the reply, or None when the process died.

        Raises:
            TimeoutError: there was none in time.
        """
        self.asked += 1
        assert self._process.stdin is not None
        try:
            # Two values of MAX_CHARS fit into a pipe however they are escaped, so this never waits.
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            return None
        return self._line(seconds)

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _line(self, seconds: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        deadline = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            read = os.read(self._process.stdout.fileno(), 65536)
            if not read:
                return None
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return cast("dict[str, Any]", json.loads(line))


@cache
def _pool_of(owner: int) -> MathPool:
    del owner
    return MathPool()


@lru_cache(maxsize=KEPT)
def compare(gold: str, answer: str, seconds: float = SECONDS) -> Verdict:
    """Return whether a value equals the gold one, by the pool of this process; verdicts are remembered.

    Raises:
        MissingExtraError: math-verify is not installed, or cannot be imported.
    """
    # A process that was forked from this one gets a pool of its own.
    return _pool_of(os.getpid()).compare(gold, answer, seconds)
