"""A few episodes of a report, chosen by a rule and shown in full: drawn, judged, and in their own words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from asyncthink.episodes.metrics import Metrics
from asyncthink.episodes.record import Episode, Trial
from asyncthink.evaluation.report.cells import counted
from asyncthink.evaluation.rows import Row
from asyncthink.tasks import Asked
from asyncthink.viewer.marks import Markup, tag
from asyncthink.viewer.names import agent_name
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.svg import draw
from asyncthink.viewer.timeline import timeline
from asyncthink.viewer.words import LONG_TEXT, judged, right, written

SHOWN = 10
MOST_AGENTS, MOST_CHARS = 24, 4000
"""Agents whose text is shown, and characters of each."""


def chosen(rows: Sequence[Row], arms: Sequence[str], count: int = SHOWN) -> list[Trial]:
    """Choose episodes, spread over arms and over scores: arms in turn, each time another score.

    Of equals, the one whose trial has the smallest hash: nobody picked it.
    """
    left = {arm: sorted((row for row in rows if row.arm == arm), key=_rank) for arm in arms}
    scores = {arm: sorted({row.score for row in found}, reverse=True) for arm, found in left.items()}
    picked: list[Trial] = []
    turn = 0
    while len(picked) < count and any(left.values()):
        for place, arm in enumerate(arms):
            if left[arm] and len(picked) < count:
                wanted = scores[arm][(place + turn) % len(scores[arm])]
                row = _nearest(left[arm], wanted)
                left[arm].remove(row)
                picked.append(Trial(arm=row.arm, problem=row.problem, sample=row.sample))
        turn += 1
    return sorted(picked, key=lambda trial: (list(arms).index(trial.arm), picked.index(trial)))


def _nearest(rows: Sequence[Row], score: float) -> Row:
    return min(rows, key=lambda row: abs(row.score - score))


def _rank(row: Row) -> bytes:
    return hashlib.sha256(f"{row.arm}\0{row.problem}\0{row.sample}".encode(errors="replace")).digest()


def article(episode: Episode, asked: Asked, metrics: Metrics, arm: str) -> Markup:
    """Return one episode as a piece of a page.

    Args:
        episode: the record.
        asked: its problem.
        metrics: its measures.
        arm: what its arm is called.
    """
    score = asked.task.check(asked.problem, episode.answer or "")
    assert episode.trial is not None, "it is an evaluation's"
    where = f"problem {head(episode.trial.problem, 40)}, sample {episode.trial.sample}"
    return tag(
        "article",
        tag("h3", f"{arm}, {where}: {right(score)}"),
        tag("p", head(episode.query, LONG_TEXT), **{"class": "question"}),
        tag("div", _drawing(episode), **{"class": "wide drawing", "tabindex": "0"}),
        tag("p", _measured(episode, metrics), **{"class": "measured"}),
        judged(episode, score),
        tag("details", tag("summary", "What the agents wrote"), *_texts(episode)),
    )


def _drawing(episode: Episode) -> Markup:
    line = timeline(episode)
    names = {lane.path: agent_name(lane.path, episode.method) for lane in line.lanes}
    labels = {trace.path: trace.query for trace in episode.traces[1:]}
    return Markup(draw(line, names=names, labels=labels))


def _measured(episode: Episode, metrics: Metrics) -> str:
    errors = ", ".join(episode.format_errors) or "none"
    parts = [
        f"T = {metrics.critical_path:,} ticks",
        f"eta/c {100 * metrics.concurrency:.1f} % at c = {episode.capacity}",
        f"{metrics.decoded_tokens:,} tokens of all agents",
        counted(metrics.forks, "worker")
        if episode.method != "parallel"
        else counted(metrics.forks + 1, "trace"),
        f"format errors: {errors}",
        f"ended by: {episode.stop_reason.value}"
        + (f" ({head(episode.cause, 200)})" if episode.cause else ""),
    ]
    return " · ".join(parts)


def _texts(episode: Episode) -> Iterator[Markup]:
    for trace in episode.traces[:MOST_AGENTS]:
        name = agent_name(trace.path, episode.method)
        asked = f": {head(trace.query, LONG_TEXT)}" if trace.forked_at is not None else ""
        yield tag("h4", f"{name}{asked if episode.method != 'parallel' else ''}")
        yield tag("pre", "", *written(trace, MOST_CHARS), dir="auto")
    if (left := len(episode.traces) - MOST_AGENTS) > 0:
        yield tag("p", f"and {counted(left, 'more agent')}")
