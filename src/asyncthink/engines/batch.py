"""One torch step for many contexts: each has a slot in a shared cache and gets its next token.

    new text   -> what the cache does not hold yet is prefilled, in right-padded batches
    one token  -> decoded together

Where the cache keeps whom is `shelves.py`. Everything here runs in the step's thread, except `release` and the
making of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from asyncthink.engines.base import Sampling
from asyncthink.engines.llama import CacheView, Llama
from asyncthink.engines.sampling import choose, uniform
from asyncthink.engines.shelves import Context, Shelves
from asyncthink.errors import EngineError

CHUNK = 512
"""Tokens of one context that are prefilled at a time."""
PREFILL_TOKENS = 4096
"""Tokens, padding included, that are prefilled together."""
SMALL = 1024
"""Width below which a model is small."""
ALONE = 64
"""Tokens of a small model that one thread computes: more threads would mostly wait for each other, and on a
busy machine for their turn."""


@dataclass(slots=True, eq=False)
class Request:
    """One token that is asked for, and what came of it."""

    context: Context
    sampling: Sampling
    ids: list[int] = field(init=False)
    """What the cache does not hold of the context: at least its last token."""
    length: int = field(init=False)
    """Tokens of the context when the request was made."""
    token: int | None = None
    logprob: float = 0.0
    error: EngineError | None = None

    def __post_init__(self) -> None:
        self.length = len(self.context.ids)
        self.ids = self.context.ids[min(self.context.cached, self.length - 1) :]

    @property
    def answered(self) -> bool:
        """Whether the step has dealt with it."""
        return self.token is not None or self.error is not None


class Batch:
    """The contexts of an engine."""

    def __init__(
        self,
        model: Llama,
        device: torch.device,
        threads: int | None = None,
        *,
        at_work: Callable[[], int] = lambda: 1,
    ) -> None:
        self.model, self.device, self.threads = model, device, threads
        self._at_work = at_work
        self.prefilled = 0
        """Tokens that went through the model, without padding."""
        self.shelves = Shelves(model.config, device)
        self._lock = Lock()
        self._usual = torch.get_num_threads()
        self._small = device.type == "cpu" and model.config.hidden_size < SMALL

    def release(self, context: Context) -> None:
        """Give up a context's slot, at the latest when the next step begins. Any thread may call this."""
        self.shelves.release(context)

    def step(self, requests: Sequence[Request]) -> None:
        """Answer the requests that are not answered yet; raises nothing."""
        with self._lock, torch.inference_mode():
            threads = self.threads or max(1, self._usual // max(1, self._at_work()))
            if self.threads is None and self._short(requests):
                threads = 1
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            self.shelves.reclaim()
            waiting = [each for each in requests if not each.answered and not each.context.closed]
            try:
                self.shelves.seat([(each.context, each.length) for each in waiting])
                self._answer(waiting)
            except Exception as error:  # whatever torch raises belongs to those who wait, not to this thread
                failure = EngineError(f"the local engine failed: {_first_line(error)}")
                failure.__cause__ = error
                for request in waiting:
                    request.error = failure

    def _short(self, requests: Sequence[Request]) -> bool:
        return self._small and sum(len(each.ids) for each in requests) <= ALONE

    def _answer(self, requests: Sequence[Request]) -> None:
        ready: list[Request] = []
        logits: list[Tensor] = []
        for group in self._groups(requests):
            ready += group
            logits.append(self._forward(group))
        if not ready:
            return
        samplings = [each.sampling for each in ready]
        points = [uniform(each.sampling.seed, each.context.order[1], each.length) for each in ready]
        tokens, logprobs = choose(torch.cat(logits), samplings, points)
        for request, token, logprob in zip(ready, tokens, logprobs, strict=True):
            request.token, request.logprob = token, logprob

    def _groups(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """Yield those with one new token, then the others by like length; what is too long is fed first."""
        single = [each for each in requests if len(each.ids) == 1]
        if single:
            yield sorted(single, key=_slot)
        several = sorted((each for each in requests if len(each.ids) > 1), key=lambda each: -len(each.ids))
        group: list[Request] = []
        for request in several:
            while len(request.ids) > CHUNK:
                self._forward([request])
            if group and (len(group) + 1) * len(group[0].ids) > PREFILL_TOKENS:
                yield sorted(group, key=_slot)
                group = []
            group.append(request)
        if group:
            yield sorted(group, key=_slot)

    def _forward(self, group: Sequence[Request]) -> Tensor:
        """Feed what each has pending, up to CHUNK tokens; return the logits of the last, [B, vocabulary].

        Padding is written behind a context's end, where a later token overwrites it before it is read.
        """
        counts = [min(len(each.ids), CHUNK) for each in group]
        starts = [each.length - len(each.ids) for each in group]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        width = max(counts)
        taken = [_slot(each) for each in group]
        slots = self.shelves.bridged(taken) if width == 1 else taken
        places = {slot: place for place, slot in enumerate(slots)}
        rows = [places[slot] for slot in taken]
        read, first = [0] * len(slots), [self.model.config.max_position_embeddings] * len(slots)
        ids = [[0] * width for _ in slots]
        for row, request, start, end in zip(rows, group, starts, ends, strict=True):
            read[row], first[row] = end, start
            ids[row][: end - start] = request.ids[: end - start]
        runs = self.shelves.runs(slots, read)
        spare = [run.cache.length - 1 for run in runs for _ in range(run.rows.start, run.rows.stop)]
        positions = self._tensor(first)[:, None] + torch.arange(width, device=self.device)
        positions = positions.minimum(self._tensor(spare)[:, None])
        view = CacheView(runs, self._mask(positions, max(run.length for run in runs)))
        hidden = self.model.hidden(self._tensor(ids), positions, view)
        last = hidden[self._tensor(rows), self._tensor(counts) - 1]
        for request, count, end in zip(group, counts, ends, strict=True):
            del request.ids[:count]
            request.context.cached = end
        self.prefilled += sum(counts)
        return self.model.lm_head(last)

    def _mask(self, positions: Tensor, length: int) -> Tensor:
        unseen = torch.arange(length, device=self.device) > positions[..., None]
        return torch.zeros(unseen.shape, device=self.device).masked_fill_(unseen, -torch.inf)[:, None]

    def _tensor(self, values: Sequence[int] | Sequence[list[int]]) -> Tensor:
        return torch.tensor(values, device=self.device)


def _slot(request: Request) -> int:
    slot = request.context.slot
    assert slot is not None, "a context has a slot once it is seated"
    return slot


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
