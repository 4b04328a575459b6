"""What the paper's runs on Qwen3-4B take, estimated from tokens an episode: tokens, GPU hours, cost, memory.

    python benchmarks/estimate.py [--measured RUN | report.json] [--config config.json] [--json FILE]

Tokens an episode are the paper's (T * c * eta/c), or those of `--measured`: the last ten steps of a training's
metrics.jsonl, or the method `asyncthink` of an evaluation's report. Steps, problems and episodes are the recipes'.
Every option with a number is an assumption: nothing of this was run at that size.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from results import save

from asyncthink.training.recipe import load_recipe
from asyncthink.training.rl_recipe import load_rl_recipe

COUNTDOWN, MATH, SFT = "qwen3-4b-countdown", "qwen3-4b-math", "qwen3-4b-sft"
QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
"""Of its config.json."""
LAST_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Means of an episode."""

    decoded: float
    forks: float
    source: str


PAPER = {
    COUNTDOWN: Episode(
        decoded=4525.4 * 2 * 0.647,
        forks=1.4,
        source="arXiv 2510.26658: T = 4525.4, c = 2, eta/c = 64.7 %, 1.4 forks, at the end",
    ),
    MATH: Episode(
        decoded=1459.5 * 4 * 0.448,
        forks=3.0,
        source="arXiv 2510.26658: T = 1459.5, c = 4, eta/c = 44.8 % (AMC-23), at the end; 3 forks assumed",
    ),
}


def measured(path: Path) -> Episode:
    """Read an episode's means from a run directory of a training, or a report of an evaluation."""
    if path.is_dir():
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()][-LAST_STEPS:]
        recipe = load_rl_recipe(str(path / "config.toml")).rollout
        decoded = fmean(line["decoded_tokens"] for line in lines) / (recipe.problems * recipe.episodes)
        return Episode(decoded=decoded, forks=fmean(line["forks"] for line in lines), source=str(path))
    arms = json.loads(path.read_text())["summary"]["arms"]
    found = next(arm["measures"] for arm in arms if arm["method"] == "asyncthink")
    return Episode(decoded=found["decoded_tokens"]["mean"], forks=found["forks"]["mean"], source=str(path))


def parameters(shape: dict[str, Any]) -> int:
    """Return how many a Qwen3 of that shape has."""
    width, heads, head = shape["hidden_size"], shape["num_attention_heads"], shape["head_dim"]
    attention = 2 * width * head * (heads + shape["num_key_value_heads"])
    norms = 2 * width + 2 * head
    layer = attention + 3 * width * shape["intermediate_size"] + norms
    ends = shape["vocab_size"] * width * (1 if shape["tie_word_embeddings"] else 2)
    return shape["num_hidden_layers"] * layer + ends + width


def memory(shape: dict[str, Any], tokens: float) -> dict[str, float]:
    """Return what a GPU that trains holds, in GB, with so many tokens in a micro-batch, and a KV cache's bytes a token.

    Weights, gradients and AdamW's two moments are float32, with a bfloat16 copy of the weights under autocast. Of
    activations, one residual a layer is kept (checkpointing); logits are float32 three times: themselves, their
    log-softmax, their gradient.
    """
    size, layers = parameters(shape), shape["num_hidden_layers"]
    parts = {
        "weights": 4 * size,
        "gradients": 4 * size,
        "adam": 8 * size,
        "bfloat16_copy": 2 * size,
        "residuals": 4 * layers * shape["hidden_size"] * tokens,
        "logits": 3 * 4 * shape["vocab_size"] * tokens,
    }
    found = {f"{name}_gb": value / 1e9 for name, value in parts.items()}
    kv = 2 * layers * shape["num_key_value_heads"] * shape["head_dim"] * 2
    return {
        **found,
        "total_gb": sum(found.values()),
        "kv_bytes_a_token": kv,
        "served_weights_gb": 2 * size / 1e9,
    }


def reinforcement(
    name: str, episode: Episode, given: argparse.Namespace, shape: dict[str, Any]
) -> dict[str, Any]:
    """Estimate a run; sampling and training take turns, so that every GPU is paid for all the time."""
    recipe = load_rl_recipe(f"recipes/{name}.toml")
    steps, episodes = recipe.update.steps, recipe.rollout.problems * recipe.rollout.episodes
    rows = 1 + episode.forks
    sampled = steps * episodes * episode.decoded
    # A row is an agent's prompt, what it decoded, and what was inserted.
    trained = sampled + steps * episodes * (
        rows * given.prompt_tokens + episode.forks * given.inserted_tokens
    )
    hours = {
        "sampling_hours": sampled / given.sampling_speed / given.servers / 3600,
        "training_hours": trained / given.training_speed / 3600,
        "handover_hours": steps * given.handover_seconds / 3600,
    }
    whole = sum(hours.values())
    micro = trained / steps / recipe.trl.micro_batches
    alive = recipe.rollout.problems * recipe.rollout.episodes * rows
    held = memory(shape, micro)
    cached = alive * (given.prompt_tokens + episode.decoded / rows) * held["kv_bytes_a_token"] / 1e9
    return {
        "run": name,
        "tokens": asdict(episode),
        "episodes": steps * episodes,
        "sampled_tokens": sampled,
        "trained_tokens": trained,
        **hours,
        "hours": whole,
        "gpu_hours": whole * (1 + given.servers),
        "cost": whole * (1 + given.servers) * given.price,
        "micro_batch_tokens": micro,
        "memory": {**held, "kv_all_at_once_gb": cached},
    }


def fine_tuning(given: argparse.Namespace) -> dict[str, Any]:
    tokens = load_recipe(f"recipes/{SFT}.toml").train.tokens
    hours = tokens / given.training_speed / 3600
    return {
        "run": SFT,
        "trained_tokens": tokens,
        "hours": hours,
        "gpu_hours": hours,
        "cost": hours * given.price,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=Path, help="countdown's tokens, in place of the paper's")
    parser.add_argument("--config", type=Path, help="the model's config.json [default: Qwen3-4B's]")
    assumed = parser.add_argument_group("assumptions")
    assumed.add_argument(
        "--sampling-speed", type=float, default=8_000, help="tokens a second, a GPU that serves"
    )
    assumed.add_argument(
        "--training-speed", type=float, default=6_000, help="tokens a second, a GPU that trains"
    )
    assumed.add_argument("--servers", type=int, default=1, help="GPUs that serve; one trains")
    assumed.add_argument("--handover-seconds", type=float, default=60, help="of the weights, a step")
    assumed.add_argument("--price", type=float, default=3.0, help="of a GPU hour, in dollars")
    assumed.add_argument(
        "--prompt-tokens", type=float, default=600, help="of an agent, instructions included"
    )
    assumed.add_argument("--inserted-tokens", type=float, default=100, help="that a join brings")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    shape = json.loads(given.config.read_text()) if given.config else QWEN3_4B
    episodes = PAPER | ({COUNTDOWN: measured(given.measured)} if given.measured else {})
    rows = [fine_tuning(given), *(reinforcement(name, one, given, shape) for name, one in episodes.items())]
    print(
        f"{'':20}{'sampled':>10}{'trained':>10}{'hours':>8}{'GPU h':>8}{'cost':>8}{'train GB':>10}{'KV GB':>8}"
    )
    for row in rows:
        held = row.get("memory", {"total_gb": 0.0, "kv_all_at_once_gb": 0.0})
        print(
            f"{row['run']:20}{row.get('sampled_tokens', 0) / 1e6:>9,.0f}M{row['trained_tokens'] / 1e6:>9,.0f}M"
            f"{row['hours']:>8,.1f}{row['gpu_hours']:>8,.1f}{row['cost']:>7,.0f}$"
            f"{held['total_gb']:>10,.0f}{held['kv_all_at_once_gb']:>8,.0f}"
        )
    names = (
        "sampling_speed",
        "training_speed",
        "servers",
        "handover_seconds",
        "price",
        "prompt_tokens",
        "inserted_tokens",
    )
    assumptions = {name: getattr(given, name) for name in names}
    save(
        given.json,
        {"assumptions": assumptions, "shape": shape, "parameters": parameters(shape), "rows": rows},
    )


if __name__ == "__main__":
    main()
