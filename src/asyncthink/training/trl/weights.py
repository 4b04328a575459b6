"""How the weights get from who trains to who samples; TRL's `WeightTransferProtocol`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import anyio
import safetensors.torch
import torch
from torch import Tensor

from asyncthink.engines.llama import Llama
from asyncthink.engines.openai.pieces import one_line
from asyncthink.engines.openai.retry import Retries
from asyncthink.engines.openai.server import meaning
from asyncthink.errors import EngineError
from asyncthink.training.run_folder import copy_beside

RELOAD_SECONDS = 1800.0
"""How long a server may take to read its weights."""


class SharedWeights:
    """Hands weights to a model in this process, which then samples; TRL's `WeightTransferProtocol`.

    Args:
        model: what samples.
    """

    def __init__(self, model: Llama) -> None:
        self.model = model

    def init_weight_transfer(self) -> None:
        """Do nothing: both are here."""

    def pause(self) -> None:
        """Do nothing: on policy, nothing is sampled while the model learns."""

    def send_weights(self, iterator: Iterator[tuple[str, Tensor]]) -> None:
        """Copy each weight into the model's."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in iterator:
                own[name].copy_(tensor)

    def resume(self) -> None:
        """Do nothing."""

    def destroy(self) -> None:
        """Do nothing."""


class ServedWeights:
    """Hands weights to servers, vLLM's or SGLang's, through a file that they can read as well; TRL's `WeightTransferProtocol`.

    The file stands in a whole checkpoint folder, which is what the servers are to be started on. A server that is not
    there is left out, until it takes the weights of a later step.

    Args:
        folder: of that checkpoint; it is made.
        start: folder of the checkpoint to begin with.
        name: of the model at the servers.
        urls: of the servers, up to and including /v1. vLLM's must run with `VLLM_SERVER_DEV_MODE=1`.
    """

    def __init__(self, folder: Path, start: Path, name: str, urls: Sequence[str]) -> None:
        self.folder, self.start, self.name, self.urls = folder.absolute(), start, name, urls
        self.holders: frozenset[str] = frozenset()
        """Servers that hold the weights that were sent last."""

    def init_weight_transfer(self) -> None:
        """Make the folder, all but the weights."""
        copy_beside(self.start, self.folder)
        config = self.folder / "config.json"
        told = json.loads(config.read_text(encoding="utf-8"))
        # vLLM 0.32 on a CPU goes on with the old output layer where it is tied to the embedding.
        self._untied = bool(told.get("tie_word_embeddings"))
        config.write_text(json.dumps(told | {"tie_word_embeddings": False}, indent=2), encoding="utf-8")

    def pause(self) -> None:
        """Do nothing: on policy, nothing is sampled while the model learns."""

    def send_weights(self, iterator: Iterator[tuple[str, Tensor]]) -> None:
        """Write the weights, and have every server read them.

        Raises:
            EngineError: no server did.
        """
        self.write(iterator)
        refusals = anyio.run(self._reload)
        self.holders = frozenset(url for url, refusal in zip(self.urls, refusals, strict=True) if not refusal)
        if not self.holders:
            raise EngineError(
                f"{self.urls[0]} did not take the policy: {refusals[0]}. Start it on the policy's folder: "
                f"VLLM_SERVER_DEV_MODE=1 vllm serve {self.folder} --served-model-name {self.name}"
            )

    def write(self, iterator: Iterator[tuple[str, Tensor]]) -> None:
        """Write the weights, whole or not at all."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in iterator}
        if self._untied:
            tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"].clone())
        part = self.folder / "model.safetensors.part"
        part.touch(mode=0o644)  # servers of another user read it too; by itself safetensors lets nobody
        safetensors.torch.save_file(tensors, part, metadata={"format": "pt"})
        part.replace(self.folder / "model.safetensors")

    async def _reload(self) -> list[str]:
        """Return what each server says against it; nothing if it has the weights."""
        refusals = ["" for _ in self.urls]
        timeout = aiohttp.ClientTimeout(total=RELOAD_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as http, anyio.create_task_group() as group:

            async def ask(place: int, url: str) -> None:
                refusals[place] = await self._ask(http, url.removesuffix("/v1"))

            for place, url in enumerate(self.urls):
                group.start_soon(ask, place, url)
        return refusals

    async def _ask(self, http: aiohttp.ClientSession, root: str) -> str:
        path = str(self.folder)
        orders = {
            "collective_rpc": {"method": "reload_weights", "kwargs": {"weights_path": path}},  # vLLM's
            "update_weights_from_disk": {"model_path": path},  # SGLang's, which empties its cache by itself
        }
        try:
            for route, order in orders.items():
                async with http.post(f"{root}/{route}", json=order) as reply:
                    if reply.status == 404:
                        continue
                    if reply.status != 200:
                        return f"{reply.status}: {one_line(await reply.text())}"
                if route == "update_weights_from_disk":
                    return ""
                async with http.post(f"{root}/reset_prefix_cache") as reply:
                    return "" if reply.status == 200 else f"its prefix cache stays, {reply.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return meaning(error, Retries())
        return "it takes no weights"

    def resume(self) -> None:
        """Do nothing."""

    def destroy(self) -> None:
        """Do nothing: the servers keep the last policy."""
