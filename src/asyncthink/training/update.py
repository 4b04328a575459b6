"""One step's update: rows with their advantages -> loss, gradient, new weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, log

import torch
from torch import Tensor

from asyncthink.engines.llama import Llama
from asyncthink.engines.sampling import nucleus
from asyncthink.errors import DivergedError
from asyncthink.training.advantage import Worth
from asyncthink.training.loss import LossRecipe, divergence, n_clipped, policy_loss, row_weights
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
    """Mean over the trained tokens of rows that something was left to chance in, of exp(d) - 1 - d, with d the
    log-probability of the model that learns less the sampler's: an estimate of KL(sampler || model), never negative."""
    moved: float
    """Mean over the same tokens of KL(model || reference), 0 where the model is free; 0 without a reference."""
    entropy: float
    """Mean over the same tokens of minus their log-probability under the policy: an estimate of its entropy, in nats."""
    clipped: float
    """Share of these tokens without a gradient because their ratio is clipped."""


def distributions(model: Llama, batch: Sequence[TrainingRow]) -> tuple[Tensor, Tensor]:
    """Return the trained tokens of a batch, row by row, [N], and the model's log-probabilities there, [N, vocabulary]."""
    width = max(len(row.ids) for row in batch)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in batch])
    mask = torch.tensor([[*row.trained, *[False] * (width - len(row.ids))] for row in batch])[:, 1:]
    inputs = ids[:, :-1]
    hidden = model.hidden(inputs, torch.arange(width - 1).expand_as(inputs))
    everything = model.lm_head(hidden[mask]).float().log_softmax(-1)
    return ids[:, 1:][mask], everything


def nucleus_logprobs(logprobs: Tensor, chosen: Tensor, top_p: float) -> Tensor:
    """Return log-probabilities under the renormalised nucleus: the likeliest tokens that together have `top_p`.

    Where one token alone has as much, nothing was left to chance: its log-probability is 0, and nothing is learned
    from it. The nucleus itself is taken as given; what was chosen is always in it.

    Args:
        logprobs: of all tokens, [N, vocabulary].
        chosen: token ids, [N].
        top_p: below 1.
    """
    found = torch.zeros_like(logprobs[:, 0])
    probabilities = logprobs.detach().exp()
    unsure = probabilities.amax(-1) < top_p
    kept = nucleus(probabilities[unsure], top_p).scatter(-1, chosen[unsure][:, None], True)
    mass = logprobs[unsure].masked_fill(~kept, -torch.inf).logsumexp(-1)
    found[unsure] = logprobs[unsure].gather(-1, chosen[unsure][:, None])[:, 0] - mass
    return found


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
    """Turns rows into steps of the optimizer.

    Args:
        model: what learns.
        optimizers: what steps.
        loss: its switches.
        update: sizes and limits.
        top_p: nucleus that the rows were sampled from.
        reference: the model that `loss.kl` holds on to; None where that is 0.
    """

    def __init__(
        self,
        model: Llama,
        optimizers: Optimizers,
        loss: LossRecipe,
        update: UpdateRecipe,
        *,
        top_p: float = 1.0,
        reference: Llama | None = None,
    ) -> None:
        self.model, self.optimizers, self.reference = model, optimizers, reference
        self.loss, self.update, self.top_p = loss, update, top_p

    def old_logprobs(self, rows: Sequence[TrainingRow]) -> list[Tensor]:
        """Return the log-probabilities of each row's trained tokens under the model as it is."""
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        with torch.no_grad():
            for places in batches_of([len(row.ids) for row in rows], self.update.batch_tokens):
                flat, _, _ = self._logprobs([rows[place] for place in places])
                parts = torch.split(flat, [rows[place].n_trained for place in places])
                for place, part in zip(places, parts, strict=True):
                    found[place] = part
        return found

    def step(
        self,
        rows: Sequence[TrainingRow],
        advantages: Sequence[Worth],
        scale: float,
        old: Sequence[Tensor] | None = None,
    ) -> Updated:
        """Update once.

        Args:
            rows: what is learned from.
            advantages: of each row's episode, or of each of its trained tokens.
            scale: share of the learning rate.
            old: what `old_logprobs` said when the step began; None on policy.

        Raises:
            DivergedError: the gradient is infinite or no number.
        """
        counts = [row.n_trained for row in rows]
        weights = row_weights(counts, self.loss)
        total, kl, moved, surprise, clipped = 0.0, 0.0, 0.0, 0.0, 0
        # A row without a choice says nothing about the reward, and is not looked at for the reference either: it is
        # half of a trained model's rows, and what it has learned shows in the others too.
        chosen = [place for place, row in enumerate(rows) if self._chose(row)]
        for batched in batches_of([len(rows[place].ids) for place in chosen], self.update.batch_tokens):
            places = [chosen[each] for each in batched]
            batch = [rows[place] for place in places]
            repeats = torch.tensor([counts[place] for place in places])
            logprobs, whole, everything = self._logprobs(batch)
            before = logprobs.detach() if old is None else torch.cat([old[place] for place in places])
            sampler = torch.tensor(
                [p for row in batch for p, own in zip(row.logprobs, row.trained, strict=True) if own]
            )
            advantage = torch.cat([_spread(advantages[place], counts[place]) for place in places])
            weight = torch.tensor([weights[place] for place in places]).repeat_interleave(repeats)
            loss = policy_loss(logprobs, before, sampler, advantage, weight, self.loss)
            if self.reference is not None:
                away = self._away(batch, everything)
                loss = loss + self.loss.kl * (away * weight).sum()
                moved += away.sum().item()
            if loss.requires_grad:
                loss.backward()
            total += loss.item()
            gap = whole.detach() - sampler
            kl += (gap.expm1() - gap).sum().item()
            surprise -= logprobs.detach().sum().item()
            clipped += n_clipped(logprobs.detach(), before, advantage, self.loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.update.max_norm).item()
        if not isfinite(norm):
            raise DivergedError(
                f"the gradient's norm is {norm}: nothing was changed; a smaller update.learning_rate may mend it"
            )
        self.optimizers.step(scale)
        looked_at = max(1, sum(counts[place] for place in chosen))
        return Updated(
            loss=total,
            gradient_norm=norm,
            rows=len(rows),
            tokens=sum(counts),
            kl=kl / looked_at,
            moved=moved / looked_at,
            entropy=surprise / looked_at,
            clipped=clipped / looked_at,
        )

    def _chose(self, row: TrainingRow) -> bool:
        """Whether any of a row's tokens was left to chance, so that there is something to learn from it."""
        sure = log(self.top_p)
        return any(own and p <= sure for own, p in zip(row.trained, row.logprobs, strict=True))

    def _logprobs(self, batch: Sequence[TrainingRow]) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities of the trained tokens: the policy's and the model's, [N], and of all tokens."""
        with self._precision():
            chosen, everything = distributions(self.model, batch)
        own = everything.gather(-1, chosen[:, None])[:, 0]
        policy = nucleus_logprobs(everything, chosen, self.top_p) if self.top_p < 1 else own
        return policy, own, everything

    def _away(self, batch: Sequence[TrainingRow], everything: Tensor) -> Tensor:
        """Return KL(model || reference) of each trained token, [N], and 0 for those that are free."""
        assert self.reference is not None
        with torch.no_grad(), self._precision():
            reference = distributions(self.reference, batch)[1]
        away = divergence(everything, reference)
        return away if self.top_p >= 1 else away * (reference.amax(-1) >= log(self.top_p))

    def _precision(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.update.bfloat16)


def _spread(worth: Worth, tokens: int) -> Tensor:
    """Return the advantage of each of a row's trained tokens, [tokens]."""
    return torch.tensor(worth) if isinstance(worth, Sequence) else torch.full((tokens,), float(worth))
