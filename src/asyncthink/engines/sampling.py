"""From logits to tokens: each random number is a hash of what it is for, so that siblings never matter."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import cast

import torch
from torch import Tensor

from asyncthink.engines.base import Sampling

BITS = 52
"""Of a random number: with these, u * total < total holds in float64."""


def uniform(seed: int, path: str, position: int) -> float:
    """Return the random number in [0, 1) for a token's place in the context of an agent."""
    digest = blake2b(f"{seed}\n{path}\n{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> (64 - BITS)) / (1 << BITS)


def choose(
    logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Choose a token for each row.

    Args:
        logits: [B, vocabulary], float32.
        samplings: how, for each row.
        uniforms: a random number for each row; not used where the temperature is 0.

    Returns:
        Token ids and their natural log-probabilities at temperature 1.
    """
    tokens = logits.argmax(-1)
    rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if rows:
        drawn = _draw(logits[rows].double().cpu(), [samplings[r] for r in rows], [uniforms[r] for r in rows])
        tokens[rows] = drawn.to(tokens.device)
    logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return cast("list[int]", tokens.tolist()), cast("list[float]", logprobs.tolist())


def _draw(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """Invert the cumulative distribution of each row, in float64."""
    temperature = torch.tensor([sampling.temperature for sampling in samplings], dtype=torch.float64)
    # The largest logit is taken away first, so that no temperature is too low to divide by.
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature[:, None]).softmax(-1)
    if any(sampling.top_p < 1 for sampling in samplings):
        top_p = torch.tensor([sampling.top_p for sampling in samplings], dtype=torch.float64)
        largest, token = probabilities.max(-1)
        # Sorting is dear, and most of a trained model's tokens are a nucleus by themselves.
        alone = largest >= top_p
        unsure = probabilities[~alone]
        probabilities[~alone] = unsure * nucleus(unsure, top_p[~alone, None])
        probabilities[alone] = torch.zeros_like(probabilities[alone]).scatter_(-1, token[alone, None], 1.0)
    cumulative = probabilities.cumsum(-1)
    points = torch.tensor(uniforms, dtype=torch.float64)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points, right=True)[:, 0]


def nucleus(probabilities: Tensor, top_p: Tensor | float) -> Tensor:
    """Return which tokens are among the likeliest that together have `top_p`, the one that crosses it included.

    Args:
        probabilities: [B, vocabulary].
        top_p: one number, or [B, 1].
    """
    ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(kept).scatter_(-1, places, kept)
