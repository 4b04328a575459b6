"""A tiny chat model with a tokenizer of its own, as a folder in the standard layout, and traces for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

from asyncthink.protocol import tags
from asyncthink.protocol.prompts import DEFAULT
from asyncthink.training.synthesis import Example, Piece

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUERY, PART = "What is 7 * 6 + 5?", "7 * 6 <|im_end|>"
"""The second holds a special token's spelling, which stays text."""
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


def traces() -> list[Example]:
    """Return an organizer's trace, and that of its worker."""
    pieces = (
        Piece(text=f"Ask. {tags.fork(1, PART)} 5 is mine. {tags.join(1)}", trained=True),
        Piece(text=tags.joined(1, "42"), trained=False),
        Piece(text=f" Sum. {tags.answer('47')}", trained=True),
    )
    worker = (Piece(text=f"Well, 42. {tags.returned('42')}", trained=True),)
    return [
        Example(role="organizer", query=QUERY, capacity=3, pieces=pieces),
        Example(role="worker", query=PART, capacity=1, pieces=worker),
    ]


def write_traces(path: Path) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in traces()))
    return path


def tokenizer() -> Tokenizer:
    """Return a byte-level BPE that merges across what the project's tags are made of."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(
        [DEFAULT.read_text(encoding="utf-8"), *(p.text for e in traces() for p in e.pieces)], trainer
    )
    return made


def write_chat_model(folder: Path, kind: type[PretrainedConfig] = LlamaConfig, **changes: Any) -> Path:
    """Write a model of random weights with its tokenizer and chat template."""
    made = tokenizer()
    end = made.token_to_id("<|im_end|>")
    torch.manual_seed(5)
    shape: dict[str, Any] = {
        "vocab_size": made.get_vocab_size(),
        "bos_token_id": 1,
        "eos_token_id": end,
        **SHAPE,
        **changes,
    }
    config = kind(**shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", bos_token="<|im_start|>")
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return folder


def write_chat_recipe(folder: Path, start: Path, more: str = "", **changes: Any) -> Path:
    """Write a recipe over the two traces; changes are keys of [train]."""
    folder.mkdir(exist_ok=True)
    train = {
        "tokens": 3000,
        "batch_tokens": 1100,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "threads": 1,
        "save_every": 2,
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {**train, **changes}.items())
    path = folder / "recipe.toml"
    path.write_text(
        f'start = "hf:{start.as_posix()}"\noutput = "{(folder / "run").as_posix()}"\ntrainer = "trl"\nseed = 3\ncapacity = 3\n'
        f'[[data]]\nkind = "file"\nshare = 1\nfile = "{write_traces(folder / "traces.jsonl").as_posix()}"\n'
        f"[train]\n{lines}\n{more}\n"
    )
    return path
