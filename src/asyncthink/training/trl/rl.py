"""Runs of `asyncthink train rl` with TRL's trainer."""

from __future__ import annotations

import time
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from asyncthink.engines.models import folder_of
from asyncthink.errors import DivergedError, UsageError
from asyncthink.training.cards import write_model_card
from asyncthink.training.loss import Aggregation
from asyncthink.training.problems import Problems, problems_of
from asyncthink.training.reward import Reward, RewardFunction, reward_of, source_of
from asyncthink.training.rl_recipe import RLRecipe
from asyncthink.training.rollout import Rollout, Sampler, organization_of
from asyncthink.training.rows import TrainingRow
from asyncthink.training.run_folder import RunFolder, copy_beside
from asyncthink.training.step import Watcher, step_metrics, weighed
from asyncthink.training.trl.library import last_state, one_process, without_gpu
from asyncthink.training.trl.policy import LocalPolicy, ServedPolicy
from asyncthink.training.trl.trainer import trainer_of
from asyncthink.training.trl.worker import Drawn, EpisodeWorker
from asyncthink.training.update import Updated


def train_trl(recipe: RLRecipe, watcher: Watcher | None = None, reward: RewardFunction = reward_of) -> Path:
    """Train as `owpo.train_rl` does, with TRL's update; return the checkpoint folder.

    A killed run goes on from TRL's last checkpoint.

    Raises:
        UsageError: the recipe has a switch that TRL's loss does not have, the run directory belongs to another, there
            are too few problems, or several processes or GPUs.
        RecordError: another process is writing it, or the disk is full.
        CheckpointError: the checkpoint to start from cannot be loaded.
        EngineError: the engine failed again and again, or a step has fewer rows than micro-batches.
        DivergedError: the gradient is no number any more.
    """
    refuse(recipe)
    one_process()
    disable_progress_bar()
    set_verbosity_error()
    start = folder_of(recipe.start)
    problems = problems_of(recipe)
    inputs = {recipe.start: start, **problems.inputs, **source_of(reward)}
    with RunFolder(recipe.output, recipe.source, inputs) as folder:
        return _Run(recipe, watcher or Watcher(), folder, problems, reward).go_on()


def refuse(recipe: RLRecipe) -> None:
    """Refuse what would be done differently from what the recipe says.

    Raises:
        UsageError: there is such a thing.
    """
    switches = {
        "rollout.top_p": (recipe.rollout.top_p, 1.0),
        "loss.kl": (recipe.loss.kl, 0.0),
        "loss.aggregation": (recipe.loss.aggregation, Aggregation.TOKEN),
        "loss.importance_cap": (recipe.loss.importance_cap, None),
        "update.updates": (recipe.update.updates, 1),
        "update.fork_credit": (recipe.update.fork_credit, False),
    }
    for name, (value, only) in switches.items():
        if value != only:
            shown = "none" if only is None else str(only)
            raise UsageError(f"{name} = {value} is not in TRL's loss: only {shown} is")
    if recipe.trl.weights == "nccl" and "," in (recipe.trl.servers or ""):
        raise UsageError('trl.weights = "nccl" reaches one server: use "disk" for several')


class _Run:
    """A run in this process: what is drawn here is trained by TRL, and what that says of a step is kept here."""

    def __init__(
        self,
        recipe: RLRecipe,
        watcher: Watcher,
        folder: RunFolder,
        problems: Problems,
        reward: RewardFunction,
    ) -> None:
        self.recipe, self.watcher, self.folder, self.reward = recipe, watcher, folder, reward
        self.drawn: dict[int, tuple[list[list[Rollout]], list[list[Reward]], float]] = {}
        """Step -> its groups, what they were paid, and the seconds it took, until it is trained."""
        self.seconds = 0.0
        """Of the run so far, over all sittings."""
        self.start = folder_of(recipe.start)
        self.policy = _policy(recipe, folder)
        rollout = recipe.rollout
        self.organization = organization_of(self.policy.engine, rollout)
        self.sampler = Sampler(
            self.organization,
            problems,
            seed=recipe.seed,
            problems=rollout.problems,
            episodes=rollout.episodes,
        )

    async def draw(self, step: int) -> Drawn:
        """Return the rows of a step."""
        began = time.monotonic()
        self.policy.renew()
        groups = await self.sampler.draw(step, self.watcher.episode)
        paid = [
            [self.reward(one.episode, one.asked, one.metrics, self.recipe.reward) for one in group]
            for group in groups
        ]
        rows, shared, places = list[TrainingRow](), list[float](), list[int]()
        for place, (group, rewards) in enumerate(zip(groups, paid, strict=True)):
            own, worth = weighed([group], [rewards], normalise=self.recipe.update.normalise_advantage)
            rows += own
            shared += worth
            places += [step * len(groups) + place] * len(own)
        self.drawn[step] = groups, paid, time.monotonic() - began
        return Drawn(rows=rows, advantages=shared, groups=places)

    def go_on(self) -> Path:
        update = self.recipe.update
        if not torch.cuda.is_available():
            without_gpu()
        torch.set_num_threads(update.threads)
        saved = self.folder.path / "trl"
        last, state = last_state(saved)
        begin = state.get("global_step", 0)
        self.folder.rewind(begin, self.recipe.rollout.kept_episodes)
        self.watcher.begin(update.steps, begin, self.recipe.rollout.problems * self.recipe.rollout.episodes)
        self.seconds = self.folder.seconds()
        worker = EpisodeWorker(self.organization, self.draw, begin=begin, steps=update.steps)
        trainer = trainer_of(self.recipe, saved, worker, self.policy.weights)
        trainer.add_callback(_Told(self, trainer))
        if begin < update.steps:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        else:  # it was killed between its last step and this, or is given again
            trainer._load_from_checkpoint(str(last))
        self.save(trainer, self.folder.checkpoint)
        write_model_card(self.folder.checkpoint, self.recipe)
        return self.folder.checkpoint

    def save(self, trainer: Any, folder: Path) -> None:
        """Write the trained model beside what came with the one to start from: tokenizer, templates, profile."""
        copy_beside(self.start, folder, capacity=self.recipe.rollout.capacity)
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)

    def log(self, step: int, logs: dict[str, float], seconds: float) -> None:
        """Keep the figures of a step, from 1, that took so many seconds."""
        if not isfinite(logs["grad_norm"]):
            raise DivergedError(
                f"the gradient is no number at step {step}: a smaller update.learning_rate may mend it"
            )
        self.seconds += seconds
        groups, paid, rollout_seconds = self.drawn.pop(step - 1)
        rows, _ = weighed(groups, paid, normalise=False)
        updated = Updated(
            loss=logs["loss"],
            gradient_norm=logs["grad_norm"],
            rows=len(rows),
            tokens=sum(row.n_trained for row in rows),
            kl=logs["kl"],
            moved=0.0,
            entropy=logs["entropy"],
            clipped=logs["clip_ratio/region_mean"],
        )
        metrics = step_metrics(
            step,
            self.recipe.update.steps,
            groups,
            paid,
            [updated],
            rollout_seconds=rollout_seconds,
            update_seconds=max(0.0, seconds - rollout_seconds),
            seconds=self.seconds,
        )
        self.folder.log(asdict(metrics))
        self.folder.keep(one.episode for group in groups[: self.recipe.rollout.kept] for one in group)
        self.watcher.step(metrics)


def _policy(recipe: RLRecipe, folder: RunFolder) -> LocalPolicy | ServedPolicy:
    """Return who samples."""
    start, trl = folder_of(recipe.start), recipe.trl
    if trl.servers is None:
        return LocalPolicy(start, recipe.start, lanes=recipe.update.threads)
    return ServedPolicy(
        start, trl.served_name, trl.servers, folder.path / "policy" if trl.weights == "disk" else None
    )


class _Told(TrainerCallback):
    """Hears from TRL what a step came to."""

    def __init__(self, run: _Run, trainer: Any) -> None:
        self._run, self._trainer, self._last = run, trainer, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep a model on the way."""
        if state.global_step % self._run.recipe.update.checkpoint_every == 0:
            self._run.save(self._trainer, self._run.folder.on_the_way(state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep a step's figures; the summary at the end has no loss."""
        if "loss" in logs:
            now = time.monotonic()
            self._run.log(state.global_step, logs, now - self._last)
            self._last = now
