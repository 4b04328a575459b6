"""Who samples the episodes, and how the weights get there."""

from __future__ import annotations

from pathlib import Path

from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.openai import OpenAIEngine
from asyncthink.training.trl.weights import ServedWeights, SharedWeights


class LocalPolicy:
    """The local engine, in the process that trains: a Llama, on policy.

    Args:
        start: folder of the checkpoint to begin with.
        name: of the model, in records.
        lanes: cores that sample.
    """

    def __init__(self, start: Path, name: str, *, lanes: int) -> None:
        checkpoint = load_checkpoint(start)
        self.engine = LocalEngine(start, name=name, device="cpu", threads=1, lanes=lanes, loaded=checkpoint)
        self.weights = SharedWeights(checkpoint.model)

    def renew(self) -> None:
        """Do nothing: the weights are the engine's own."""


class ServedPolicy:
    """Servers of the checkpoint to begin with, which get its weights again after each step.

    Args:
        start: folder of that checkpoint: its tokenizer and templates.
        name: of the model at the servers.
        servers: their addresses, separated by commas.
        folder: where weights are handed over; None: by TRL's own transfer, to one server.
    """

    def __init__(self, start: Path, name: str, servers: str, folder: Path | None) -> None:
        # No seeds: a server that batches what comes is not repeatable, and draws more slowly with one a request.
        self.engine = OpenAIEngine(name, base_url=servers, tokenizer=start, extra_body={"seed": None})
        self.weights = ServedWeights(folder, start, name, self.engine.urls) if folder else None
        self._steps = 0

    def renew(self) -> None:
        """Sample from the servers that hold the last weights; what they computed with earlier ones is not used."""
        self._steps += 1
        holders = self.weights.holders if self.weights else self.engine.urls
        self.engine.hold(f"policy-{self._steps}", holders)
