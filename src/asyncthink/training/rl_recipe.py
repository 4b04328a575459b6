"""Recipes of `asyncthink train rl`: a TOML file of typed sections. An unknown key is an error that names the nearest one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import msgspec

from asyncthink.errors import UsageError
from asyncthink.settings import load
from asyncthink.tasks import get_task
from asyncthink.tasks.countdown import Countdown
from asyncthink.training.loss import LossRecipe
from asyncthink.training.recipe import Count, Output, Seed
from asyncthink.training.reward import RewardRecipe


@dataclass(frozen=True, kw_only=True)
class RolloutRecipe:
    """What is thought about, and how."""

    task: str = "countdown"
    data: str | None = None
    """Its problems, where it brings none or others are meant: a file of JSON lines, or `hf:NAME`, `hf:NAME:SPLIT` or
    `hf:FOLDER` for a data set, each as in `asyncthink eval --problems`. Their order is drawn by the seed."""
    epochs: Count = 1
    """How often each of the data's problems may be used; a run that needs more is refused."""
    method: Literal["asyncthink", "sequential", "parallel"] = "asyncthink"
    capacity: Annotated[int, msgspec.Meta(ge=1, le=9999)] = 4
    max_critical_path: Count | None = None
    """Cap on T: an episode that reaches it has no answer."""
    max_worker_tokens: Count | None = None
    """Of workers, so with `asyncthink` only: traces that think alone have `max_critical_path`."""
    problems: Count = 16
    """Of a step; each is used once, but for `epochs`."""
    episodes: Annotated[int, msgspec.Meta(ge=2)] = 8
    """Of each problem: a group."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """The policy samples from the likeliest tokens that together have so much probability, and the loss is that
    policy's: a token that has as much alone was not a choice, and nothing is learned from it. Below 1, slips of the
    pen are neither made nor rewarded."""
    kept: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Problems of each step whose episodes are kept in the run directory, to be looked at; at most all of them."""

    @property
    def kept_episodes(self) -> int:
        """Episodes of each step that are kept."""
        return min(self.kept, self.problems) * self.episodes


@dataclass(frozen=True, kw_only=True)
class UpdateRecipe:
    """How the model follows the gradient."""

    steps: Count = 180
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-4
    warmup_steps: Count = 5
    """First steps, over which the rate rises linearly."""
    cooldown_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Last steps, over which it falls linearly, to nothing after the last one; between the two it stays."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    updates: Count = 1
    """Updates a step, each on a part of its groups; with more than one, ratios leave 1 and clipping begins."""
    max_norm: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    """Of the gradient."""
    normalise_advantage: bool = False
    """Divide by the group's standard deviation."""
    fork_credit: bool = False
    """Weigh what a fork asks by what its return added to the score, less what such forks added on average, in place of
    the episode's advantage; that it forks, and all else, keeps that. Not in the paper; for tasks whose answer is
    several, such as countdown."""
    batch_tokens: Count = 2_048
    """Tokens, padding included, that go through the model at a time: a matter of memory and speed only."""
    bfloat16: bool = False
    """Matrix products of the update in bfloat16; parameters stay float32."""
    threads: Count = 2
    """Torch threads."""
    save_every: Count = 1
    """Steps between saved states: what a killed run loses."""
    checkpoint_every: Count = 60
    """Steps between checkpoints that are kept."""

    def scale(self, step: int) -> float:
        """Return the share of the learning rate that a step has, from 0."""
        left = (self.steps - step) / (self.cooldown_steps + 1)
        return max(0.0, min((step + 1) / self.warmup_steps, 1.0, left))


@dataclass(frozen=True, kw_only=True)
class TRLRecipe:
    """How TRL's trainer is used, where `trainer = "trl"`."""

    micro_batches: Count = 8
    """Micro-batches of a step, on each process: more take less memory."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    servers: str | None = None
    """Addresses of vLLM servers that sample, up to and including /v1, separated by commas; None: the local engine does,
    in the process that trains."""
    served_name: str = "policy"
    """The model's name at the servers."""
    weights: Literal["disk", "nccl"] = "disk"
    """How servers get the policy after each step: from the run directory's `policy` folder, which they are started on,
    or, where there is one server and GPUs, by TRL's own transfer."""


@dataclass(frozen=True, kw_only=True)
class RLRecipe:
    """A whole recipe file."""

    start: str
    """The policy to begin with: `hf:FOLDER`, `embedded`, `embedded-base` or `embedded-sft`."""
    output: Output
    """Run directory, relative to the working directory."""
    seed: Seed = 0
    """Of the problems and of sampling."""
    trainer: Literal["ours", "trl"] = "ours"
    """Who makes the update: our own plain loop, or TRL's `AsyncGRPOTrainer` (extra `trl`)."""
    trl: TRLRecipe = field(default_factory=TRLRecipe)
    rollout: RolloutRecipe = field(default_factory=RolloutRecipe)
    reward: RewardRecipe = field(default_factory=RewardRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    update: UpdateRecipe = field(default_factory=UpdateRecipe)
    source: str = field(default="", compare=False)
    """The file's text, kept in the run directory."""


def load_rl_recipe(path: str, changes: Sequence[str] = ()) -> RLRecipe:
    """Read a recipe file; a name that is no file is looked up among the packaged recipes.

    Args:
        path: of the file.
        changes: keys to set, such as `seed=2` or `update.threads=1`.

    Raises:
        UsageError: no such file, or a key is missing, unknown, of the wrong type or out of range.
    """
    recipe, text = load(path, RLRecipe, changes, hidden=["source"])
    recipe = replace(recipe, source=text)
    rollout = recipe.rollout
    task = get_task(rollout.task)
    if recipe.reward.pooled and rollout.method != "parallel":
        raise UsageError(f'{path}: reward.pooled belongs to rollout.method = "parallel"')
    if recipe.trainer == "ours" and recipe.trl != TRLRecipe():
        raise UsageError(f'{path}: the section [trl] belongs to trainer = "trl"')
    if recipe.update.fork_credit and not isinstance(task, Countdown):
        raise UsageError(
            f"{path}: update.fork_credit needs answers that add up, as countdown has: not {rollout.task}"
        )
    _refuse_mixtures(path, recipe)
    _refuse_forks(path, recipe)
    if rollout.problems % recipe.update.updates:
        raise UsageError(
            f"{path}: update.updates = {recipe.update.updates} does not divide rollout.problems = {rollout.problems}"
        )
    return recipe


def _refuse_forks(path: str, recipe: RLRecipe) -> None:
    """Refuse what would never pay, or always."""
    rollout, reward = recipe.rollout, recipe.reward
    needs_forks = {
        "rollout.max_worker_tokens": rollout.max_worker_tokens is not None,
        "reward.leverage": reward.leverage > 0,
        "update.fork_credit": recipe.update.fork_credit,
    }
    if rollout.method != "asyncthink" and (named := [name for name, given in needs_forks.items() if given]):
        raise UsageError(f'{path}: {named[0]} belongs to rollout.method = "asyncthink"')
    if rollout.method == "asyncthink" and reward.concurrency and 1 < rollout.capacity <= 1 / reward.tau:
        raise UsageError(
            f"{path}: reward.tau = {reward.tau} is not above 1 / rollout.capacity, so thinking alone would be paid in full"
        )


def _refuse_mixtures(path: str, recipe: RLRecipe) -> None:
    """Refuse switches that do not make sense together."""
    nucleus = recipe.rollout.top_p < 1
    # Weights and ratios compare probabilities of two models: in one nucleus or in none, and it moves with the model.
    if nucleus and recipe.loss.importance_cap is not None:
        raise UsageError(f"{path}: loss.importance_cap needs rollout.top_p = 1")
    if nucleus and recipe.update.updates > 1:
        raise UsageError(f"{path}: update.updates above 1 needs rollout.top_p = 1")
    if recipe.update.fork_credit and recipe.update.normalise_advantage:
        raise UsageError(
            f"{path}: update.fork_credit is in units of reward: not with update.normalise_advantage"
        )
