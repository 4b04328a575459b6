"""Checkpoints and helpers that the tests of the engines share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from asyncthink.engines.base import Chunk, Engine, Message, Profile, Sampling, Session
from asyncthink.engines.checkpoint import Checkpoint, save_checkpoint
from asyncthink.engines.llama import Llama, LlamaConfig
from asyncthink.training.vocabulary import build_tokenizer

THIRD_PARTY = "ASYNCTHINK_TEST_SERVER"
"""Environment variable: JSON with the arguments of `OpenAIEngine` for a server that somebody else wrote."""
PATIENCE = 120 if THIRD_PARTY in os.environ else 10
"""Seconds after which a test is taken to hang."""
GREEDY = Sampling(temperature=0.0)
TEMPLATES = {"organizer": "{{ query }}\nAgents: {{ capacity }}\n", "worker": "Solve {{ query }}\n"}
SCRIPT: dict[str, Any] = {
    "organizer": " 1 2 3 </JOIN-1> 4 5 6 7 8 9",
    "workers": {"*": " 1 2 3 4 5 6 7 8 9 10 11 12"},
}


def tiny_config(vocabulary: int, **changes: Any) -> LlamaConfig:
    values: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1400,
    }
    return LlamaConfig(vocab_size=vocabulary, **values | changes)


def transformers_model(folder: Path) -> Any:
    """Return transformers' model of a folder; its loader is not typed."""
    loader: Any = LlamaForCausalLM
    return loader.from_pretrained(folder)


def random_model(config: LlamaConfig) -> Llama:
    """Return a model whose distributions are neither flat nor settled."""
    torch.manual_seed(7)
    model = Llama(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


def write_checkpoint(folder: Path, *, templates: dict[str, str] | None = None, **changes: Any) -> Checkpoint:
    tokenizer = build_tokenizer()
    checkpoint = Checkpoint(
        model=random_model(tiny_config(tokenizer.get_vocab_size(), **changes)),
        tokenizer=tokenizer,
        templates=TEMPLATES if templates is None else templates,
        profile=Profile(capacity=4, tasks={"countdown": {"largest": 20}}),
        bos=tokenizer.token_to_id("<bos>"),
    )
    save_checkpoint(folder, checkpoint)
    return checkpoint


def begin(
    engine: Engine, query: str = "3 + 4", *, role: str = "worker", path: str = "0/1", episode: str = "e"
) -> Session:
    message = Message(role="user", content=query)
    return engine.open([message], role=role, episode=episode, path=path, capacity=4)


async def collect(
    session: Session, count: int, sampling: Sampling = GREEDY, stops: Sequence[str] = ()
) -> list[Chunk]:
    async with session.decode(stops, count, sampling) as chunks:
        return [chunk async for chunk in chunks]


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def is_about(chunks: Sequence[Chunk], n_tokens: int) -> bool:
    """Whether chunks are as many tokens: exactly, where they were counted exactly."""
    counted = sum(chunk.n_tokens for chunk in chunks)
    return counted == n_tokens if all(chunk.exact for chunk in chunks) else 0 < counted <= n_tokens


def ids_of(chunks: Sequence[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids or ()]
