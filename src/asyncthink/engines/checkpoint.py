"""A checkpoint folder in the standard layout, with the templates a model was trained with beside it.

    config.json                 architecture (Llama)
    model.safetensors           weights under Hugging Face's names
    tokenizer.json              tokenizer
    organizer.jinja worker.jinja    how a query becomes a prompt; the model was trained with these
    asyncthink.json             capacity, and the tasks the model knows with their limits
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from asyncthink.engines.base import Profile
from asyncthink.engines.llama import Llama, LlamaConfig
from asyncthink.errors import CheckpointError

CONFIG, WEIGHTS, TOKENIZER, PROFILE = "config.json", "model.safetensors", "tokenizer.json", "asyncthink.json"
ROLES = ("organizer", "worker")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Everything that a folder holds."""

    model: Llama
    tokenizer: Tokenizer
    templates: Mapping[str, str]
    """Role -> Jinja source; empty where the folder brings none."""
    profile: Profile
    bos: int | None
    """Token id put before every prompt; None: none."""


def load_checkpoint(folder: Path, device: torch.device | None = None) -> Checkpoint:
    """Read a folder; weights become float32 on `device`.

    Raises:
        CheckpointError: a file is missing or broken, or the architecture is not Llama.
    """
    raw = _json(folder / CONFIG)
    if raw.get("model_type") != "llama":
        raise CheckpointError(
            f"{folder}: model_type {raw.get('model_type')!r} is not supported, only 'llama' is"
        )
    config = _config(folder, raw)
    model = Llama(config)
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
        if config.tie_word_embeddings:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model.load_state_dict(tensors)
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: {Path(str(error.filename)).name} is missing") from error
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder}: the weights do not fit: {_first_line(error)}") from error
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{folder}: {TOKENIZER} cannot be read: {_first_line(error)}") from error
    tokenizer.encode_special_tokens = True
    model.eval().requires_grad_(False)
    return Checkpoint(
        model=model.to(device or torch.device("cpu")),
        tokenizer=tokenizer,
        templates={role: text for role in ROLES if (text := _text(folder / f"{role}.jinja")) is not None},
        profile=_profile(folder),
        bos=raw.get("bos_token_id"),
    )


def _config(folder: Path, raw: Mapping[str, Any]) -> LlamaConfig:
    names = {field.name for field in fields(LlamaConfig)}
    values = {name: raw[name] for name in names if name in raw}
    rope: Mapping[str, Any] = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"{folder}: rope type {rope['rope_type']!r} is not supported")
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    heads = raw.get("num_attention_heads")
    if heads and not values.get("head_dim"):
        values["head_dim"] = raw["hidden_size"] // heads
    values.setdefault("num_key_value_heads", heads)
    values.setdefault("tie_word_embeddings", False)
    try:
        return LlamaConfig(**values)
    except TypeError as error:
        raise CheckpointError(f"{folder}: {CONFIG} is incomplete: {_first_line(error)}") from error


def _profile(folder: Path) -> Profile:
    if not (folder / PROFILE).exists():
        return Profile()
    raw = _json(folder / PROFILE)
    return Profile(capacity=raw.get("capacity"), tasks=raw.get("tasks"))


def _json(path: Path) -> dict[str, Any]:
    text = _text(path)
    if text is None:
        raise CheckpointError(f"{path.parent}: no checkpoint folder, {path.name} is missing")
    try:
        return json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: {_first_line(error)}") from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a folder that `load_checkpoint`, transformers and vLLM read."""
    folder.mkdir(parents=True, exist_ok=True)
    config = asdict(checkpoint.model.config)
    rope = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    config |= {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "float32",
        "rope_parameters": rope,
        "bos_token_id": checkpoint.bos,
        "eos_token_id": checkpoint.tokenizer.token_to_id("<eos>"),
        "pad_token_id": checkpoint.tokenizer.token_to_id("<pad>"),
    }
    _write_json(folder / CONFIG, config)
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    if checkpoint.model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    checkpoint.tokenizer.save(str(folder / TOKENIZER))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    _write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    )
    for role, text in checkpoint.templates.items():
        (folder / f"{role}.jinja").write_text(text, encoding="utf-8")
    _write_json(folder / PROFILE, asdict(checkpoint.profile))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def render(template: str, *, query: str, capacity: int) -> str:
    """Fill a template that came with a checkpoint, in a sandbox.

    Raises:
        CheckpointError: the template is broken or asks for what it does not get.
    """
    try:
        return _ENVIRONMENT.from_string(template).render(query=query, capacity=capacity)
    except TemplateError as error:
        raise CheckpointError(f"the checkpoint's template is broken: {_first_line(error)}") from error
