"""One step's update: rows with their advantages -> loss, gradient, new weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn import functional as F

from asyncthink.engines.llama import Llama
from asyncthink.errors import DivergedError
from asyncthink.training.loss import LossRecipe, n_clipped, policy_loss, row_weights
from asyncthink.training.optimizers import Optimizers
from asyncthink.training.rl_recipe import UpdateRecipe
from asyncthink.training.rows import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Updated:
    """What an update did."""

    loss: float
    gradient_norm: float
    """Before it was cut to `max_norm`."""
    rows: int
    tokens: int
    """Trained tokens."""
    kl: float
    """Mean over trained tokens of exp(d) - 1 - d, with d the log-probability of the model that learns less the
    sampler's: an estimate of KL(sampler || model) that is never negative."""
    entropy: float
    """Mean over trained tokens of minus their log-probability: an estimate of the policy's entropy, in nats."""
    clipped: float
    """Share of trained tokens without a gradient because their ratio is clipped."""


def token_logprobs(model: Llama, batch: Sequence[TrainingRow]) -> Tensor:
    """Return the log-probabilities of a batch's trained tokens, row by row: [N]."""
    width = max(len(row.ids) for row in batch)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in batch])
    mask = torch.tensor([[*row.trained, *[False] * (width - len(row.ids))] for row in batch])[:, 1:]
    inputs = ids[:, :-1]
    hidden = model.hidden(inputs, torch.arange(width - 1).expand_as(inputs))
    return -F.cross_entropy(model.lm_head(hidden[mask]).float(), ids[:, 1:][mask], reduction="none")


def batches_of(rows: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield places of rows of like length, at most `batch_tokens` padded tokens together.

    Args:
        rows: length of each row.
        batch_tokens: at most so many; a longer row comes alone.
    """
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda each: (rows[each], each)):
        if batch and (len(batch) + 1) * rows[place] > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


class Updater:
    """Turns rows into steps of the optimizer."""

    def __init__(self, model: Llama, optimizers: Optimizers, loss: LossRecipe, update: UpdateRecipe) -> None:
        self.model, self.optimizers = model, optimizers
        self.loss, self.update = loss, update

    def old_logprobs(self, rows: Sequence[TrainingRow]) -> list[Tensor]:
        """Return the log-probabilities of each row's trained tokens under the model as it is."""
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        with torch.no_grad():
            for places in batches_of([len(row.ids) for row in rows], self.update.batch_tokens):
                flat = self._logprobs([rows[place] for place in places])
                parts = torch.split(flat, [rows[place].n_trained for place in places])
                for place, part in zip(places, parts, strict=True):
                    found[place] = part
        return found

    def step(
        self,
        rows: Sequence[TrainingRow],
        advantages: Sequence[float],
        scale: float,
        old: Sequence[Tensor] | None = None,
    ) -> Updated:
        """Update once.

        Args:
            rows: what is learned from.
            advantages: of each row's episode.
            scale: share of the learning rate.
            old: what `old_logprobs` said when the step began; None on policy.

        Raises:
            DivergedError: the gradient is infinite or no number.
        """
        counts = [row.n_trained for row in rows]
        weights = row_weights(counts, self.loss)
        total, kl, surprise, clipped = 0.0, 0.0, 0.0, 0
        for places in batches_of([len(row.ids) for row in rows], self.update.batch_tokens):
            batch = [rows[place] for place in places]
            repeats = torch.tensor([counts[place] for place in places])
            logprobs = self._logprobs(batch)
            before = logprobs.detach() if old is None else torch.cat([old[place] for place in places])
            sampler = torch.tensor(
                [p for row in batch for p, own in zip(row.logprobs, row.trained, strict=True) if own]
            )
            advantage = torch.tensor([advantages[place] for place in places]).repeat_interleave(repeats)
            weight = torch.tensor([weights[place] for place in places]).repeat_interleave(repeats)
            loss = policy_loss(logprobs, before, sampler, advantage, weight, self.loss)
            loss.backward()
            total += loss.item()
            gap = logprobs.detach() - sampler
            kl += (gap.expm1() - gap).sum().item()
            surprise -= logprobs.detach().sum().item()
            clipped += n_clipped(logprobs.detach(), before, advantage, self.loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.update.max_norm).item()
        if not isfinite(norm):
            raise DivergedError(
                f"the gradient's norm is {norm}: nothing was changed; a smaller update.learning_rate may mend it"
            )
        self.optimizers.step(scale)
        tokens = sum(counts)
        return Updated(
            loss=total,
            gradient_norm=norm,
            rows=len(rows),
            tokens=tokens,
            kl=kl / tokens,
            entropy=surprise / tokens,
            clipped=clipped / tokens,
        )

    def _logprobs(self, batch: Sequence[TrainingRow]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.update.bfloat16):
            return token_logprobs(self.model, batch)
