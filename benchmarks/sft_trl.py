"""Fine-tuning speed beside TRL's `SFTTrainer`: the same rows, the same weights, real tokens a second.

    pip install -c constraints.txt -e '.[local]' -r benchmarks/trl-requirements.txt  # in an environment of its own
    HF_HUB_OFFLINE=1 python benchmarks/sft_trl.py [--examples 400] [--threads 1 2] [--rounds 3] [--json FILE]

Rows come from the mixture of recipes/embedded-base.toml: token ids, and which of them are trained. Both sides
begin with the same weights (TRL's model is transformers' `LlamaForCausalLM`, read from our checkpoint folder)
and pass over the rows once, with AdamW at one rate; an optimizer step has about the recipe's `batch_tokens`,
padding included. TRL plays three times:

- `trl-batches`: our batches through its loop, so that only model, loss and loop differ;
- `trl-grouped`: its own batches of like length (`train_sampling_strategy="group_by_length"`), of so many rows
  that there are as many steps; its groups are those of a small data set, and get better with a larger one;
- `trl-packed`: its packing (`bfd`), one pack of the model's longest sequence at a time, gradients added up
  over a step. Its attention mask is dense on a CPU, so longer packs are slower.

Gradient checkpointing, TRL's default, is off, and every step's loss is logged on both sides. A side runs in a
process of its own, the sides take turns and the medians count; the first step of each is left out. Before
that, loss and gradient of one batch are compared between the sides.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from itertools import accumulate, islice, pairwise
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import torch
from results import save
from torch import Tensor
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from asyncthink.engines.checkpoint import load_checkpoint, save_checkpoint
from asyncthink.engines.llama import Llama
from asyncthink.training.encoding import IGNORED, Row, batches, encode_example, new_lexicon, tensors
from asyncthink.training.mixture import Mixture
from asyncthink.training.optimizers import BETAS, Optimizers
from asyncthink.training.recipe import load_recipe
from asyncthink.training.sft import INITIAL_STD, as_checkpoint, loss_of, model_config

RECIPE = "recipes/embedded-base.toml"
SIDES = ("ours", "ours-bf16", "trl-batches", "trl-batches-bf16", "trl-grouped", "trl-packed")
REFERENCE = {True: "ours-bf16", False: "ours"}
"""Whether a side runs in bfloat16 -> what it is compared with."""
LEARNING_RATE = 1e-3
ROWS, CHECKPOINT = "rows.json", "checkpoint"


def prepare(folder: Path, examples: int, batch_tokens: int | None, seed: int) -> None:
    """Write the rows, the batches' size and a model with random weights."""
    recipe = load_recipe(RECIPE)
    assert recipe.model is not None
    lexicon = new_lexicon()
    config = model_config(recipe.model, lexicon)
    drawn = Mixture(recipe.data, seed).shard(0)
    fitting = (
        row
        for row in (encode_example(lexicon, each) for each in drawn)
        if len(row.ids) <= config.max_position_embeddings
    )
    rows = [[row.ids, list(map(int, row.trained))] for row in islice(fitting, examples)]
    written = {"rows": rows, "batch_tokens": batch_tokens or recipe.train.batch_tokens, "seed": seed}
    (folder / ROWS).write_text(json.dumps(written), encoding="utf-8")
    torch.manual_seed(seed)
    model = Llama(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=INITIAL_STD)
    save_checkpoint(folder / CHECKPOINT, as_checkpoint(model, lexicon))


def read_batches(folder: Path) -> list[list[Row]]:
    found = json.loads((folder / ROWS).read_text(encoding="utf-8"))
    rows = [Row(ids, list(map(bool, trained))) for ids, trained in found["rows"]]
    return batches(rows, found["batch_tokens"], Random(found["seed"]))


def our_model(folder: Path) -> Llama:
    return load_checkpoint(folder / CHECKPOINT).model.train().requires_grad_(True)


class Meter:
    """Tokens, losses and the clock, step by step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.real: list[int] = []
        self.padded: list[int] = []
        self.losses: list[float] = []

    def step(self, real: int, padded: int) -> None:
        """Note the end of a step; the counts are of all tokens so far."""
        self.times.append(time.perf_counter())
        self.real.append(real)
        self.padded.append(padded)

    def result(self) -> dict[str, Any]:
        tokens = self.real[-1] - self.real[0]
        return {
            "tokens_per_second": tokens / (self.times[-1] - self.times[0]),
            "steps": len(self.times),
            "tokens": self.real[-1],
            "padding": 1 - self.real[-1] / self.padded[-1],
            "loss_first": self.losses[0],
            "loss_last": mean(self.losses[-3:]),
            "threads": torch.get_num_threads(),
        }


def train_ours(folder: Path, groups: Sequence[Sequence[Row]], *, bfloat16: bool) -> dict[str, Any]:
    """Train as training/sft.py does, without its run directory."""
    model, meter = our_model(folder), Meter()
    optimizers = Optimizers(
        model,
        optimizer="adamw",
        learning_rate=LEARNING_RATE,
        embedding_learning_rate=LEARNING_RATE,
        weight_decay=0.0,
    )
    real = padded = 0
    for group in groups:
        ids, targets = tensors(group)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, _ = loss_of(model, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(1.0)
        meter.losses.append(loss.item())
        real += sum(len(row.ids) for row in group)
        padded += len(group) * max(len(row.ids) for row in group)
        meter.step(real, padded)
    return meter.result()


class StepEnds(TrainerCallback):
    """Notes the end of each optimizer step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.trainer: Any = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.meter.step(int(self.trainer._total_train_tokens), self.trainer.padded)


def columns(groups: Sequence[Sequence[Row]]) -> dict[str, list[list[int]]]:
    """Return the rows, batch by batch, as TRL's columns."""
    rows = [row for group in groups for row in group]
    return {
        "input_ids": [row.ids for row in rows],
        "completion_mask": [list(map(int, row.trained)) for row in rows],
    }


def counted_trainer(groups: Sequence[Sequence[Row]], form: str) -> Any:
    """Return TRL's trainer as a class that counts padded tokens, and takes our batches in the form `batches`."""
    trl: Any = import_module("trl")

    class Counted(trl.SFTTrainer):
        padded = 0

        def compute_loss(self, model: Any, inputs: dict[str, Tensor], *rest: Any, **options: Any) -> Any:
            self.padded += inputs["input_ids"].numel()
            return trl.SFTTrainer.compute_loss(self, model, inputs, *rest, **options)

    class OurBatches(Counted):
        def get_train_dataloader(self) -> Any:
            ends = [0, *accumulate(len(group) for group in groups)]
            places = [list(range(*pair)) for pair in pairwise(ends)]
            loader = torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=places, collate_fn=self.data_collator
            )
            return self.accelerator.prepare(loader)

    return OurBatches if form == "batches" else Counted


def batch_options(groups: Sequence[Sequence[Row]], form: str, pack: int) -> dict[str, Any]:
    """Return TRL's settings that make as many steps as we have batches."""
    rows = [row for group in groups for row in group]
    if form != "packed":
        size = round(len(rows) / len(groups))
        return {"per_device_train_batch_size": size, "train_sampling_strategy": "group_by_length"}
    packs = sum(len(row.ids) for row in rows) / pack / len(groups)
    return {
        "packing": True,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": max(1, round(packs)),
    }


def trl_trainer(
    folder: Path, groups: Sequence[Sequence[Row]], form: str, meter: Meter, *, bfloat16: bool
) -> Any:
    """Return a trainer of our rows in one of the three forms."""
    longest = our_model(folder).config.max_position_embeddings
    config = import_module("trl").SFTConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=bfloat16,
        model_init_kwargs={"dtype": "float32"},
        completion_only_loss=True,
        max_length=longest,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **batch_options(groups, form, longest),
    )
    ends = StepEnds(meter)
    ends.trainer = counted_trainer(groups, form)(
        model=str(folder / CHECKPOINT),
        args=config,
        train_dataset=import_module("datasets").Dataset.from_dict(columns(groups)),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder / CHECKPOINT),
        callbacks=[ends],
    )
    ends.trainer.remove_callback(PrinterCallback)
    return ends.trainer


def train_trl(folder: Path, groups: Sequence[Sequence[Row]], form: str, *, bfloat16: bool) -> dict[str, Any]:
    meter = Meter()
    trainer = trl_trainer(folder, groups, form, meter, bfloat16=bfloat16)
    trainer.train()
    meter.losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return meter.result()


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def relative(difference: Tensor, to: Tensor) -> float:
    return (difference.square().sum() / to.square().sum()).sqrt().item()


def compare(folder: Path, groups: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Compare loss and gradient of the batch with the most rows, as it is and packed by TRL.

    A gap is the greatest of all parameters', relative to the norm of the gradient.
    """
    group = max(groups, key=len)
    model = our_model(folder)
    loss, _ = loss_of(model, *tensors(group))
    loss.backward()
    ours = gradients(model)
    found: dict[str, Any] = {"rows": len(group), "loss": loss.item()}
    for form in ("batches", "packed"):
        trainer = trl_trainer(folder, [group], form, Meter(), bfloat16=False)
        total, parts = 0.0, [trainer._prepare_inputs(part) for part in trainer.get_train_dataloader()]
        trained = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts)
        for part in parts:
            part_loss = trainer.compute_loss(trainer.model.train(), part, num_items_in_batch=trained)
            part_loss.backward()
            total += part_loss.item()
        theirs = gradients(trainer.model)
        assert theirs.keys() == ours.keys()
        gaps = [relative(theirs[name] - ours[name], ours[name]) for name in ours]
        found[form] = {"loss": total, "parts": len(parts), "gradient_gap": max(gaps)}
    return found


def play(folder: Path, side: str, threads: int) -> dict[str, Any]:
    """Run a side in this process."""
    torch.set_num_threads(threads)
    groups = read_batches(folder)
    if side == "compare":
        return compare(folder, groups)
    who, _, rest = side.partition("-")
    bfloat16 = side.endswith("bf16")
    if who == "ours":
        return train_ours(folder, groups, bfloat16=bfloat16)
    return train_trl(folder, groups, rest.removesuffix("-bf16"), bfloat16=bfloat16)


def in_process(folder: Path, side: str, threads: int) -> dict[str, Any]:
    """Run a side in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--side", side, "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if ran.returncode:
        sys.exit(ran.returncode)  # it has said why
    return json.loads(ran.stdout.splitlines()[-1])


def measure(folder: Path, sides: Sequence[str], threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Let the sides take turns; yield what each did, with the ratio to ours of the same precision."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            runs[side].append(in_process(folder, side, threads))
            speed = runs[side][-1]["tokens_per_second"]
            print(f"{threads} threads, round {number + 1}: {side} {speed:.0f} tokens a second", flush=True)
    speeds = {side: [each["tokens_per_second"] for each in found] for side, found in runs.items()}
    for side, found in runs.items():
        reference = speeds.get(REFERENCE[side.endswith("bf16")])
        last = {name: round(value, 4) for name, value in found[-1].items() if name != "tokens_per_second"}
        yield {
            "side": side,
            **last,
            "tokens_per_second": round(median(speeds[side])),
            "tokens_per_second_rounds": [round(each) for each in speeds[side]],
            "ours_to_this": round(median(reference) / median(speeds[side]), 2) if reference else None,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="padded tokens in a step; the recipe's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(play(options.folder, options.side, options.threads[0])))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder, options.examples, options.batch_tokens, options.seed)
        same = in_process(folder, "compare", options.threads[0])
        print(json.dumps(same, indent=2), flush=True)
        found = [
            each
            for threads in options.threads
            for each in measure(folder, options.sides, threads, options.rounds)
        ]
    for each in found:
        print(json.dumps(each))
    names = ("trl", "transformers", "accelerate", "datasets")
    made_with = {name: version(name) for name in names}
    values = {
        "peers": made_with,
        "examples": options.examples,
        "seed": options.seed,
        "rounds": options.rounds,
    }
    save(options.json, {**values, "one_batch": same, "sides": found})


if __name__ == "__main__":
    main()
