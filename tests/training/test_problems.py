"""Reinforcement learning on somebody's problems: each is used once before any comes again, whoever resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from math import prod
from pathlib import Path

import pytest

from asyncthink.episodes import RunDirectory
from asyncthink.errors import UsageError
from asyncthink.tasks import MathProblem, get_task
from asyncthink.tasks.base import Split
from asyncthink.tasks.countdown import forms_by_target, split_of
from asyncthink.training.owpo import train_rl
from asyncthink.training.problems import problems_of
from asyncthink.training.rl_recipe import RLRecipe, UpdateRecipe, load_rl_recipe
from asyncthink.training.step import StepMetrics, Watcher

from .rl_cases import metrics_of, weights, write_chain, write_recipe


def write_data(folder: Path, count: int) -> Path:
    """Write problems whose answers are what the chain writes, now and then, and a column that is ignored."""
    folder.mkdir(exist_ok=True)
    lines = ({"problem": f"What is {n} + 7 - {n}?", "answer": "7", "solution": "seven"} for n in range(count))
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def recipe_of(folder: Path, data: str, start: str = "hf:nowhere", *changes: str) -> RLRecipe:
    path = str(write_recipe(folder, start))
    return load_rl_recipe(path, ['rollout.task="contest_math"', f"rollout.data={json.dumps(data)}", *changes])


def asked(recipe: RLRecipe, count: int) -> list[str]:
    problems = problems_of(recipe)
    found = [problems(number).problem for number in range(count)]
    assert all(isinstance(each, MathProblem) for each in found)
    return [each.question for each in found]


def test_each_problem_is_used_once_before_any_comes_again(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 5) / "train.jsonl"
    recipe = recipe_of(tmp_path / "a", str(data), "hf:nowhere", "rollout.epochs=2")
    order = asked(recipe, 10)
    assert len(set(order[:5])) == len(set(order[5:])) == 5
    assert order[:5] != order[5:], "another order each time"
    assert asked(recipe, 10) == order
    assert asked(replace(recipe, seed=recipe.seed + 1), 10) != order
    problems = problems_of(recipe)
    assert [problems(number).problem.question for number in (9, 2, 7, 0)] == [order[i] for i in (9, 2, 7, 0)]


def test_a_run_that_needs_more_problems_than_there_are_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 5) / "train.jsonl"
    with pytest.raises(UsageError) as caught:
        train_rl(recipe_of(tmp_path / "a", str(data)))
    assert "3 steps of 2 problems need 6" in str(caught.value) and "rollout.epochs = 2" in str(caught.value)
    assert not (tmp_path / "a" / "run").exists()
    bare = load_rl_recipe(str(write_recipe(tmp_path / "b", "hf:nowhere")), ['rollout.task="contest_math"'])
    with pytest.raises(UsageError, match=r"brings no problems of its own: name some in rollout\.data"):
        train_rl(bare)


def given(folder: Path, task: str, *problems: Mapping[str, object]) -> RLRecipe:
    """Return a recipe for problems of a task."""
    folder.mkdir(exist_ok=True)
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in problems))
    changes = [f'rollout.task="{task}"', f"rollout.data={json.dumps(str(data))}", "rollout.epochs=9"]
    return load_rl_recipe(str(write_recipe(folder, "embedded-sft")), changes)


TRAIN, DEV, TEST = (
    next(
        numbers
        for numbers in combinations(range(1, 12), 4)
        if split_of(numbers) is split and forms_by_target(numbers)[24] >= 4
    )
    for split in (Split.TRAIN, Split.DEV, Split.TEST)
)


@pytest.mark.parametrize(("numbers", "split"), [(DEV, "dev"), (TEST, "test")])
def test_problems_that_figures_are_measured_on_are_refused(
    tmp_path: Path, numbers: tuple[int, ...], split: str
) -> None:
    good = {"numbers": TRAIN, "target": 24}
    assert problems_of(given(tmp_path, "countdown", good)).given
    with pytest.raises(UsageError, match=rf"data\.jsonl: problem 2 is of the {split} split"):
        problems_of(given(tmp_path, "countdown", good, {"numbers": numbers, "target": 24}))


def test_a_sudoku_is_of_the_split_of_its_solutions(tmp_path: Path) -> None:
    for split in Split:
        solved = get_task("sudoku").problem(split, 0, 0).grid
        recipe = given(tmp_path, "sudoku", {"grid": solved})
        if split is Split.TRAIN:
            assert problems_of(recipe).given
        else:
            with pytest.raises(UsageError, match=f"of the {split} split"):
                problems_of(recipe)


def test_what_is_the_same_in_every_split_is_not_trained_on(tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path, "embedded-sft"))
    with pytest.raises(UsageError, match="of the dev and the test split, and no training may see it"):
        problems_of(load_rl_recipe(path, ['rollout.task="cases"', "rollout.epochs=9"]))


def test_a_problem_that_the_model_was_not_made_for_is_refused_before_the_first_step(tmp_path: Path) -> None:
    large = next(each for each in combinations(range(5, 12), 4) if split_of(each) is Split.TRAIN)
    far = {"numbers": large, "target": prod(large)}
    recipe = given(tmp_path, "countdown", {"numbers": TRAIN, "target": 24}, far)
    with pytest.raises(UsageError, match="embedded-sft"):
        train_rl(recipe)
    assert metrics_of(Path(recipe.output)) == []
    train_rl(
        replace(given(tmp_path, "countdown", {"numbers": TRAIN, "target": 24}), update=UpdateRecipe(steps=1))
    )
    assert len(metrics_of(Path(recipe.output))) == 1, (
        "the folder was of use to nobody, so the corrected recipe has it"
    )


class Stop(Watcher):
    """Ends a run behind a step, as a kill does."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, metrics: StepMetrics) -> None:
        if metrics.step == self.at:
            raise KeyboardInterrupt


def test_a_run_on_a_folder_of_problems_learns_and_is_resumed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    start = f"hf:{write_chain(tmp_path / 'chain')}"
    data = f"hf:{write_data(tmp_path / 'data', 6)}"
    whole, other = (recipe_of(tmp_path / name, data, start, "rollout.kept=2") for name in ("whole", "other"))
    train_rl(whole)
    lines = metrics_of(Path(whole.output))
    assert [line["problems"] for line in lines] == [[0, 2], [2, 4], [4, 6]]
    assert max(line["accuracy"] for line in lines) > 0, "the check judges"
    kept = RunDirectory.open(Path(whole.output)).episodes()
    assert len({each.query for each in kept}) == 6
    with pytest.raises(KeyboardInterrupt):
        train_rl(other, Stop(2))
    train_rl(other)
    assert weights(Path(other.output) / "checkpoint") == weights(Path(whole.output) / "checkpoint")
    write_data(tmp_path / "data", 7)
    with pytest.raises(UsageError, match=r"began with another rollout\.data"):
        train_rl(other)


PACKAGED = Path(__file__).parents[2] / "src" / "asyncthink" / "recipes"
SERVED = sorted(path.name for path in PACKAGED.glob("*.toml") if "servers = " in path.read_text())


@pytest.mark.parametrize("name", SERVED)
def test_packaged_recipes_with_servers_are_whole(name: str, tmp_path: Path) -> None:
    """They cannot be run here; what can be known of them without a GPU is that nothing of them is refused."""
    from asyncthink.training.trl.rl import refuse

    recipe = load_rl_recipe(f"recipes/{name}")
    refuse(recipe)
    rollout, steps = recipe.rollout, recipe.update.steps
    assert rollout.problems * rollout.episodes >= recipe.trl.micro_batches, "a step has a row for each"
    if rollout.data is not None:
        data = write_data(tmp_path / "data", steps * rollout.problems) / "train.jsonl"
        recipe = replace(recipe, rollout=replace(rollout, data=str(data)))
    assert problems_of(recipe)(steps * rollout.problems - 1)


def test_there_are_such_recipes() -> None:
    assert SERVED == ["qwen3-4b-countdown.toml", "qwen3-4b-math.toml"]


def test_every_packaged_recipe_of_reinforcement_learning_can_be_read() -> None:
    found = [path.name for path in PACKAGED.glob("*.toml") if "[update]" in path.read_text()]
    assert {load_rl_recipe(f"recipes/{name}").update.steps > 0 for name in found} == {True}
