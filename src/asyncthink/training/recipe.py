"""Recipes: a TOML file of typed sections. An unknown key is an error that names the nearest one."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from asyncthink.errors import UnknownNameError, UsageError


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Shape of the Llama that is made from nothing."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    head_dim: int = 32
    """vLLM's CPU build serves no smaller one."""
    max_length: int = 1024
    """Longest sequence in tokens; longer traces are left out of the data."""


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Program-made traces of `easy` countdown, on number sets of the train split."""

    capacities: dict[str, float]
    """Agent pool capacity stated in the prompt -> share of the organizer's traces."""
    wanted: dict[str, float]
    """How many expressions are asked for -> share of the organizer's traces."""
    workers_per_organizer: float
    """Worker traces for each organizer trace."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    tokens: int
    """Tokens to see, prompts and inserted text included, padding not."""
    batch_tokens: int
    """Tokens in a step, padding included."""
    learning_rate: float
    """Peak, for the matrices of the blocks; falls linearly to 0 after the warm-up."""
    embedding_learning_rate: float
    """Peak, for embeddings and norms (always AdamW)."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    bfloat16: bool = False
    """Matrix products in bfloat16; parameters stay float32."""
    threads: int = 2
    """Torch threads."""
    save_every: int = 100
    """Steps between saved states."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    model: ModelRecipe
    data: DataRecipe
    train: TrainRecipe
    output: str
    """Run directory, relative to the working directory."""
    seed: int = 0
    source: str = field(default="", compare=False)
    """The file's text, kept in the run directory."""


def load_recipe(path: str) -> Recipe:
    """Read a recipe file; a name that is no file is looked up among the packaged recipes.

    Raises:
        UsageError: no such file, or a key is missing, unknown or of the wrong type.
    """
    text = _find(path)
    try:
        raw: dict[str, Any] = tomllib.loads(text)
        return msgspec.convert({**raw, "source": text}, Recipe, strict=True)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}") from error


def _find(path: str) -> str:
    if Path(path).is_file():
        return Path(path).read_text(encoding="utf-8")
    folder = resources.files("asyncthink") / "recipes"
    known = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    name = Path(path).name
    if name not in known:
        raise UnknownNameError("recipe", path, [f"recipes/{known_name}" for known_name in known])
    return known[name].read_text(encoding="utf-8")
