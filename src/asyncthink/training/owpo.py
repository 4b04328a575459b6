"""Organizer-worker policy optimisation: GRPO over units of an organizer and all its workers.

for each step:
    problems      the next ones of the train split, each used once
    episodes      several of each, by the model as it is           rollout.py
    rewards       one an episode                                   reward.py
    advantages    reward - mean of its problem's episodes          advantage.py
    rows          one a trace, its own decoded tokens trained      rows.py
    loss          every row with its episode's advantage           loss.py, update.py

asyncthink train rl recipes/embedded-rl.toml
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, pstdev

import anyio
import torch

from asyncthink.engines.checkpoint import Checkpoint, save_checkpoint
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import folder_of
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import get_task
from asyncthink.training.advantage import advantages
from asyncthink.training.optimizers import Optimizers
from asyncthink.training.reward import Reward, reward_of
from asyncthink.training.rl_recipe import RLRecipe
from asyncthink.training.rollout import Rollout, Sampler
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.run_folder import RunFolder, load_start
from asyncthink.training.update import Updated, Updater


@dataclass(slots=True)
class Position:
    """Where a run stands."""

    step: int = 0
    seconds: float = 0.0
    """Wall time spent, over all sittings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """One line of metrics.jsonl: means over the step's episodes where nothing else is said."""

    step: int
    """From 1."""
    steps: int
    problems: tuple[int, int]
    """The first problem of the train split that was used, and the one behind the last."""
    reward: float
    reward_std: float
    """Within groups."""
    accuracy: float
    """R_A, format errors or not."""
    solved: float
    """Share of episodes with full accuracy."""
    concurrency: float
    """eta/c over valid episodes; 0 without one."""
    critical_path: float
    """Ticks."""
    forks: float
    joins: float
    valid: float
    """Share of episodes without a format error."""
    format_errors: dict[str, int] = field(default_factory=dict[str, int])
    """Name -> episodes that have it."""
    even_groups: float
    """Share of groups whose rewards are all the same: nothing is learned from them."""
    decoded_tokens: int
    """Of all episodes together."""
    rows: int
    trained_tokens: int
    loss: float
    gradient_norm: float
    kl: float
    """Of the model that learns to the sampler."""
    moved: float
    """KL of the model that learns to the model it began as, where `loss.kl` holds on to that; else 0."""
    entropy: float
    """Of the policy, mean of a trained token, in nats: estimated by -log p of what was sampled."""
    clipped: float
    rollout_seconds: float
    update_seconds: float
    tokens_per_second: float
    """Decoded tokens over the step's seconds, update included."""
    seconds: float
    """Of the run so far."""


class Watcher:
    """Told how a run goes on; does nothing by itself."""

    def begin(self, steps: int, done: int, episodes: int) -> None:
        """The run begins or goes on, with so many episodes a step."""

    def episode(self) -> None:
        """An episode of the step is there."""

    def step(self, metrics: StepMetrics) -> None:
        """A step is done and kept."""


def train_rl(recipe: RLRecipe, watcher: Watcher | None = None) -> Path:
    """Train, going on from the run directory's last state; return the checkpoint folder.

    Raises:
        UsageError: the run directory belongs to another recipe or start or cannot be written, or the model was
            not made for the task.
        RecordError: another process is writing it, or the disk is full.
        CheckpointError: the checkpoint to start from cannot be loaded.
        EngineError: the engine failed again and again.
        DivergedError: the gradient is no number any more; the last state is that of the step before.
    """
    checkpoint = load_start(recipe.start)
    with RunFolder(recipe.output, recipe.source, {recipe.start: folder_of(recipe.start)}) as folder:
        return anyio.run(_Run(recipe, watcher or Watcher(), folder, checkpoint).go_on)


class _Run:
    """A run in this process."""

    def __init__(self, recipe: RLRecipe, watcher: Watcher, folder: RunFolder, checkpoint: Checkpoint) -> None:
        self.recipe, self.watcher, self.folder, self.checkpoint = recipe, watcher, folder, checkpoint
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
        self.position = Position()
        if state := self.folder.load(kept=rollout.kept * rollout.episodes):
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
        self.organization = Organization(
            engine,
            method=rollout.method,
            capacity=rollout.capacity,
            limits=Limits(
                max_critical_path=rollout.max_critical_path, max_worker_tokens=rollout.max_worker_tokens
            ),
            temperature=1.0,
            top_p=rollout.top_p,
        )
        self.sampler = Sampler(
            self.organization,
            get_task(rollout.task),
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
                    save_checkpoint(
                        self.folder.path / "checkpoints" / f"step-{metrics.step:05}", self.checkpoint
                    )
                if metrics.step % update.save_every == 0:
                    self._save()
                self.watcher.step(metrics)
        self._save()
        save_checkpoint(self.folder.checkpoint, self.checkpoint)
        return self.folder.checkpoint

    async def _step(self) -> StepMetrics:
        began = time.monotonic()
        groups = await self.sampler.draw(self.position.step, self.watcher.episode)
        sampled = time.monotonic()
        rewards = [
            [reward_of(one.episode, one.asked, one.metrics, self.recipe.reward) for one in group]
            for group in groups
        ]
        self.folder.keep(one.episode for group in groups[: self.recipe.rollout.kept] for one in group)
        updates = self._update(groups, rewards)
        ended = time.monotonic()
        self.position.step += 1
        self.position.seconds += ended - began
        return self._metrics(groups, rewards, updates, sampled - began, ended - sampled)

    def _update(
        self, groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[Reward]]
    ) -> list[Updated]:
        """Learn from all groups, in as many updates as the recipe says."""
        update = self.recipe.update
        left = (update.steps - self.position.step) / (update.cooldown_steps + 1)
        scale = min((self.position.step + 1) / update.warmup_steps, 1.0, left)
        parts = [
            _weighed(groups[i : i + size], rewards[i : i + size], normalise=update.normalise_advantage)
            for size in [len(groups) // update.updates]
            for i in range(0, len(groups), size)
        ]
        parts = [part for part in parts if part[0]]
        old = (
            [self.updater.old_logprobs(part[0]) for part in parts]
            if update.updates > 1
            else [None] * len(parts)
        )
        return [self.updater.step(*part, scale, before) for part, before in zip(parts, old, strict=True)]

    def _metrics(
        self,
        groups: Sequence[Sequence[Rollout]],
        rewards: Sequence[Sequence[Reward]],
        updates: Sequence[Updated],
        rollout_seconds: float,
        update_seconds: float,
    ) -> StepMetrics:
        episodes = [one for group in groups for one in group]
        paid = [each for group in rewards for each in group]
        valid = [one for one in episodes if not one.episode.faults]
        errors = Counter(name for one in episodes for name in set(one.episode.format_errors))
        first = (self.position.step - 1) * len(groups)
        decoded = sum(one.metrics.decoded_tokens for one in episodes)
        trained = sum(each.tokens for each in updates)
        totals = [[each.total for each in group] for group in rewards]
        return StepMetrics(
            step=self.position.step,
            steps=self.recipe.update.steps,
            problems=(first, first + len(groups)),
            reward=fmean(each.total for each in paid),
            reward_std=fmean(map(pstdev, totals)),
            accuracy=fmean(each.accuracy for each in paid),
            solved=fmean(each.accuracy == 1 for each in paid),
            concurrency=fmean([one.metrics.concurrency for one in valid] or [0.0]),
            critical_path=fmean(one.metrics.critical_path for one in episodes),
            forks=fmean(one.metrics.forks for one in episodes),
            joins=fmean(one.metrics.joins for one in episodes),
            valid=len(valid) / len(episodes),
            format_errors=dict(sorted(errors.items())),
            even_groups=fmean(max(group) == min(group) for group in totals),
            decoded_tokens=decoded,
            rows=sum(each.rows for each in updates),
            trained_tokens=trained,
            loss=sum(each.loss for each in updates),
            gradient_norm=fmean([each.gradient_norm for each in updates] or [0.0]),
            kl=fmean([each.kl for each in updates] or [0.0]),
            moved=fmean([each.moved for each in updates] or [0.0]),
            entropy=fmean([each.entropy for each in updates] or [0.0]),
            clipped=fmean([each.clipped for each in updates] or [0.0]),
            rollout_seconds=rollout_seconds,
            update_seconds=update_seconds,
            tokens_per_second=decoded / (rollout_seconds + update_seconds),
            seconds=self.position.seconds,
        )

    def _save(self) -> None:
        self.folder.save(
            {
                "model": self.model.state_dict(),
                "optimizers": self.optimizers.state(),
                "position": asdict(self.position),
            }
        )


def _weighed(
    groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[Reward]], *, normalise: bool
) -> tuple[list[TrainingRow], list[float]]:
    """Return the rows of some groups, each with its episode's advantage."""
    found: list[TrainingRow] = []
    weights: list[float] = []
    for group, paid in zip(groups, rewards, strict=True):
        shared = advantages([each.total for each in paid], normalise=normalise)
        for one, advantage in zip(group, shared, strict=True):
            own = rows(one.episode)
            found += own
            weights += [advantage] * len(own)
    return found, weights
