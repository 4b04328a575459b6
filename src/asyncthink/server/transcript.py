"""What all agents write -> one text that a person can follow while it grows.

The organizer's text comes as it is decoded, tags included. A worker's text comes when the organizer joins it: what it
has written so far at once, the rest as it is decoded; each of its lines begins with its name, as in `[0/2] `. Workers
that nobody joins come last. What a join inserts is left out: it stands in the worker's own text.
"""

from __future__ import annotations

from asyncthink.episodes.events import Ended, Event, Finished, Joined, Text
from asyncthink.episodes.record import WRITTEN

_ROOT = "0"


class Transcript:
    """Takes events, gives text."""

    def __init__(self) -> None:
        self._floor = _ROOT
        """Whose text comes now."""
        self._fresh = True
        """Nothing stands on the line yet."""
        self._held: dict[str, list[str]] = {}
        """Texts of those who wait for the floor."""
        self._ended: set[str] = set()

    def take(self, event: Event) -> str:
        """Return what an event adds to the text."""
        match event:
            case Text() if event.kind in WRITTEN and event.path == self._floor:
                return self._say(event.text)
            case Text() if event.kind in WRITTEN:
                self._held.setdefault(event.path, []).append(event.text)
            case Joined():
                return self._give(event.path)
            case Ended():
                self._ended.add(event.path)
                if event.path == self._floor != _ROOT:
                    return self._give(_above(event.path))
            case Finished():
                return "".join([self._give(path) for path in tuple(self._held) if path != _ROOT])
            case _:
                pass
        return ""

    def _give(self, path: str) -> str:
        """Give the floor to somebody; whoever has nothing more to say passes it back."""
        text = "" if self._fresh else "\n"
        self._fresh, self._floor = True, path
        text += self._say("".join(self._held.pop(path, ())))
        if path in self._ended and path != _ROOT:
            text += self._give(_above(path))
        return text

    def _say(self, text: str) -> str:
        if not text:
            return ""
        label = "" if self._floor == _ROOT else f"[{self._floor}] "
        begun = label if self._fresh else ""
        self._fresh = text.endswith("\n")
        end = "\n" if self._fresh else ""
        return begun + text.removesuffix("\n").replace("\n", f"\n{label}") + end


def _above(path: str) -> str:
    return path.rpartition("/")[0] or _ROOT
