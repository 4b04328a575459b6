"""The clipped policy gradient over rows.

    ratio_t = pi(token_t) / pi_old(token_t)
    l_t     = -w_t * min(ratio_t * A, clip(ratio_t, 1 - low, 1 + high) * A)
    loss    = sum over rows and trained tokens of l_t / N

A is the advantage of the row's episode, N the number of trained tokens of the whole update, w_t the truncated
importance weight min(pi_old / pi_sampler, cap), or 1. On policy, with one update a step, the ratio is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec
import torch
from torch import Tensor


class Aggregation(StrEnum):
    """How the tokens of a step make one number."""

    TOKEN = "token"
    """Sum over trained tokens / trained tokens of the step: every token weighs the same."""
    ROW = "row"
    """Mean over the tokens of each row, then over rows: GRPO as first published. A short row's tokens weigh more."""
    CONSTANT = "constant"
    """Sum over trained tokens / (rows x `constant`): no length in the denominator (Dr. GRPO)."""


@dataclass(frozen=True, kw_only=True)
class LossRecipe:
    """Switches of the loss."""

    clip_low: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    clip_high: Annotated[float, msgspec.Meta(ge=0)] = 0.28
    aggregation: Aggregation = Aggregation.TOKEN
    constant: Annotated[int, msgspec.Meta(ge=1)] = 1024
    """For the aggregation `constant`."""
    importance_cap: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Truncated importance weights between the trainer's and the sampler's model; None: none."""
    kl: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """beta: weight of KL(model || model the training began with), a token. What the reward is silent about, such as a
    worker's sums, is otherwise worn away by the noise of the gradient. With `rollout.top_p` below 1, only tokens that
    the model it began with was sure of are held; what was a choice is free."""


def row_weights(counts: Sequence[int], recipe: LossRecipe) -> list[float]:
    """Return what a trained token of each row weighs in the step's loss.

    Args:
        counts: trained tokens of each row of the step.
        recipe: which aggregation.
    """
    match recipe.aggregation:
        case Aggregation.TOKEN:
            return [1 / sum(counts)] * len(counts)
        case Aggregation.ROW:
            return [1 / (count * len(counts)) for count in counts]
        case Aggregation.CONSTANT:
            return [1 / (len(counts) * recipe.constant)] * len(counts)


def policy_loss(
    logprobs: Tensor, old: Tensor, sampler: Tensor, advantage: Tensor, weight: Tensor, recipe: LossRecipe
) -> Tensor:
    """Return the loss of some trained tokens of a step, all arguments [N]; its parts add up to the step's.

    Args:
        logprobs: of the model that learns, with gradients.
        old: of the model as it was when the step began; on policy `logprobs.detach()`.
        sampler: as recorded when the tokens were sampled.
        advantage: of each token's episode.
        weight: of each token's row, by `row_weights`.
        recipe: the switches.
    """
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - recipe.clip_low, 1 + recipe.clip_high)
    gained = torch.minimum(ratio * advantage, clipped * advantage)
    if recipe.importance_cap is not None:
        gained = gained * (old - sampler).exp().clamp(max=recipe.importance_cap)
    return -(gained * weight).sum()


def divergence(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return KL(model || reference) of each token's distribution, [N], summed over the vocabulary.

    Args:
        logprobs: of all tokens, [N, vocabulary], with gradients.
        reference: the same of the model that is not to be left.
    """
    return (logprobs.exp() * (logprobs - reference)).sum(-1)


def n_clipped(logprobs: Tensor, old: Tensor, advantage: Tensor, recipe: LossRecipe) -> int:
    """Return how many tokens have no gradient because their ratio is clipped; arguments as in `policy_loss`."""
    ratio = (logprobs - old).exp()
    high = (ratio > 1 + recipe.clip_high) & (advantage > 0)
    low = (ratio < 1 - recipe.clip_low) & (advantage < 0)
    return int((high | low).sum().item())
