"""Text in any chunks -> plain pieces and tag-like pieces, in time linear in the text."""

from __future__ import annotations

from collections.abc import Iterator

from asyncthink.protocol import tags


class Lexer:
    """Cuts text into pieces that, put together, are the text. What may still become a tag is held back."""

    def __init__(self) -> None:
        self.taken = 0
        """How many characters of the text fed last are behind us."""
        self._held = ""

    @property
    def in_tag(self) -> bool:
        """Whether the text so far ends inside something tag-like."""
        return tags.TAG_LIKE.match(self._held) is not None

    def feed(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield (piece, whether it is tag-like). A caller that stops early leaves the rest unread."""
        buffer, before = self._held + text, len(self._held)
        self._held, at = "", 0
        self.taken = len(text)
        while match := tags.TAG_LIKE.search(buffer, at):
            if match.start() > at:
                yield buffer[at : match.start()], False
            at = match.start()
            if match.end() == len(buffer) and buffer[-1] != ">":
                break
            at = match.end()
            self.taken = at - before
            yield match[0], True
        # Without a match nothing before `begun` can be part of a tag; with one, all behind `at` may be.
        start = at if match else tags.begun(buffer, at)
        self._held, self.taken = buffer[start:], len(text)
        if start > at:
            yield buffer[at:start], False

    def close(self) -> Iterator[tuple[str, bool]]:
        """Yield what was held back."""
        if self._held:
            yield self._held, self.in_tag
        self._held, self.taken = "", 0
