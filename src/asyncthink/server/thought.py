"""One request, thought through: told as it happens or at its end, and kept however it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncthink.episodes.events import Event
from asyncthink.episodes.fold import EpisodeBuilder
from asyncthink.episodes.record import WRITTEN
from asyncthink.errors import RecordError, RequestError
from asyncthink.server.conclusion import Conclusion, conclude
from asyncthink.server.journal import Entry
from asyncthink.server.request import ThoughtRequest
from asyncthink.server.response import Form
from asyncthink.server.settings import Settings
from asyncthink.server.sketch import Sketch
from asyncthink.server.stream import EventStream
from asyncthink.server.transcript import Transcript

SILENCE = 15.0
"""Seconds after which a stream that has nothing to tell gives a sign of life."""


class Thought:
    """One episode for one client. Cancelling what it does stops all its agents."""

    def __init__(self, asked: ThoughtRequest, settings: Settings, entry: Entry) -> None:
        self._asked, self._settings, self._entry = asked, settings, entry
        self._form = Form(id=uuid4().hex, model=asked.model, chat=asked.chat)
        self._builder = EpisodeBuilder()
        self._transcript = Transcript()
        self._sketch = Sketch() if asked.view else None

    async def whole(self) -> dict[str, Any]:
        """Think; return the body of the response.

        Raises:
            RequestError: the engine failed.
        """
        asked, texts = self._asked, list[str]()

        def listen(event: Event) -> None:
            self._builder.apply(event)
            texts.append(self._transcript.take(event))

        try:
            await asked.organization.think(asked.query, seed=asked.seed, listen=listen, name=self._form.id)
        finally:
            await self._keep()
        ended = await self._conclude()
        return self._form.whole(ended.answer, "".join(texts), ended.finish, ended.usage, ended.extension)

    async def streamed(self, stream: EventStream) -> None:
        """Think; write what happens as it happens, and the answer.

        Raises:
            RequestError: the engine failed.
        """
        asked = self._asked
        await stream.write([self._form.begun()])
        try:
            async with asked.organization.stream(
                asked.query, seed=asked.seed, listen=self._builder.apply, name=self._form.id
            ) as events:
                while (batch := await _batch(events)) is not None:
                    await (stream.write(self._chunks(batch)) if batch else stream.breathe())
        finally:
            await self._keep()
        await stream.write(self._ending(await self._conclude()))

    def _chunks(self, batch: Sequence[Event]) -> list[dict[str, Any]]:
        """Return a chunk for each event where they are wanted, else one for all that was written."""
        take, reasoned = self._transcript.take, self._form.reasoned
        if self._asked.events:
            chunks = [{**reasoned(take(event)), "asyncthink": {"event": event}} for event in batch]
        else:
            text = "".join([take(event) for event in batch])
            chunks = [reasoned(text)] if text else []
        drawn = self._sketch and self._sketch.after(batch)
        return [*chunks, {**reasoned(""), "asyncthink": {"drawing": drawn}}] if drawn else chunks

    def _ending(self, ended: Conclusion) -> list[Mapping[str, Any]]:
        answer = [self._form.answered(ended.answer)] if ended.answer else []
        counted = [self._form.counted(ended.usage)] if self._asked.usage else []
        *before, last = [*answer, self._form.finished(ended.finish), *counted]
        return [*before, {**last, "asyncthink": ended.extension}]

    async def _conclude(self) -> Conclusion:
        episode = self._builder.episode()
        if episode.task is None and not self._asked.view:
            ended = conclude(episode, self._asked)
        else:  # a check may take some time, and so may drawing
            ended = await anyio.to_thread.run_sync(conclude, episode, self._asked)
        if ended.failure is not None:
            raise RequestError(ended.failure, status=502, code="engine_error")
        return ended

    async def _keep(self) -> None:
        """Save the episode, an interrupted one as well. That it cannot be saved takes no answer from a client."""
        if not self._builder.finished:
            return
        episode, settings = self._builder.episode(), self._settings
        segments = [segment for trace in episode.traces for segment in trace.segments]
        self._entry.tokens = sum(segment.n_tokens for segment in segments if segment.kind in WRITTEN)
        if settings.save is None:
            return
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(settings.save, episode)
        except RecordError as error:
            settings.note(f"request {self._entry.id}: not saved: {error}")


async def _batch(events: MemoryObjectReceiveStream[Event]) -> list[Event] | None:
    """Return all that has happened since; nothing after a long silence, None at the end."""
    batch: list[Event] = []
    try:
        with anyio.move_on_after(SILENCE):
            batch.append(await events.receive())
        while batch:
            batch.append(events.receive_nowait())
    except (anyio.WouldBlock, anyio.EndOfStream):
        return batch or None
    return batch
