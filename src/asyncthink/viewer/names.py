"""What agents are called on screen, and which of many are shown."""

from __future__ import annotations

from collections.abc import Iterable

from asyncthink.viewer.sanitize import head

_CELLS = 60
"""Of a name: paths come from files, which may hold anything."""


def agent_name(path: str, method: str) -> str:
    """Return an agent's name, clean: `organizer`, `worker 2`, `worker 2/1`, or, of parallel thinking, `trace 1`."""
    below = head(path.partition("/")[2], _CELLS)
    if method == "parallel":
        return f"trace {below or 0}"
    return f"worker {below}" if below else "organizer"


def choose(wanted: Iterable[str], most: int) -> frozenset[str]:
    """Return the first `most` different paths, one at least."""
    return frozenset(list(dict.fromkeys(wanted))[: max(1, most)])
