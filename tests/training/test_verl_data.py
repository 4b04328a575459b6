"""Problems as verl's dataset reads them, and the command that writes them. verl's side is in test_verl.py."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from asyncthink.cli.main import app
from asyncthink.tasks import get_task
from asyncthink.tasks.base import Split
from asyncthink.training.rl_recipe import load_rl_recipe

RECIPE = "recipes/verl-countdown.toml"


def written(folder: Path, *options: str) -> str:
    """Write the problems of two steps; return what the command says."""
    changes = ("--set", "update.steps=2", "--set", "rollout.problems=3")
    done = CliRunner().invoke(app, ["train", "verl-data", RECIPE, str(folder), *changes, *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_line_is_a_problem_of_its_split(tmp_path: Path) -> None:
    written(tmp_path / "data", "--dev", "2")
    recipe, task = load_rl_recipe(RECIPE), get_task("countdown")
    for split, size in ((Split.TRAIN, 6), (Split.DEV, 2)):
        lines = [json.loads(line) for line in (tmp_path / "data" / f"{split}.jsonl").read_text().splitlines()]
        assert [line["extra_info"] for line in lines] == [
            {"index": number, "split": split} for number in range(size)
        ]
        for number, line in enumerate(lines):
            sentence = task.prompt(task.problem(split, recipe.seed, number))
            assert line["prompt"] == [{"role": "user", "content": sentence}]


def test_the_command_that_trains_is_printed(tmp_path: Path) -> None:
    words = written(tmp_path / "my data").split(maxsplit=3)
    assert words[:3] == ["python", "-m", "verl.trainer.main_ppo"]
    assert f"'data.train_files={tmp_path}/my data/train.jsonl'" in words[3], "quoted for a shell"
    assert f"'asyncthink.recipe={tmp_path}/my data/recipe.toml'" in words[3]
    kept = load_rl_recipe(str(tmp_path / "my data" / "recipe.toml"))
    assert (kept.update.steps, kept.rollout.problems) == (2, 3), "changes on the command line are in it"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["train", "verl-data", RECIPE, str(tmp_path / "file" / "data")])
    assert done.exit_code == 2 and "cannot be written" in done.stderr
