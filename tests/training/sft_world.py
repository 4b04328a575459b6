"""What the tests of fine-tuning share: a tiny recipe, and countdown problems that are quickly made."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from asyncthink.tasks import Asked, CountdownProblem, SudokuProblem, get_task
from asyncthink.training import mixture
from asyncthink.training.recipe import Recipe, load_recipe
from asyncthink.training.synthesis import Example, guess_example, organizer_example, worker_example

COUNTDOWN = Asked(get_task("countdown"), CountdownProblem(numbers=(2, 3, 5, 7), target=28))
SUDOKU = Asked(
    get_task("sudoku"), SudokuProblem(grid=((1, 0, 0, 4), (3, 4, 1, 2), (0, 0, 0, 3), (4, 0, 2, 0)))
)
MODEL = """[model]
hidden_size = 32
intermediate_size = 48
layers = 1
heads = 2
head_dim = 16
"""
RECIPE = """
seed = 3
output = "{output}"

{begin}
[[data]]
kind = "organizer"
structure = "random"
share = 1
numbers = {{ 3 = 0.5, 4 = 0.5 }}
wanted = {{ 1 = 0.5, 2 = 0.5 }}
capacities = {{ 1 = 0.2, 4 = 0.8 }}
most_parts = 5

[[data]]
kind = "worker"
share = 1.5

[[data]]
task = "sudoku"
share = 0.3

[train]
tokens = 5_000
batch_tokens = 700
optimizer = "{optimizer}"
learning_rate = 0.02
embedding_learning_rate = 0.02
warmup_steps = 2
bfloat16 = false
threads = 1
save_every = 3
"""


@cache
def quick_forms(numbers: tuple[int, ...]) -> Counter[int]:
    """Stand in for `forms_by_target`, which would take most of these tests' time: from left to right only."""
    found: Counter[int] = Counter()
    for first, *rest in set(permutations(numbers)):
        values = [first]
        for number in rest:
            values = [made for value in values for made in (value + number, value - number, value * number)]
        found.update(values)
    return Counter({target: count for target, count in found.items() if 10 <= target <= 100})


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few batches, so that a run of seconds crosses several."""
    monkeypatch.setattr(mixture, "SHARD", 7)
    monkeypatch.setattr(mixture, "forms_by_target", quick_forms)


def write_recipe(
    folder: Path,
    *,
    optimizer: str = "muon",
    output: str | None = None,
    begin: str = MODEL,
    **changes: str,
) -> Path:
    """Write a tiny recipe; a change replaces the value of the first such key."""
    made = RECIPE.format(output=output or (folder / "run").as_posix(), optimizer=optimizer, begin=begin)
    lines = made.splitlines()
    for key, value in changes.items():
        place = next(place for place, line in enumerate(lines) if line.startswith(f"{key} = "))
        lines[place] = f"{key} = {value}"
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny(folder: Path, **changes: str) -> Recipe:
    folder.mkdir(exist_ok=True)
    return load_recipe(str(write_recipe(folder, **changes)))


def examples() -> list[Example]:
    """Return organizers of countdown and sudoku, then workers, then a guess."""
    made = [organizer_example(COUNTDOWN, 1 + seed % 4, Random(seed), most_parts=6) for seed in range(12)]
    made += [organizer_example(SUDOKU, 3, Random(seed)) for seed in range(3)]
    made += [worker_example(asked, Random(seed)) for seed in range(3) for asked in (SUDOKU, COUNTDOWN)]
    return [*made, guess_example(COUNTDOWN, 2, Random(1))]
