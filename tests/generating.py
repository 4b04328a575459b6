"""A function that decodes token ids behind token ids with the local engine, as inference servers of trainers do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from asyncthink.engines.base import Chunk, Sampling
from asyncthink.engines.generated import GeneratedEngine, Reply
from asyncthink.engines.local import LocalEngine, LocalSession
from asyncthink.engines.openai.tokens import Tokens


class LocalGenerate:
    """Decodes with a checkpoint on this CPU; random numbers are keyed by request and place."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine

    async def __call__(
        self, request: str, ids: list[int], *, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> Reply:
        lane = self.engine.lane(request)
        prompt = Chunk(text="", n_tokens=len(ids), token_ids=tuple(ids))
        session = LocalSession(lane, prompt, (request, f"{request}/{len(ids)}"))
        try:
            async with session.decode(stops, max_tokens, sampling) as chunks:
                found = [chunk async for chunk in chunks]
        finally:
            session.close()
        return Reply(
            token_ids=tuple(token for chunk in found for token in chunk.token_ids or ()),
            logprobs=tuple(logprob for chunk in found for logprob in chunk.logprobs or ()),
        )


class OverLocal(GeneratedEngine):
    """The engine under test, which here opens the model itself."""

    def __init__(self, folder: Path, context: int) -> None:
        self.local = LocalEngine(folder, threads=1, lanes=1)
        super().__init__(LocalGenerate(self.local), Tokens(folder), name="generated", context=context)

    async def __aenter__(self) -> Self:
        await self.local.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.local.__aexit__(*exc_info)
