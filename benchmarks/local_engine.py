"""Decoding speed of the local engine beside transformers' static and continuous batches, on one checkpoint.

    python benchmarks/local_engine.py [FOLDER] [--sessions 128] [--threads 2] [--json FILE]

Every session decodes, gets text inserted as at a join, and decodes on. The engine keeps its cache over the
insertion; `generate` begins anew with the longer prompt. Without a folder, a model of the embedded one's
shape with random weights is measured.

Continuous batching does not stop at strings, so each turn is a request with a budget of tokens; a session's
second request is added the moment its first is done, and finds whole pages of its prefix in the cache. On a
CPU its attention is one dense matrix over all sessions of a step, so that it is fastest with few of them at
once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import torch
from results import save
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM

from asyncthink.engines.base import Message, Profile, Sampling
from asyncthink.engines.checkpoint import Checkpoint, save_checkpoint
from asyncthink.engines.llama import Llama, LlamaConfig
from asyncthink.engines.local import LocalEngine
from asyncthink.training.vocabulary import build_tokenizer

QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."
INSERTED = " 2 * 3 = 6 :" * 4
"""24 tokens of the embedded model's tokenizer."""
SIDES = ("engine", "transformers", "continuous")
AT_ONCE = 16
"""Sessions in one step of continuous batching; 8 to 128 were tried, with pages of 16 to 256 tokens."""
PAGE = 32


@dataclass(frozen=True, slots=True)
class Load:
    sessions: int
    first: int
    """Tokens before the insertion."""
    second: int
    """Tokens behind it."""

    @property
    def tokens(self) -> int:
        return self.sessions * (self.first + self.second)


async def engine_seconds(folder: Path, load: Load, threads: int) -> float:
    async with LocalEngine(folder, threads=threads) as engine:
        for lane in engine.lanes:
            lane.eos = frozenset()  # every session decodes its full length

        async def agent(path: str) -> None:
            query = [Message(role="user", content=QUERY)]
            session = engine.open(query, role="organizer", episode="0", path=path, capacity=4)
            for count, inserted in ((load.first, INSERTED), (load.second, "")):
                async with session.decode(["</ANSWER!>"], count, Sampling(seed=1)) as chunks:
                    async for _ in chunks:
                        pass
                session.insert(inserted)
            session.close()

        start = time.perf_counter()
        async with anyio.create_task_group() as agents:
            for number in range(load.sessions):
                agents.start_soon(agent, str(number))
        return time.perf_counter() - start


async def prompt_ids(folder: Path) -> tuple[list[int], list[int]]:
    """Return the prompt and the inserted text as the engine encodes them."""
    async with LocalEngine(folder) as engine:
        query = [Message(role="user", content=QUERY)]
        session = engine.open(query, role="organizer", episode="0", path="0", capacity=4)
        return list(session.ids), list(session.insert(INSERTED).token_ids or ())


def generate_seconds(model: Any, prompt: list[int], inserted: list[int], load: Load, threads: int) -> float:
    torch.set_num_threads(threads)
    ids = torch.tensor([prompt] * load.sessions)
    more = torch.tensor([inserted] * load.sessions)
    options = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
    start = time.perf_counter()
    with torch.inference_mode():
        ids = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=load.first, **options)
        ids = torch.cat([ids, more], dim=1)
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=load.second, **options)
    return time.perf_counter() - start


def continuous_seconds(model: Any, prompt: list[int], inserted: list[int], load: Load, threads: int) -> float:
    torch.set_num_threads(threads)
    longest = len(prompt) + load.first + len(inserted) + load.second
    batching = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=load.sessions * (longest // PAGE + 1),
        max_batch_tokens=2048,
        max_requests_per_batch=AT_ONCE,
    )
    options = GenerationConfig(do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0)
    begin = model.continuous_batching_context_manager
    with begin(generation_config=options, continuous_batching_config=batching) as manager:
        start = time.perf_counter()
        manager.add_requests(inputs=[prompt] * load.sessions, max_new_tokens=load.first)
        tokens, ended, second = 0, 0, set[str]()
        while ended < 2 * load.sessions:
            result = manager.get_result(timeout=1)
            if result is None or not result.is_finished():
                assert manager.is_running()
                continue
            assert result.error is None, result.error
            ended, tokens = ended + 1, tokens + len(result.generated_tokens)
            if result.request_id not in second:
                context = [*result.prompt_ids, *result.generated_tokens, *inserted]
                second.add(manager.add_request(context, max_new_tokens=load.second))
        assert tokens == load.tokens, f"{tokens} tokens came, not {load.tokens}"
        return time.perf_counter() - start


def random_checkpoint(folder: Path) -> None:
    """Write a model of the embedded one's shape that has learnt nothing."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=1024,
    )
    templates = {"organizer": "{{ query }}\n", "worker": "{{ query }}\n"}
    bos = tokenizer.token_to_id("<bos>")
    torch.manual_seed(0)
    save_checkpoint(
        folder,
        Checkpoint(model=Llama(config), tokenizer=tokenizer, templates=templates, profile=Profile(), bos=bos),
    )


def one_side(side: str, folder: Path, load: Load, threads: int) -> float:
    """Return the seconds of the engine or of transformers, in this process."""
    if side == "engine":
        return anyio.run(engine_seconds, folder, load, threads)
    model: Any = LlamaForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = None
    prompt, inserted = anyio.run(prompt_ids, folder)
    seconds = generate_seconds if side == "transformers" else continuous_seconds
    return seconds(model, prompt, inserted, load, threads)


def measure(folder: Path, load: Load, threads: int, rounds: int) -> dict[str, Any]:
    """Take turns, so that other work on the machine slows both; the best round of each counts.

    Each turn is a process of its own: two teams of OpenMP threads in one process slow each other down.
    """
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, values in seconds.items():
            options = ["--sessions", str(load.sessions), "--threads", str(threads), "--side", side]
            command = [sys.executable, __file__, str(folder), *options]
            values.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    engine, generate, continuous = seconds.values()
    prompt, inserted = anyio.run(prompt_ids, folder)
    return {
        "sessions": load.sessions,
        "tokens": load.tokens,
        "prompt_tokens": len(prompt),
        "inserted_tokens": len(inserted),
        "threads": threads,
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "engine_tokens_per_second": round(load.tokens / min(engine)),
        "transformers_tokens_per_second": round(load.tokens / min(generate)),
        **ratios(generate, engine),
        "continuous": {
            "tokens_per_second": round(load.tokens / min(continuous)),
            "sessions_at_once": AT_ONCE,
            "page_size": PAGE,
            **ratios(continuous, engine),
        },
    }


def ratios(slow: list[float], fast: list[float]) -> dict[str, Any]:
    """Return how many times faster the second is: by the best round of each, and in each round."""
    rounds = [round(slower / faster, 2) for slower, faster in zip(slow, fast, strict=True)]
    best = round(min(slow) / min(fast), 2)
    return {"ratio": best, "ratio_median": round(median(rounds), 2), "ratio_per_round": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the local engine beside transformers.")
    parser.add_argument("folder", nargs="?", type=Path, help="a checkpoint; a random one if left out")
    parser.add_argument("--sessions", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", choices=SIDES, help="measure one side, once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args()
    load = Load(sessions=args.sessions, first=96, second=64)
    if args.side:
        print(one_side(args.side, args.folder, load, args.threads))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder
        if folder is None:
            folder = Path(temporary)
            random_checkpoint(folder)
        result = measure(folder, load, args.threads, args.rounds)
    print(f"local engine  {result['engine_tokens_per_second']:>8} tok/s")
    print(f"transformers  {result['transformers_tokens_per_second']:>8} tok/s")
    print(f"continuous    {result['continuous']['tokens_per_second']:>8} tok/s")
    print(f"ratio         {result['ratio']:>8} and {result['continuous']['ratio']}")
    save(args.json, result)


if __name__ == "__main__":
    main()
