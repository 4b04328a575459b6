"""A model in this process: plain torch, every session of the engine decoded in one batch.

    async with LocalEngine("models/embedded") as engine:
        session = engine.open(messages, role="organizer", episode="0", path="0", capacity=4)
        async with session.decode(["</JOIN-1>"], 512, Sampling(seed=1)) as chunks:
            async for chunk in chunks:
                ...

Sessions move in lockstep: a step is taken when all that are awake have asked for a token. It runs in a
worker thread on behalf of one of them, is never cut short, and gives one token to each that takes part. A
session that is cancelled meanwhile loses its token and nothing else; asked again, it draws the same one.

Episodes are dealt out to lanes, each with a lockstep, a cache and a thread of its own: while one lane computes,
the agents of another are served. Lanes at work share torch's threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from anyio import CancelScope, CapacityLimiter, to_thread

from asyncthink.engines.base import Capabilities, Chunk, Message, Sampling
from asyncthink.engines.batch import SMALL, Batch, Request
from asyncthink.engines.checkpoint import Checkpoint, load_checkpoint
from asyncthink.engines.detokenize import Detokenizer, TokenBytes
from asyncthink.engines.lexicon import load_profile
from asyncthink.engines.lockstep import Lockstep
from asyncthink.engines.prompting import Prompts
from asyncthink.engines.shelves import Context
from asyncthink.errors import ContextFullError, EngineError, UsageError


class LocalEngine:
    """An engine over a checkpoint folder.

    Args:
        folder: a Llama checkpoint in the standard layout.
        name: what the record calls it; the folder's name if None.
        device: where it runs; "auto" is a GPU where there is one.
        threads: of torch, for each lane; None: as they are, shared by the lanes at work, and one for small steps of
            small models.
        lanes: how many; None: one for each of torch's threads where a small model runs on the CPU, else one.
        loaded: the checkpoint, where it is in memory already: a model in training, which then is what decodes.

    Raises:
        CheckpointError: there is no such folder; on entering, it cannot be loaded.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        lanes: int | None = None,
        loaded: Checkpoint | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.name = name or self.folder.name
        self.capabilities = Capabilities(token_ids=True, streaming=True, continues=True, lockstep=True)
        self.profile = load_profile(self.folder)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._threads, self._n_lanes = threads, lanes
        self._loaded = loaded
        self._lanes: list[Running] = []

    async def __aenter__(self) -> Self:
        checkpoint = self._loaded or await to_thread.run_sync(load_checkpoint, self.folder, self._device)
        longest = checkpoint.model.config.max_position_embeddings
        self.capabilities = replace(self.capabilities, context=longest)
        small = self._device.type == "cpu" and checkpoint.model.config.hidden_size < SMALL
        count = self._n_lanes or (torch.get_num_threads() if small and self._threads is None else 1)
        for _ in range(count):
            batch = Batch(checkpoint.model, self._device, self._threads, at_work=self._at_work)
            self._lanes.append(Running(self.folder, checkpoint, batch))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._lanes = []

    @property
    def lanes(self) -> list[Running]:
        """What is held open; a UsageError while nothing is."""
        if not self._lanes:
            raise UsageError("the engine is not open: use it in 'async with'")
        return self._lanes

    def _at_work(self) -> int:
        """How many lanes share the machine now."""
        return sum(bool(lane.episodes) for lane in self._lanes)

    def lane(self, episode: str) -> Running:
        """Return the lane that an episode is in, for a new one the emptiest."""
        return next(
            (lane for lane in self.lanes if lane.episodes[episode]),
            min(self.lanes, key=lambda lane: lane.episodes.total()),
        )

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> LocalSession:
        """Begin a context; its session is awake."""
        return self.lane(episode).open(messages, role=role, episode=episode, path=path, capacity=capacity)


class Running:
    """One lane: what an engine holds while it is open."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, batch: Batch) -> None:
        self.batch = batch
        self.episodes = Counter[str]()
        """Open sessions of each episode; entries without any are removed."""
        self.prompts = Prompts(folder, checkpoint)
        self.token_bytes = TokenBytes(checkpoint.tokenizer)
        self.eos = frozenset(checkpoint.eos)
        self.limit = checkpoint.model.config.max_position_embeddings
        self.lockstep = Lockstep(self.step)
        self._limiter = CapacityLimiter(1)

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> LocalSession:
        """Begin a context; its session is awake."""
        prompt = self.prompts.build(messages, role=role, capacity=capacity)
        return LocalSession(self, prompt, (episode, path))

    async def step(self, members: Sequence[object]) -> None:
        """Answer the requests of a tick that are this lane's; those that were answered before are left alone."""
        requests = [
            each.request
            for each in members
            if isinstance(each, LocalSession) and each.running is self and each.request
        ]
        with CancelScope(shield=True):
            await to_thread.run_sync(self.batch.step, requests, limiter=self._limiter)


class LocalSession:
    """One agent's context; see `Session` for the contract."""

    def __init__(self, running: Running, prompt: Chunk, order: tuple[str, str]) -> None:
        self.prompt = prompt
        self.context = Context(order=order, ids=list(prompt.token_ids or ()))
        self.request: Request | None = None
        """The token that it waits for."""
        self.running = running
        running.episodes[order[0]] += 1
        self.wake()

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens of the context: prompt, decoded and inserted."""
        return tuple(self.context.ids)

    def decode(self, stops: Sequence[str], max_tokens: int, sampling: Sampling) -> Decoding:
        """Decode one token a chunk.

        It ends behind the token that completes a stop string, at the end-of-sequence token (a chunk without
        text that counts as a token), or after max_tokens.

        Raises:
            UsageError: the sampling makes no sense.
            EngineError: while iterating, when the context is full.
        """
        if not (sampling.temperature >= 0 and 0 < sampling.top_p <= 1):
            raise UsageError(f"temperature must be 0 or more and top_p in (0, 1]: {sampling}")
        return Decoding(self, stops, max_tokens, sampling)

    async def next(self, sampling: Sampling) -> tuple[int, float]:
        """Decode one token; return it with its log-probability."""
        self._check()
        request = self.request = Request(self.context, sampling)
        await self.running.lockstep.arrive(self)
        if request.error is not None:
            raise request.error
        if request.token is None:
            raise EngineError("the session was closed while it decoded")
        self.context.ids.append(request.token)
        return request.token, request.logprob

    def _check(self) -> None:
        if self.context.closed:
            raise EngineError("the session is closed")
        if not self.context.ids:
            raise EngineError("the prompt is empty: the model has nothing to go on from")
        if len(self.context.ids) >= self.running.limit:
            raise ContextFullError(f"the model's context of {self.running.limit} tokens is full")

    def insert(self, text: str) -> Chunk:
        """Append text that the model did not write; only these tokens are prefilled."""
        chunk = self.running.prompts.insertion(text)
        self.context.ids += chunk.token_ids or ()
        return chunk

    def trim(self, characters: int) -> None:
        """Refuse: every chunk is one token, which cannot be cut."""
        raise EngineError(f"a token cannot be cut, not by {characters} characters")

    @property
    def usage(self) -> None:
        """Nobody counts."""
        return

    def rest(self) -> None:
        """The agent waits for somebody else."""
        self.running.lockstep.rest(self)

    def wake(self) -> None:
        """Its wait is over."""
        if not self.context.closed:
            self.running.lockstep.wake(self)

    def close(self) -> None:
        """Free the slot; may be called twice."""
        if not self.context.closed:
            episodes, episode = self.running.episodes, self.context.order[0]
            episodes[episode] -= 1
            if not episodes[episode]:
                del episodes[episode]
            self.running.batch.release(self.context)
            self.running.lockstep.rest(self)


class Decoding:
    """One block of decoded text: an async context manager and the iterator over its chunks."""

    def __init__(
        self, session: LocalSession, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> None:
        self._session, self._sampling = session, sampling
        self._stops = [stop for stop in stops if stop]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._left = max_tokens
        self._tail = ""
        """The end of the text so far: where a stop string may have begun."""
        self._text = Detokenizer(session.running.token_bytes)

    async def __aenter__(self) -> Decoding:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._left = 0

    def __aiter__(self) -> Decoding:
        return self

    async def __anext__(self) -> Chunk:
        if self._left <= 0:
            raise StopAsyncIteration
        token, logprob = await self._session.next(self._sampling)
        self._left -= 1
        ended = token in self._session.running.eos
        text = "" if ended else self._text.feed(token)
        if ended or self._stopped(text):
            self._left = 0
        if self._left <= 0:
            text += self._text.flush()
        return Chunk(text=text, n_tokens=1, token_ids=(token,), logprobs=(logprob,))

    def _stopped(self, text: str) -> bool:
        """Whether a stop string is complete with this text."""
        seen = self._tail + text
        self._tail = seen[-self._reach :] if self._reach else ""
        return any(stop in seen for stop in self._stops)
