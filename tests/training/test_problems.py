"""Reinforcement learning on somebody's problems: each is used once before any comes again, whoever resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asyncthink.episodes import RunDirectory
from asyncthink.errors import UsageError
from asyncthink.tasks import MathProblem
from asyncthink.training.owpo import train_rl
from asyncthink.training.problems import problems_of
from asyncthink.training.rl_recipe import RLRecipe, load_rl_recipe
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
