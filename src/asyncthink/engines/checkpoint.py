"""A checkpoint folder in the standard layout: `lexicon.py` reads what stands beside the weights.

    config.json                 architecture (Llama)
    model.safetensors           weights under Hugging Face's names

Weights may come in shards (model.safetensors.index.json).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from asyncthink.engines.lexicon import (
    CONFIG,
    TOKENIZER,
    Lexicon,
    first_line,
    load_lexicon,
    read_json,
    save_profile,
)
from asyncthink.engines.llama import Llama, LlamaConfig
from asyncthink.errors import CheckpointError

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
_DERIVED = "rotary_emb.inv_freq"
"""Old checkpoints carry it as a weight; it follows from the config."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint(Lexicon):
    """Everything that a folder holds."""

    model: Llama


_LARGEST = {
    "num_hidden_layers": 10_000,
    "max_position_embeddings": 1 << 24,
    "vocab_size": 1 << 24,
    "rope_theta": 1e12,
}
"""More than any model has; 2^20 for what is not named."""


def load_checkpoint(folder: Path, device: torch.device | None = None) -> Checkpoint:
    """Read a folder; weights become float32 on `device`.

    Raises:
        CheckpointError: a file is missing or broken, or the architecture is not Llama.
    """
    raw = read_json(folder / CONFIG)
    _check_architecture(folder, raw)
    config = _config(folder, raw)
    try:
        model = _model(folder, config, device or torch.device("cpu"))
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{folder}: {CONFIG} makes no model: {first_line(error)}") from error
    lexicon = load_lexicon(folder)
    return Checkpoint(model=model, **{field.name: getattr(lexicon, field.name) for field in fields(lexicon)})


def _model(folder: Path, config: LlamaConfig, device: torch.device) -> Llama:
    with torch.device("meta"):  # nothing is drawn at random that the weights will replace
        model = Llama(config)
    tensors = _tensors(folder)
    if config.tie_word_embeddings and "model.embed_tokens.weight" in tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            shapes = f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'expected')}"
            raise CheckpointError(f"{folder}: the weights do not fit {CONFIG}: {shapes}")
    # Copied: the file is mapped into memory, and a process must outlive its replacement.
    copied = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(copied, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval().requires_grad_(False).to(device)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights, from one file or from shards."""
    files = [WEIGHTS]
    if (folder / SHARDS).exists():
        try:
            files = sorted(
                set(msgspec.convert(read_json(folder / SHARDS).get("weight_map"), dict[str, str]).values())
            )
        except msgspec.ValidationError as error:
            raise CheckpointError(f"{folder / SHARDS}: weight_map: {first_line(error)}") from error
    tensors: dict[str, Tensor] = {}
    for name in files:
        try:
            tensors |= safetensors.torch.load_file(folder / name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder}: {name} is missing") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder}: {name} cannot be read: {first_line(error)}") from error
    return {key: value for key, value in tensors.items() if _DERIVED not in key}


def _check_architecture(folder: Path, raw: Mapping[str, Any]) -> None:
    expected = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for name, value in expected.items():
        found = raw.get(name, None if name == "model_type" else value)
        if found != value:
            raise CheckpointError(
                f"{folder}: {name} {found!r} is not supported in this process, only {value!r} is: serve the folder, "
                f"as with `vllm serve {folder}`, and use --model openai:{folder} with its --base-url"
            )


def _config(folder: Path, raw: Mapping[str, Any]) -> LlamaConfig:
    names = {field.name for field in fields(LlamaConfig)}
    values = {name: raw[name] for name in names if name in raw}
    rope: Any = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{folder}: {CONFIG}: rope_parameters is no object")
    rope = cast("dict[str, Any]", rope)
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"{folder}: rope type {rope['rope_type']!r} is not supported")
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    heads = raw.get("num_attention_heads")
    hidden = raw.get("hidden_size")
    if isinstance(heads, int) and heads > 0 and isinstance(hidden, int) and not values.get("head_dim"):
        values["head_dim"] = hidden // heads
    values.setdefault("num_key_value_heads", heads)
    values.setdefault("tie_word_embeddings", False)
    try:
        config = msgspec.convert(values, LlamaConfig)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{folder}: {CONFIG} is incomplete or wrong: {first_line(error)}") from error
    for name in values:
        value: Any = getattr(config, name)
        if not isinstance(value, bool) and not 0 < value <= _LARGEST.get(name, 1 << 20):
            raise CheckpointError(f"{folder}: {CONFIG}: {name} = {value} makes no sense")
    return config


def save_weights(folder: Path, model: Llama) -> None:
    """Write a model's weights, as float32 safetensors, into a checkpoint's folder."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a folder that `load_checkpoint`, transformers and vLLM read: a model with our own vocabulary."""
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
    save_weights(folder, checkpoint.model)
    checkpoint.tokenizer.save(str(folder / TOKENIZER))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    for role, text in checkpoint.templates.items():
        (folder / f"{role}.jinja").write_text(text, encoding="utf-8")
    save_profile(folder, checkpoint.profile)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
