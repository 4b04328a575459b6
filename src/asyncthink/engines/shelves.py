"""Where the key-value cache keeps each context: shelves of a few slots, each as long as its longest context.

Slots side by side are read without a copy, and without skipping what no context has reached yet. On a CPU the time
goes into reading the cache, and a skip costs as much as some 30 KiB. Contexts grow and end at different times, so
that short ones come to stand beside long ones and are read to the others' length; moving a context costs about
what reading it costs once, so they are put in order of length again when too much is read in vain.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import groupby

import torch

from asyncthink.engines.llama import Cache, LlamaConfig, Run

SHELF = 32
"""Slots of a shelf: with more a step has less to start, with fewer it reads less past the short ones."""
LENGTH_STEP = 64
"""Positions by which a shelf grows, at least."""
SKIP = 1 << 15
"""Bytes that are rather read in vain, a slot and head, than skipped."""
WASTE = 0.2
"""Share of positions read in vain from which on contexts are put in order again."""
REST = 16
"""Steps from one such order to the next, at least."""
SORTED_BYTES = 2 << 30
"""A cache larger than this is left as it is: for a moment there are two of them."""
GAP = 3
"""Idle slots that are rather computed in vain, between two that are not, than cut a run in two."""


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


class Shelves:
    """The cache of an engine."""

    def __init__(self, config: LlamaConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._shelves: list[Cache | None] = []
        """None: all its slots are free."""
        self._free: list[int] = []
        """A heap of slots."""
        self._seated: dict[int, Context] = {}
        self._released: deque[Context] = deque()
        self._rest = 0
        self._spare: dict[int, list[Cache]] = {}
        """Length -> shelves out of use: taking new memory costs more than what is done with it. What they still hold
        is behind the end of whoever reads it."""

    @property
    def slots(self) -> int:
        """Slots there are, free ones included."""
        return SHELF * len(self._shelves)

    def release(self, context: Context) -> None:
        """Give up a context's slot, at the latest when the next step begins. Any thread may call this."""
        context.closed = True
        self._released.append(context)

    def reclaim(self) -> None:
        """Take back the slots of closed contexts, and the memory of shelves that nobody uses."""
        emptied: set[int] = set()
        while self._released:
            context = self._released.popleft()
            if context.slot is not None:
                heappush(self._free, context.slot)
                del self._seated[context.slot]
                emptied.add(context.slot // SHELF)
                context.slot = None
        free = Counter(slot // SHELF for slot in self._free) if emptied else Counter[int]()
        for shelf in emptied:
            if free[shelf] == SHELF:
                self._put_aside(self._shelves[shelf])
                self._shelves[shelf] = None
        if not self._seated:
            self._rest = 0  # what begins now is served alike, whatever was served before
            self._spare.clear()

    def seat(self, contexts: Sequence[tuple[Context, int]]) -> None:
        """Give a slot to those that have none, and room to all: so many tokens, and one position for padding."""
        self._put_in_order()
        new = [context for context, _ in contexts if context.slot is None]
        for context in sorted(new, key=lambda each: each.order):
            if not self._free:
                self._free = list(range(self.slots, self.slots + SHELF))
                self._shelves.append(None)
            context.slot = heappop(self._free)
            self._seated[context.slot] = context
        lengths: dict[int, int] = {}
        for context, length in contexts:
            assert context.slot is not None, "it has just been given one"
            shelf = context.slot // SHELF
            lengths[shelf] = max(lengths.get(shelf, 0), length)
        for shelf, length in lengths.items():
            self._grow(shelf, length + 1)

    @staticmethod
    def bridged(slots: Sequence[int]) -> list[int]:
        """Return sorted slots with the idle ones between them that make runs longer."""
        found = list(slots[:1])
        for slot in slots[1:]:
            if slot - found[-1] <= GAP + 1 and slot // SHELF == found[-1] // SHELF:
                found += range(found[-1] + 1, slot)
            found.append(slot)
        return found

    def runs(self, slots: Sequence[int], ends: Sequence[int]) -> list[Run]:
        """Cut rows, sorted by slot, into neighbours on one shelf; `ends` says how far each is read."""
        runs: list[Run] = []
        for _, places in groupby(range(len(slots)), key=lambda row: (slots[row] - row, slots[row] // SHELF)):
            rows = list(places)
            shelf, slot = divmod(slots[rows[0]], SHELF)
            cache = self._shelves[shelf]
            assert cache is not None, "a shelf is there once one of its slots is taken"
            length = max(ends[rows[0] : rows[-1] + 1])
            if (cache.length - length) * self._config.head_dim * 4 <= SKIP:
                length = cache.length
            runs.append(Run(cache, slice(rows[0], rows[-1] + 1), slice(slot, slot + len(rows)), length))
        return runs

    def _grow(self, shelf: int, length: int) -> None:
        old = self._shelves[shelf]
        if old is not None:
            if length <= old.length:
                return
            length = max(length, old.length * 5 // 4)
        cache = self._shelves[shelf] = self._cache(length)
        if old is not None:
            cache.take(old)
            self._put_aside(old)

    def _cache(self, length: int) -> Cache:
        length = min(-(-length // LENGTH_STEP) * LENGTH_STEP, self._config.max_position_embeddings + 1)
        if spare := self._spare.get(length):
            return spare.pop()
        return Cache(self._config, SHELF, length, self._device)

    def _put_aside(self, cache: Cache | None) -> None:
        if cache is not None:
            self._spare.setdefault(cache.length, []).append(cache)

    def _put_in_order(self) -> None:
        """Move all contexts, the longest first, onto new shelves, if too much is read in vain."""
        self._rest -= 1
        if self._rest > 0 or len(self._seated) <= SHELF or not self._wasteful():
            return
        self._rest = REST
        moved = sorted(self._seated.values(), key=lambda each: (-each.cached, each.order))
        shelves: list[Cache | None] = []
        for start in range(0, len(moved), SHELF):
            row = moved[start : start + SHELF]
            cache = self._cache(row[0].cached + 1)
            for place, context in enumerate(row):
                self._copy(context, cache, place)
            shelves.append(cache)
        for slot, context in enumerate(moved):
            context.slot = slot
        self._seated = dict(enumerate(moved))
        self._spare.clear()
        for cache in self._shelves:
            self._put_aside(cache)
        self._shelves = shelves
        self._free = list(range(len(moved), self.slots))
        heapify(self._free)

    def _wasteful(self) -> bool:
        """Whether much of what a step over all contexts reads is in vain, and there is room to mend it."""
        shelves = [cache for cache in self._shelves if cache is not None]
        if sum(cache.keys.nbytes + cache.values.nbytes for cache in shelves) > SORTED_BYTES:
            return False
        longest: dict[int, int] = {}
        count = Counter[int]()
        for slot, context in self._seated.items():
            shelf = slot // SHELF
            longest[shelf] = max(longest.get(shelf, 0), context.cached)
            count[shelf] += 1
        read = sum(longest[shelf] * n for shelf, n in count.items())
        used = sum(context.cached for context in self._seated.values())
        return used < (1 - WASTE) * read

    def _copy(self, context: Context, cache: Cache, place: int) -> None:
        assert context.slot is not None, "a seated context has a slot"
        shelf, slot = divmod(context.slot, SHELF)
        old, n = self._shelves[shelf], context.cached
        if old is not None and n:
            cache.keys[:, place, :, :n] = old.keys[:, slot, :, :n]
            cache.values[:, place, :, :n] = old.values[:, slot, :, :n]
