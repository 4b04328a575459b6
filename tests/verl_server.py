"""What stands in for verl's vLLM server: the same method over the local engine, as an actor of Ray's."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from generating import LocalGenerate

from asyncthink.engines.base import Sampling
from asyncthink.engines.local import LocalEngine


class LocalServer:
    """One replica."""

    def __init__(self, folder: Path, version: int) -> None:
        self.engine = LocalEngine(folder, threads=1, lanes=1)
        self.version = version
        self.seen: list[tuple[int, ...]] = []
        self._output: Any = import_module("verl.workers.rollout.replica").TokenOutput

    async def open(self) -> None:
        await self.engine.__aenter__()

    async def prompts(self) -> list[tuple[int, ...]]:
        return self.seen

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: None = None,
        video_data: None = None,
    ) -> Any:
        self.seen.append(tuple(prompt_ids))
        sampling = Sampling(temperature=sampling_params["temperature"], top_p=sampling_params["top_p"])
        reply = await LocalGenerate(self.engine)(
            request_id,
            prompt_ids,
            stops=sampling_params["stop"],
            max_tokens=sampling_params["max_tokens"],
            sampling=sampling,
        )
        return self._output(
            token_ids=list(reply.token_ids),
            log_probs=list(reply.logprobs or ()),
            stop_reason="completed",
            extra_fields={"global_steps": self.version},
        )
