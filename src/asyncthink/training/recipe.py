"""Recipes of `asyncthink train sft`: a TOML file of typed sections. An unknown key is an error that names the nearest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

import msgspec

from asyncthink.errors import UsageError
from asyncthink.settings import load
from asyncthink.training.structures import Structure

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Rate: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seed: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Output: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
Share: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Shares: TypeAlias = Annotated[
    dict[Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,3}$")], Share], msgspec.Meta(min_length=1)
]
"""Whole numbers, as TOML keys are texts, with how often each is drawn."""


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Shape of the Llama that is made from nothing."""

    hidden_size: Count
    """Width of the residual stream."""
    intermediate_size: Count
    """Width of the gated feed-forward layer."""
    layers: Count
    heads: Count
    """Attention heads, of keys and values too."""
    head_dim: Annotated[int, msgspec.Meta(ge=2, multiple_of=2)] = 32
    """Even; vLLM's CPU build serves no smaller one."""
    max_length: Count = 1024
    """Longest sequence in tokens; longer traces are left out of the data."""


class Kind(StrEnum):
    """What a trace shows."""

    ORGANIZER = "organizer"
    WORKER = "worker"
    GUESS = "guess"
    """An organizer that answers at once."""
    FILE = "file"
    """Traces that `asyncthink synth` wrote."""


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """One ingredient of the data: traces of one kind, made by a program on problems of the train split."""

    share: Share
    """Of the traces, relative to the other ingredients' shares."""
    kind: Kind = Kind.ORGANIZER
    task: Literal["countdown", "sudoku"] = "countdown"
    numbers: Shares = field(default_factory=lambda: {"4": 1.0})
    """Countdown only: how many numbers a problem has."""
    wanted: Shares = field(default_factory=lambda: {"4": 1.0})
    """Countdown only: how many expressions are asked for; as many exist, but perhaps with five numbers."""
    capacities: Shares = field(default_factory=lambda: {"4": 1.0})
    """Agent pool capacity stated in the prompt; a worker's states none."""
    structure: Structure = Structure.RANDOM
    """When an organizer forks, thinks and joins: random, sequential, pairs or waves."""
    own_thinking: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    """Where a random structure may fork or join, it searches a part itself with a probability that is drawn for each
    trace between 0 and this; else, where it may do both, it forks with one between `busy` and 1."""
    busy: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """How much a random structure is inclined to keep its workers at work: it forks like that, and joins whoever has
    waited longest with this probability, else anyone. With 0 all that is legal is about as likely, with 1 no worker
    idles by choice."""
    most_parts: Count = 20
    """An organizer looks at so many parts at most, so that its trace fits into the context."""
    most_ticks: Count | None = None
    """It begins no part that cannot be done, and what was found before answered, by a random tick between 90 % and
    all of this; None: the clock does not matter."""
    file: str | None = None
    """For the kind `file`: JSON lines, one example each."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """How long and how fast."""

    tokens: Count
    """Tokens to see, prompts and inserted text included, padding not."""
    batch_tokens: Count
    """Tokens in a step, padding included."""
    learning_rate: Rate
    """Peak, for the matrices of the blocks; falls linearly to 0 after the warm-up."""
    embedding_learning_rate: Rate | None = None
    """Peak, for embeddings and norms (always AdamW); None: the same; 0 leaves them as they are."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    """For the matrices of the blocks."""
    warmup_steps: Count = 100
    """Steps over which the rates rise linearly."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    """Of the matrices of the blocks."""
    bfloat16: bool = False
    """Matrix products in bfloat16; parameters stay float32."""
    threads: Count = 2
    """Torch threads."""
    save_every: Count = 100
    """Steps between saved states."""

    @property
    def rates(self) -> tuple[float, float]:
        """Peak learning rates, of the matrices of the blocks and of all else."""
        embeddings = self.embedding_learning_rate
        return self.learning_rate, self.learning_rate if embeddings is None else embeddings

    def scale(self, step: int, tokens: int) -> float:
        """Return the share of the learning rate that a step has, from 0, so many tokens seen before it."""
        return min((step + 1) / self.warmup_steps, 1.0) * max(1.0 - tokens / self.tokens, 0.0)


@dataclass(frozen=True, kw_only=True)
class LoRARecipe:
    """Low-rank adapters (arXiv 2106.09685), trained in the model's place."""

    rank: Count = 16
    alpha: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 32.0
    """What the adapters add is scaled by alpha / rank."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    targets: list[str] | None = None
    """Names of the layers that get one, such as `q_proj`; None: all linear ones but the last."""


@dataclass(frozen=True, kw_only=True)
class SFTTrainerRecipe:
    """How TRL's trainer is used, where `trainer = "trl"`."""

    lora: LoRARecipe | None = None
    """None: all weights are trained."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights in memory and in the checkpoint; adapters are float32 in training."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    micro_batches: Count = 1
    """Micro-batches of a step, on each process: more take less memory, and change nothing else."""
    max_length: Count | None = None
    """Longest sequence in tokens, longer traces are left out; None: as the model allows."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe file."""

    model: ModelRecipe | None = None
    """Made from nothing; or `start` names where to go on from."""
    start: str | None = None
    """`hf:FOLDER`, `embedded`, `embedded-base` or `embedded-sft`."""
    trainer: Literal["ours", "trl"] = "ours"
    """Who trains: our own plain loop, for Llamas, or TRL's `SFTTrainer` (extra `trl`), for any causal language model."""
    trl: SFTTrainerRecipe = field(default_factory=SFTTrainerRecipe)
    data: Annotated[list[DataRecipe], msgspec.Meta(min_length=1)]
    train: TrainRecipe
    output: Output
    """Run directory, relative to the working directory."""
    seed: Seed = 0
    """Of the initial weights, the data and its order."""
    capacity: Annotated[int, msgspec.Meta(ge=1, le=9999)] = 4
    """What the checkpoint declares as its own."""
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] = 1.0
    """Sampling temperature that the checkpoint declares as its own; 0 is greedy."""
    source: str = field(default="", compare=False)
    """The file's text, kept in the run directory."""


def load_recipe(path: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; a name that is no file is looked up among the packaged recipes.

    Args:
        path: of the file.
        changes: keys to set, such as `seed=2` or `train.threads=1`.

    Raises:
        UsageError: no such file, or a key is missing, unknown, of the wrong type or out of range.
    """
    recipe, text = load(path, Recipe, changes, hidden=["source"])
    recipe = replace(recipe, source=text)
    if (recipe.model is None) is (recipe.start is None):
        raise UsageError(f"{path}: a run has either a [model] to make or a 'start' to go on from")
    if recipe.trainer == "ours" and recipe.trl != SFTTrainerRecipe():
        raise UsageError(f'{path}: the section [trl] belongs to trainer = "trl"')
    if recipe.trainer == "trl" and recipe.start is None:
        raise UsageError(f"{path}: trainer = \"trl\" needs a 'start' to go on from")
    if recipe.trainer == "trl" and recipe.train.optimizer != "adamw":
        raise UsageError(
            f'{path}: train.optimizer = "{recipe.train.optimizer}" is not with TRL: only "adamw" is'
        )
    for data in recipe.data:
        if (data.file is None) is (data.kind is Kind.FILE):
            raise UsageError(f"{path}: 'file' and the kind 'file' belong together")
        _check_numbers(path, data)
    return recipe


def _check_numbers(path: str, data: DataRecipe) -> None:
    ranges: Mapping[str, tuple[Shares, int, int]] = {
        "numbers": (data.numbers, 2, 5),
        "wanted": (data.wanted, 1, 4),
        "capacities": (data.capacities, 1, 9999),
    }
    for name, (shares, low, high) in ranges.items():
        for value in shares:
            if not low <= int(value) <= high:
                raise UsageError(f"{path}: {name} are {low} to {high}, not {value}")
