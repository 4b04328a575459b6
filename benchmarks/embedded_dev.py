"""The embedded model on `easy` countdown problems of the dev split.

    python benchmarks/embedded_dev.py [--problems 400] [--method asyncthink] [--model embedded] [--json FILE]

Reports the share of episodes with format errors, the share with at least k correct expressions, the critical
path T, eta/c and total tokens. Intervals are 95 % bootstrap over problems.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import anyio
from results import save

from asyncthink import Episode, Organization, load_engine, measure
from asyncthink.tasks import Countdown, Score, Split

AT_ONCE = 100
RESAMPLES = 2000


async def think_all(queries: Sequence[str], arguments: argparse.Namespace) -> list[Episode]:
    episodes: dict[int, Episode] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)
    organization = Organization(
        load_engine(arguments.model), method=arguments.method, temperature=arguments.temperature
    )

    async def one(index: int) -> None:
        async with limiter:
            episodes[index] = await organization.think(queries[index], seed=index)
            if len(episodes) % 50 == 0:
                print(f"{len(episodes)} of {len(queries)}", flush=True)

    async with organization, anyio.create_task_group() as group:
        for index in range(len(queries)):
            group.start_soon(one, index)
    return [episodes[index] for index in range(len(queries))]


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return the mean with its 95 % bootstrap interval."""
    random = Random(0)
    means = sorted(sum(random.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
    return {"mean": round(sum(values) / len(values), 4), "low": round(low, 4), "high": round(high, 4)}


def report(episodes: Sequence[Episode], scores: Sequence[Score]) -> dict[str, Any]:
    metrics = [measure(episode) for episode in episodes]
    correct = [round(4 * score.value) for score in scores]
    rows = {
        "format_errors": [float(bool(episode.format_errors)) for episode in episodes],
        **{f"at_least_{k}": [float(count >= k) for count in correct] for k in range(1, 5)},
        "score": [score.value for score in scores],
        "critical_path": [float(each.critical_path) for each in metrics],
        "concurrency": [each.concurrency for each in metrics],
        "total_tokens": [float(each.decoded_tokens) for each in metrics],
        "forks": [float(each.forks) for each in metrics],
        "wall_seconds": [episode.wall_seconds for episode in episodes],
    }
    kinds = Counter(str(error) for episode in episodes for error in episode.format_errors)
    return {
        "summary": {name: interval(values) for name, values in rows.items()},
        "format_error_kinds": dict(kinds),
        "stop_reasons": dict(Counter(episode.stop_reason.value for episode in episodes)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--method", default="asyncthink")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--temperature", type=float, help="default: what the model declares")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    task = Countdown()
    problems = [task.problem(Split.DEV, arguments.seed, index) for index in range(arguments.problems)]
    episodes = anyio.run(think_all, [task.prompt(problem) for problem in problems], arguments)
    scores = [
        task.check(problem, episode.answer or "") for problem, episode in zip(problems, episodes, strict=True)
    ]
    values = report(episodes, scores)
    for name, found in values["summary"].items():
        print(f"{name:<16} {found['mean']:>9.3f}   [{found['low']:.3f}, {found['high']:.3f}]")
    print("format errors:", values["format_error_kinds"] or "none", " stops:", values["stop_reasons"])
    settings = {
        "problems": arguments.problems,
        "seed": arguments.seed,
        "method": episodes[0].method,
        "model": episodes[0].model,
        "capacity": episodes[0].capacity,
    }
    save(arguments.json, {**settings, **values})


if __name__ == "__main__":
    main()
