"""The rows of a step, dealt out to its micro-batches."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any

from torch.utils.data import IterableDataset

from asyncthink.errors import EngineError
from asyncthink.training.trl.library import trl
from asyncthink.training.trl.worker import EpisodeWorker


class StepBatcher(IterableDataset[Any]):
    """Deals the rows of a step out to its micro-batches, neighbours together since they share their prompts.

    Args:
        source: TRL's queue of samples.
        worker: who fills it.
        parts: micro-batches of a step.
    """

    def __init__(self, source: Any, worker: EpisodeWorker, parts: int) -> None:
        self._source, self._worker, self._parts = source, worker, parts

    def __iter__(self) -> Iterator[list[Any]]:
        source = iter(self._source)
        while True:
            step: list[dict[str, Any]] = list(islice(source, self._size()))
            yield from micro_batches(step, self._parts)

    def _size(self) -> int:
        """Return how many rows the next step has, as soon as it is there."""
        while True:
            try:
                return self._worker.sizes.get(timeout=1.0)
            except queue.Empty:
                self._worker.check_health(0.0)


def micro_batches(step: Sequence[dict[str, Any]], parts: int) -> list[list[Any]]:
    """Return a step's samples in so many micro-batches of one packed row.

    Advantages are scaled by a micro-batch's share of the trained tokens, so that TRL's mean over each makes the mean
    over all.
    """
    trained = [int(sample["completion_mask"].sum()) for sample in step]
    packed: list[list[Any]] = []
    for share in _cut([len(sample["input_ids"]) for sample in step], parts):
        scale = sum(trained[place] for place in share) * parts / sum(trained)
        row = trl.TreeRow()
        for place in share:
            row.add({**step[place], "advantage": step[place]["advantage"] * scale})
        packed.append([row])
    return packed


def _cut(lengths: Sequence[int], parts: int) -> list[range]:
    """Cut a sequence into so many stretches of about equal length, none of them empty."""
    if len(lengths) < parts:
        raise EngineError(
            f"a step of {len(lengths)} rows cannot be dealt out to {parts} micro-batches: have fewer"
        )
    ends = list(accumulate(lengths))
    cuts = [0]
    for part in range(1, parts):
        wanted = ends[-1] * part / parts
        cut = min(range(len(ends)), key=lambda place: abs(ends[place] - wanted)) + 1
        cuts.append(min(max(cut, cuts[-1] + 1), len(lengths) - (parts - part)))
    return [range(begin, end) for begin, end in pairwise([*cuts, len(lengths)])]
