"""Recipes: a TOML file of typed sections. An unknown key is an error that names the nearest one."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast, get_type_hints

import msgspec

from asyncthink.errors import UnknownNameError, UsageError

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Share: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Shares: TypeAlias = Annotated[
    dict[Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,3}$")], Share], msgspec.Meta(min_length=1)
]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Shape of the Llama that is made from nothing."""

    hidden_size: Count
    intermediate_size: Count
    layers: Count
    heads: Count
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


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    tokens: Count
    """Tokens to see, prompts and inserted text included, padding not."""
    batch_tokens: Count
    """Tokens in a step, padding included."""
    learning_rate: float
    """Peak, for the matrices of the blocks; falls linearly to 0 after the warm-up."""
    embedding_learning_rate: float
    """Peak, for embeddings and norms (always AdamW)."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    warmup_steps: Count = 100
    weight_decay: float = 0.01
    bfloat16: bool = False
    """Matrix products in bfloat16; parameters stay float32."""
    threads: Count = 2
    """Torch threads."""
    save_every: Count = 100
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
        UsageError: no such file, or a key is missing, unknown, of the wrong type or out of range.
    """
    try:
        text = _find(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    try:
        raw: dict[str, Any] = tomllib.loads(text)
        _check_keys(raw, Recipe)
        return msgspec.convert({**raw, "source": text}, Recipe, strict=True)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}") from error


def _check_keys(raw: dict[str, Any], shape: type, prefix: str = "") -> None:
    """Raise for a key that `shape` does not have; msgspec skips those of a dataclass."""
    known = {name: kind for name, kind in get_type_hints(shape).items() if name != "source"}
    for key, value in raw.items():
        if key not in known:
            raise UnknownNameError("recipe key", prefix + key, [prefix + name for name in known])
        if is_dataclass(known[key]) and isinstance(value, dict):
            _check_keys(cast("dict[str, Any]", value), known[key], f"{prefix}{key}.")


def _find(path: str) -> str:
    if Path(path).is_file():
        return Path(path).read_text(encoding="utf-8")
    folder = resources.files("asyncthink") / "recipes"
    known = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    name = Path(path).name
    if name not in known:
        raise UnknownNameError("recipe", path, [f"recipes/{known_name}" for known_name in known])
    return known[name].read_text(encoding="utf-8")
