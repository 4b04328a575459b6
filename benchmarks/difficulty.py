"""Forks against difficulty: 3 and 4 numbers, one to four expressions wanted, before and after learning.

    python benchmarks/difficulty.py --model embedded-sft embedded [--split dev] [--json FILE]

Problems of a size with at least so many expressions are drawn from the split, the same for every model. Means come
with 95 % intervals, resampled by problem.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import anyio
import torch
from results import save

from asyncthink.engines.models import load_engine
from asyncthink.episodes.metrics import Metrics, measure
from asyncthink.episodes.record import Trial
from asyncthink.evaluation.run import seed_of
from asyncthink.evaluation.statistics import Bootstrap
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.fanout import together
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import Asked
from asyncthink.tasks.base import Split
from asyncthink.tasks.countdown import Countdown, CountdownProblem, forms_by_target, split_of

LEVELS = [(3, wanted) for wanted in (1, 2, 3)] + [(4, wanted) for wanted in (1, 2, 3, 4)]
"""(Numbers, expressions wanted); no target has four expressions of three numbers."""
MEASURES = ("accuracy", "forks", "joins", "concurrency", "critical_path", "valid")


def problem(size: int, wanted: int, split: Split, index: int) -> CountdownProblem:
    """Draw numbers of a split, and a target that has so many expressions."""
    random = Random(f"difficulty:{size}:{wanted}:{split}:{index}")
    for _ in count():
        numbers = tuple(random.randint(1, 20) for _ in range(size))
        if split_of(numbers) is not split:
            continue
        found = forms_by_target(numbers)
        if targets := sorted(target for target, forms in found.items() if forms >= wanted):
            return CountdownProblem(numbers=numbers, target=random.choice(targets), wanted=wanted)
    raise AssertionError


def values(asked: Asked, answer: str | None, metrics: Metrics, *, valid: bool) -> dict[str, float]:
    """Return one episode's measures."""
    return {
        "accuracy": asked.task.check(asked.problem, answer or "").value,
        "forks": metrics.forks,
        "joins": metrics.joins,
        "concurrency": metrics.concurrency,
        "critical_path": metrics.critical_path,
        "valid": float(valid),
    }


async def play(model: str, problems: Sequence[CountdownProblem], samples: int, cap: int) -> list[Any]:
    """Think every problem through; return (problem, measures) of every episode."""
    found: list[tuple[str, dict[str, float]]] = []
    async with Organization(
        load_engine(model), capacity=4, temperature=1.0, top_p=0.95, limits=Limits(max_critical_path=cap)
    ) as organization:

        async def one(cell: tuple[int, int]) -> None:
            place, sample = cell
            asked = Asked(Countdown(), problems[place])
            trial = Trial(arm="difficulty", problem=str(place), sample=sample)
            episode = await organization.think(asked, seed=seed_of(0, trial), trial=trial)
            own = values(asked, episode.answer, measure(episode), valid=not episode.faults)
            found.append((str(place), own))

        await together([(i, sample) for i in range(len(problems)) for sample in range(samples)], one)
    return found


def level(model: str, size: int, wanted: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one model on one level."""
    draw = (problem(size, wanted, Split(options.split), index) for index in count())
    problems = list(islice(draw, options.limit))
    found = anyio.run(partial(play, model, problems, options.samples, options.cap))
    bootstrap = Bootstrap([str(place) for place in range(len(problems))])
    row: dict[str, Any] = {"model": model, "numbers": size, "wanted": wanted, "episodes": len(found)}
    for name in MEASURES:
        estimate = bootstrap.estimate([(place, own[name]) for place, own in found])
        assert estimate is not None
        row[name] = [round(each, 4) for each in (estimate.mean, estimate.low, estimate.high)]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["embedded"])
    parser.add_argument("--split", default="dev", choices=[*Split])
    parser.add_argument("--limit", type=int, default=100, help="problems of a level")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--cap", type=int, default=360, help="ticks on T")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for model in options.model:
        for size, wanted in LEVELS:
            rows.append(level(model, size, wanted, options))
            told = "  ".join(f"{name} {rows[-1][name][0]:.3f}" for name in MEASURES)
            print(f"{model}  {size} numbers, {wanted} wanted:  {told}", flush=True)
    keys = ("split", "limit", "samples", "cap")
    save(options.json, {**{key: getattr(options, key) for key in keys}, "levels": rows})


if __name__ == "__main__":
    main()
