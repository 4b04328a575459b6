"""Format fine-tuning on TRL's `SFTTrainer`: any causal language model that transformers reads, whole or with LoRA.

    asyncthink train sft recipes/smollm2-sft.toml

Ours are the rows, their batches and the schedule, as in `asyncthink.training.sft`; model, adapters, loss, optimizer
step and saved states are TRL's. A row begins with the token ids that the runtime sends to the engine of the same
folder: that folder's role templates, else its chat template around what a model is told that knows no protocol. The
checkpoint has the same templates, so that the model is asked as it was trained.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from asyncthink.engines.base import Profile
from asyncthink.engines.lexicon import first_line, load_lexicon, save_profile
from asyncthink.engines.models import folder_of
from asyncthink.engines.prompting import Prompts
from asyncthink.episodes.record import Role
from asyncthink.errors import CheckpointError, DivergedError, UsageError
from asyncthink.protocol import tags
from asyncthink.protocol.prompts import load_prompts
from asyncthink.runtime.agent import instructions, told
from asyncthink.training.cards import write_model_card
from asyncthink.training.encoding import IGNORED, Row, encode_pieces
from asyncthink.training.mixture import Mixture, limits
from asyncthink.training.optimizers import BETAS
from asyncthink.training.recipe import Recipe
from asyncthink.training.run_folder import RunFolder, copy_beside
from asyncthink.training.sft import Position, Progress, inputs_of, shard_batches
from asyncthink.training.synthesis import Example
from asyncthink.training.trl.library import last_state, one_process

trl: Any = import_module("trl")

ADAPTER = "adapter"
"""Folder of a run, with its LoRA before it was merged."""


class Encoder:
    """Makes rows for a checkpoint folder: prompts as its engine sends them, without budgets.

    Args:
        folder: in the standard layout, of any architecture.

    Raises:
        CheckpointError: a file is missing or broken.
        UsageError: it has no end-of-text token.
    """

    def __init__(self, folder: Path) -> None:
        self.lexicon = load_lexicon(folder)
        self._prompts, self._texts = Prompts(folder, self.lexicon), load_prompts()
        if not self.lexicon.eos:
            raise UsageError(f"{folder} names no end-of-text token")

    def __call__(self, example: Example) -> Row:
        """Encode an example behind its prompt, with an end of text.

        Raises:
            UsageError: its role is none.
            CheckpointError: a template of the folder is broken or missing.
        """
        if example.role not in list(Role):
            raise UsageError(f"an example's role is {' or '.join(Role)}, not {example.role!r}")
        role = Role(example.role)
        query = tags.escape(example.query) if role is Role.WORKER else example.query
        messages = told(instructions(self._texts, example.capacity)[role], query)
        prompt = self._prompts.build(messages, role=role, capacity=example.capacity)
        return encode_pieces(self.lexicon, prompt.token_ids or (), example)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a step has seen when it ends."""

    position: Position
    trained: Sequence[int]
    """Trained tokens of each of its micro-batches."""


class Batches(IterableDataset[Any]):
    """The micro-batches of all steps from a position on: a function of the recipe and the position.

    Args:
        recipe: whose data it is.
        encoded: makes rows.
        longest: tokens of a row.
        begin: where to begin.
    """

    def __init__(
        self, recipe: Recipe, encoded: Callable[[Example], Row], longest: int, begin: Position
    ) -> None:
        self.recipe, self._encoded, self._longest = recipe, encoded, longest
        self.steps = {begin.step: Step(position=begin, trained=())}
        """Those that were drawn, and the one before them."""
        self._begin = begin

    def __iter__(self) -> Iterator[list[dict[str, list[int]]]]:
        train, position = self.recipe.train, self._begin
        mixture = Mixture(self.recipe.data, self.recipe.seed)
        while position.tokens < train.tokens:
            groups = shard_batches(self.recipe, mixture, position.shard, self._encoded, self._longest)
            for group in groups[position.batch :]:
                if position.tokens >= train.tokens:
                    return
                seen = position.tokens + sum(len(row.ids) for row in group)
                position = replace(position, step=position.step + 1, batch=position.batch + 1, tokens=seen)
                parts = micro_batches(group, self.recipe.trl.micro_batches)
                trained = [sum(each != IGNORED for row in part for each in row["labels"]) for part in parts]
                self.steps[position.step] = Step(position=position, trained=trained)
                yield from parts
            position = replace(position, shard=position.shard + 1, batch=0)


def micro_batches(group: Sequence[Row], parts: int) -> list[list[dict[str, list[int]]]]:
    """Return a step's rows, as TRL takes them, in so many micro-batches; one that gets none has nothing to learn."""
    cuts = [len(group) * part // parts for part in range(parts + 1)]
    shares = [[_columns(row) for row in group[begin:end]] for begin, end in pairwise(cuts)]
    nothing = [{"input_ids": group[0].ids[:2], "labels": [IGNORED] * 2}]
    return [share or nothing for share in shares]


def _columns(row: Row) -> dict[str, list[int]]:
    labels = [token if own else IGNORED for token, own in zip(row.ids, row.trained, strict=True)]
    return {"input_ids": row.ids, "labels": labels}


class RowTrainer(trl.SFTTrainer):  # pyright: ignore[reportUntypedBaseClass]
    """TRL's trainer over our batches, with the recipe's optimizer and schedule.

    Args:
        source: the batches.
    """

    def __init__(self, *, source: Batches, **arguments: Any) -> None:
        self.source = source
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = (
            True  # TRL's loss takes the step's count of tokens, whatever the model takes
        )

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    def get_train_dataloader(self) -> Any:
        """Return the micro-batches of all steps, in order."""
        own = torch.Generator()  # a resumed run draws no other number than a whole one
        return DataLoader(self.source, batch_size=None, collate_fn=self.data_collator, generator=own)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return AdamW with the rates and the decay of `Optimizers`."""
        model = model or self.model
        ends = {
            id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each
        }
        groups: tuple[list[Any], list[Any]] = ([], [])
        for parameter in model.parameters():
            if parameter.requires_grad:
                groups[parameter.ndim < 2 or id(parameter) in ends].append(parameter)
        train = self.source.recipe.train
        settings = zip(groups, train.rates, (train.weight_decay, 0.0), strict=True)
        self.optimizer = torch.optim.AdamW(
            [{"params": own, "lr": rate, "weight_decay": decay} for own, rate, decay in settings if own],
            betas=BETAS,
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Return the recipe's schedule, over tokens."""
        del num_training_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._scale)
        return self.lr_scheduler

    def _scale(self, step: int) -> float:
        """Return a step's share of the rates; of one before a resumed run's first nobody asks for the value."""
        seen = self.source.steps.get(step)
        return self.source.recipe.train.scale(step, seen.position.tokens if seen else 0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a step's figures the accuracy over its tokens, where TRL's is a mean over micro-batches."""
        if "loss" in logs:
            trained = self.source.steps[self.state.global_step].trained
            right = zip(self._metrics["train"]["mean_token_accuracy"], trained, strict=True)
            logs["accuracy"] = sum(share * count for share, count in right) / sum(trained)
        super().log(logs, start_time)


def train_sft(recipe: Recipe, report: Callable[[Progress], None] = lambda _: None) -> Path:
    """Train as `asyncthink.training.sft.train_sft` does, with TRL; return the checkpoint folder.

    A killed run goes on from TRL's last saved state.

    Raises:
        UsageError: the run directory belongs to another recipe, start or data or cannot be written, no trace fits, or
            TRL or its adapters refuse the recipe, or there are several processes or GPUs.
        RecordError: another process is writing it.
        CheckpointError: the checkpoint to start from cannot be loaded.
        DivergedError: the gradient is no number any more.
    """
    assert recipe.start is not None, "checked when the recipe was read"
    one_process()
    torch.set_num_threads(recipe.train.threads)
    disable_progress_bar()
    set_verbosity_error()
    start = folder_of(recipe.start)
    encoder = Encoder(start)
    with RunFolder(recipe.output, recipe.source, inputs_of(recipe)) as folder:
        return _Run(recipe, report, folder, start, encoder).go_on()


class _Run:
    """A run in this process: what TRL says of a step is kept here."""

    def __init__(
        self,
        recipe: Recipe,
        report: Callable[[Progress], None],
        folder: RunFolder,
        start: Path,
        encoder: Encoder,
    ) -> None:
        self.recipe, self.report, self.folder, self.start = recipe, report, folder, start
        self.saved = folder.path / "trl"
        self.last, state = last_state(self.saved)
        self.position = Position(**state["stateful_callbacks"][_Told.__name__]) if state else Position()
        folder.rewind(self.position.step)
        self.trainer = trainer_of(recipe, self.saved, encoder, self.position)
        self.trainer.add_callback(_Told(self))
        self.source: Batches = self.trainer.source
        self.profile = Profile(
            capacity=recipe.capacity,
            tasks=limits(recipe.data) if encoder.lexicon.templates else None,
            temperature=recipe.temperature,
        )

    @property
    def done(self) -> bool:
        """Whether enough tokens were seen."""
        return self.position.tokens >= self.recipe.train.tokens

    def go_on(self) -> Path:
        last = str(self.last) if self.last else None
        if not self.done:
            self.trainer.train(resume_from_checkpoint=last)
        elif not self.folder.checkpoint.exists():  # killed between the last step and this
            self.trainer._load_from_checkpoint(last)
        else:
            return self.folder.checkpoint
        self._write()
        return self.folder.checkpoint

    def step(self, seconds: float) -> None:
        """Take note of where one more step leads."""
        spent = self.position.seconds + seconds
        self.position = replace(self.source.steps[self.position.step + 1].position, seconds=spent)

    def log(self, logs: dict[str, float], seconds: float) -> None:
        """Keep the figures of the last step."""
        position = self.position
        if not isfinite(logs["grad_norm"]):
            raise DivergedError(
                f"the gradient is no number at step {position.step}: a smaller train.learning_rate may mend it"
            )
        tokens = position.tokens - self.source.steps.pop(position.step - 1).position.tokens
        progress = Progress(
            step=position.step,
            tokens=position.tokens,
            total_tokens=self.recipe.train.tokens,
            loss=logs["loss"],
            accuracy=logs["accuracy"],
            tokens_per_second=tokens / seconds,
            seconds=position.seconds,
        )
        self.folder.log(asdict(progress))
        self.report(progress)

    def _write(self) -> None:
        """Write the checkpoint, whole or not at all: the model, and all else as it was in the beginning."""
        model = self.trainer.model
        if self.recipe.trl.lora is not None:
            model.save_pretrained(self.folder.path / ADAPTER)
            model = model.merge_and_unload()
        made = self.folder.path / "checkpoint.tmp"
        shutil.rmtree(made, ignore_errors=True)
        copy_beside(self.start, made)
        model.save_pretrained(made)
        save_profile(made, self.profile)
        write_model_card(made, self.recipe)
        shutil.rmtree(self.folder.checkpoint, ignore_errors=True)
        made.rename(self.folder.checkpoint)


def trainer_of(recipe: Recipe, folder: Path, encoder: Encoder, begin: Position) -> RowTrainer:
    """Return TRL's trainer for a recipe, which goes on from a position.

    Raises:
        CheckpointError: the checkpoint to start from cannot be loaded.
        UsageError: TRL refuses, for one because no layer has a name in `trl.lora.targets`.
    """
    train, own = recipe.train, recipe.trl
    on_gpu = torch.cuda.is_available()
    config = trl.SFTConfig(
        output_dir=str(folder),
        seed=recipe.seed,
        use_cpu=not on_gpu,
        bf16=train.bfloat16,
        max_steps=train.tokens,  # at most: the batches end earlier
        per_device_train_batch_size=1,
        gradient_accumulation_steps=own.micro_batches,
        activation_checkpointing=own.gradient_checkpointing,
        max_grad_norm=1.0,
        ignore_data_skip=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=train.save_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    model = _model(folder_of(recipe.start or ""), own.dtype)
    known = model.config.get_text_config().max_position_embeddings
    longest = min(own.max_length or known, known)
    lexicon = encoder.lexicon
    arguments: dict[str, Any] = {
        "source": Batches(recipe, encoder, longest, begin),
        "model": model,
        "args": config,
        "train_dataset": import_module("datasets").Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}),
        "data_collator": import_module("trl.trainer.sft_trainer").DataCollatorForLanguageModeling(
            lexicon.eos[0]
        ),
        # Named special tokens would be written into the model's configuration.
        "processing_class": PreTrainedTokenizerFast(tokenizer_object=deepcopy(lexicon.tokenizer)),
        "peft_config": _adapter(recipe),
    }
    with catch_warnings():  # of what peft does for itself, or has not followed in transformers yet
        simplefilter("ignore")
        try:
            trainer = RowTrainer(**arguments)
        except ValueError as error:
            raise UsageError(f"TRL's trainer refuses the recipe: {first_line(error)}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _model(folder: Path, dtype: str) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {first_line(error)}") from error


def _adapter(recipe: Recipe) -> Any:
    lora = recipe.trl.lora
    if lora is None:
        return None
    return import_module("peft").LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets or "all-linear",
        task_type="CAUSAL_LM",
    )


class _Told(TrainerCallback, ExportableState):
    """Hears from TRL what a step came to, ends the run, and has its position in the saved states."""

    def __init__(self, run: _Run) -> None:
        self._run, self._began, self._seconds = run, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop behind the last token."""
        self._seconds = time.monotonic() - self._began
        self._run.step(self._seconds)
        if self._run.done:
            control.should_training_stop = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep a step's figures; the summary at the end has no loss."""
        if "loss" in logs:
            self._run.log(logs, self._seconds)

    def state(self) -> dict[str, Any]:
        """Return the position."""
        return asdict(self._run.position)
