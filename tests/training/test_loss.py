"""The loss: by hand, by finite differences, and equal to another implementation's recorded values."""

from __future__ import annotations

import json
from itertools import accumulate
from math import exp, log
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from asyncthink.training.loss import Aggregation, LossRecipe, divergence, n_clipped, policy_loss, row_weights

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_loss.json").read_text())
Rest: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Log-probabilities of the old model and of the sampler, advantages, weights."""
TOKEN, ROW, CONSTANT = Aggregation.TOKEN, Aggregation.ROW, Aggregation.CONSTANT


@pytest.mark.parametrize(
    ("aggregation", "counts", "expected"),
    [
        (TOKEN, [1, 3, 4], [1 / 8, 1 / 8, 1 / 8]),
        (ROW, [1, 3, 4], [1 / 3, 1 / 9, 1 / 12]),
        (CONSTANT, [1, 3, 4], [1 / 30, 1 / 30, 1 / 30]),
        (TOKEN, [5], [1 / 5]),
        (ROW, [5], [1 / 5]),
        (CONSTANT, [5], [1 / 10]),
    ],
)
def test_what_a_token_weighs(aggregation: Aggregation, counts: list[int], expected: list[float]) -> None:
    assert row_weights(counts, LossRecipe(aggregation=aggregation, constant=10)) == pytest.approx(expected)


def test_by_default_every_token_weighs_the_same() -> None:
    assert row_weights([2, 6], LossRecipe()) == [1 / 8, 1 / 8]
    assert (LossRecipe().clip_low, LossRecipe().clip_high, LossRecipe().importance_cap) == (0.2, 0.28, None)


def double(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def loss_of(new: Tensor, rest: Rest, recipe: LossRecipe) -> tuple[float, Tensor]:
    """Return loss and gradient."""
    new = new.detach().clone().requires_grad_()
    loss = policy_loss(new, *rest, recipe)
    loss.backward()
    assert new.grad is not None
    return loss.item(), new.grad


# A table of one token each: ratio, advantage -> its loss at weight 1, its slope in the log-probability.
CASES = [
    (1.0, 2.0, -2.0, -2.0),
    (1.2, 2.0, -2.4, -2.4),  # within the clip, the slope is -ratio * A
    (1.5, 2.0, -2.56, 0.0),  # above it, and better: clipped at 1.28
    (0.5, 2.0, -1.0, -1.0),  # below it, but better: pulled back
    (1.0, -3.0, 3.0, 3.0),
    (0.9, -3.0, 2.7, 2.7),
    (0.5, -3.0, 2.4, 0.0),  # below it, and worse: clipped at 0.8
    (1.5, -3.0, 4.5, 4.5),  # above it, but worse: pulled back
    (1.5, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope"), CASES)
def test_one_token_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    old = double(-1.7)
    new = old + double(ratio).log()
    rest = (old, old, double(advantage), double(0.25))
    value, gradient = loss_of(new, rest, LossRecipe())
    assert value == pytest.approx(0.25 * loss, abs=1e-12)
    assert gradient.item() == pytest.approx(0.25 * slope, abs=1e-12)
    clipped = n_clipped(new, old, rest[2], LossRecipe())
    assert clipped == (slope == 0 and advantage != 0)


def sample(seed: int, n: int = 60) -> tuple[Tensor, Rest]:
    """Return tokens whose ratios lie well within and well without the clip."""
    random = torch.Generator().manual_seed(seed)
    old = torch.rand(n, generator=random, dtype=torch.float64) * -4 - 0.5
    new = old + torch.randn(n, generator=random, dtype=torch.float64) * 0.4
    sampler = old + torch.randn(n, generator=random, dtype=torch.float64) * 0.5
    advantage = torch.randn(n, generator=random, dtype=torch.float64)
    weight = torch.rand(n, generator=random, dtype=torch.float64)
    return new, (old, sampler, advantage, weight)


RECIPES = [
    LossRecipe(),
    LossRecipe(clip_low=0.1, clip_high=0.5),
    LossRecipe(importance_cap=1.5),
    LossRecipe(clip_low=1.0, clip_high=1e6),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_value_and_gradient_by_finite_differences(recipe: LossRecipe, seed: int) -> None:
    new, rest = sample(seed)
    value, gradient = loss_of(new, rest, recipe)
    assert value == pytest.approx(plainly(new, rest, recipe), rel=1e-12)
    step = 1e-6
    for place in range(len(new)):
        up, down = new.clone(), new.clone()
        up[place] += step
        down[place] -= step
        slope = (plainly(up, rest, recipe) - plainly(down, rest, recipe)) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, abs=1e-7)


def plainly(new: Tensor, rest: Rest, recipe: LossRecipe) -> float:
    """Compute the loss token by token, by cases instead of a minimum."""
    total = 0.0
    for place in range(len(new)):
        p, old, sampler, advantage, weight = (each[place].item() for each in (new, *rest))
        ratio = exp(p - old)
        if advantage > 0:
            ratio = min(ratio, 1 + recipe.clip_high)
        elif advantage < 0:
            ratio = max(ratio, 1 - recipe.clip_low)
        if recipe.importance_cap is not None:
            ratio *= min(exp(old - sampler), recipe.importance_cap)
        total -= ratio * advantage * weight
    return total


def test_clipped_tokens_are_those_without_a_gradient() -> None:
    new, rest = sample(5, 400)
    _, gradient = loss_of(new, rest, LossRecipe())
    still = int((gradient == 0).sum())
    assert 40 < still < 200 and n_clipped(new, rest[0], rest[2], LossRecipe()) == still


def test_on_policy_the_gradient_is_that_of_the_policy_gradient() -> None:
    new, (_, _, advantage, weight) = sample(3)
    value, gradient = loss_of(new, (new, new, advantage, weight), LossRecipe())
    torch.testing.assert_close(gradient, -advantage * weight, rtol=0, atol=1e-15)
    assert value == pytest.approx(-(advantage * weight).sum().item(), rel=1e-12)
    assert n_clipped(new, new, advantage, LossRecipe()) == 0


def test_on_policy_the_gradient_survives_a_clip_of_nothing() -> None:
    new, (_, _, advantage, weight) = sample(3)
    _, gradient = loss_of(new, (new, new, advantage, weight), LossRecipe(clip_low=0.0, clip_high=0.0))
    torch.testing.assert_close(gradient, -advantage * weight, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("gap", "factor"), [(0.0, 1.0), (0.3, exp(0.3)), (2.0, 2.0), (50.0, 2.0), (-3.0, exp(-3))]
)
def test_importance_weights_are_cut_off_and_carry_no_gradient(gap: float, factor: float) -> None:
    """The sampler found the token less likely by `gap` than the trainer did when the step began."""
    old, new = double(-60.0), double(-60.1)
    advantage, weight = double(-0.7), double(0.5)
    recipe = LossRecipe(importance_cap=2.0)
    value, gradient = loss_of(new, (old, old - gap, advantage, weight), recipe)
    plain, slope = loss_of(new, (old, old, advantage, weight), LossRecipe())
    assert value == pytest.approx(factor * plain, rel=1e-12)
    assert gradient.item() == pytest.approx(factor * slope.item(), rel=1e-12)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_parts_add_up_to_the_whole(recipe: LossRecipe) -> None:
    new, rest = sample(4)
    whole, gradient = loss_of(new, rest, recipe)
    for sizes in ([1] * 60, [7, 53], [20, 20, 20], [59, 1]):
        ends = list(accumulate(sizes))
        places = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        old, sampler, advantage, weight = rest
        found = [loss_of(new[at], (old[at], sampler[at], advantage[at], weight[at]), recipe) for at in places]
        assert sum(value for value, _ in found) == pytest.approx(whole, rel=1e-12)
        torch.testing.assert_close(torch.cat([slope for _, slope in found]), gradient, rtol=0, atol=0)


# TRL's own outputs

TYPES = {"dapo": TOKEN, "bnpo": TOKEN, "grpo": ROW, "dr_grpo": CONSTANT}


def comparable(outcome: dict[str, Any]) -> bool:
    """Whether ours has the switches; `bnpo` counts the tokens of a micro-batch, not of the step."""
    whole = outcome["loss_type"] != "bnpo" or outcome["micro_batches"] == 1
    same = outcome["trainer"] == "GRPOTrainer" and outcome["delta"] is None
    return whole and same and outcome["importance_mode"] in (None, "token_truncate")


OUTCOMES = [(one["rows"], each) for one in GOLDEN["sets"] for each in one["outcomes"] if comparable(each)]


def test_the_other_implementation_s_outcomes_are_not_overlooked() -> None:
    found = [outcome for _, outcome in OUTCOMES]
    assert {one["loss_type"] for one in found} == set(TYPES)
    assert {(one["importance_mode"], one["micro_batches"]) for one in found} >= {
        (None, 1),
        ("token_truncate", 1),
        (None, 2),
    }
    assert len(found) >= 20


@pytest.mark.parametrize(("rows", "outcome"), OUTCOMES)
def test_value_and_gradient_are_those_of_trl(rows: list[dict[str, Any]], outcome: dict[str, Any]) -> None:
    low, high = outcome["epsilon"], outcome["epsilon_high"]
    recipe = LossRecipe(
        clip_low=low,
        clip_high=low if high is None else high,
        aggregation=TYPES[outcome["loss_type"]],
        constant=outcome["max_completion_length"],
        importance_cap=outcome["importance_max"],
    )
    # A row of which nothing is trained is none of ours; TRL counts it among the rows.
    kept = [row for row in rows if any(row["trained"])]
    share = 1.0 if recipe.aggregation is TOKEN else len(kept) / len(rows)
    weights = row_weights([sum(row["trained"]) for row in kept], recipe)

    def flat(name: str) -> Tensor:
        return double(*(p for row in kept for p, own in zip(row[name], row["trained"], strict=True) if own))

    each = [
        (row["advantage"], w)
        for row, w in zip(kept, weights, strict=True)
        for _ in range(sum(row["trained"]))
    ]
    rest = (flat("old"), flat("sampler"), double(*(a for a, _ in each)), double(*(w for _, w in each)))
    value, gradient = loss_of(flat("new"), rest, recipe)
    assert share * value == pytest.approx(outcome["loss"], abs=1e-12)
    theirs = [
        slope
        for row, slopes in zip(rows, outcome["gradient"], strict=True)
        for slope, own in zip(slopes, row["trained"], strict=True)
        if own
    ]
    torch.testing.assert_close(share * gradient, double(*theirs), rtol=0, atol=1e-12)
    still = sum(slope == 0 for slope in theirs)
    assert n_clipped(flat("new"), rest[0], rest[2], recipe) == still


# Holding on to a reference


def test_divergence_by_hand() -> None:
    """Of (1/2, 1/2) from (1/4, 3/4): ln(2)/2 + ln(2/3)/2. Its slope in a logit is p * (ln(p / q) - KL)."""
    logits = double(0.0, 0.0, grad=True)
    reference = double(0.25, 0.75).log()
    expected = (log(2) + log(2 / 3)) / 2
    both = torch.stack([logits.log_softmax(-1), reference])
    found = divergence(both, torch.stack([reference, reference]))
    assert found.tolist() == pytest.approx([expected, 0.0], abs=1e-12)
    found[0].backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx(
        [(log(2) - expected) / 2, (log(2 / 3) - expected) / 2], abs=1e-12
    )


def test_divergence_is_not_that_of_the_other_way_round() -> None:
    """What the reference thinks impossible is dear; what the model has given up is not."""
    sure, open_minded = double(0.999, 0.001).log()[None], double(0.5, 0.5).log()[None]
    assert divergence(open_minded, sure).item() > 2.5
    assert divergence(sure, open_minded).item() < 0.7
