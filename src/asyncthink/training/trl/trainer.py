"""TRL's trainer over whole steps of whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, PrinterCallback

from asyncthink.engines.models import folder_of
from asyncthink.training.optimizers import BETAS
from asyncthink.training.rl_recipe import RLRecipe
from asyncthink.training.trl.batches import StepBatcher
from asyncthink.training.trl.library import trl
from asyncthink.training.trl.weights import ServedWeights, SharedWeights
from asyncthink.training.trl.worker import EpisodeWorker


class EpisodeTrainer(trl.AsyncGRPOTrainer):  # pyright: ignore[reportUntypedBaseClass]
    """TRL's trainer over whole steps of whole episodes.

    Args:
        scale: step -> share of the learning rate.
    """

    def __init__(self, *, scale: Callable[[int], float], **arguments: Any) -> None:
        self._scale = scale
        super().__init__(**arguments)

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Return the recipe's schedule."""
        del num_training_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._scale)
        return self.lr_scheduler

    def get_train_dataloader(self) -> Any:
        """Return the micro-batches of all steps, in order."""
        self._rollout_dataset = trl.RolloutQueueDataset(
            rollout_queue=self.rollout_queue,
            model_version_fn=lambda: self.model_version,
            check_health_fn=self.rollout_worker.check_health,
            stale_after_s=self.args.heartbeat_stale_after_s,
            metrics=self._metrics["train"],
            max_staleness=self.args.max_staleness,
            report_to=self.args.report_to,
        )
        source = StepBatcher(
            self._rollout_dataset, self.rollout_worker, self.args.gradient_accumulation_steps
        )
        collate = trl.DataCollatorForRollout(
            self.processing_class.pad_token_id,
            1,
            groups_trained=self._trained_groups,
            metrics=self._metrics["train"],
            token_budget=0,
        )
        # Not Accelerate's loader, which looks a batch ahead, into a step that is not drawn yet.
        return DataLoader(source, batch_size=1, collate_fn=collate, num_workers=0)


def trainer_of(
    recipe: RLRecipe, folder: Path, worker: EpisodeWorker, weights: SharedWeights | ServedWeights | None
) -> Any:
    """Return TRL's trainer for a recipe: one optimizer step a step, with the recipe's rates.

    Without `weights` it hands them over itself, by NCCL.
    """
    update = recipe.update
    config = trl.AsyncGRPOConfig(
        output_dir=str(folder),
        seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=update.bfloat16,
        dtype="float32",
        epsilon=recipe.loss.clip_low,
        epsilon_high=recipe.loss.clip_high,
        learning_rate=update.learning_rate,
        weight_decay=update.weight_decay,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=update.max_norm,
        max_steps=update.steps,
        gradient_accumulation_steps=recipe.trl.micro_batches,
        activation_checkpointing=recipe.trl.gradient_checkpointing,
        token_budget=1,
        max_staleness=0,
        logging_steps=1,
        save_strategy="steps",
        save_steps=update.save_every,
        save_total_limit=2,
        report_to="none",
        vllm_server_base_url=(recipe.trl.servers or "").removesuffix("/v1"),
        disable_tqdm=True,
    )
    start = folder_of(recipe.start)
    trainer = EpisodeTrainer(
        model=str(start),
        args=config,
        scale=update.scale,
        train_dataset=import_module("datasets").Dataset.from_dict(
            {"prompt": [[{"role": "user", "content": ""}]]}
        ),
        processing_class=PreTrainedTokenizerFast.from_pretrained(start),
        rollout_worker=worker,
        weight_transfer=weights,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
