"""Recipes: a TOML file of typed sections. An unknown key is an error that names the nearest one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

import msgspec

from asyncthink.settings import convert, find_recipe, parse

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Share: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Shares: TypeAlias = Annotated[
    dict[Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,3}$")], Share], msgspec.Meta(min_length=1)
]


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
    head_dim: Count = 32
    """vLLM's CPU build serves no smaller one."""
    max_length: Count = 1024
    """Longest sequence in tokens; longer traces are left out of the data."""
    temperature: float = 1.0
    """Sampling temperature that the checkpoint declares as its own; 0 is greedy."""


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Program-made traces of `easy` countdown, on number sets of the train split."""

    capacities: Shares
    """Agent pool capacity stated in the prompt -> share of the organizer's traces."""
    wanted: Shares
    """How many expressions are asked for -> share of the organizer's traces."""
    workers_per_organizer: float
    """Worker traces for each organizer trace."""
    own_search: float = 0.25
    """An organizer's inclination to search itself is drawn between 0 and this, beside 0.5 to 1 to fork and
    0.1 to 0.6 to join."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """How long and how fast."""

    tokens: Count
    """Tokens to see, prompts and inserted text included, padding not."""
    batch_tokens: Count
    """Tokens in a step, padding included."""
    learning_rate: float
    """Peak, for the matrices of the blocks; falls linearly to 0 after the warm-up."""
    embedding_learning_rate: float
    """Peak, for embeddings and norms (always AdamW)."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    """For the matrices of the blocks."""
    warmup_steps: Count = 100
    """Steps over which the rates rise linearly."""
    weight_decay: float = 0.01
    """Of the matrices of the blocks."""
    bfloat16: bool = False
    """Matrix products in bfloat16; parameters stay float32."""
    threads: Count = 2
    """Torch threads."""
    save_every: Count = 100
    """Steps between saved states."""


@dataclass(frozen=True, kw_only=True)
class FinishRecipe:
    """A second stage, behind the tokens of the first: the rates rise and fall once more."""

    tokens: Count
    learning_rate: float
    embedding_learning_rate: float
    own_search: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One rise and fall of the learning rates."""

    begin: int
    """Tokens of the run before it."""
    tokens: int
    learning_rate: float
    embedding_learning_rate: float
    data: DataRecipe

    @property
    def end(self) -> int:
        """Tokens of the run when it is over."""
        return self.begin + self.tokens


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe file."""

    model: ModelRecipe
    data: DataRecipe
    train: TrainRecipe
    finish: FinishRecipe | None = None
    output: str
    """Run directory, relative to the working directory."""
    seed: int = 0
    """Of the initial weights, the data and its order."""
    source: str = field(default="", compare=False)
    """The file's text, kept in the run directory."""


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages of a run, one or two."""
    train, finish = recipe.train, recipe.finish
    first = Stage(
        begin=0,
        tokens=train.tokens,
        learning_rate=train.learning_rate,
        embedding_learning_rate=train.embedding_learning_rate,
        data=recipe.data,
    )
    if finish is None:
        return (first,)
    second = Stage(
        begin=train.tokens,
        tokens=finish.tokens,
        learning_rate=finish.learning_rate,
        embedding_learning_rate=finish.embedding_learning_rate,
        data=replace(recipe.data, own_search=finish.own_search),
    )
    return first, second


def load_recipe(path: str) -> Recipe:
    """Read a recipe file; a name that is no file is looked up among the packaged recipes.

    Raises:
        UsageError: no such file, or a key is missing, unknown, of the wrong type or out of range.
    """
    text = find_recipe(path)
    return replace(convert(parse(text, path), Recipe, path, hidden=["source"]), source=text)
