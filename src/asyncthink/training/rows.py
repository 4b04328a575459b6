"""Episode -> training rows: one row a trace, trained where its own model decoded, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from asyncthink.episodes.record import Episode, Role, SegmentKind, Trace
from asyncthink.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One trace as a sequence to learn from."""

    episode: str
    """Id of the episode: its rows share one advantage."""
    path: str
    role: Role
    ids: tuple[int, ...]
    """The context as the engine saw it up to the last token that the model decoded, n tokens."""
    trained: tuple[bool, ...]
    """n: True for the tokens that the model decoded; prompts and inserted text are False."""
    logprobs: tuple[float, ...]
    """n: the sampler's log-probabilities of the trained tokens; 0.0 elsewhere."""

    @property
    def n_trained(self) -> int:
        """Trained tokens."""
        return sum(self.trained)


def rows(episode: Episode) -> list[TrainingRow]:
    """Return the rows of an episode, the organizer's first.

    Workers that were never joined give none, ended or not: they count neither in T nor in eta [D].

    Raises:
        UsageError: the engine did not tell token ids or log-probabilities.
    """
    counted = [each for each in episode.traces if each.role is Role.ORGANIZER or each.joined_at is not None]
    found = [_row(episode.id, trace) for trace in counted]
    return [row for row in found if any(row.trained)]


def _row(episode: str, trace: Trace) -> TrainingRow:
    ids: list[int] = []
    trained: list[bool] = []
    logprobs: list[float] = []
    for segment in trace.segments:
        if segment.token_ids is None:
            raise UsageError(
                f"{episode} {trace.path}: the engine did not record token ids, which training needs: "
                "use a local checkpoint"
            )
        own = segment.kind is SegmentKind.DECODED
        if own and segment.logprobs is None:
            raise UsageError(f"{episode} {trace.path}: the engine did not record log-probabilities")
        ids += segment.token_ids
        trained += [own] * len(segment.token_ids)
        logprobs += (segment.logprobs or ()) if own else [0.0] * len(segment.token_ids)
    # An insertion that ends a trace teaches nothing, and may be what was longer than the model's context.
    end = max((place for place, own in enumerate(trained, 1) if own), default=0)
    return TrainingRow(
        episode=episode,
        path=trace.path,
        role=trace.role,
        ids=tuple(ids[:end]),
        trained=tuple(trained[:end]),
        logprobs=tuple(logprobs[:end]),
    )
