"""The problems of an RL recipe as files that verl's dataset reads; verl itself is not needed for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asyncthink.errors import RecordError, UsageError
from asyncthink.tasks import get_task
from asyncthink.tasks.base import Split
from asyncthink.training.rl_recipe import RLRecipe

RECIPE = "recipe.toml"
"""Its name beside the problems."""


def write_problems(recipe: RLRecipe, folder: Path, dev: int) -> tuple[Path, Path]:
    """Write `train.jsonl` and `dev.jsonl`, and the recipe beside them; return their paths.

    Training has one line for each problem that the recipe's steps use. A line holds the sentence and the problem's
    number, from which the task makes it again.

    Args:
        recipe: task, seed, steps and problems of a step.
        folder: made where it is not there.
        dev: problems of the dev split.

    Raises:
        UsageError: the problems are not the task's own.
        RecordError: a file cannot be written.
    """
    if recipe.rollout.data is not None:
        raise UsageError("verl is given a task's own problems: leave rollout.data out")
    sizes = {Split.TRAIN: recipe.update.steps * recipe.rollout.problems, Split.DEV: dev}
    paths: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECIPE).write_text(recipe.source, encoding="utf-8")
        for split, size in sizes.items():
            path = folder / f"{split}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in _lines(recipe, split, size))
            paths.append(path)
    except OSError as error:
        raise RecordError(f"{folder} cannot be written: {error}") from error
    train, held_out = paths
    return train, held_out


def _lines(recipe: RLRecipe, split: Split, size: int) -> Iterator[dict[str, Any]]:
    task = get_task(recipe.rollout.task)
    for number in range(size):
        sentence = task.prompt(task.problem(split, recipe.seed, number))
        yield {
            "data_source": task.name,
            "prompt": [{"role": "user", "content": sentence}],
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": number, "split": str(split)},
        }
