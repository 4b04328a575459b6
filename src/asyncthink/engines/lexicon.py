"""What a checkpoint folder says beside its weights: how text becomes tokens, and how a query a prompt.

    tokenizer.json              tokenizer
    organizer.jinja worker.jinja    how a query becomes a prompt; the model was trained with these
    asyncthink.json             capacity, temperature, and the tasks the model knows with their limits
    config.json generation_config.json     the tokens that begin and end a text

No torch is needed for it: a server may hold the weights.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import msgspec
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from asyncthink.engines.base import Profile
from asyncthink.errors import CheckpointError
from asyncthink.settings import packaged_recipes

CONFIG, TOKENIZER, PROFILE, GENERATION = (
    "config.json",
    "tokenizer.json",
    "asyncthink.json",
    "generation_config.json",
)
ROLES = ("organizer", "worker")
MADE = "checkpoint"
"""The folder in a training's output that holds the model at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lexicon:
    """Everything that a folder holds beside its weights."""

    tokenizer: Tokenizer
    templates: Mapping[str, str]
    """Role -> Jinja source; empty where the folder brings none."""
    profile: Profile
    bos: int | None
    """Token id put before every prompt; None: none."""
    eos: tuple[int, ...] = ()
    """Token ids that end a text."""


def load_lexicon(folder: Path) -> Lexicon:
    """Read a folder, but not its weights.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    raw = read_json(folder / CONFIG)
    return Lexicon(
        tokenizer=_tokenizer(folder),
        templates={role: text for role in ROLES if (text := _text(folder / f"{role}.jinja")) is not None},
        profile=load_profile(folder),
        bos=raw.get("bos_token_id"),
        eos=_eos(folder, raw),
    )


def load_profile(folder: Path) -> Profile:
    """Read what a model declares about itself, without loading it.

    Raises:
        CheckpointError: there is no checkpoint in this folder, or the file is broken.
    """
    read_json(folder / CONFIG)
    trained = (folder / f"{ROLES[0]}.jinja").exists()
    if not (folder / PROFILE).exists():
        return Profile(trained=trained)
    raw = read_json(folder / PROFILE)
    try:
        profile = msgspec.convert(raw, Profile, strict=True)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{folder / PROFILE}: {first_line(error)}") from error
    if profile.capacity is not None and not 1 <= profile.capacity <= 9999:
        raise CheckpointError(f"{folder / PROFILE}: capacity {profile.capacity} is not between 1 and 9999")
    if not 0 <= profile.temperature <= 100:
        raise CheckpointError(
            f"{folder / PROFILE}: temperature {profile.temperature} is not between 0 and 100"
        )
    return replace(profile, trained=trained)


def save_profile(folder: Path, profile: Profile) -> None:
    """Write what a model declares about itself into its folder."""
    (folder / PROFILE).write_text(json.dumps(asdict(profile), indent=2) + "\n", encoding="utf-8")


def _tokenizer(folder: Path) -> Tokenizer:
    if not (folder / TOKENIZER).exists():
        raise CheckpointError(f"{folder}: {TOKENIZER} is missing")
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{folder}: {TOKENIZER} cannot be read: {first_line(error)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _eos(folder: Path, raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids that end a text: chat models name more of them for generation than in their config."""
    generation = read_json(folder / GENERATION) if (folder / GENERATION).exists() else {}
    named: Any = generation.get("eos_token_id", raw.get("eos_token_id"))
    if named is None:
        return ()
    try:
        return (
            (msgspec.convert(named, int),)
            if isinstance(named, int)
            else msgspec.convert(named, tuple[int, ...])
        )
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{folder}: eos_token_id: {first_line(error)}") from error


def _maker(folder: Path) -> str:
    """Return which command makes a folder that is not there; empty if no packaged recipe does."""
    for recipe, text in ({} if folder.exists() else packaged_recipes()).items():
        values = tomllib.loads(text)
        if Path(str(values.get("output"))) / MADE == folder:
            kind = "rl" if "rollout" in values else "sft"
            return f": `asyncthink train {kind} recipes/{recipe}` makes it"
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one object.

    Raises:
        CheckpointError: it is missing or holds something else; where a training of a packaged recipe would make the
            folder, its command is told.
    """
    text = _text(path)
    if text is None:
        raise CheckpointError(
            f"{path.parent}: no checkpoint folder, {path.name} is missing{_maker(path.parent)}"
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: an object is expected")
    return cast("dict[str, Any]", value)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


def render(template: str, *, query: str, capacity: int) -> str:
    """Fill a template that came with a checkpoint, in a sandbox.

    Raises:
        CheckpointError: the template is broken or asks for what it does not get.
    """
    try:
        return _compiled(template).render(query=query, capacity=capacity)
    except Exception as error:  # a template may raise anything
        raise CheckpointError(f"the checkpoint's template is broken: {first_line(error)}") from error
