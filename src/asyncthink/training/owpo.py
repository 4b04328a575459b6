"""Organizer-worker policy optimisation: GRPO over units of an organizer and all its workers.

for each step:
    problems      the next ones of the train split, each used once   problems.py
    episodes      several of each, by the model as it is           rollout.py
    rewards       one an episode                                   reward.py
    advantages    reward - mean of its problem's episodes          advantage.py, credit.py
    rows          one a trace, its own decoded tokens trained      rows.py
    loss          every row with its episode's advantage           loss.py, update.py

asyncthink train rl recipes/embedded-rl.toml
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import torch

from asyncthink.engines.checkpoint import Checkpoint, load_checkpoint, save_weights
from asyncthink.engines.detokenize import TokenBytes
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import folder_of
from asyncthink.training.advantage import Worth
from asyncthink.training.cards import write_model_card
from asyncthink.training.credit import credited
from asyncthink.training.optimizers import Optimizers
from asyncthink.training.problems import Problems, problems_of
from asyncthink.training.reward import Reward, RewardFunction, reward_of, source_of
from asyncthink.training.rl_recipe import RLRecipe
from asyncthink.training.rollout import Rollout, Sampler, organization_of
from asyncthink.training.rows import TrainingRow
from asyncthink.training.run_folder import RunFolder, copy_beside
from asyncthink.training.step import StepMetrics, Watcher, step_metrics, weighed
from asyncthink.training.update import Updated, Updater


@dataclass(slots=True)
class Position:
    """Where a run stands."""

    step: int = 0
    seconds: float = 0.0
    """Wall time spent, over all sittings."""


def train_rl(recipe: RLRecipe, watcher: Watcher | None = None, reward: RewardFunction = reward_of) -> Path:
    """Train, going on from the run directory's last state; return the checkpoint folder.

    Args:
        recipe: what to do.
        watcher: is told how far it is.
        reward: pays each episode. A run goes on only with the function that it began with.

    Raises:
        UsageError: the run directory belongs to another recipe, start or data or cannot be written, the model was
            not made for the task, or there are too few problems.
        RecordError: another process is writing it, or the disk is full.
        CheckpointError: the checkpoint to start from cannot be loaded.
        EngineError: the engine failed again and again.
        DivergedError: the gradient is no number any more; the last state is that of the step before.
    """
    problems = problems_of(recipe)
    checkpoint = load_checkpoint(folder_of(recipe.start))
    inputs = {recipe.start: folder_of(recipe.start), **problems.inputs, **source_of(reward)}
    with RunFolder(recipe.output, recipe.source, inputs) as folder:
        return anyio.run(_Run(recipe, watcher or Watcher(), folder, checkpoint, problems, reward).go_on)


class _Run:
    """A run in this process."""

    def __init__(
        self,
        recipe: RLRecipe,
        watcher: Watcher,
        folder: RunFolder,
        checkpoint: Checkpoint,
        problems: Problems,
        reward: RewardFunction,
    ) -> None:
        self.recipe, self.watcher, self.folder, self.checkpoint = recipe, watcher, folder, checkpoint
        self.reward = reward
        update, rollout = recipe.update, recipe.rollout
        torch.set_num_threads(update.threads)
        reference = deepcopy(checkpoint.model).requires_grad_(False) if recipe.loss.kl else None
        self.model = checkpoint.model.train().requires_grad_(True)
        self.optimizers = Optimizers(
            self.model,
            optimizer="adamw",
            learning_rate=update.learning_rate,
            embedding_learning_rate=update.learning_rate,
            weight_decay=update.weight_decay,
        )
        self.table = TokenBytes(checkpoint.tokenizer)
        self.position = Position()
        if state := self.folder.load(kept=rollout.kept_episodes):
            self.model.load_state_dict(state["model"])
            self.optimizers.load(state["optimizers"])
            self.position = Position(**state["position"])
        self.updater = Updater(
            self.model, self.optimizers, recipe.loss, update, top_p=rollout.top_p, reference=reference
        )
        # One thread a lane: what a lane computes then depends on its own episodes alone, and repeats bit for bit.
        engine = LocalEngine(
            folder_of(recipe.start),
            name=recipe.start,
            device="cpu",
            threads=1,
            lanes=update.threads,
            loaded=checkpoint,
        )
        self.organization = organization_of(engine, rollout)
        self.sampler = Sampler(
            self.organization,
            problems,
            seed=recipe.seed,
            problems=rollout.problems,
            episodes=rollout.episodes,
        )

    async def go_on(self) -> Path:
        update, rollout = self.recipe.update, self.recipe.rollout
        self.watcher.begin(update.steps, self.position.step, rollout.problems * rollout.episodes)
        async with self.organization:
            while self.position.step < update.steps:
                metrics = await self._step()
                self.folder.log(asdict(metrics))
                # Before the state: what a kill leaves half written is written again.
                if metrics.step % update.checkpoint_every == 0:
                    self._write(self.folder.on_the_way(metrics.step))
                if metrics.step % update.save_every == 0:
                    self._save()
                self.watcher.step(metrics)
        self._save()
        self._write(self.folder.checkpoint)
        write_model_card(self.folder.checkpoint, self.recipe)
        return self.folder.checkpoint

    async def _step(self) -> StepMetrics:
        began = time.monotonic()
        groups = await self.sampler.draw(self.position.step, self.watcher.episode)
        sampled = time.monotonic()
        rewards = [
            [self.reward(one.episode, one.asked, one.metrics, self.recipe.reward) for one in group]
            for group in groups
        ]
        self.folder.keep(one.episode for group in groups[: self.recipe.rollout.kept] for one in group)
        updates = self._update(groups, rewards)
        ended = time.monotonic()
        self.position.step += 1
        self.position.seconds += ended - began
        return step_metrics(
            self.position.step,
            self.recipe.update.steps,
            groups,
            rewards,
            updates,
            rollout_seconds=sampled - began,
            update_seconds=ended - sampled,
            seconds=self.position.seconds,
        )

    def _update(
        self, groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[Reward]]
    ) -> list[Updated]:
        """Learn from all groups, in as many updates as the recipe says."""
        update = self.recipe.update
        scale = update.scale(self.position.step)
        size = len(groups) // update.updates
        parts = [
            self._weighed(groups[i : i + size], rewards[i : i + size]) for i in range(0, len(groups), size)
        ]
        parts = [part for part in parts if part[0]]
        old = (
            [self.updater.old_logprobs(part[0]) for part in parts]
            if update.updates > 1
            else [None] * len(parts)
        )
        return [self.updater.step(*part, scale, before) for part, before in zip(parts, old, strict=True)]

    def _weighed(
        self, groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[Reward]]
    ) -> tuple[list[TrainingRow], list[Worth]]:
        """Return the rows of some groups with their advantages."""
        rows, worth = list[TrainingRow](), list[Worth]()
        for group, paid in zip(groups, rewards, strict=True):
            own, shared = weighed([group], [paid], normalise=self.recipe.update.normalise_advantage)
            rows += own
            worth += credited(group, own, shared, self.table) if self.recipe.update.fork_credit else shared
        return rows, worth

    def _write(self, folder: Path) -> None:
        """Write the model as it is now."""
        copy_beside(folder_of(self.recipe.start), folder, capacity=self.recipe.rollout.capacity)
        save_weights(folder, self.model)

    def _save(self) -> None:
        self.folder.save(
            {
                "model": self.model.state_dict(),
                "optimizers": self.optimizers.state(),
                "position": asdict(self.position),
            }
        )
