"""A key that nothing shows."""

from __future__ import annotations

from typing import NoReturn

_SHORTEST_KEY = 12
"""Characters of a key that is one, and no placeholder."""


class Secret:
    """A key. It has no representation, so that no log, error or trace-back can show it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret()"

    def header(self) -> dict[str, str]:
        """Return the header that carries it."""
        return {"Authorization": f"Bearer {self._value}"}

    def hidden(self, text: str) -> str:
        """Return a text in which it no longer stands."""
        return text.replace(self._value, "[key]")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not to be stored")

    def erased(self, data: bytes) -> bytes:
        """Return what a server sent without it: some repeat a key in their errors.

        A short one is no secret (`EMPTY`, `ollama`), and may be a word of the text.
        """
        return data.replace(self._value.encode(), b"[key]") if len(self._value) >= _SHORTEST_KEY else data
