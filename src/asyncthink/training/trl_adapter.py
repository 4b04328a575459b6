"""Organizer-worker policy optimisation on TRL's `AsyncGRPOTrainer`: for any Hugging Face model, with adapters and GPUs.

Ours are the episodes, the reward, the advantage and which tokens are trained; model, packing, loss, optimizer,
checkpoints and the transfer of weights are TRL's. Three things are held to, which TRL does not do by itself:

    whole episodes   a step's rows are sampled by one version of the policy, and trained together or not at all
    one step         is one optimizer step: its rows are dealt out to a fixed number of micro-batches
    one mean         TRL averages over the tokens of each micro-batch; an advantage is scaled so that every trained
                     token of the step weighs the same. The loss is proportional to it, clipping included.

With one process it is on policy. With several, TRL fetches a batch ahead, so rollouts are one step older than the policy.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import anyio
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import AttentionInterface, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from asyncthink.engines.checkpoint import save_checkpoint
from asyncthink.engines.llama import Llama
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import folder_of
from asyncthink.errors import EngineError, UsageError
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import get_task
from asyncthink.training.loss import Aggregation
from asyncthink.training.optimizers import BETAS
from asyncthink.training.reward import Reward, reward_of
from asyncthink.training.rl_recipe import RLRecipe
from asyncthink.training.rollout import Rollout, Sampler
from asyncthink.training.rows import TrainingRow
from asyncthink.training.run_folder import RunFolder, load_start
from asyncthink.training.step import Watcher, step_metrics, weighed
from asyncthink.training.update import Updated

with catch_warnings():  # that it is experimental is why its version is pinned
    simplefilter("ignore")
    trl: Any = import_module("trl.experimental.async_grpo.async_grpo_trainer")

POLL_SECONDS = 0.05
"""How often a waiting worker looks whether it is to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The rows of one step."""

    rows: Sequence[TrainingRow]
    advantages: Sequence[float]
    """Of each row's episode."""
    groups: Sequence[int]
    """Number of each row's problem."""


class EpisodeWorker:
    """Draws a step's episodes whenever the policy it is to be drawn from is there; TRL's `RolloutWorkerProtocol`.

    It works in a thread of its own, with an event loop of its own.

    Args:
        organization: who thinks; open while the worker lives.
        draw: makes the rows of a step, numbered from 0.
        begin: number of the first step.
        steps: number behind the last.
        ahead: steps that may be drawn before the one that they follow is trained: 0 is on policy.
    """

    def __init__(
        self,
        organization: AbstractAsyncContextManager[object],
        draw: Callable[[int], Awaitable[Drawn]],
        *,
        begin: int,
        steps: int,
        ahead: int = 0,
    ) -> None:
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[Any] = queue.Queue()
        self.sizes: queue.Queue[int] = queue.Queue()
        """Rows of each step that is in the buffer."""
        self._organization, self._draw = organization, draw
        self._begin, self._steps, self._ahead = begin, steps, ahead
        self._version = 0
        """1 once the first weights are there."""
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="episodes", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until nothing is under way."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def update_model_version(self, model_version: int) -> None:
        """Take note that the policy of that version is live."""
        self._version = model_version

    def check_health(self, stale_after_s: float) -> None:
        """Raise what stopped the worker.

        Raises:
            EngineError: the engine failed again and again.
        """
        del (
            stale_after_s
        )  # a step of long thoughts may take as long as it likes: the engine has its own deadlines
        if self._failure is not None:
            raise self._failure
        if not self._thread.is_alive():
            raise EngineError("there are no more episodes: the worker has ended")

    def _work(self) -> None:
        try:
            anyio.run(self._go_on)
        except BaseException as error:  # told by `check_health`, in the thread that trains
            self._failure = error

    async def _go_on(self) -> None:
        async with self._organization, anyio.create_task_group() as group:
            group.start_soon(self._until_stopped, group.cancel_scope)
            try:
                for place, step in enumerate(range(self._begin, self._steps)):
                    await self._step(place, step)
            except Exception as error:  # told as it is, not in a group
                self._failure = error
            group.cancel_scope.cancel()

    async def _step(self, place: int, step: int) -> None:
        while self._version + self._ahead <= place:
            await anyio.sleep(POLL_SECONDS)
        version = self._version
        drawn = await self._draw(step)
        for sample in samples(drawn, version):
            self.rollout_buffer.put(sample)
        self.sizes.put(len(drawn.rows))

    async def _until_stopped(self, scope: anyio.CancelScope) -> None:
        while not self._stopped.is_set():
            await anyio.sleep(POLL_SECONDS)
        scope.cancel()


def samples(drawn: Drawn, version: int) -> Iterator[Any]:
    """Yield a step's rows as TRL takes them."""
    now = time.time()
    for row, advantage, group in zip(drawn.rows, drawn.advantages, drawn.groups, strict=True):
        yield trl.RolloutSample(
            prompt=[],
            completion=[],
            input_ids=torch.tensor(row.ids),
            completion_mask=torch.tensor(row.trained, dtype=torch.long),
            old_log_probs=torch.tensor(row.logprobs),
            advantage=advantage,
            model_version=version,
            group_id=group,
            metrics={},
            enqueued_at=now,
        )


class StepBatcher(IterableDataset[Any]):
    """Deals the rows of a step out to its micro-batches, neighbours together since they share their prompts.

    Args:
        source: TRL's queue of samples.
        worker: who fills it.
        processes: ranks; each has one packed row of a micro-batch.
        parts: micro-batches of a step.
    """

    def __init__(self, source: Any, worker: EpisodeWorker, *, processes: int, parts: int) -> None:
        self._source, self._worker, self._processes, self._parts = source, worker, processes, parts

    def __iter__(self) -> Iterator[list[Any]]:
        source = iter(self._source)
        while True:
            step: list[dict[str, Any]] = list(islice(source, self._size()))
            yield from micro_batches(step, self._parts, self._processes)

    def _size(self) -> int:
        """Return how many rows the next step has, as soon as it is there."""
        while True:
            try:
                return self._worker.sizes.get(timeout=1.0)
            except queue.Empty:
                self._worker.check_health(0.0)


def micro_batches(step: Sequence[dict[str, Any]], parts: int, processes: int) -> list[list[Any]]:
    """Return a step's samples in so many micro-batches of a packed row for each process.

    Advantages are scaled by a micro-batch's share of the trained tokens, so that TRL's mean over each makes the mean
    over all.
    """
    trained = [int(sample["completion_mask"].sum()) for sample in step]
    packed: list[list[Any]] = []
    shares = _cut([len(sample["input_ids"]) for sample in step], parts * processes)
    for first in range(0, len(shares), processes):
        places = [place for share in shares[first : first + processes] for place in share]
        scale = sum(trained[place] for place in places) * parts / sum(trained)
        rows: list[Any] = []
        for share in shares[first : first + processes]:
            row = trl.TreeRow()
            for place in share:
                row.add({**step[place], "advantage": step[place]["advantage"] * scale})
            rows.append(row)
        packed.append(rows)
    return packed


def _cut(lengths: Sequence[int], parts: int) -> list[range]:
    """Cut a sequence into so many stretches of about equal length, none of them empty."""
    if len(lengths) < parts:
        raise EngineError(
            f"a step of {len(lengths)} rows cannot be dealt out to {parts} micro-batches: have fewer"
        )
    ends = list(accumulate(lengths))
    cuts = [0]
    for part in range(1, parts):
        wanted = ends[-1] * part / parts
        cut = min(range(len(ends)), key=lambda place: abs(ends[place] - wanted)) + 1
        cuts.append(min(max(cut, cuts[-1] + 1), len(lengths) - (parts - part)))
    return [range(begin, end) for begin, end in pairwise([*cuts, len(lengths)])]


class EpisodeTrainer(trl.AsyncGRPOTrainer):  # pyright: ignore[reportUntypedBaseClass]
    """TRL's trainer over whole steps of whole episodes.

    Args:
        scale: step -> share of the learning rate.
    """

    def __init__(self, *, scale: Callable[[int], float], **arguments: Any) -> None:
        self._scale = scale
        super().__init__(**arguments)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Return the recipe's schedule."""
        del num_training_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._scale)
        return self.lr_scheduler

    def get_train_dataloader(self) -> Any:
        """Return the micro-batches of all steps, in order."""
        processes = self.accelerator.num_processes
        source: Any = trl._EmptyIterableDataset()
        if self.accelerator.is_main_process:
            self._rollout_dataset = trl.RolloutQueueDataset(
                rollout_queue=self.rollout_queue,
                model_version_fn=lambda: self.model_version,
                check_health_fn=self.rollout_worker.check_health,
                stale_after_s=self.args.heartbeat_stale_after_s,
                metrics=self._metrics["train"],
                max_staleness=self.args.max_staleness,
                report_to=self.args.report_to,
            )
            parts = self.args.gradient_accumulation_steps
            source = StepBatcher(self._rollout_dataset, self.rollout_worker, processes=processes, parts=parts)
        pad = self.processing_class.pad_token_id
        collate = trl.DataCollatorForRollout(
            pad,
            processes,
            groups_trained=self._trained_groups,
            metrics=self._metrics["train"],
            token_budget=0,
        )
        loader = DataLoader(source, batch_size=1, collate_fn=collate, num_workers=0)
        # Accelerate's loader looks a batch ahead, into a step that is not drawn yet: only needed to share batches out.
        return loader if processes == 1 else self.accelerator.prepare(loader)


class SharedWeights:
    """Hands weights to a model in this process, which then samples; TRL's `WeightTransferProtocol`.

    Args:
        model: what samples.
    """

    def __init__(self, model: Llama) -> None:
        self.model = model

    def init_weight_transfer(self) -> None:
        """Do nothing: both are here."""

    def pause(self) -> None:
        """Do nothing: on policy, nothing is sampled while the model learns."""

    def send_weights(self, iterator: Iterator[tuple[str, Tensor]]) -> None:
        """Copy each weight into the model's."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in iterator:
                own[name].copy_(tensor)

    def resume(self) -> None:
        """Do nothing."""

    def destroy(self) -> None:
        """Do nothing."""


def without_gpu() -> None:
    """Replace what TRL's trainer needs of a GPU: a table of its speed, and the attention kernel, by SDPA path by path."""
    trl.register_tree_attention()
    AttentionInterface.register(trl.TREE_ATTENTION, tree_attention)
    trl.register_tree_attention = trl.get_peak_flops_per_device = _nothing


def _nothing(*_: object) -> None:
    """Know nothing, and do nothing."""


def tree_attention(
    _: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **tree: Any
) -> tuple[Tensor, None]:
    """Do what TRL's kernel does, path by path: [1, H, N, D] to [1, N, H, D]."""
    ends = (tree["tree_cu_seqlens_q"].tolist(), tree["tree_cu_seqlens_k"].tolist())
    own, seen = ([end - begin for begin, end in pairwise(each)] for each in ends)
    keys, values = (
        torch.split(each.index_select(2, tree["tree_kv_index"]), seen, 2) for each in (key, value)
    )
    grouped = query.shape[1] != key.shape[1]
    found: list[Tensor] = []
    for q, k, v in zip(torch.split(query, own, 2), keys, values, strict=True):
        before = k.shape[2] - q.shape[2]
        shown = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(before) if before else None
        options: dict[str, Any] = {"attn_mask": shown, "is_causal": not before, "enable_gqa": grouped}
        found.append(F.scaled_dot_product_attention(q, k, v, scale=scaling, **options))
    return torch.cat(found, dim=2).transpose(1, 2), None


def train_trl(recipe: RLRecipe, watcher: Watcher | None = None) -> Path:
    """Train as `owpo.train_rl` does, with TRL's update; return the checkpoint folder.

    A killed run goes on from TRL's last checkpoint.

    Raises:
        UsageError: the recipe has a switch that TRL's loss does not have, or the run directory belongs to another.
        RecordError: another process is writing it, or the disk is full.
        CheckpointError: the checkpoint to start from cannot be loaded.
        EngineError: the engine failed again and again, or a step has fewer rows than micro-batches.
    """
    _refuse(recipe)
    disable_progress_bar()
    set_verbosity_error()
    start = folder_of(recipe.start)
    with RunFolder(recipe.output, recipe.source, {recipe.start: start}) as folder:
        return _Run(recipe, watcher or Watcher(), folder).go_on()


def _refuse(recipe: RLRecipe) -> None:
    """Refuse what would be done differently from what the recipe says."""
    switches = {
        "rollout.top_p": (recipe.rollout.top_p, 1.0),
        "loss.kl": (recipe.loss.kl, 0.0),
        "loss.aggregation": (recipe.loss.aggregation, Aggregation.TOKEN),
        "loss.importance_cap": (recipe.loss.importance_cap, None),
        "update.updates": (recipe.update.updates, 1),
    }
    for name, (value, only) in switches.items():
        if value != only:
            shown = "none" if only is None else str(only)
            raise UsageError(f"{name} = {value} is not in TRL's loss: only {shown} is")


class _Run:
    """A run in this process: what is drawn here is trained by TRL, and what that says of a step is kept here."""

    def __init__(self, recipe: RLRecipe, watcher: Watcher, folder: RunFolder) -> None:
        self.recipe, self.watcher, self.folder = recipe, watcher, folder
        self.drawn: dict[int, tuple[list[list[Rollout]], list[list[Reward]], float]] = {}
        """Step -> its groups, what they were paid, and the seconds it took, until it is trained."""
        self.checkpoint = load_start(recipe.start)
        rollout = recipe.rollout
        engine = LocalEngine(
            folder_of(recipe.start),
            name=recipe.start,
            device="cpu",
            threads=1,
            lanes=recipe.update.threads,
            loaded=self.checkpoint,
        )
        limits = Limits(
            max_critical_path=rollout.max_critical_path, max_worker_tokens=rollout.max_worker_tokens
        )
        self.organization = Organization(
            engine, method=rollout.method, capacity=rollout.capacity, limits=limits, temperature=1.0
        )
        self.sampler = Sampler(
            self.organization,
            get_task(rollout.task),
            seed=recipe.seed,
            problems=rollout.problems,
            episodes=rollout.episodes,
        )

    async def draw(self, step: int) -> Drawn:
        """Return the rows of a step."""
        began = time.monotonic()
        groups = await self.sampler.draw(step, self.watcher.episode)
        paid = [
            [reward_of(one.episode, one.asked, one.metrics, self.recipe.reward) for one in group]
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
        last = _last_checkpoint(saved)
        begin = int(last.name.rpartition("-")[2]) if last else 0
        self.folder.rewind(begin, self.recipe.rollout.kept * self.recipe.rollout.episodes)
        self.watcher.begin(update.steps, begin, self.recipe.rollout.problems * self.recipe.rollout.episodes)
        worker = EpisodeWorker(self.organization, self.draw, begin=begin, steps=update.steps)
        trainer = trainer_of(self.recipe, saved, worker, SharedWeights(self.checkpoint.model))
        trainer.add_callback(_Told(self))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        save_checkpoint(self.folder.checkpoint, self.checkpoint)
        return self.folder.checkpoint

    def log(self, step: int, logs: dict[str, float], seconds: float) -> None:
        """Keep the figures of a step, from 1."""
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
            seconds=seconds,
        )
        self.folder.log(asdict(metrics))
        self.folder.keep(one.episode for group in groups[: self.recipe.rollout.kept] for one in group)
        self.watcher.step(metrics)


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the last of TRL's checkpoints that is whole; None where there is none."""
    written_last = folder.glob("checkpoint-*/trainer_state.json")
    found = {int(each.parent.name.rpartition("-")[2]): each.parent for each in written_last}
    return found[max(found)] if found else None


def trainer_of(recipe: RLRecipe, folder: Path, worker: EpisodeWorker, weights: SharedWeights) -> Any:
    """Return TRL's trainer for a recipe: constant rate after the warm-up, one optimizer step a step."""
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


class _Told(TrainerCallback):
    """Hears from TRL what a step came to."""

    def __init__(self, run: _Run) -> None:
        self._run, self._began = run, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep a step's figures; the summary at the end has no loss."""
        if "loss" in logs:
            self._run.log(state.global_step, logs, time.monotonic() - self._began)
