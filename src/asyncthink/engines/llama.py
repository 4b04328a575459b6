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
    """The shape of a model, under the names of Hugging Face's config.json."""

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
    """Keys and values of a few sequences, one slot each: [layers, slots, H_kv, S, D]."""

    def __init__(self, config: LlamaConfig, slots: int, length: int, device: torch.device) -> None:
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, device=device)
        self.values = torch.zeros(shape, device=device)

    @property
    def length(self) -> int:
        """Positions that each slot can hold."""
        return self.keys.shape[3]

    def take(self, old: Cache) -> None:
        """Copy what a shorter cache holds."""
        self.keys[:, :, :, : old.length] = old.keys
        self.values[:, :, :, : old.length] = old.values


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of a batch whose slots lie side by side, so that they are read without a copy."""

    cache: Cache
    rows: slice
    slots: slice
    length: int
    """Positions read: at least the longest of these rows, new tokens included."""


@dataclass(frozen=True, slots=True)
class CacheView:
    """Where a batch writes its new positions and how far it reads."""

    runs: Sequence[Run]
    """All rows, in order."""
    mask: Tensor
    """[B, 1, T, longest run], added to the scores: 0 where a query may look, else minus infinity."""


class RMSNorm(nn.Module):
    """Scale to unit root mean square, [..., width]."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape that comes in."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention of one layer, with or without a cache."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.layer = config.head_dim, layer
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: Rope, positions: Tensor, view: CacheView | None) -> Tensor:
        """[B, T, hidden] to the same; `positions` is [B, T]."""
        batch, length, _ = x.shape
        q = rotate(self.q_proj(x).view(batch, length, self.heads, self.head_dim), rope)
        k = rotate(self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim), rope)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim)
        if view is not None:
            out = torch.cat([self._attend(run, q, k, v, positions, view.mask) for run in view.runs])
        else:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            out = self._whole(q, k, v).transpose(1, 2)
        return self.o_proj(out.reshape(batch, length, -1))

    def _whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend within whole sequences, [B, H, T, D].

        In float32 on a CPU, whatever autocast says: torch's kernel for bfloat16 takes 1.4 to 2.5 times as long.
        """
        grouped = self.heads != self.kv_heads
        if q.device.type != "cpu":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        with torch.autocast("cpu", enabled=False):
            q, k, v = q.float(), k.float(), v.float()
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

    def _attend(self, run: Run, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Write the new positions of a run and attend to all of them: [rows, T, H, D]."""
        keys, values = run.cache.keys[self.layer, run.slots], run.cache.values[self.layer, run.slots]
        q, places, mask = q[run.rows], positions[run.rows], mask[run.rows, ..., : run.length]
        rows = torch.arange(len(places), device=places.device)[:, None]
        keys[rows, :, places] = k[run.rows]
        values[rows, :, places] = v[run.rows]
        keys, values = keys[:, :, : run.length], values[:, :, : run.length]
        if q.shape[1] > 1:
            grouped = self.heads != self.kv_heads
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=grouped
            )
            return out.transpose(1, 2)
        # One query a row: the heads that share keys take the place of the queries.
        shared = q.view(len(q), self.kv_heads, -1, self.head_dim) * self.head_dim**-0.5
        scores = (shared @ keys.transpose(-1, -2)).add_(mask)
        return (scores.softmax(-1) @ values).view(q.shape)


class MLP(nn.Module):
    """The gated feed-forward half of a layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden] to the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: Rope, positions: Tensor, view: CacheView | None) -> Tensor:
        """[B, T, hidden] to the same; `positions` is [B, T]."""
        x = x + self.self_attn(self.input_layernorm(x), rope, positions, view)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Everything below the output head."""

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
