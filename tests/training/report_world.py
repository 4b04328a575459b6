"""Run directories of trainings as tests of their report write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asyncthink.evaluation.report.cells import Table
from asyncthink.training.report.runs import Run, read_runs

RL = 'start = "embedded"\noutput = "{name}"\nseed = {seed}\n\n[rollout]\nproblems = 2\n'
SFT = 'output = "{name}"\nseed = {seed}\n\n[[data]]\nshare = 1\n\n[train]\ntokens = 900\n'
SVG = "{http://www.w3.org/2000/svg}"


def rl_line(step: int, **changes: Any) -> dict[str, Any]:
    """Return a line of reinforcement learning, all of whose figures tell themselves from the others."""
    shares = {"accuracy": 0.5, "solved": 0.25, "concurrency": 0.375, "valid": 0.875, "even_groups": 0.125}
    counts = {
        "critical_path": 213.0,
        "forks": 2.5,
        "joins": 1.5,
        "decoded_tokens": 400,
        "trained_tokens": 300,
    }
    pace = {
        "tokens_per_second": 812.0,
        "rollout_seconds": 40.0,
        "update_seconds": 10.0,
        "seconds": 50.0 * step,
    }
    learning = {
        "reward": 0.75,
        "kl": 2e-9,
        "moved": 0.25,
        "entropy": 0.125,
        "gradient_norm": 0.6,
        "steps": 40,
    }
    errors: dict[str, Any] = {"format_errors": {"no_answer": 3}}
    return {"step": step, **learning, **shares, **counts, **pace, **errors, **changes}


def sft_line(step: int, **changes: Any) -> dict[str, Any]:
    rates = {"loss": 2.0, "accuracy": 0.5, "tokens_per_second": 3000.0, "seconds": 2.0 * step}
    return {"step": step, "tokens": 100 * step, "total_tokens": 900, **rates, **changes}


def write_run(path: Path, lines: Iterable[Mapping[str, Any]], recipe: str = RL, seed: int = 0) -> Path:
    path.mkdir(parents=True)
    (path / "config.toml").write_text(recipe.format(name=path.name, seed=seed), encoding="utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> Run:
    (run,) = read_runs([path])
    return run


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]
