"""One torch step for many contexts: each has a slot in a shared cache and gets its next token.

    new text   -> what the cache does not hold yet is prefilled, in right-padded batches
    one token  -> decoded together

The cache is cut into shelves of a few slots, each as long as its longest context: slots side by side are
read without a copy, and without skipping what no context has reached yet. (On a CPU the time goes into
reading the cache, and a skip costs as much as some 30 KiB.)

Everything here runs in the step's thread, except `release` and the making of requests.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
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
SHELF = 32
"""Slots of a shelf: with more a step has less to start, with fewer it reads less past the short ones."""
LENGTH_STEP = 64
"""Positions by which a shelf grows, at least."""
ALONE = 64
"""Tokens of a small model that one thread computes: more threads would mostly wait for each other, and on a
busy machine for their turn."""
SKIP = 1 << 15
"""Bytes that are rather read in vain, a slot and head, than skipped."""


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
        """Whether the step has dealt with it."""
        return self.token is not None or self.error is not None


class Batch:
    """The contexts of an engine."""

    def __init__(self, model: Llama, device: torch.device, threads: int | None = None) -> None:
        self.model, self.device, self.threads = model, device, threads
        self.prefilled = 0
        """Tokens that went through the model, without padding."""
        self._shelves: list[Cache | None] = []
        """None: all its slots are free."""
        self._free: list[int] = []
        """A heap of slots."""
        self._released: deque[Context] = deque()
        self._lock = Lock()
        self._usual = torch.get_num_threads()
        self._small = device.type == "cpu" and model.config.hidden_size < 1024

    def release(self, context: Context) -> None:
        """Give up a context's slot, at the latest when the next step begins. Any thread may call this."""
        context.closed = True
        self._released.append(context)

    @property
    def slots(self) -> int:
        """Slots there are, free ones included."""
        return SHELF * len(self._shelves)

    def step(self, requests: Sequence[Request]) -> None:
        """Answer the requests that are not answered yet; raises nothing."""
        with self._lock, torch.inference_mode():
            threads = self._usual if self.threads is None else self.threads
            if self.threads is None and self._small and sum(len(each.ids) for each in requests) <= ALONE:
                threads = 1
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
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
        ids = [each.ids[:width] + [0] * (width - count) for each, count in zip(group, counts, strict=True)]
        runs = self._runs([_slot(each) for each in group], ends)
        spare = [run.cache.length - 1 for run in runs for _ in range(run.rows.start, run.rows.stop)]
        positions = self._tensor(starts)[:, None] + torch.arange(width, device=self.device)
        positions = positions.minimum(self._tensor(spare)[:, None])
        view = CacheView(runs, self._mask(positions, max(run.length for run in runs)))
        hidden = self.model.hidden(self._tensor(ids), positions, view)
        last = hidden[torch.arange(len(group), device=self.device), self._tensor(counts) - 1]
        for request, count, end in zip(group, counts, ends, strict=True):
            del request.ids[:count]
            request.context.cached = end
        self.prefilled += sum(counts)
        return self.model.lm_head(last)

    def _mask(self, positions: Tensor, length: int) -> Tensor:
        unseen = torch.arange(length, device=self.device) > positions[..., None]
        return torch.zeros(unseen.shape, device=self.device).masked_fill_(unseen, -torch.inf)[:, None]

    def _runs(self, slots: Sequence[int], ends: Sequence[int]) -> list[Run]:
        """Cut rows, sorted by slot, into neighbours on one shelf."""
        runs: list[Run] = []
        for _, places in groupby(range(len(slots)), key=lambda row: (slots[row] - row, slots[row] // SHELF)):
            rows = list(places)
            shelf, slot = divmod(slots[rows[0]], SHELF)
            cache = self._shelves[shelf]
            assert cache is not None, "a shelf is there once one of its slots is taken"
            length = max(ends[rows[0] : rows[-1] + 1])
            if (cache.length - length) * self.model.config.head_dim * 4 <= SKIP:
                length = cache.length
            runs.append(Run(cache, slice(rows[0], rows[-1] + 1), slice(slot, slot + len(rows)), length))
        return runs

    def _tensor(self, values: Sequence[int] | Sequence[list[int]]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _seat(self, requests: Sequence[Request]) -> None:
        """Give a slot to those that have none, and room to all."""
        new = [each.context for each in requests if each.context.slot is None]
        for context in sorted(new, key=lambda each: each.order):
            if not self._free:
                self._free = list(range(self.slots, self.slots + SHELF))
                self._shelves.append(None)
            context.slot = heappop(self._free)
        lengths: dict[int, int] = {}
        for request in requests:
            shelf = _slot(request) // SHELF
            lengths[shelf] = max(lengths.get(shelf, 0), request.length)
        for shelf, length in lengths.items():
            self._grow(shelf, length + 1)  # one position is left over for padding

    def _grow(self, shelf: int, length: int) -> None:
        old = self._shelves[shelf]
        if old is not None:
            if length <= old.length:
                return
            length = max(length, old.length * 5 // 4)
        length = -(-length // LENGTH_STEP) * LENGTH_STEP
        longest = self.model.config.max_position_embeddings + 1
        cache = self._shelves[shelf] = Cache(self.model.config, SHELF, min(length, longest), self.device)
        if old is not None:
            cache.take(old)

    def _reclaim(self) -> None:
        """Take back the slots of closed contexts, and the memory of shelves that nobody uses."""
        emptied: set[int] = set()
        while self._released:
            context = self._released.popleft()
            if context.slot is not None:
                heappush(self._free, context.slot)
                emptied.add(context.slot // SHELF)
                context.slot = None
        free = Counter(slot // SHELF for slot in self._free) if emptied else Counter[int]()
        for shelf in emptied:
            if free[shelf] == SHELF:
                self._shelves[shelf] = None


def _slot(request: Request) -> int:
    slot = request.context.slot
    assert slot is not None, "a context has a slot once it is seated"
    return slot


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
