"""Format fine-tuning: next-token loss on what a model is to write, prompts and inserted text masked.

    asyncthink train sft recipes/embedded.toml

Batches are made of examples of like length instead of packing them: no example sees another, and little
of a batch is padding. The data of a step is a function of (seed, shard), so that a killed run goes
on where its last saved state was: the same batches, the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asyncthink.engines.base import Profile
from asyncthink.engines.checkpoint import Checkpoint, save_checkpoint
from asyncthink.engines.lexicon import render
from asyncthink.engines.llama import Llama, LlamaConfig
from asyncthink.errors import UsageError
from asyncthink.tasks.base import Split
from asyncthink.tasks.countdown import Countdown, CountdownProblem
from asyncthink.tasks.countdown_parts import candidates
from asyncthink.training.recipe import DataRecipe, Recipe, Stage, stages
from asyncthink.training.synthesis import Example, organizer_example, worker_example
from asyncthink.training.vocabulary import BOS, EOS, build_tokenizer

SHARD = 4096
"""Organizer traces in a shard: within one, examples are grouped by length."""
IGNORED = -100
INITIAL_STD = 0.02
LIMITS = {"countdown": {"counts": [4], "largest": 20, "targets": [10, 100]}}
CAPACITY = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded example."""

    ids: list[int]
    trained: list[bool]
    """Whether each id is a target of the loss."""


class Encoder:
    """Examples -> rows, with the templates that will ship with the checkpoint."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        folder = resources.files("asyncthink") / "training" / "templates"
        self.templates = {role: (folder / f"{role}.jinja").read_text() for role in ("organizer", "worker")}
        self.bos: int = self.tokenizer.token_to_id(BOS) or 0
        self.eos: int = self.tokenizer.token_to_id(EOS) or 0

    def row(self, example: Example) -> Row:
        """Encode an example behind its prompt, with an end of text."""
        prompt = render(self.templates[example.role], query=example.query, capacity=example.capacity)
        ids: list[int] = [self.bos, *self.tokenizer.encode(prompt).ids]
        trained = [False] * len(ids)
        for piece in example.pieces:
            piece_ids: list[int] = self.tokenizer.encode(piece.text).ids
            ids += piece_ids
            trained += [piece.trained] * len(piece_ids)
        return Row([*ids, self.eos], [*trained, True])


def draw(shares: dict[str, float], random: Random) -> int:
    """Draw one of the whole numbers that are the keys, by their shares."""
    return int(random.choices(list(shares), list(shares.values()))[0])


def shard_examples(problems: ProblemSource, data: DataRecipe, seed: int, shard: int) -> Iterator[Example]:
    """Yield the examples of one shard."""
    random = Random(f"sft:{seed}:{shard}")
    for _ in range(SHARD):
        problem = problems(random, draw(data.wanted, random))
        yield organizer_example(problem, draw(data.capacities, random), random, data.own_search)
        pool = candidates(problem)
        for _ in range(int(data.workers_per_organizer + random.random())):
            yield worker_example(random.choice(pool).query)


ProblemSource = Callable[[Random, int], CountdownProblem]


class TrainProblems:
    """Draws `easy` problems of the train split, remembering what was solved once."""

    def __init__(self) -> None:
        self.task = Countdown()
        self.targets: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, random: Random, wanted: int) -> CountdownProblem:
        """Draw one problem."""
        while True:
            numbers = tuple(random.randint(1, self.task.largest) for _ in range(self.task.size))
            if targets := self._targets(tuple(sorted(numbers))):
                return CountdownProblem(numbers=numbers, target=random.choice(targets), wanted=wanted)

    def _targets(self, numbers: tuple[int, ...]) -> list[int]:
        if numbers not in self.targets:
            self.targets[numbers] = self.task.targets(numbers, Split.TRAIN)
        return self.targets[numbers]


def batches(rows: list[Row], batch_tokens: int, random: Random) -> list[list[Row]]:
    """Group rows of like length into batches of at most `batch_tokens` padded tokens, shuffled."""
    groups: list[list[Row]] = []
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if group and (len(group) + 1) * len(row.ids) > batch_tokens:
            groups.append(group)
            group = []
        group.append(row)
    groups.append(group)
    random.shuffle(groups)
    return groups


def tensors(batch: list[Row]) -> tuple[Tensor, Tensor]:
    """Pad a batch on the right; return inputs [B, T-1] and targets [B, T-1] with IGNORED outside the loss."""
    width = max(len(row.ids) for row in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    targets = torch.full((len(batch), width), IGNORED)
    for place, row in enumerate(batch):
        length = len(row.ids)
        ids[place, :length] = torch.tensor(row.ids)
        targets[place, :length] = torch.where(torch.tensor(row.trained), ids[place, :length], IGNORED)
    return ids[:, :-1], targets[:, 1:]


def loss_of(model: Llama, ids: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Return the mean loss over trained tokens, and the share of them predicted right."""
    kept = targets != IGNORED
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    logits = model.lm_head(model.hidden(ids, positions)[kept]).float()
    right = (logits.argmax(-1) == targets[kept]).float().mean().item()
    return F.cross_entropy(logits, targets[kept]), right


class Optimizers:
    """Muon or AdamW for the blocks' matrices, AdamW for the rest; one schedule for both, linear in a stage."""

    def __init__(self, model: Llama, recipe: Recipe) -> None:
        train = recipe.train
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        if train.optimizer == "muon":
            main = torch.optim.Muon(matrices, lr=train.learning_rate, weight_decay=train.weight_decay)
        else:
            betas = (0.9, 0.98)
            main = torch.optim.AdamW(
                matrices, lr=train.learning_rate, weight_decay=train.weight_decay, betas=betas
            )
        other = torch.optim.AdamW(rest, lr=train.embedding_learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
        self.pair: tuple[torch.optim.Optimizer, ...] = (main, other)
        self.warmup = train.warmup_steps

    def step(self, stage: Stage, position: Position) -> None:
        """Update once, at the learning rates of the run's position in a stage."""
        progress = (position.tokens - stage.begin) / stage.tokens
        scale = min((position.stage_step + 1) / self.warmup, 1.0) * max(1.0 - progress, 0.0)
        peaks = (stage.learning_rate, stage.embedding_learning_rate)
        for optimizer, peak in zip(self.pair, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad()


@dataclass(slots=True)
class Position:
    """Where a run stands."""

    step: int = 0
    shard: int = 0
    batch: int = 0
    """Batches of the shard already used."""
    tokens: int = 0
    stage: int = 0
    stage_step: int = 0
    """Steps of the present stage."""
    seconds: float = 0.0
    """Wall time spent, over all sittings."""

    def enter(self, stage: int) -> None:
        """Begin a stage, with a shard of its own."""
        self.stage, self.stage_step = stage, 0
        self.shard, self.batch = self.shard + 1, 0


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
        UsageError: the run directory belongs to another recipe or cannot be written, or no trace fits.
    """
    torch.set_num_threads(recipe.train.threads)
    run = _open_run(recipe)
    torch.manual_seed(recipe.seed)
    encoder = Encoder()
    model = Llama(model_config(recipe, encoder))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=INITIAL_STD)
    optimizers = Optimizers(model, recipe)
    position = _restore(run, model, optimizers)
    problems = TrainProblems()
    for number, stage in enumerate(stages(recipe)):
        if position.stage < number:
            position.enter(number)
        while position.tokens < stage.end:
            examples = shard_examples(problems, stage.data, recipe.seed, position.shard)
            rows = [encoder.row(example) for example in examples]
            rows = [row for row in rows if len(row.ids) <= recipe.model.max_length]
            if not rows:
                raise UsageError(f"no trace is as short as max_length = {recipe.model.max_length} tokens")
            order = Random(f"batches:{recipe.seed}:{position.shard}")
            groups = batches(rows, recipe.train.batch_tokens, order)
            _run_shard(recipe, stage, run, model, optimizers, position, groups[position.batch :], report)
            if position.tokens < stage.end:
                position.shard += 1
                position.batch = 0
    _save(run, model, optimizers, position)
    checkpoint = run / "checkpoint"
    profile = Profile(capacity=CAPACITY, tasks=LIMITS, temperature=recipe.model.temperature)
    save_checkpoint(
        checkpoint,
        Checkpoint(
            model=model,
            tokenizer=encoder.tokenizer,
            templates=encoder.templates,
            profile=profile,
            bos=encoder.bos,
        ),
    )
    return checkpoint


def model_config(recipe: Recipe, encoder: Encoder) -> LlamaConfig:
    """Return the shape of the model, its vocabulary filled up to a multiple of 8."""
    shape = recipe.model
    return LlamaConfig(
        vocab_size=-(-encoder.tokenizer.get_vocab_size() // 8) * 8,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_length,
    )


def _run_shard(
    recipe: Recipe,
    stage: Stage,
    run: Path,
    model: Llama,
    optimizers: Optimizers,
    position: Position,
    groups: list[list[Row]],
    report: Callable[[Progress], None],
) -> None:
    total = stages(recipe)[-1].end
    for group in groups:
        if position.tokens >= stage.end:
            return
        began = time.monotonic()
        ids, targets = tensors(group)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.train.bfloat16):
            loss, accuracy = loss_of(model, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(stage, position)
        tokens = sum(len(row.ids) for row in group)
        position.step += 1
        position.stage_step += 1
        position.batch += 1
        position.tokens += tokens
        seconds = time.monotonic() - began
        position.seconds += seconds
        progress = Progress(
            step=position.step,
            tokens=position.tokens,
            total_tokens=total,
            loss=loss.item(),
            accuracy=accuracy,
            tokens_per_second=tokens / seconds,
            seconds=position.seconds,
        )
        report(progress)
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({name: getattr(progress, name) for name in Progress.__slots__}) + "\n")
        if position.step % recipe.train.save_every == 0:
            _save(run, model, optimizers, position)


def _open_run(recipe: Recipe) -> Path:
    run = Path(recipe.output)
    config = run / "config.toml"
    try:
        run.mkdir(parents=True, exist_ok=True)
        if config.exists() and config.read_text() != recipe.source:
            raise UsageError(f"{run} holds a run of another recipe: name another output, or remove it")
        config.write_text(recipe.source)
    except OSError as error:
        raise UsageError(f"{run} cannot be written: {error.strerror}") from error
    return run


def _save(run: Path, model: Llama, optimizers: Optimizers, position: Position) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers.pair],
        "position": {name: getattr(position, name) for name in Position.__slots__},
    }
    torch.save(state, run / "state.tmp")
    (run / "state.tmp").replace(run / "state.pt")


def _restore(run: Path, model: Llama, optimizers: Optimizers) -> Position:
    path = run / "state.pt"
    if not path.exists():
        return Position()
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers.pair, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Position(**state["position"])
