"""Format fine-tuning: next-token loss on what a model is to write, prompts and inserted text masked.

    asyncthink train sft recipes/embedded-sft.toml

Batches are made of examples of like length instead of packing them: no example sees another, and little
of a batch is padding. The data of a step is a function of (seed, shard), so that a killed run goes
on where its last saved state was: the same batches, the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from asyncthink.engines.base import Profile
from asyncthink.engines.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_weights
from asyncthink.engines.lexicon import Lexicon, save_profile
from asyncthink.engines.llama import Llama, LlamaConfig
from asyncthink.engines.models import folder_of
from asyncthink.errors import DivergedError, UsageError
from asyncthink.training.cards import write_model_card
from asyncthink.training.encoding import IGNORED, Row, batches, encode_example, new_lexicon, tensors
from asyncthink.training.mixture import Mixture, limits
from asyncthink.training.optimizers import Optimizers
from asyncthink.training.recipe import ModelRecipe, Recipe
from asyncthink.training.run_folder import RunFolder, copy_beside
from asyncthink.training.synthesis import Example

INITIAL_STD = 0.02


def loss_of(model: Llama, ids: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Return the mean loss over trained tokens, in nats, and the share of them predicted right.

    Args:
        model: what learns.
        ids: of a padded batch, [B, T].
        targets: the token behind each, `IGNORED` where none is trained, [B, T].
    """
    kept = targets != IGNORED
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    logits = model.lm_head(model.hidden(ids, positions)[kept]).float()
    right = (logits.argmax(-1) == targets[kept]).float().mean().item()
    return F.cross_entropy(logits, targets[kept]), right


@dataclass(slots=True)
class Position:
    """Where a run stands."""

    step: int = 0
    shard: int = 0
    batch: int = 0
    """Batches of the shard already used."""
    tokens: int = 0
    seconds: float = 0.0
    """Wall time spent, over all sittings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One line of metrics.jsonl."""

    step: int
    tokens: int
    total_tokens: int
    loss: float
    accuracy: float
    """Share of trained tokens that the model would have written greedily."""
    tokens_per_second: float
    seconds: float


def train_sft(recipe: Recipe, report: Callable[[Progress], None] = lambda _: None) -> Path:
    """Train, going on from the run directory's last state; return the checkpoint folder.

    Raises:
        UsageError: the run directory belongs to another recipe, start or data or cannot be written, or no trace
            fits.
        RecordError: another process is writing it, or the disk is full.
        CheckpointError: the checkpoint to start from cannot be loaded.
        DivergedError: the gradient is no number any more.
    """
    torch.set_num_threads(recipe.train.threads)
    model, lexicon = _begin(recipe)
    with RunFolder(recipe.output, recipe.source, inputs_of(recipe)) as folder:
        return _Run(recipe, report, folder, model, lexicon).go_on()


def inputs_of(recipe: Recipe) -> dict[str, Path]:
    """Return what a run begins with, by the recipe's names."""
    inputs = {each.file: Path(each.file) for each in recipe.data if each.file}
    return inputs if recipe.start is None else {**inputs, recipe.start: folder_of(recipe.start)}


def shard_batches(
    recipe: Recipe, mixture: Mixture, shard: int, encoded: Callable[[Example], Row], longest: int
) -> list[list[Row]]:
    """Return the batches of a shard, in order; rows of more than `longest` tokens are left out.

    Raises:
        UsageError: none is as short.
    """
    rows = [row for row in map(encoded, mixture.shard(shard)) if len(row.ids) <= longest]
    if not rows:
        raise UsageError(f"no trace is as short as max_length = {longest} tokens")
    return batches(rows, recipe.train.batch_tokens, Random(f"batches:{recipe.seed}:{shard}"))


class _Run:
    """A run in this process."""

    def __init__(
        self,
        recipe: Recipe,
        report: Callable[[Progress], None],
        folder: RunFolder,
        model: Llama,
        lexicon: Lexicon,
    ) -> None:
        self.recipe, self.report, self.folder = recipe, report, folder
        self.model, self.lexicon = model, lexicon
        train = recipe.train
        rate, embedding_rate = train.rates
        self.optimizers = Optimizers(
            self.model,
            optimizer=train.optimizer,
            learning_rate=rate,
            embedding_learning_rate=embedding_rate,
            weight_decay=train.weight_decay,
        )
        self.position = Position()
        if state := self.folder.load():
            self.model.load_state_dict(state["model"])
            self.optimizers.load(state["optimizers"])
            self.position = Position(**state["position"])

    def go_on(self) -> Path:
        mixture = Mixture(self.recipe.data, self.recipe.seed)
        longest = self.model.config.max_position_embeddings
        while self.position.tokens < self.recipe.train.tokens:
            shard = self.position.shard
            groups = shard_batches(self.recipe, mixture, shard, self._encoded, longest)
            if self._shard(groups[self.position.batch :]):
                self.position.shard, self.position.batch = shard + 1, 0
        self._save()
        self._write(self.folder.checkpoint)
        write_model_card(self.folder.checkpoint, self.recipe)
        return self.folder.checkpoint

    def _write(self, folder: Path) -> None:
        """Write the model as it is now; what was there before it keeps its tokenizer and all that stands beside."""
        profile = Profile(
            capacity=self.recipe.capacity,
            tasks=limits(self.recipe.data),
            temperature=self.recipe.temperature,
        )
        if self.recipe.start is None:
            save_checkpoint(folder, as_checkpoint(self.model, replace(self.lexicon, profile=profile)))
            return
        copy_beside(folder_of(self.recipe.start), folder)
        save_weights(folder, self.model)
        save_profile(folder, profile)

    def _encoded(self, example: Example) -> Row:
        return encode_example(self.lexicon, example)

    def _shard(self, groups: list[list[Row]]) -> bool:
        """Train on batches until there are none or enough tokens were seen; return whether there are none."""
        for group in groups:
            if self.position.tokens >= self.recipe.train.tokens:
                return False
            self._step(group)
            if self.position.step % self.recipe.train.save_every == 0:
                self._save()
        return True

    def _step(self, group: list[Row]) -> None:
        train, position = self.recipe.train, self.position
        began = time.monotonic()
        ids, targets = tensors(group)
        with torch.autocast("cpu", torch.bfloat16, enabled=train.bfloat16):
            loss, accuracy = loss_of(self.model, ids, targets)
        loss.backward()
        if not isfinite(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)):
            raise DivergedError(
                f"the gradient is no number at step {position.step + 1}: a smaller train.learning_rate may mend it"
            )
        self.optimizers.step(train.scale(position.step, position.tokens))
        tokens = sum(len(row.ids) for row in group)
        position.step += 1
        position.batch += 1
        position.tokens += tokens
        seconds = time.monotonic() - began
        position.seconds += seconds
        progress = Progress(
            step=position.step,
            tokens=position.tokens,
            total_tokens=train.tokens,
            loss=loss.item(),
            accuracy=accuracy,
            tokens_per_second=tokens / seconds,
            seconds=position.seconds,
        )
        self.folder.log(asdict(progress))
        self.report(progress)

    def _save(self) -> None:
        self.folder.save(
            {
                "model": self.model.state_dict(),
                "optimizers": self.optimizers.state(),
                "position": asdict(self.position),
            }
        )


def _begin(recipe: Recipe) -> tuple[Llama, Lexicon]:
    """Make the model, or load the one to start from."""
    if recipe.start is not None:
        loaded = load_checkpoint(folder_of(recipe.start))
        return loaded.model.train().requires_grad_(True), loaded
    lexicon = new_lexicon()
    assert recipe.model is not None
    torch.manual_seed(recipe.seed)
    model = Llama(model_config(recipe.model, lexicon))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=INITIAL_STD)
    return model, lexicon


def model_config(shape: ModelRecipe, lexicon: Lexicon) -> LlamaConfig:
    """Return the shape of the model, its vocabulary filled up to a multiple of 8."""
    return LlamaConfig(
        vocab_size=-(-lexicon.tokenizer.get_vocab_size() // 8) * 8,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_length,
    )


def as_checkpoint(model: Llama, lexicon: Lexicon) -> Checkpoint:
    """Put a model and what belongs beside its weights together."""
    return Checkpoint(
        model=model,
        tokenizer=lexicon.tokenizer,
        templates=lexicon.templates,
        profile=lexicon.profile,
        bos=lexicon.bos,
        eos=lexicon.eos,
    )
