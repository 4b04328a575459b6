"""What a token costs an engine, for `asyncthink simulate`: a decoding step by how many sequences share it, prefill, a request.

    python benchmarks/token_costs.py [--model embedded] [--sizes 1 2 4 ...] [--json FILE]
    scripts/third_party vllm FOLDER python benchmarks/token_costs.py --served [--json FILE]

Sequences begin together, and each round asks another question, so that nothing is in a server's prefix cache. `steps` are pairs of
(sequences, seconds of one step), the median of some rounds; made rising where a larger batch was faster by
chance. `prefill` is the slope of the time to the first token over the prompt's length, `message` what it is
for a short prompt beyond one step.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import torch
from results import save

from asyncthink.engines.base import Engine, Message, Sampling
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import folder_of
from asyncthink.engines.openai import OpenAIEngine

QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."
HOT = Sampling(temperature=2.0)
"""No server allows more; one is asked not to end by itself, and the engine here does not within so few tokens."""
SHORT, LONG = 1, 12
"""Queries in a prompt, whose times to the first token make the slope."""


def engine_of(options: argparse.Namespace) -> Engine:
    if options.served:
        name = os.environ["ASYNCTHINK_MODEL"].removeprefix("openai:")
        folder = folder_of("embedded")
        return OpenAIEngine(
            name, tokenizer=folder, api="completions", extra_body={"seed": None, "ignore_eos": True}
        )
    return LocalEngine(folder_of(options.model), device="cpu", threads=options.threads)


async def batch(
    engine: Engine, name: str, size: int, tokens: int, queries: int = 1
) -> tuple[float, float, int]:
    """Decode with so many sequences; return the time to the first token, seconds a step, and the prompt's tokens."""
    firsts: list[float] = []
    ends: list[tuple[int, float]] = []
    prompts: list[int] = []
    began = time.perf_counter()

    async def one(place: int) -> None:
        message = Message(role="user", content=f"{name}: {' '.join([QUERY] * queries)}")
        session = engine.open((message,), role="organizer", episode=name, path=f"0/{place}", capacity=4)
        prompts.append(session.prompt.n_tokens)
        count = 0
        try:
            async with session.decode((), tokens, HOT) as chunks:
                async for chunk in chunks:
                    if not count:
                        firsts.append(time.perf_counter() - began)
                    count += chunk.n_tokens
            ends.append((count, time.perf_counter() - began))
        finally:
            session.close()

    async with anyio.create_task_group() as group:
        for place in range(size):
            group.start_soon(one, place)
    first, (count, end) = max(firsts), max(ends)
    return first, (end - first) / max(1, count - 1), prompts[0]


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    engine = engine_of(options)
    async with engine:
        await batch(engine, "warm", 2, 8)
        seconds: dict[int, list[float]] = {size: [] for size in options.sizes}
        firsts: dict[int, list[tuple[int, float]]] = {SHORT: [], LONG: []}
        for number in range(options.rounds):
            for size in options.sizes:
                seconds[size].append((await batch(engine, f"{number}-{size}", size, options.tokens))[1])
            for queries, found in firsts.items():
                first, _, prompt = await batch(engine, f"{number}-{queries}", 1, 2, queries)
                found.append((prompt, first))
    steps = list(accumulate((median(each) for each in seconds.values()), max))
    (short, soon), (long, late) = (
        (each[0][0], median(first for _, first in each)) for each in firsts.values()
    )
    prefill = max(0.0, (late - soon) / (long - short))
    costs = {
        "steps": [[size, round(step, 6)] for size, step in zip(options.sizes, steps, strict=True)],
        "prefill": round(prefill, 7),
        "message": round(max(0.0, soon - short * prefill - steps[0]), 5),
    }
    return {"engine": engine.name, "tokens": options.tokens, "rounds": options.rounds, "costs": costs}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--served", action="store_true", help="the model behind OPENAI_BASE_URL instead")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    values = anyio.run(measure, options)
    print(json.dumps(values["costs"]))
    save(options.json, values)


if __name__ == "__main__":
    main()
