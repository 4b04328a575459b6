"""Muon or AdamW for the blocks' matrices, AdamW for the rest."""

from __future__ import annotations

from typing import Any, Literal

import torch

from asyncthink.engines.llama import Llama

BETAS = (0.9, 0.98)


class Optimizers:
    """Two optimizers that step together.

    Args:
        model: what they update.
        optimizer: for the matrices of the blocks.
        learning_rate: peak, for the matrices of the blocks.
        embedding_learning_rate: peak, for embeddings and norms.
        weight_decay: of the matrices of the blocks.
    """

    def __init__(
        self,
        model: Llama,
        *,
        optimizer: Literal["muon", "adamw"],
        learning_rate: float,
        embedding_learning_rate: float,
        weight_decay: float,
    ) -> None:
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        if optimizer == "muon":
            main = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay)
        else:
            main = torch.optim.AdamW(matrices, lr=learning_rate, weight_decay=weight_decay, betas=BETAS)
        other = torch.optim.AdamW(rest, lr=embedding_learning_rate, weight_decay=0.0, betas=BETAS)
        self._peaks = (learning_rate, embedding_learning_rate)
        self._pair: tuple[torch.optim.Optimizer, ...] = (main, other)

    def step(self, scale: float) -> None:
        """Update once, at this share of the peak learning rates, and forget the gradients."""
        for optimizer, peak in zip(self._pair, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad()

    def state(self) -> list[dict[str, Any]]:
        """Return what `load` takes."""
        return [optimizer.state_dict() for optimizer in self._pair]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Go on from a saved state."""
        for optimizer, saved in zip(self._pair, state, strict=True):
            optimizer.load_state_dict(saved)
