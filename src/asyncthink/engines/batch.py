"""One torch step for many contexts: each has a slot in a shared cache and gets its next token.

    new text   -> what the cache does not hold yet is prefilled, in right-padded batches
    one token  -> decoded together; contexts in neighbouring slots are read without a copy

Everything here runs in the step's thread, except `release` and the making of requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import groupby
from threading import Lock

import torch
from torch import Tensor

from asyncthink.engines.base import Sampling
from asyncthink.engines.llama import Cache, CacheView, Llama, Run
from asyncthink.engines.sampling import choose, uniform
from asyncthink.errors import EngineError

CHUNK = 512
"""Tokens of one context that are prefilled at a time."""
PREFILL_TOKENS = 4096
"""Tokens, padding included, that are prefilled together."""
RUN = 16
"""Slots read together: more cost less to start, fewer read less past the end of the short ones."""
LENGTH_STEP = 128
"""Positions by which the cache grows, at least."""


@dataclass(slots=True, eq=False)
class Context:
    """One agent's tokens, and how many of them the cache holds."""

    order: tuple[str, str]
    """Episode and path: slots are given in this order."""
    ids: list[int]
    """Changed by the session alone."""
    cached: int = 0
    """Changed by the step alone."""
    slot: int | None = None
    closed: bool = False


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
        return self.token is not None or self.error is not None


class Batch:
    """The contexts of an engine."""

    def __init__(self, model: Llama, device: torch.device, threads: int | None = None) -> None:
        self.model, self.device, self.threads = model, device, threads
        self.prefilled = 0
        """Tokens that went through the model, without padding."""
        self._cache = Cache(model.config, 0, 0, device)
        self._free: list[int] = []
        self._released: deque[Context] = deque()
        self._lock = Lock()

    def release(self, context: Context) -> None:
        """Give up a context's slot, at the latest when the next step begins. Any thread may call this."""
        context.closed = True
        self._released.append(context)

    @property
    def slots(self) -> int:
        """Slots in the cache, free ones included."""
        return self._cache.slots

    def step(self, requests: Sequence[Request]) -> None:
        """Answer the requests that are not answered yet; raises nothing."""
        with self._lock, torch.inference_mode():
            if self.threads is not None and torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)
            self._reclaim()
            waiting = [each for each in requests if not each.answered and not each.context.closed]
            try:
                self._seat(waiting)
                self._answer(waiting)
            except Exception as error:  # whatever torch raises belongs to those who wait, not to this thread
                failure = EngineError(f"the local engine failed: {_first_line(error)}")
                failure.__cause__ = error
                for request in waiting:
                    request.error = failure

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
                self._forward([request], CHUNK)
            if group and (len(group) + 1) * len(group[0].ids) > PREFILL_TOKENS:
                yield group
                group = []
            group.append(request)
        if group:
            yield group

    def _forward(self, group: Sequence[Request], limit: int = CHUNK) -> Tensor:
        """Feed what each has pending, up to `limit` tokens; return the logits of the last, [B, vocabulary]."""
        counts = [min(len(each.ids), limit) for each in group]
        starts = [each.length - len(each.ids) for each in group]
        width = max(counts)
        ids = [each.ids[:limit] + [0] * (width - count) for each, count in zip(group, counts, strict=True)]
        offsets = torch.arange(width, device=self.device)
        # Padding is written behind a context's end, where the next token overwrites it before it is read.
        positions = self._tensor(starts)[:, None] + offsets
        positions.clamp_(max=self._cache.length - 1)
        hidden = self.model.hidden(self._tensor(ids), positions, self._view(group, starts, counts, positions))
        last = hidden[:, 0] if width == 1 else hidden[range(len(group)), [count - 1 for count in counts]]
        for request, start, count in zip(group, starts, counts, strict=True):
            del request.ids[:count]
            request.context.cached = start + count
        self.prefilled += sum(counts)
        return self.model.lm_head(last)

    def _view(self, group: Sequence[Request], starts: list[int], counts: list[int], positions: Tensor) -> CacheView:
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        slots, length = [_slot(each) for each in group], max(ends)
        hidden = torch.arange(length, device=self.device) > positions[..., None]
        mask = torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, -torch.inf)
        runs = _runs(slots, ends) if max(counts) == 1 else ()
        return CacheView(self._cache, self._tensor(slots), length, mask[:, None], runs)

    def _tensor(self, values: Sequence[int] | Sequence[list[int]]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _seat(self, requests: Sequence[Request]) -> None:
        """Give a slot to those that have none, and room to all."""
        new = sorted((each.context for each in requests if each.context.slot is None), key=lambda each: each.order)
        # One position is left over for padding.
        self._grow(len(new) - len(self._free), 1 + max((each.length for each in requests), default=0))
        for context in new:
            context.slot = heappop(self._free)

    def _grow(self, missing: int, length: int) -> None:
        old = self._cache
        slots = old.slots if missing <= 0 else old.slots + max(missing, old.slots // 2)
        if length > old.length:
            length = max(-(-length // LENGTH_STEP) * LENGTH_STEP, old.length * 5 // 4)
        else:
            length = old.length
        if (slots, length) == (old.slots, old.length):
            return
        longest = self.model.config.max_position_embeddings + 1
        self._cache = Cache(self.model.config, slots, min(length, longest), self.device)
        self._cache.take(old)
        self._free += range(old.slots, slots)
        heapify(self._free)

    def _reclaim(self) -> None:
        while self._released:
            context = self._released.popleft()
            if context.slot is not None:
                heappush(self._free, context.slot)
                context.slot = None


def _runs(slots: Sequence[int], ends: Sequence[int]) -> list[Run]:
    """Cut rows, sorted by slot, where slots are not neighbours, and at multiples of RUN."""
    runs: list[Run] = []
    for _, places in groupby(range(len(slots)), key=lambda row: (slots[row] - row, slots[row] // RUN)):
        rows = list(places)
        first, stop = rows[0], rows[-1] + 1
        neighbours = slice(slots[first], slots[stop - 1] + 1)
        runs.append(Run(slice(first, stop), neighbours, max(ends[first:stop])))
    return runs


def _slot(request: Request) -> int:
    slot = request.context.slot
    assert slot is not None, "a context has a slot once it is seated"
    return slot


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
