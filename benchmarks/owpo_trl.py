"""Speed of organizer-worker training beside TRL's `AsyncGRPOTrainer`, update and rollout, on the same episodes.

    pip install -c constraints.txt -e '.[local]' -r benchmarks/trl-requirements.txt  # in an environment of its own
    HF_HUB_OFFLINE=1 python benchmarks/owpo_trl.py update [--problems 16] [--threads 1 2] [--rounds 3] [--json FILE]
    HF_HUB_OFFLINE=1 MAX_NUM_SEQS=256 scripts/third_party vllm FOLDER \\
        python benchmarks/owpo_trl.py rollout [--problems 16] [--threads 2] [--rounds 3] [--json FILE]

`update`: our sampler draws the episodes of a few steps once; their rows, advantages and sampler's log-probabilities
go to both sides, which begin with the same weights. Ours is `Updater.step`, once a step. TRL is fed through the
`rollout_buffer` that a custom rollout worker has; micro-batches (`TokenBudgetBatcher`), prefix sharing, loop and AdamW
are its own. As many of its micro-batches make a step as a step's rows come to on average, so its steps may end a
few rows early or late; only what was learned from is counted. `trl` has its default budget, the model's longest
sequence, `trl-wide` has our `batch_tokens`. Gradient checkpointing, TRL's default, is off. Two of its parts know no
CPU and are replaced: the peak FLOPS, and the attention kernel, whose work SDPA does here path by path. Tokens are
those of the rows, prompts included, shared prefixes counted in each row; the first step is left out.
Before that, loss and gradient of one problem's rows are compared, with the sampler's log-probabilities as the old
ones on both sides: TRL knows no others.

`rollout`: AsyncGRPO gets its tokens from a vLLM server, one text an episode. So there are two comparisons, with
the same problems, limits and number of episodes at once: organizer and workers, by our engine and by the same
runtime over the server (`workers-ours`, `workers-vllm`); and episodes of one text, by our engine and by TRL's own
rollout loop (`alone-ours`, `alone-trl`). The loop never ends by itself, so it is measured when all its places are
taken: from the first set of episodes to the second. Requests carry no seed: vLLM's build for CPUs ends with one.

A side runs in a process of its own, the sides take turns and the medians count.
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
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from unittest.mock import Mock

import anyio
import msgspec
import torch
from results import save
from sft_trl import CHECKPOINT, gradients, our_model, relative
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl_loss import no_reward, prompts

from asyncthink.engines.base import Engine, Message
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import folder_of
from asyncthink.engines.openai import OpenAIEngine
from asyncthink.engines.prompting import Prompts
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import get_task
from asyncthink.tasks.base import Split
from asyncthink.training.advantage import advantages
from asyncthink.training.loss import LossRecipe
from asyncthink.training.optimizers import BETAS, Optimizers
from asyncthink.training.reward import RewardRecipe, reward_of
from asyncthink.training.rl_recipe import UpdateRecipe
from asyncthink.training.rollout import Rollout, Sampler
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.update import Updater, batches_of

UPDATE = ("ours", "trl", "trl-wide", "ours-bf16", "trl-bf16", "trl-wide-bf16")
ROLLOUT = ("workers-ours", "workers-vllm", "alone-ours", "alone-trl")
STEPS, SETTINGS = "steps.json", "settings.json"
PLENTY = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    model: str
    task: str
    capacity: int
    cap: int
    problems: int
    episodes: int
    steps: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighed:
    """A row, and what its episode is worth."""

    row: TrainingRow
    advantage: float
    group: int
    """Its problem."""


def settings_of(folder: Path) -> Settings:
    return msgspec.json.decode((folder / SETTINGS).read_bytes(), type=Settings)


def sampler_of(chosen: Settings, engine: Engine, method: str) -> Sampler:
    organization = Organization(
        engine,
        method=method,
        capacity=chosen.capacity,
        limits=Limits(max_critical_path=chosen.cap),
        temperature=1.0,
    )
    task = get_task(chosen.task)
    return Sampler(organization, task, seed=chosen.seed, problems=chosen.problems, episodes=chosen.episodes)


def local_engine(chosen: Settings) -> LocalEngine:
    """Return the engine as training opens it."""
    return LocalEngine(folder_of(chosen.model), device="cpu", threads=1, lanes=torch.get_num_threads())


def weighed(groups: Sequence[Sequence[Rollout]], first: int, random: Random) -> list[Weighed]:
    """Return the rows of some groups; where no reward differs, with advantages made up."""
    paid = [
        [reward_of(one.episode, one.asked, one.metrics, RewardRecipe()).total for one in group]
        for group in groups
    ]
    shared = [advantages(each) for each in paid]
    if not any(map(any, shared)):
        shared = [[random.uniform(-0.1, 0.1) for _ in each] for each in shared]
    return [
        Weighed(row=row, advantage=advantage, group=first + place)
        for place, (group, worth) in enumerate(zip(groups, shared, strict=True))
        for one, advantage in zip(group, worth, strict=True)
        for row in rows(one.episode)
    ]


async def draw(folder: Path, chosen: Settings) -> None:
    """Write the rows of all steps."""
    random = Random(chosen.seed)
    sampler = sampler_of(chosen, local_engine(chosen), "asyncthink")
    async with sampler.organization:
        drawn = [await sampler.draw(step) for step in range(chosen.steps)]
    found = [weighed(groups, step * chosen.problems, random) for step, groups in enumerate(drawn)]
    (folder / STEPS).write_bytes(msgspec.json.encode(found))


def read_steps(folder: Path) -> list[list[Weighed]]:
    return msgspec.json.decode((folder / STEPS).read_bytes(), type=list[list[Weighed]])


class Meter:
    """The clock at each step's end, and what was learned from in the step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def result(self, parts: Sequence[Sequence[TrainingRow]], forwarded: Sequence[int]) -> dict[str, Any]:
        """Return the figures; `parts` and `forwarded` are rows, and tokens that went through the model, by step."""
        seconds = self.times[-1] - self.times[0]
        used = [row for part in parts[1:] for row in part]
        context, trained = sum(len(row.ids) for row in used), sum(row.n_trained for row in used)
        return {
            "tokens_per_second": context / seconds,
            "trained_tokens_per_second": round(trained / seconds),
            "steps": len(self.times),
            "rows": len(used),
            "tokens": context,
            "trained_tokens": trained,
            "forwarded_tokens": sum(forwarded[1:]),
            "seconds": seconds,
            "losses": [round(each, 6) for each in self.losses],
        }


def updater_of(folder: Path, *, bfloat16: bool = False, max_norm: float = 1.0) -> Updater:
    recipe, model = UpdateRecipe(bfloat16=bfloat16, max_norm=max_norm), our_model(folder)
    rate = recipe.learning_rate
    optimizers = Optimizers(
        model, optimizer="adamw", learning_rate=rate, embedding_learning_rate=rate, weight_decay=0.0
    )
    return Updater(model, optimizers, LossRecipe(), recipe)


def update_ours(folder: Path, *, bfloat16: bool) -> dict[str, Any]:
    updater, meter = updater_of(folder, bfloat16=bfloat16), Meter()
    parts: list[list[TrainingRow]] = []
    forwarded: list[int] = []
    for step in read_steps(folder):
        parts.append([each.row for each in step])
        done = updater.step(parts[-1], [each.advantage for each in step], 1.0)
        meter.times.append(time.perf_counter())
        meter.losses.append(done.loss)
        lengths = [len(row.ids) for row in parts[-1]]
        batches = batches_of(lengths, updater.update.batch_tokens)
        forwarded.append(sum(len(batch) * max(lengths[place] for place in batch) for batch in batches))
    return meter.result(parts, forwarded)


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None,
    *,
    tree_kv_index: Tensor,
    tree_cu_seqlens_q: Tensor,
    tree_cu_seqlens_k: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Do what TRL's kernel does, path by path: [1, H, N, D] to [1, N, H, D]."""
    own, seen = (
        [end - begin for begin, end in pairwise(ends.tolist())]
        for ends in (tree_cu_seqlens_q, tree_cu_seqlens_k)
    )
    keys, values = (each.index_select(2, tree_kv_index).split(seen, dim=2) for each in (key, value))
    grouped = query.shape[1] != key.shape[1]
    found: list[Tensor] = []
    for q, k, v in zip(query.split(own, dim=2), keys, values, strict=True):
        length, before = q.shape[2], k.shape[2] - q.shape[2]
        mask = torch.ones(length, k.shape[2], dtype=torch.bool).tril(before) if before else None
        found.append(
            F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2), None


def samples_of(step: Sequence[Weighed]) -> list[Any]:
    """Return rows as TRL's rollout worker would put them into its buffer."""
    made: Any = import_module("trl.experimental.async_grpo.async_rollout_worker").RolloutSample
    return [
        made(
            prompt=[],
            completion=[],
            input_ids=torch.tensor(each.row.ids),
            completion_mask=torch.tensor(each.row.trained, dtype=torch.long),
            old_log_probs=torch.tensor(each.row.logprobs),
            advantage=each.advantage,
            model_version=0,
            group_id=each.group,
            metrics={},
        )
        for each in step
    ]


def fields(sample: Any) -> dict[str, Any]:
    """Return a sample as the dataset hands it on."""
    names = ("input_ids", "completion_mask", "old_log_probs", "advantage", "group_id", "metrics")
    return {name: getattr(sample, name) for name in names}


def trl_trainer(
    folder: Path, samples: Sequence[Any], *, steps: int, parts: int, budget: int, bfloat16: bool
) -> Any:
    """Return a trainer that takes `parts` micro-batches a step from a full buffer of these samples."""
    module: Any = import_module("trl.experimental.async_grpo.async_grpo_trainer")
    module.get_peak_flops_per_device = Mock(return_value=None)
    buffer = queue.Queue[Any]()
    for sample in samples:
        buffer.put(sample)
    recipe, losses = UpdateRecipe(), LossRecipe()
    config = import_module("trl.experimental.async_grpo").AsyncGRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=bfloat16,
        epsilon=losses.clip_low,
        epsilon_high=losses.clip_high,
        token_budget=budget,
        gradient_accumulation_steps=parts,
        max_steps=steps,
        max_staleness=PLENTY,
        learning_rate=recipe.learning_rate,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=recipe.max_norm,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = module.AsyncGRPOTrainer(
        model=str((folder / CHECKPOINT).resolve()),
        args=config,
        train_dataset=prompts(1),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder / CHECKPOINT),
        rollout_worker=Mock(rollout_buffer=buffer, metrics_queue=queue.Queue()),
        weight_transfer=Mock(),
    )
    AttentionInterface.register(module.TREE_ATTENTION, tree_attention)
    trainer.remove_callback(PrinterCallback)
    return trainer


class StepEnds(TrainerCallback):
    """Notes the end of each optimizer step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.meter.times.append(time.perf_counter())


def update_trl(folder: Path, *, wide: bool, bfloat16: bool) -> dict[str, Any]:
    module: Any = import_module("trl.experimental.async_grpo.async_grpo_trainer")
    steps, meter = read_steps(folder), Meter()
    budget = UpdateRecipe().batch_tokens if wide else our_model(folder).config.max_position_embeddings
    stream = [each for step in [*steps, steps[0]] for each in step]  # more than enough: it fetches ahead
    samples = samples_of(stream)
    row_of = {id(sample.input_ids): each.row for sample, each in zip(samples, stream, strict=True)}
    packs = [row for (row,) in module.TokenBudgetBatcher(map(fields, samples), 1, budget, {})]
    full = sum(len(step) for step in steps) / len(steps)
    parts = max(1, round(full * len(packs) / sum(len(pack.samples) for pack in packs)))
    if len(packs) <= parts * len(steps):
        sys.exit(f"too few rows for {len(steps)} steps of {budget} tokens: ask for more problems")
    trainer = trl_trainer(folder, samples, steps=len(steps), parts=parts, budget=budget, bfloat16=bfloat16)
    trainer.add_callback(StepEnds(meter))
    trainer.train()
    meter.losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    taken = [packs[i : i + parts] for i in range(0, len(steps) * parts, parts)]
    learned = [[row_of[id(one["input_ids"])] for pack in step for one in pack.samples] for step in taken]
    forwarded = [sum(len(pack.tokens) for pack in step) for step in taken]
    return {**meter.result(learned, forwarded), "token_budget": budget, "micro_batches": parts}


def compare(folder: Path) -> dict[str, Any]:
    """Compare loss and gradient of the rows of one problem; the gap is the greatest of all parameters'."""
    module: Any = import_module("trl.experimental.async_grpo.async_grpo_trainer")
    step = read_steps(folder)[0]
    worth = {each.group: abs(each.advantage) for each in step}
    step = [each for each in step if each.group == max(worth, key=worth.__getitem__)]
    updater = updater_of(folder, max_norm=1e9)
    updater.optimizers.step = Mock()
    old = [torch.tensor(each.row.logprobs)[torch.tensor(each.row.trained)] for each in step]
    done = updater.step([each.row for each in step], [each.advantage for each in step], 1.0, old)
    ours = gradients(updater.model)
    samples = samples_of(step)
    trainer = trl_trainer(folder, samples, steps=1, parts=1, budget=PLENTY, bfloat16=False)
    trainer.current_gradient_accumulation_steps = 1
    (packed,) = module.FixedCountBatcher(map(fields, samples), 1, len(samples))
    loss = trainer.compute_loss(trainer.model.train(), module.DataCollatorForRollout(0)([packed]))
    loss.backward()
    theirs = gradients(trainer.model)
    assert theirs.keys() == ours.keys()
    gap = max(relative(theirs[name] - ours[name], ours[name]) for name in ours)
    norm = torch.stack([each.norm() for each in ours.values()]).norm().item()
    return {
        "rows": len(step),
        "loss_ours": done.loss,
        "loss_trl": loss.item(),
        "norm": norm,
        "gradient_gap": gap,
    }


async def seconds_of_draw(sampler: Sampler, step: int) -> tuple[float, int, int]:
    """Return the seconds of a step's rollout, its decoded tokens and its requests to a server."""
    async with sampler.organization:
        began = time.perf_counter()
        groups = await sampler.draw(step)
        seconds = time.perf_counter() - began
    found = [one.metrics for group in groups for one in group]
    return seconds, sum(one.decoded_tokens for one in found), sum(one.requests for one in found)


def rollout(folder: Path, side: str, number: int) -> dict[str, Any]:
    """Draw one step's episodes, other ones in each round."""
    chosen = settings_of(folder)
    method, who = side.split("-")
    engine: Engine = local_engine(chosen)
    if who == "vllm":
        name = os.environ["ASYNCTHINK_MODEL"].removeprefix("openai:")
        engine = OpenAIEngine(
            name, tokenizer=folder_of(chosen.model), api="completions", extra_body={"seed": None}
        )
    sampler = sampler_of(chosen, engine, "asyncthink" if method == "workers" else "sequential")
    seconds, tokens, requests = anyio.run(seconds_of_draw, sampler, number)
    return {
        "tokens_per_second": tokens / seconds,
        "episodes": chosen.problems * chosen.episodes,
        "tokens": tokens,
        "requests": requests,
        "seconds": seconds,
    }


def single_loop() -> Any:
    """Return TRL's rollout loop as a class whose requests carry no seed."""
    module: Any = import_module("trl.experimental.async_grpo.async_rollout_worker")

    class Seedless(module._AsyncRolloutLoop):
        async def _post(self, path: str, payload: dict[str, Any], *rest: Any, **options: Any) -> Any:
            payload.pop("seed", None)
            return await module._AsyncRolloutLoop._post(self, path, payload, *rest, **options)

    return Seedless


class Arrivals:
    """The loop's buffer: notes when its samples come, and stops it after two sets of them."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes
        self.loop: Any = None
        self.times: list[float] = []
        self.tokens: list[int] = []

    def qsize(self) -> int:
        return 0

    def put_nowait(self, sample: Any) -> None:
        self.times.append(time.perf_counter())
        self.tokens.append(int(sample.completion_mask.sum()))
        if len(self.times) == 2 * self.episodes:
            self.loop._stop_event.set()


def alone_trl(folder: Path, number: int) -> dict[str, Any]:
    """Let TRL's loop draw episodes of one text."""
    chosen = settings_of(folder)
    episodes, model = chosen.problems * chosen.episodes, folder_of(chosen.model)
    task = get_task(chosen.task)
    first = number * 4 * chosen.problems
    queries = [
        task.prompt(task.problem(Split.TRAIN, chosen.seed, first + place))
        for place in range(4 * chosen.problems)
    ]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / CHECKPOINT)
    own = (model / "organizer.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = (
        "{{ bos_token }}{% set query = messages[0]['content'] %}{% set capacity = 1 %}" + own
    )
    tokenizer.response_template = {}  # nothing to be read out of the text
    asked = [[{"role": "user", "content": query}] for query in queries]
    ours = Prompts(model, load_checkpoint(model)).build(
        [Message(role="user", content=queries[0])], role="organizer", capacity=1
    )
    assert tokenizer.apply_chat_template(asked[0], return_dict=False) == list(ours.token_ids or ())
    arrivals = Arrivals(episodes)
    arrivals.loop = single_loop()(
        model_name=os.environ["ASYNCTHINK_MODEL"].removeprefix("openai:"),
        dataset=import_module("datasets").Dataset.from_dict({"prompt": asked}),
        reward_funcs=[no_reward],
        processing_class=tokenizer,
        eos_token_ids=[tokenizer.eos_token_id],
        rollout_buffer=arrivals,
        model_version_value=Mock(value=0),
        heartbeat_value=Mock(),
        failed_event=Mock(),
        exception_info_queue=queue.Queue(),
        metrics_queue=queue.Queue(),
        num_generations=chosen.episodes,
        max_inflight_tasks=episodes,
        vllm_server_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
        max_tokens=chosen.cap,
    )
    arrivals.loop.run()
    tokens = sum(arrivals.tokens[episodes : 2 * episodes])
    seconds = arrivals.times[2 * episodes - 1] - arrivals.times[episodes - 1]
    return {"tokens_per_second": tokens / seconds, "episodes": episodes, "tokens": tokens, "seconds": seconds}


def play(folder: Path, side: str, threads: int, number: int) -> dict[str, Any]:
    """Run a side in this process."""
    torch.set_num_threads(threads)
    bfloat16 = side.endswith("bf16")
    if side == "draw":
        anyio.run(draw, folder, settings_of(folder))
        drawn = read_steps(folder)
        return {
            "rows": [len(step) for step in drawn],
            "tokens": [sum(len(each.row.ids) for each in step) for step in drawn],
        }
    if side == "compare":
        return compare(folder)
    if side == "alone-trl":
        return alone_trl(folder, number)
    if side in ROLLOUT:
        return rollout(folder, side, number)
    if side.startswith("ours"):
        return update_ours(folder, bfloat16=bfloat16)
    return update_trl(folder, wide="wide" in side, bfloat16=bfloat16)


def in_process(folder: Path, side: str, threads: int, number: int = 0) -> dict[str, Any]:
    """Run a side in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--side", side]
    command += ["--threads", str(threads), "--number", str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if ran.returncode:
        sys.exit(ran.returncode)  # it has said why
    return json.loads(ran.stdout.splitlines()[-1])


def reference(side: str) -> str:
    """Return the side of ours that a side is compared with."""
    if side in ROLLOUT:
        return f"{side.split('-')[0]}-ours"
    return "ours-bf16" if side.endswith("bf16") else "ours"


def measure(folder: Path, sides: Sequence[str], threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Let the sides take turns; yield what each did, with the ratio of ours to it."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            runs[side].append(in_process(folder, side, threads, number))
            speed = runs[side][-1]["tokens_per_second"]
            print(f"{threads} threads, round {number + 1}: {side} {speed:.0f} tokens a second", flush=True)
    speeds = {side: [each["tokens_per_second"] for each in found] for side, found in runs.items()}
    for side, found in runs.items():
        ours = speeds.get(reference(side))
        ratio = round(median(ours) / median(speeds[side]), 2) if ours else None
        print(f"{threads} threads: {side} {median(speeds[side]):.0f} tokens a second, ours to this {ratio}")
        yield {
            "side": side,
            "threads": threads,
            **found[-1],
            "tokens_per_second": round(median(speeds[side])),
            "tokens_per_second_rounds": [round(each) for each in speeds[side]],
            "ours_to_this": ratio,
        }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("update", "rollout"), nargs="?", default="update")
    parser.add_argument("--model", default="embedded", help="embedded or hf:FOLDER")
    parser.add_argument("--task", default="countdown")
    parser.add_argument("--capacity", type=int, default=4)
    parser.add_argument("--cap", type=int, default=300, help="on the critical path, in tokens")
    parser.add_argument("--problems", type=int, default=16, help="of a step")
    parser.add_argument("--episodes", type=int, default=8, help="of each problem")
    parser.add_argument("--steps", type=int, default=3, help="of the optimizer, the first left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=[*UPDATE, *ROLLOUT])
    parser.add_argument("--json", type=Path, metavar="FILE")
    for hidden in ("--folder", "--side", "--number"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "rollout" and not {"OPENAI_BASE_URL", "ASYNCTHINK_MODEL"} <= os.environ.keys():
        parser.error(
            "rollout needs a server: OPENAI_BASE_URL and ASYNCTHINK_MODEL, as scripts/third_party sets"
        )
    return options


def main() -> None:
    options = arguments()
    if options.side:
        found = play(Path(options.folder), options.side, options.threads[0], int(options.number))
        print(json.dumps(found))
        return
    chosen = msgspec.convert(vars(options), Settings)
    values: dict[str, Any] = {"settings": asdict(chosen), "rounds": options.rounds}
    values["peers"] = {name: version(name) for name in ("trl", "transformers", "accelerate")}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / SETTINGS).write_bytes(msgspec.json.encode(chosen))
        (folder / CHECKPOINT).symlink_to(folder_of(chosen.model).resolve())
        for side in ("draw", "compare") if options.part == "update" else ():
            values[side] = in_process(folder, side, max(options.threads))
            print(f"{side}: {json.dumps(values[side])}", flush=True)
        sides = options.sides or (UPDATE if options.part == "update" else ROLLOUT)
        values["sides"] = [
            each for threads in options.threads for each in measure(folder, sides, threads, options.rounds)
        ]
    save(options.json, values)


if __name__ == "__main__":
    main()
