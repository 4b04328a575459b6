"""How the weights get from who trains to who samples; TRL's `WeightTransferProtocol`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from asyncthink.engines.llama import Llama


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
