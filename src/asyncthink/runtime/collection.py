"""The garbage collector while many episodes are under way.

Thousands of agents that wait for their next token are many live objects, which Python's default thresholds
make it look through again and again: half of all CPU time. benchmarks/scale.py measures it.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock

THRESHOLDS = (50_000, 50, 100)
"""New objects before a collection of the youngest; collections of one generation before one of the next."""


class _Users:
    """How many there are now, and what held before the first came."""

    def __init__(self) -> None:
        self.count = 0
        self.before: tuple[int, int, int] = (0, 0, 0)
        self.lock = Lock()


_users = _Users()


@contextmanager
def fewer_collections() -> Generator[None]:
    """Collect garbage more rarely in the block; what held before holds again behind the last such block.

    A process that has switched the collector off, or made it rarer still, is left alone.
    """
    with _users.lock:
        if _users.count == 0:
            _users.before = gc.get_threshold()
            if 0 < _users.before[0] < THRESHOLDS[0]:
                gc.set_threshold(*THRESHOLDS)
        _users.count += 1
    try:
        yield
    finally:
        with _users.lock:
            _users.count -= 1
            if _users.count == 0 and gc.get_threshold() == THRESHOLDS:
                gc.set_threshold(*_users.before)
