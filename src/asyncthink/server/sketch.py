"""The drawing of a thought that goes on, for a page that shows it: a few times a second at most."""

from __future__ import annotations

import time
from collections.abc import Sequence

from asyncthink.episodes.events import Event
from asyncthink.viewer.growing import Growing
from asyncthink.viewer.names import agent_name
from asyncthink.viewer.svg import draw

PAUSE = 0.2
"""Seconds between two drawings, at least."""
_SHARE = 0.1
"""Of the time, the most that drawing may take."""


class Sketch:
    """Draws what has happened so far."""

    def __init__(self) -> None:
        self._growing = Growing()
        self._due = 0.0

    def after(self, events: Sequence[Event]) -> str | None:
        """Take note of what happened; return the drawing where it is time for one."""
        for event in events:
            self._growing.take(event)
        now = time.monotonic()
        if now < self._due or not self._growing.agents:
            return None
        agents = self._growing.agents
        names = {path: agent_name(path, self._growing.method) for path in agents}
        labels = {path: one.query for path, one in agents.items()}
        drawn = draw(self._growing.timeline(), names=names, labels=labels)
        self._due = now + max(PAUSE, (time.monotonic() - now) / _SHARE)
        return drawn
