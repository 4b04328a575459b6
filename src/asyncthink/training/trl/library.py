"""TRL's module of the asynchronous trainer, what takes the place of a GPU in it, and the states that TRL saves."""

from __future__ import annotations

import json
import os
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from asyncthink.errors import UsageError

with catch_warnings():  # that it is experimental is why its version is pinned
    simplefilter("ignore")
    trl: Any = import_module("trl.experimental.async_grpo.async_grpo_trainer")


def one_process() -> None:
    """Refuse several processes or GPUs, which TRL would share the rows out to.

    Raises:
        UsageError: there are several.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" or torch.cuda.device_count() > 1:
        raise UsageError("TRL trains in one process on one GPU here: choose it, as in CUDA_VISIBLE_DEVICES=0")


def without_gpu() -> None:
    """Replace what TRL's trainer needs of a GPU: a table of its speed, and the attention kernel, by SDPA path by path."""
    trl.register_tree_attention()
    AttentionInterface.register(trl.TREE_ATTENTION, tree_attention)
    trl.register_tree_attention = trl.get_peak_flops_per_device = _nothing


def _nothing(*_: object) -> None:
    """Know nothing, and do nothing."""


def tree_attention(
    _: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **tree: Any
) -> tuple[Tensor, None]:
    """Do what TRL's kernel does, path by path: [1, H, N, D] to [1, N, H, D]."""
    ends = (tree["tree_cu_seqlens_q"].tolist(), tree["tree_cu_seqlens_k"].tolist())
    own, seen = ([end - begin for begin, end in pairwise(each)] for each in ends)
    keys, values = (
        torch.split(each.index_select(2, tree["tree_kv_index"]), seen, 2) for each in (key, value)
    )
    grouped = query.shape[1] != key.shape[1]
    found: list[Tensor] = []
    for q, k, v in zip(torch.split(query, own, 2), keys, values, strict=True):
        before = k.shape[2] - q.shape[2]
        shown = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(before) if before else None
        options: dict[str, Any] = {"attn_mask": shown, "is_causal": not before, "enable_gqa": grouped}
        found.append(F.scaled_dot_product_attention(q, k, v, scale=scaling, **options))
    return torch.cat(found, dim=2).transpose(1, 2), None


def last_state(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """Return the last of TRL's saved states that is whole, and what it says of the trainer; None where there is none."""
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    for file in folder.glob("checkpoint-*/trainer_state.json"):  # written last
        try:
            state: dict[str, Any] = json.loads(file.read_bytes())
        except ValueError:
            continue
        found[state["global_step"]] = file.parent, state
    return found[max(found)] if found else (None, {})
