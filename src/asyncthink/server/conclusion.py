"""An episode that has ended -> what its client is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from asyncthink.episodes.metrics import Metrics, measure
from asyncthink.episodes.record import Episode, SegmentKind, StopReason
from asyncthink.protocol import tags
from asyncthink.server.request import ThoughtRequest
from asyncthink.viewer.html import article
from asyncthink.viewer.index import score_of

LONGEST = 4096
"""Ticks for which `metrics.active_per_tick` is told."""
_OPENING = tags.answer("").removesuffix(tags.STREAMED_STOPS[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """What became of a request."""

    answer: str
    """Empty where there is none."""
    finish: str
    """OpenAI's word for the stop: `length` where a budget ended it."""
    usage: dict[str, Any]
    extension: dict[str, Any]
    failure: str | None
    """Why the engine failed; None: it did not."""


def conclude(episode: Episode, asked: ThoughtRequest) -> Conclusion:
    """Return what a client is told; may take some time, where a task checks the answer."""
    metrics = measure(episode)
    failed = episode.stop_reason is StopReason.ENGINE_ERROR
    return Conclusion(
        answer=_cut(episode.answer or "", asked.stops),
        finish="length" if episode.stop_reason is StopReason.BUDGET else "stop",
        usage=_usage(episode, metrics),
        extension=_extension(episode, metrics, asked),
        failure=(episode.cause or "the engine failed") if failed else None,
    )


def _cut(answer: str, stops: Sequence[str]) -> str:
    places = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return answer[: min(places)] if places else answer


def _extension(episode: Episode, metrics: Metrics, asked: ThoughtRequest) -> dict[str, Any]:
    measures = msgspec.to_builtins(metrics)
    if len(metrics.active_per_tick) > LONGEST:
        del measures["active_per_tick"]
    score = score_of(episode)
    told: dict[str, Any] = {
        "id": episode.id,
        "method": episode.method,
        "capacity": episode.capacity,
        "seed": episode.seed,
        "stop_reason": episode.stop_reason,
        "cause": episode.cause,
        "format_errors": episode.format_errors,
        "score": None if score is None else score.value,
        "metrics": measures,
    }
    if asked.episode:
        told["episode"] = episode
    if asked.view:
        told["page"] = str(article(episode))
    return told


def _usage(episode: Episode, metrics: Metrics) -> dict[str, Any]:
    prompt = sum(
        one.n_tokens for one in episode.traces[:1] for one in one.segments if one.kind is SegmentKind.PROMPT
    )
    answer = _answer_tokens(episode)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": metrics.decoded_tokens,
        "total_tokens": prompt + metrics.decoded_tokens,
        "completion_tokens_details": {"reasoning_tokens": metrics.decoded_tokens - answer},
    }


def _answer_tokens(episode: Episode) -> int:
    """Return how many tokens of the one who answered stand behind its answer's tag."""
    for trace in episode.traces:
        if trace.result is None or trace.result != episode.answer:
            continue
        for segment in reversed(trace.segments):
            begin = segment.text.rfind(_OPENING)
            if segment.kind is SegmentKind.DECODED and begin >= 0 and segment.ends:
                return sum(end > begin + len(_OPENING) for end in segment.ends)
    return 0
