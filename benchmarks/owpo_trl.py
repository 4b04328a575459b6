"""Organizer-worker training beside TRL's `AsyncGRPOTrainer`: update and rollout of the same episodes.

    pip install -c constraints.txt -e '.[local]' -r benchmarks/trl-requirements.txt  # in an environment of its own
    HF_HUB_OFFLINE=1 python benchmarks/owpo_trl.py update [--problems 16] [--threads 1 2] [--json FILE]
    HF_HUB_OFFLINE=1 scripts/third_party vllm FOLDER python benchmarks/owpo_trl.py rollout --threads 2 [--json FILE]

`update`: our sampler draws the episodes of a few steps; rows, advantages and the sampler's log-probabilities go to
both sides, which begin with the same weights. Ours is `Updater.step`, once a step. TRL gets the rows through the
buffer of a custom rollout worker; packing, shared prefixes, loop and optimizer are its own, and so many of its
micro-batches make a step as a step's rows come to on average. `trl` has its default token budget, the model's
longest sequence, `trl-wide` our `batch_tokens`. Gradient checkpointing, its default, is off. Two parts that know
no CPU are replaced: peak FLOPS, and the attention kernel, whose work SDPA does path by path (a dense mask was
slower). Counted are the tokens of the rows, prompts included; `forwarded` is how many a side put through the
model for them. The first step is left out. Before that, loss and gradient of one problem's rows are compared, with
the sampler's log-probabilities as the old ones on both sides, since TRL knows no others, and in one micro-batch,
since it averages within each and ours over the step.

`rollout`: AsyncGRPO gets its tokens from a vLLM server. So the same runtime draws episodes of the same problems,
with the same cap and as many at once, by our engine and over the server. Requests carry no seed, since vLLM's
build for CPUs dies of one. The server should take a sequence for each agent (`--max-num-seqs`).

A side runs in a process of its own, the sides take turns and the medians count. `cpu_seconds` are its process's.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, TypeAlias
from unittest.mock import Mock

import anyio
import msgspec
import torch
from results import save
from sft_trl import CHECKPOINT, gradients, our_model, relative
from transformers import PreTrainedTokenizerFast, PrinterCallback
from trl_loss import prompts

from asyncthink.engines.base import Engine
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import folder_of
from asyncthink.engines.openai import OpenAIEngine
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import get_task
from asyncthink.training.advantage import advantages
from asyncthink.training.loss import LossRecipe
from asyncthink.training.optimizers import BETAS, Optimizers
from asyncthink.training.problems import Problems
from asyncthink.training.reward import RewardRecipe, reward_of
from asyncthink.training.rl_recipe import UpdateRecipe
from asyncthink.training.rollout import Rollout, Sampler
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.trl.library import trl, without_gpu
from asyncthink.training.update import Updater, batches_of

SIDES: dict[str, tuple[str, ...]] = {
    "update": ("ours", "trl", "trl-wide", "ours-bf16", "trl-bf16", "trl-wide-bf16"),
    "rollout": ("rollout-ours", "rollout-vllm"),
}
TASK, CAPACITY, CAP, SEED = "countdown", 4, 360, 1
"""As recipes/embedded-rl.toml."""
STEPS = "steps.json"
PLENTY = 1_000_000


Weighed: TypeAlias = tuple[TrainingRow, float, int]
"""A row, the advantage of its episode, and its problem."""
Step: TypeAlias = list[Weighed]


def weighed(groups: Sequence[Sequence[Rollout]], first: int, random: Random) -> Step:
    """Return the rows of some groups; where no reward differs, with small advantages at random."""
    recipe, found = RewardRecipe(), Step()
    paid = [[reward_of(e.episode, e.asked, e.metrics, recipe).total for e in group] for group in groups]
    shared = [advantages(each) for each in paid]
    if not any(map(any, shared)):
        shared = [[random.uniform(-0.1, 0.1) for _ in each] for each in shared]
    for place, (group, worth) in enumerate(zip(groups, shared, strict=True)):
        for one, advantage in zip(group, worth, strict=True):
            found += [(row, advantage, first + place) for row in rows(one.episode)]
    return found


def sampler_of(options: argparse.Namespace, *, served: bool = False) -> Sampler:
    """Return the sampler over our engine, as training opens it, or over the server."""
    folder = folder_of(options.model)
    engine: Engine = LocalEngine(folder, device="cpu", threads=1, lanes=torch.get_num_threads())
    if served:
        name = os.environ["ASYNCTHINK_MODEL"].removeprefix("openai:")
        engine = OpenAIEngine(name, tokenizer=folder, api="completions", extra_body={"seed": None})
    limits, method = Limits(max_critical_path=CAP), options.method
    organization = Organization(engine, method=method, capacity=CAPACITY, limits=limits, temperature=1.0)
    sizes = {"problems": options.problems, "episodes": options.episodes}
    return Sampler(organization, Problems(get_task(TASK), SEED), seed=SEED, **sizes)


async def draw(options: argparse.Namespace) -> dict[str, Any]:
    """Write the rows of all steps."""
    random, found = Random(SEED), list[Step]()
    sampler = sampler_of(options)
    async with sampler.organization:
        for step in range(options.steps):
            found.append(weighed(await sampler.draw(step), step * options.problems, random))
    (options.folder / STEPS).write_bytes(msgspec.json.encode(found))
    return {"rows": [len(step) for step in found], "tokens": [context(step) for step in found]}


def read_steps(folder: Path) -> list[Step]:
    return msgspec.json.decode((folder / STEPS).read_bytes(), type=list[Step])


def context(step: Step) -> int:
    """Return the tokens of a step's rows."""
    return sum(len(row.ids) for row, _, _ in step)


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def figures(ends: list[tuple[float, float]], steps: Sequence[Step], losses: list[float]) -> dict[str, Any]:
    """Return what was done between the ends of the first and the last step; `ends` are `now` behind each."""
    tokens = sum(map(context, steps[1:]))
    trained = sum(row.n_trained for step in steps[1:] for row, _, _ in step)
    seconds, cpu = (ends[-1][i] - ends[0][i] for i in range(2))
    speeds = {"tokens_per_second": tokens / seconds, "trained_tokens_per_second": trained / seconds}
    counts = {"tokens": tokens, "trained_tokens": trained, "losses": losses}
    return {**speeds, **counts, "seconds": seconds, "cpu_seconds": cpu}


def updater_of(folder: Path, *, bfloat16: bool = False, max_norm: float = 1.0) -> Updater:
    recipe, model = UpdateRecipe(bfloat16=bfloat16, max_norm=max_norm), our_model(folder)
    rates = {"learning_rate": recipe.learning_rate, "embedding_learning_rate": recipe.learning_rate}
    optimizers = Optimizers(model, optimizer="adamw", weight_decay=recipe.weight_decay, **rates)
    return Updater(model, optimizers, LossRecipe(), recipe)


def update_ours(folder: Path, *, bfloat16: bool) -> dict[str, Any]:
    updater, steps = updater_of(folder, bfloat16=bfloat16), read_steps(folder)
    ends: list[tuple[float, float]] = []
    losses: list[float] = []
    for step in steps:
        losses.append(updater.step([row for row, _, _ in step], [worth for _, worth, _ in step], 1.0).loss)
        ends.append(now())
    forwarded = 0
    for step in steps[1:]:
        lengths = [len(row.ids) for row, _, _ in step]
        batches = batches_of(lengths, updater.update.batch_tokens)
        forwarded += sum(len(batch) * max(lengths[place] for place in batch) for batch in batches)
    return {**figures(ends, steps, losses), "forwarded": forwarded}


def samples_of(step: Step) -> list[dict[str, Any]]:
    """Return rows as TRL's dataset hands them on."""
    return [
        {
            "input_ids": torch.tensor(row.ids),
            "completion_mask": torch.tensor(row.trained, dtype=torch.long),
            "old_log_probs": torch.tensor(row.logprobs),
            "advantage": advantage,
            "group_id": group,
            "metrics": {},
        }
        for row, advantage, group in step
    ]


def grpo() -> Any:
    """Return TRL's module, with what it needs of a GPU replaced."""
    without_gpu()
    return trl


def trl_trainer(folder: Path, samples: Sequence[dict[str, Any]], *, bfloat16: bool, **settings: Any) -> Any:
    """Return a trainer whose buffer is full of these samples."""
    module, recipe, loss = grpo(), UpdateRecipe(), LossRecipe()
    buffer = queue.Queue[Any]()
    for sample in samples:
        buffer.put(module.RolloutSample(prompt=[], completion=[], model_version=0, **sample))
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "max_staleness": PLENTY}
    config = module.AsyncGRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=bfloat16,
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=recipe.max_norm,
        gradient_checkpointing=False,
        **quiet,
        **settings,
    )
    trainer = module.AsyncGRPOTrainer(
        model=str((folder / CHECKPOINT).resolve()),
        args=config,
        train_dataset=prompts(1),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder / CHECKPOINT),
        rollout_worker=Mock(rollout_buffer=buffer, metrics_queue=queue.Queue()),
        weight_transfer=Mock(),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def update_trl(folder: Path, *, wide: bool, bfloat16: bool) -> dict[str, Any]:
    """Train with TRL; its planner, run beforehand, tells which rows come into which step."""
    module, read, ends = grpo(), read_steps(folder), list[tuple[float, float]]()
    budget = UpdateRecipe().batch_tokens if wide else our_model(folder).config.max_position_embeddings
    stream = [each for step in (*read, read[0]) for each in step]  # more than it takes
    samples = samples_of(stream)
    packs = [pack for (pack,) in module.TokenBudgetBatcher(samples, 1, budget, {})]
    share = sum(map(len, read)) / len(read) / sum(len(pack.samples) for pack in packs)
    parts = max(1, round(share * len(packs)))
    if len(packs) <= parts * len(read):  # one more is fetched ahead
        sys.exit(f"too few rows for {len(read)} steps of {budget} tokens or more: raise --problems")
    sizes = {"max_steps": len(read), "gradient_accumulation_steps": parts, "token_budget": budget}
    trainer = trl_trainer(folder, samples, bfloat16=bfloat16, **sizes)
    trainer.add_callback(module.StepIntervalCallback(lambda: ends.append(now()), 1))
    trainer.train()
    waiting, steps = iter(stream), list[Step]()  # its packs keep the order
    for first in range(0, parts * len(read), parts):
        count = sum(len(pack.samples) for pack in packs[first : first + parts])
        steps.append(list(islice(waiting, count)))
    forwarded = sum(len(pack.tokens) for pack in packs[parts : parts * len(read)])
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {**figures(ends, steps, losses), "forwarded": forwarded, **sizes}


def compare(folder: Path) -> dict[str, Any]:
    """Compare loss and gradient of one problem's rows; the gap is the greatest of all parameters'."""
    step = read_steps(folder)[0]
    _, _, group = max(step, key=lambda each: abs(each[1]))
    step = [each for each in step if each[2] == group]
    updater = updater_of(folder, max_norm=PLENTY)
    updater.optimizers.step = Mock()  # which would forget the gradient
    old = [torch.tensor(row.logprobs)[torch.tensor(row.trained)] for row, _, _ in step]
    done = updater.step([row for row, _, _ in step], [worth for _, worth, _ in step], 1.0, old)
    ours = gradients(updater.model)
    samples, module = samples_of(step), grpo()
    trainer = trl_trainer(folder, samples, bfloat16=False, max_steps=1, token_budget=PLENTY)
    trainer.current_gradient_accumulation_steps = 1
    (packed,) = module.FixedCountBatcher(samples, 1, len(samples))
    loss = trainer.compute_loss(trainer.model.train(), module.DataCollatorForRollout(0)([packed]))
    loss.backward()
    theirs = gradients(trainer.model)
    assert theirs.keys() == ours.keys()
    gap = max(relative(theirs[name] - ours[name], ours[name]) for name in ours)
    return {"rows": len(step), "loss_ours": done.loss, "loss_trl": loss.item(), "gradient_gap": gap}


async def rollout(options: argparse.Namespace) -> dict[str, Any]:
    """Draw one step's episodes, other ones in each round."""
    sampler = sampler_of(options, served=options.side == "rollout-vllm")
    async with sampler.organization:
        begun = time.perf_counter()
        groups = await sampler.draw(options.round)
        seconds = time.perf_counter() - begun
    found = [one.metrics for group in groups for one in group]
    tokens, forks = sum(one.decoded_tokens for one in found), sum(one.forks for one in found)
    return {"tokens_per_second": tokens / seconds, "tokens": tokens, "forks": forks, "seconds": seconds}


def play(options: argparse.Namespace) -> dict[str, Any]:
    """Run a side in this process."""
    torch.set_num_threads(options.threads[0])
    folder, side, bfloat16 = options.folder, options.side, options.side.endswith("bf16")
    if side == "draw":
        return anyio.run(draw, options)
    if side == "compare":
        return compare(folder)
    if side in SIDES["rollout"]:
        return anyio.run(rollout, options)
    if side.startswith("ours"):
        return update_ours(folder, bfloat16=bfloat16)
    return update_trl(folder, wide="wide" in side, bfloat16=bfloat16)


def in_process(options: argparse.Namespace, side: str, threads: int, number: int = 0) -> dict[str, Any]:
    """Run a side in a process of its own."""
    names = ("folder", "model", "method", "problems", "episodes", "steps")
    values = {name: getattr(options, name) for name in names}
    values |= {"side": side, "threads": threads, "round": number}
    command = [sys.executable, sys.argv[0], options.part]
    command += [word for name, value in values.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if ran.returncode:
        sys.exit(ran.returncode)  # it has said why
    return json.loads(ran.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, threads: int) -> Iterator[dict[str, Any]]:
    """Let the sides take turns; yield what each did, with the ratio of ours to it."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for number in range(options.rounds):
        for side, found in runs.items():
            found.append(in_process(options, side, threads, number))
            speed = found[-1]["tokens_per_second"]
            print(f"{threads} threads, round {number + 1}: {side} {speed:.0f} tokens a second", flush=True)
    speeds = {side: [each["tokens_per_second"] for each in found] for side, found in runs.items()}
    for side, found in runs.items():
        rival = "ours-bf16" if side.endswith("bf16") else SIDES[options.part][0]
        own, ours = median(speeds[side]), speeds.get(rival)
        ratio = round(median(ours) / own, 2) if ours else None
        print(f"{threads} threads: {side} {own:.0f} tokens a second, ours/this {ratio}", flush=True)
        rounds = [round(each) for each in speeds[side]]
        result = {**found[-1], "tokens_per_second": round(own), "tokens_per_second_rounds": rounds}
        yield {"side": side, "threads": threads, **result, "ours_to_this": ratio}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=SIDES)
    parser.add_argument("--model", default="embedded", help="embedded or hf:FOLDER")
    parser.add_argument("--method", default="asyncthink", choices=("asyncthink", "sequential"))
    parser.add_argument("--problems", type=int, default=16, help="of a step")
    parser.add_argument("--episodes", type=int, default=8, help="of each problem")
    parser.add_argument("--steps", type=int, default=3, help="of the optimizer, the first left out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=[*SIDES["update"], *SIDES["rollout"]])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sides = options.sides or SIDES[options.part]
    if options.part == "rollout" and not {"OPENAI_BASE_URL", "ASYNCTHINK_MODEL"} <= os.environ.keys():
        parser.error("rollout needs a server: OPENAI_BASE_URL and ASYNCTHINK_MODEL, as scripts/third_party")
    return options


def main() -> None:
    options = arguments()
    if options.side:
        print(json.dumps(play(options)))
        return
    names = ("model", "method", "problems", "episodes", "rounds")
    values: dict[str, Any] = {name: getattr(options, name) for name in names}
    values["peers"] = {name: version(name) for name in ("trl", "transformers", "accelerate")}
    with tempfile.TemporaryDirectory() as made:
        options.folder = Path(made)
        (options.folder / CHECKPOINT).symlink_to(folder_of(options.model).resolve())
        for side in ("draw", "compare") if options.part == "update" else ():
            values[side] = in_process(options, side, max(options.threads))
            print(f"{side}: {json.dumps(values[side])}", flush=True)
        values["sides"] = [each for threads in options.threads for each in measure(options, threads)]
    save(options.json, values)


if __name__ == "__main__":
    main()
