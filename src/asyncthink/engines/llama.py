"""The Llama architecture in plain torch: one definition for training and for decoding.

Weights carry the names of Hugging Face's `LlamaForCausalLM`, so that a checkpoint folder loads in
either. Axes: B sequences, T tokens, H heads, D head width, S positions kept in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the positions: [B, T, 1, D] each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True


class Cache:
    """Keys and values of many sequences, one slot each: [layers, slots, H_kv, S, D]."""

    def __init__(self, config: LlamaConfig, slots: int, length: int, device: torch.device) -> None:
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, device=device)
        self.values = torch.zeros(shape, device=device)

    @property
    def slots(self) -> int:
        return self.keys.shape[1]

    @property
    def length(self) -> int:
        """Positions that each slot can hold."""
        return self.keys.shape[3]

    def take(self, old: Cache) -> None:
        """Copy what a smaller cache holds."""
        self.keys[:, : old.slots, :, : old.length] = old.keys
        self.values[:, : old.slots, :, : old.length] = old.values


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of a batch whose slots lie side by side, so that their cache is read without a copy."""

    rows: slice
    slots: slice
    length: int
    """Positions read: the longest of these rows, the new token included."""


@dataclass(frozen=True, slots=True)
class CacheView:
    """Where a batch writes its new positions and how far it reads."""

    cache: Cache
    slots: Tensor
    """[B] slot of each sequence."""
    length: int
    """Positions read: the longest sequence of the batch, new tokens included."""
    mask: Tensor
    """[B, 1, T, length], added to the scores: 0 where a query may look, else minus infinity."""
    runs: Sequence[Run] = ()
    """All rows, in order, where T is 1; empty: the slots are gathered."""


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.layer = config.head_dim, layer
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: Rope, positions: Tensor, view: CacheView | None) -> Tensor:
        batch, length, _ = x.shape
        q = rotate(self.q_proj(x).view(batch, length, self.heads, self.head_dim), rope).transpose(1, 2)
        k = rotate(self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim), rope).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        grouped = self.heads != self.kv_heads
        if view is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:
            keys, values = view.cache.keys[self.layer], view.cache.values[self.layer]
            where = view.slots[:, None].expand_as(positions)
            keys[where, :, positions] = k.transpose(1, 2)
            values[where, :, positions] = v.transpose(1, 2)
            if view.runs:
                out = self._attend_runs(q, keys, values, view)
            else:
                k, v = keys[view.slots, :, : view.length], values[view.slots, :, : view.length]
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=view.mask, enable_gqa=grouped)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))

    def _attend_runs(self, q: Tensor, keys: Tensor, values: Tensor, view: CacheView) -> Tensor:
        """Attend with one query a row, [B, H, 1, D], run by run; reading the cache is what takes the time."""
        batch = q.shape[0]
        q = q.reshape(batch, self.kv_heads, -1, self.head_dim) * self.head_dim**-0.5
        outs: list[Tensor] = []
        for run in view.runs:
            scores = q[run.rows] @ keys[run.slots, :, : run.length].transpose(-1, -2)
            scores += view.mask[run.rows, ..., : run.length]
            outs.append(scores.softmax(-1) @ values[run.slots, :, : run.length])
        return torch.cat(outs).view(batch, self.heads, 1, self.head_dim)


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: Rope, positions: Tensor, view: CacheView | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, positions, view)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """A causal language model; parameters are float32."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        cos, sin = rope_table(config)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    def hidden(self, ids: Tensor, positions: Tensor, view: CacheView | None = None) -> Tensor:
        """Return the final hidden states.

        Args:
            ids: [B, T] token ids.
            positions: [B, T] places in the sequence; padding may point anywhere up to the limit.
            view: where to read and write the cache; None for a whole sequence from its start.

        Returns:
            [B, T, hidden].
        """
        cos: Tensor = self.get_buffer("rope_cos")[positions][:, :, None]
        sin: Tensor = self.get_buffer("rope_sin")[positions][:, :, None]
        x = self.model.embed_tokens(ids)
        for block in self.model.layers:
            x = block(x, (cos, sin), positions, view)
        return self.model.norm(x)

    def forward(self, ids: Tensor, positions: Tensor, view: CacheView | None = None) -> Tensor:
        """Return the logits, [B, T, vocabulary]; arguments as in `hidden`."""
        return self.lm_head(self.hidden(ids, positions, view))


def rope_table(config: LlamaConfig) -> Rope:
    """Return cosines and sines, [positions + 1, D] each; padding may point at the last row."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu")
    frequencies = 1.0 / config.rope_theta ** (half / config.head_dim)
    positions = torch.arange(config.max_position_embeddings + 1, dtype=torch.float32, device="cpu")
    angles = torch.outer(positions, frequencies)
    return angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn [B, T, H, D] by its positions (rotary embedding, the half-split layout of Llama)."""
    cos, sin = rope
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin
