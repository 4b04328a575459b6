"""What agents wrote and what a check says of it, as pieces of a page: every text is made harmless, then escaped."""

from __future__ import annotations

from collections.abc import Iterator

from asyncthink.episodes.record import Episode, SegmentKind, Trace
from asyncthink.tasks.base import Score
from asyncthink.viewer.marks import Markup, tag
from asyncthink.viewer.sanitize import clean, head

NOTHING = "–"
"""What stands where there is nothing."""
MOST_PARTS = 12
"""Judged pieces of an answer that are shown."""
LONG_TEXT = 600
"""Cells of a question, or of an answer that is judged as a whole."""


def right(score: Score) -> str:
    """Return a score in words."""
    if score.of > 1:
        return f"{round(score.value * score.of)} of {score.of} right"
    return "right" if score.value == 1 else "wrong" if score.value == 0 else f"score {score.value:.2f}"


def judged(episode: Episode, score: Score | None) -> Markup:
    """Return the answer with what the check says of each of its pieces."""
    if episode.answer is None:
        return tag("p", "There is no answer.", **{"class": "judged"})
    if score is None:
        return tag("pre", visible(episode.answer), dir="auto")
    pieces = [(part.text, part.correct, part.reason) for part in score.parts[:MOST_PARTS]]
    if not pieces:
        pieces = [(episode.answer, score.value == 1, score.reason)]
    items = [
        tag(
            "li",
            tag("span", "✓" if correct else "✗", **{"class": "right" if correct else "wrong"}),
            " ",
            tag("code", head(text, LONG_TEXT) or NOTHING),
            f" {head(reason, LONG_TEXT)}" if reason else "",
        )
        for text, correct, reason in pieces
    ]
    left = len(score.parts) - len(pieces)
    more = [tag("li", f"and {left} more")] if left > 0 else []
    return tag("ul", *items, *more, **{"class": "judged"})


_MARKED = {
    SegmentKind.INSERTED: "inserted",
    SegmentKind.REASONED: "reasoned",
    SegmentKind.DICTATED: "dictated",
}


def written(trace: Trace, most: int) -> Iterator[Markup | str]:
    """Yield what stands in an agent's context behind its prompt; what the model did not write is marked.

    Args:
        trace: the agent's.
        most: characters.
    """
    for kind, text in stretches(trace, most):
        yield stretch(kind, text)


def stretch(kind: str | None, text: str) -> Markup | str:
    """Return a stretch of an agent's text."""
    return tag("span", visible(text), **{"class": kind, "title": kind}) if kind else visible(text)


def stretches(trace: Trace, most: int) -> Iterator[tuple[str | None, str]]:
    """Yield the text behind an agent's prompt, each stretch with what it is, None for what the model wrote."""
    room = most
    for segment in trace.segments:
        if segment.kind is SegmentKind.PROMPT:
            continue
        yield _MARKED.get(segment.kind), segment.text[: max(0, room)]
        room -= len(segment.text)
        if room < 0:
            yield "cut", " … (cut)"
            return


def visible(text: str) -> str:
    """Return text with its lines and blanks as they are, and everything else in it harmless."""
    return "\n".join(map(_line, text.split("\n")))


def _line(line: str) -> str:
    body = line.strip(" ")
    before = len(line) - len(line.lstrip(" "))
    behind = len(line) - before - len(body)
    return " " * before + clean(body) + " " * behind
