"""An update: the trainer sees what the sampler saw, batches are a matter of speed only, and rewards rise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import exp, log
from random import Random
from typing import cast

import pytest
import torch
from torch import Tensor

from asyncthink.engines.base import Sampling
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.llama import Llama
from asyncthink.engines.models import EMBEDDED
from asyncthink.engines.sampling import choose
from asyncthink.errors import DivergedError
from asyncthink.training.advantage import advantages
from asyncthink.training.loss import Aggregation, LossRecipe
from asyncthink.training.optimizers import Optimizers
from asyncthink.training.rl_recipe import UpdateRecipe
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.update import Updated, Updater, batches_of, distributions, nucleus_logprobs

from .rl_cases import Watched, chain_model, chain_world, embedded_world, make_row, random_model, random_rows

VOCABULARY = 50
FREE = 1e9
"""A largest norm that cuts nothing."""


def trainer(
    model: Llama,
    loss: LossRecipe | None = None,
    *,
    batch_tokens: int = 4096,
    max_norm: float = FREE,
    top_p: float = 1.0,
) -> tuple[Updater, Watched]:
    watched = Watched(model)
    update = UpdateRecipe(batch_tokens=batch_tokens, max_norm=max_norm)
    return Updater(model, watched, loss or LossRecipe(), update, top_p=top_p), watched


def floats(values: Tensor) -> list[float]:
    return cast("list[float]", values.tolist())


def farthest(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of log-probabilities."""
    return max(floats((torch.cat([*some]) - torch.cat([*others])).abs()))


def by_hand(model: Llama, row: TrainingRow) -> Tensor:
    """Return the log-probabilities of a row's trained tokens: no batch, no padding, no mask."""
    ids = torch.tensor([row.ids])
    logits = model(ids, torch.arange(len(row.ids))[None])[0].double().log_softmax(-1)
    return torch.stack([logits[i - 1, row.ids[i]] for i in range(1, len(row.ids)) if row.trained[i]])


def test_log_probabilities_are_those_of_the_token_before_whatever_the_company() -> None:
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 9)
    expected = torch.cat([by_hand(model, row) for row in found])
    chosen, everything = distributions(model, found)
    assert chosen.tolist() == [
        token for row in found for token, own in zip(row.ids, row.trained, strict=True) if own
    ]
    whole = everything.gather(-1, chosen[:, None])[:, 0]
    torch.testing.assert_close(whole.double(), expected, rtol=0, atol=2e-6)
    updater, _ = trainer(model, batch_tokens=90)
    for row, old in zip(found, updater.old_logprobs(found), strict=True):
        torch.testing.assert_close(old.double(), by_hand(model, row), rtol=0, atol=2e-6)
        assert not old.requires_grad


@pytest.mark.parametrize("world", ["embedded", "chain"])
def test_the_trainer_computes_what_the_sampler_recorded(world: str) -> None:
    """Token by token, on prefixes that were decoded from a cache, beside others and behind insertions."""
    if world == "embedded":
        model = load_checkpoint(EMBEDDED).model.requires_grad_(True)
        episodes = [one.episode for c in (2, 3, 4) for one in embedded_world(c).rollouts]
    else:
        model, episodes = chain_model(), [one.episode for one in chain_world(3).rollouts]
    found = [row for episode in episodes for row in rows(episode)]
    assert sum(row.n_trained for row in found) > 500
    updater, _ = trainer(model)
    for row, logprobs in zip(found, updater.old_logprobs(found), strict=True):
        recorded = [p for p, own in zip(row.logprobs, row.trained, strict=True) if own]
        torch.testing.assert_close(logprobs, torch.tensor(recorded), rtol=0, atol=1e-4)
    updated = updater.step(found, [1.0] * len(found), 1.0)
    assert 0 <= updated.kl < 1e-8 and updated.clipped == 0
    assert updated.loss == pytest.approx(-1.0, abs=1e-5)


def test_a_model_that_has_moved_on_has_a_kl() -> None:
    """k3 = exp(d) - 1 - d, with d the trainer's log-probability less the sampler's."""
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 5)
    recorded = [p for row in found for p, own in zip(row.logprobs, row.trained, strict=True) if own]
    own = floats(torch.cat([by_hand(model, row) for row in found]))
    gaps = [p - before for p, before in zip(own, recorded, strict=True)]
    expected = sum(exp(d) - 1 - d for d in gaps) / len(gaps)
    updated = trainer(model)[0].step(found, [1.0] * 5, 1.0)
    assert updated.kl == pytest.approx(expected, rel=1e-5)
    assert updated.entropy == pytest.approx(-sum(own) / len(own), rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_changes_nothing(value: float) -> None:
    model = random_model(VOCABULARY)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(DivergedError, match="nothing was changed"):
        trainer(model)[0].step(random_rows(VOCABULARY, 5), [1.0, 1.0, value, 1.0, 1.0], 1.0)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


# The nucleus


def test_probabilities_within_the_nucleus_by_hand() -> None:
    """Of 0.5, 0.3, 0.15, 0.05 the nucleus of 0.75 holds the first two: 0.5 / 0.8 and 0.3 / 0.8."""
    four = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().requires_grad_(True)
    sure = torch.tensor([0.02, 0.9, 0.05, 0.03]).log()
    logprobs = torch.stack([four, four, sure, four])
    found = nucleus_logprobs(logprobs, torch.tensor([0, 1, 1, 3]), 0.75)
    # The fourth was sampled outside of it, by a rounding: then it is taken in.
    expected = [log(0.5 / 0.8), log(0.3 / 0.8), 0.0, log(0.05 / 0.85)]
    assert floats(found.detach()) == pytest.approx(expected, abs=1e-6)
    found[1].backward()
    # d log(p1 / (p0 + p1)) / d log p: -p0 / (p0 + p1) and 1 - p1 / (p0 + p1); nothing outside.
    assert four.grad is not None
    assert floats(four.grad) == pytest.approx([-0.625, 0.625, 0.0, 0.0], abs=1e-6)


def test_a_sampled_token_is_in_the_nucleus_that_the_sampler_drew_from() -> None:
    logits = torch.randn(200, VOCABULARY, generator=torch.Generator().manual_seed(4)) * 3
    logprobs = logits.log_softmax(-1)
    for top_p in (0.3, 0.9, 0.99):
        sampled = [
            choose(logits, [Sampling(top_p=top_p)] * 200, [Random(seed).random()] * 200)[0]
            for seed in range(20)
        ]
        found = [nucleus_logprobs(logprobs, torch.tensor(tokens), top_p).exp() for tokens in sampled]
        for row in range(200):
            share = {tokens[row]: float(each[row]) for tokens, each in zip(sampled, found, strict=True)}
            assert all(0 < each <= 1 + 1e-6 for each in share.values()) and sum(share.values()) <= 1 + 1e-5


def test_rows_that_nothing_was_left_to_chance_in_teach_nothing() -> None:
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 6)
    sure = [replace(row, logprobs=tuple(log(0.96) * own for own in row.trained)) for row in found[:3]]
    updater, watched = trainer(model, top_p=0.95)
    both = updater.step([*sure, *found[3:]], [1.0, -1.0, 1.0, 1.0, 2.0, -1.0], 1.0)
    mixed = watched.gradients
    counts = [row.n_trained for row in found]
    one = trainer(model, top_p=0.95)
    alone = one[0].step(found[3:], [1.0, 2.0, -1.0], 1.0)
    assert (both.rows, both.tokens) == (6, sum(counts)) and both.kl == pytest.approx(alone.kl)
    for name, gradient in one[1].gradients.items():
        # The denominator is all of the step's tokens, those of the sure rows among them.
        torch.testing.assert_close(
            mixed[name], gradient * (sum(counts[3:]) / sum(counts)), rtol=1e-4, atol=1e-7
        )
    assert trainer(model, top_p=0.95)[0].step(sure, [1.0, -1.0, 1.0], 1.0).gradient_norm == 0


# A reference that is held on to


def test_without_an_advantage_the_model_goes_back_to_its_reference() -> None:
    """The gradient is beta times the mean divergence's, over the trained tokens of the step."""
    model, reference = random_model(VOCABULARY), random_model(VOCABULARY, seed=8)
    found = random_rows(VOCABULARY, 7)
    watched = Watched(model)
    recipe = LossRecipe(kl=0.3)
    updater = Updater(
        model, watched, recipe, UpdateRecipe(batch_tokens=60, max_norm=FREE), reference=reference
    )
    updated = updater.step(found, [0.0] * 7, 1.0)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for row in found:
        ids, places = torch.tensor([row.ids]), torch.arange(len(row.ids))[None]
        own, other = (each(ids, places)[0].double().log_softmax(-1) for each in (model, reference))
        for place in (i - 1 for i in range(1, len(row.ids)) if row.trained[i]):
            total = total + (own[place].exp() * (own[place] - other[place].detach())).sum()
            tokens += 1
    (0.3 * total / tokens).backward()
    assert updated.moved == pytest.approx(total.item() / tokens, rel=1e-4) and updated.moved > 0.01
    assert updated.loss == pytest.approx(0.3 * updated.moved, rel=1e-4)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(watched.gradients[name], parameter.grad, rtol=1e-3, atol=1e-7)
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_with_a_nucleus_only_what_the_reference_was_sure_of_is_held() -> None:
    model, reference = random_model(VOCABULARY), random_model(VOCABULARY, seed=8)
    found = random_rows(VOCABULARY, 7)
    updater = Updater(
        model, Watched(model), LossRecipe(kl=0.3), UpdateRecipe(max_norm=FREE), top_p=0.2, reference=reference
    )
    updated = updater.step(found, [0.0] * 7, 1.0)
    chosen, everything = distributions(model, found)
    _, other = distributions(reference, found)
    sure = [float(row.exp().max()) >= 0.2 for row in other.detach()]
    pairs = zip(everything.detach(), other.detach(), sure, strict=True)
    held = [float((p.exp() * (p - q)).sum()) for p, q, one in pairs if one]
    assert 0 < len(held) < len(chosen)
    assert updated.moved == pytest.approx(sum(held) / len(chosen), rel=1e-4)
    assert updated.loss == pytest.approx(0.3 * updated.moved, rel=1e-4)


def test_a_model_that_is_its_reference_is_not_held_back() -> None:
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 5)
    free, alone = trainer(model)
    expected = free.step(found, [1.0, -1.0, 0.5, 0.0, 2.0], 1.0)
    held = Updater(
        model, watched := Watched(model), LossRecipe(kl=1.0), UpdateRecipe(max_norm=FREE), reference=model
    )
    updated = held.step(found, [1.0, -1.0, 0.5, 0.0, 2.0], 1.0)
    assert updated.moved == pytest.approx(0, abs=1e-7) and updated.loss == pytest.approx(
        expected.loss, abs=1e-6
    )
    for name, gradient in alone.gradients.items():
        torch.testing.assert_close(watched.gradients[name], gradient, rtol=1e-4, atol=1e-6)


# Batches


@pytest.mark.parametrize("batch_tokens", [1, 7, 40, 100, 1000])
def test_batches_hold_every_row_once_and_no_more_than_they_may(batch_tokens: int) -> None:
    random = Random(batch_tokens)
    lengths = [random.randint(2, 40) for _ in range(50)]
    found = list(batches_of(lengths, batch_tokens))
    assert sorted(place for batch in found for place in batch) == list(range(50))
    padded = [len(batch) * max(lengths[place] for place in batch) for batch in found]
    assert all(size <= batch_tokens or len(batch) == 1 for size, batch in zip(padded, found, strict=True))
    assert found == list(batches_of(lengths, batch_tokens)), "a function of the lengths"
    if batch_tokens == 1000:
        assert len(found) <= 3, "filled"


def test_no_rows_make_no_batch() -> None:
    assert list(batches_of([], 10)) == []


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("off_policy", [False, True])
def test_batches_make_no_difference(aggregation: Aggregation, off_policy: bool) -> None:
    model, before = random_model(VOCABULARY), random_model(VOCABULARY, seed=8)
    found = random_rows(VOCABULARY, 24)
    shares = [Random(3).uniform(-1, 1) for _ in range(24)]
    recipe = LossRecipe(aggregation=aggregation, constant=30, importance_cap=2.0 if off_policy else None)
    with torch.no_grad():  # a policy not far from the one that learns
        for own, other in zip(before.parameters(), model.parameters(), strict=True):
            own.copy_(other + 0.01 * own)
    seen: list[tuple[Updated, dict[str, Tensor]]] = []
    for batch_tokens in (1, 50, 170, 10_000):
        old = trainer(before)[0].old_logprobs(found) if off_policy else None
        updater, watched = trainer(model, recipe, batch_tokens=batch_tokens)
        seen.append((updater.step(found, shares, 0.5, old), watched.gradients))
        assert watched.scales == [0.5]
    one, gradients = seen[0]
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    assert (one.clipped > 0) is off_policy and one.gradient_norm > 1e-3
    for other, others in seen[1:]:
        assert (other.rows, other.tokens, other.clipped) == (one.rows, one.tokens, one.clipped)
        assert other.loss == pytest.approx(one.loss, abs=1e-6)
        assert other.kl == pytest.approx(one.kl, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_the_gradient_is_that_of_the_formula(aggregation: Aggregation) -> None:
    """Advantage times log-probability times weight, over all trained tokens of the step and nothing else."""
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 6)
    counts = [row.n_trained for row in found]
    weights = {
        Aggregation.TOKEN: [1 / sum(counts)] * 6,
        Aggregation.ROW: [1 / (6 * count) for count in counts],
        Aggregation.CONSTANT: [1 / (6 * 30)] * 6,
    }[aggregation]
    shares = [0.5, -1.0, 0.0, 2.0, -0.25, 1.0]
    updater, watched = trainer(model, LossRecipe(aggregation=aggregation, constant=30), batch_tokens=60)
    updated = updater.step(found, shares, 1.0)
    factors = [share * weight for share, weight in zip(shares, weights, strict=True)]
    terms = [factor * by_hand(model, row).sum() for factor, row in zip(factors, found, strict=True)]
    (-sum(terms, torch.zeros(()))).backward()
    squares = 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(watched.gradients[name], parameter.grad, rtol=0, atol=1e-6)
        squares += float(parameter.grad.double().square().sum())
    assert (updated.rows, updated.tokens) == (6, sum(counts))
    assert updated.gradient_norm == pytest.approx(squares**0.5, rel=1e-5)
    expected = -sum(factor * count for factor, count in zip(factors, counts, strict=True))
    assert updated.loss == pytest.approx(expected, abs=1e-6)


def test_an_inserted_stretch_is_context_and_nothing_more() -> None:
    """The gradient is the sum of each trained token's, alone on its own prefix."""
    model = random_model(VOCABULARY)
    ids = [1, 2, 3, 4, 5, 6]
    trained = [False, True, True, False, False, True]
    updater, watched = trainer(model)
    updater.step([make_row(ids, trained)], [1.0], 1.0)
    alone = dict(watched.gradients)
    # Each trained token by itself, on its own prefix.
    parts = [make_row(ids[: i + 1], [False] * i + [True]) for i in (1, 2, 5)]
    updater.step(parts, [1.0] * 3, 1.0)
    for name, gradient in alone.items():
        torch.testing.assert_close(watched.gradients[name], gradient, rtol=0, atol=1e-6)


def test_a_large_gradient_is_cut_and_reported_as_it_was() -> None:
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 6)
    whole, free = trainer(model)
    expected = whole.step(found, [5.0] * 6, 1.0)
    assert expected.gradient_norm > 1
    cut, watched = trainer(model, max_norm=0.5)
    updated = cut.step(found, [5.0] * 6, 1.0)
    assert updated == expected
    norm = sum(float(g.double().square().sum()) for g in watched.gradients.values()) ** 0.5
    assert norm == pytest.approx(0.5, rel=1e-4)
    scale = 0.5 / expected.gradient_norm
    for name, gradient in free.gradients.items():
        torch.testing.assert_close(watched.gradients[name], gradient * scale, rtol=1e-3, atol=1e-7)


# Several updates


def learner(model: Llama, rate: float = 0.02) -> Updater:
    optimizers = Optimizers(
        model, optimizer="adamw", learning_rate=rate, embedding_learning_rate=rate, weight_decay=0.0
    )
    return Updater(model, optimizers, LossRecipe(), UpdateRecipe(batch_tokens=100))


def test_the_second_update_is_measured_from_where_the_step_began() -> None:
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 12)
    shares = [1.0 if i % 2 else -1.0 for i in range(12)]
    updater = learner(model)
    first, second = slice(0, 6), slice(6, 12)
    old = [updater.old_logprobs(found[part]) for part in (first, second)]
    on_policy = updater.step(found[first], shares[first], 1.0, old[0])
    expected = -sum(s * r.n_trained for s, r in zip(shares[first], found[first], strict=True))
    assert on_policy.loss == pytest.approx(expected / on_policy.tokens, abs=1e-6), "all ratios are 1"
    assert on_policy.clipped == 0
    moved = trainer(model)[0].old_logprobs(found[second])
    assert farthest(moved, old[1]) > 0.05
    total, still = 0.0, 0
    for share, now, before in zip(shares[second], moved, old[1], strict=True):
        for ratio in floats((now - before).double().exp()):
            total -= share * (min(ratio, 1.28) if share > 0 else max(ratio, 0.8))
            still += ratio > 1.28 if share > 0 else ratio < 0.8
    updated = updater.step(found[second], shares[second], 1.0, old[1])
    assert updated.loss == pytest.approx(total / updated.tokens, abs=1e-5)
    assert updated.clipped == still / updated.tokens > 0


def test_no_advantage_moves_nothing() -> None:
    model = random_model(VOCABULARY)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    updated = learner(model).step(random_rows(VOCABULARY, 4), [0.0] * 4, 1.0)
    assert (updated.loss, updated.gradient_norm) == (0.0, 0.0)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_half_precision_is_for_products_only() -> None:
    """Figures differ a little, and parameters and gradients stay what they are."""
    model = random_model(VOCABULARY)
    found = random_rows(VOCABULARY, 6)
    updater, exact = trainer(model)
    whole = updater.old_logprobs(found)
    updater.step(found, [1.0] * 6, 1.0)
    rough = Updater(model, half := Watched(model), LossRecipe(), UpdateRecipe(bfloat16=True, max_norm=FREE))
    assert 1e-4 < farthest(rough.old_logprobs(found), whole) < 0.2
    rough.step(found, [1.0] * 6, 1.0)
    for name, gradient in exact.gradients.items():
        assert half.gradients[name].dtype is torch.float32
        size, gap = gradient.abs().sum().item(), (half.gradients[name] - gradient).abs().sum().item()
        assert gap < 0.1 * size + 1e-3


# Learning


def test_a_policy_learns_to_write_what_is_rewarded() -> None:
    """One token of eight is: from an eighth of the samples to nearly all in a few steps."""
    torch.manual_seed(0)
    model = random_model(8, seed=2)
    updater = learner(model, rate=0.03)
    prompt = [1, 5, 2]
    chances: list[float] = []
    for _ in range(15):
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt]), torch.arange(3)[None])[0, -1].log_softmax(-1)
        chances.append(float(logprobs[3].exp()))
        sampled = cast("list[int]", torch.multinomial(logprobs.exp(), 64, replacement=True).tolist())
        made = [
            make_row([*prompt, token], [False] * 3 + [True], [0.0] * 3 + [float(logprobs[token])])
            for token in sampled
        ]
        shares = advantages([1.0 if token == 3 else 0.0 for token in sampled])
        updater.step(made, shares, 1.0)
    assert chances[0] < 0.3 and chances[-1] > 0.95
    assert all(later > earlier - 0.01 for earlier, later in pairwise(chances))
