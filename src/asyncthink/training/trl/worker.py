"""Episodes, drawn step by step in a thread of their own, as rows that TRL takes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import anyio
import torch

from asyncthink.errors import EngineError
from asyncthink.training.rows import TrainingRow
from asyncthink.training.trl.library import trl

POLL_SECONDS = 0.05
"""How often a waiting worker looks whether it is to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The rows of one step."""

    rows: Sequence[TrainingRow]
    advantages: Sequence[float]
    """Of each row's episode."""
    groups: Sequence[int]
    """Number of each row's problem."""


class EpisodeWorker:
    """Draws a step's episodes whenever the policy it is to be drawn from is there; TRL's `RolloutWorkerProtocol`.

    It works in a thread of its own, with an event loop of its own.

    Args:
        organization: who thinks; open while the worker lives.
        draw: makes the rows of a step, numbered from 0.
        begin: number of the first step.
        steps: number behind the last.
    """

    def __init__(
        self,
        organization: AbstractAsyncContextManager[object],
        draw: Callable[[int], Awaitable[Drawn]],
        *,
        begin: int,
        steps: int,
    ) -> None:
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[Any] = queue.Queue()
        self.sizes: queue.Queue[int] = queue.Queue()
        """Rows of each step that is in the buffer."""
        self._organization, self._draw = organization, draw
        self._begin, self._steps = begin, steps
        self._version = 0
        """1 once the first weights are there."""
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="episodes", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until nothing is under way."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def update_model_version(self, model_version: int) -> None:
        """Take note that the policy of that version is live."""
        self._version = model_version

    def check_health(self, stale_after_s: float) -> None:
        """Raise what stopped the worker.

        Raises:
            EngineError: the engine failed again and again.
        """
        del (
            stale_after_s
        )  # a step of long thoughts may take as long as it likes: the engine has its own deadlines
        if self._failure is not None:
            raise self._failure
        if not self._thread.is_alive():
            raise EngineError("there are no more episodes: the worker has ended")

    def _work(self) -> None:
        try:
            anyio.run(self._go_on)
        except BaseException as error:  # told by `check_health`, in the thread that trains
            self._failure = error

    async def _go_on(self) -> None:
        async with self._organization, anyio.create_task_group() as group:
            group.start_soon(self._until_stopped, group.cancel_scope)
            try:
                for place, step in enumerate(range(self._begin, self._steps)):
                    await self._step(place, step)
            except Exception as error:  # told as it is, not in a group
                self._failure = error
            group.cancel_scope.cancel()

    async def _step(self, place: int, step: int) -> None:
        while self._version <= place:  # on policy: the step before is trained first
            await anyio.sleep(POLL_SECONDS)
        version = self._version
        drawn = await self._draw(step)
        for sample in samples(drawn, version):
            self.rollout_buffer.put(sample)
        self.sizes.put(len(drawn.rows))

    async def _until_stopped(self, scope: anyio.CancelScope) -> None:
        while not self._stopped.is_set():
            await anyio.sleep(POLL_SECONDS)
        scope.cancel()


def samples(drawn: Drawn, version: int) -> Iterator[Any]:
    """Yield a step's rows as TRL takes them."""
    now = time.time()
    for row, advantage, group in zip(drawn.rows, drawn.advantages, drawn.groups, strict=True):
        yield trl.RolloutSample(
            prompt=[],
            completion=[],
            input_ids=torch.tensor(row.ids),
            completion_mask=torch.tensor(row.trained, dtype=torch.long),
            old_log_probs=torch.tensor(row.logprobs),
            advantage=advantage,
            model_version=version,
            group_id=group,
            metrics={},
            enqueued_at=now,
        )
