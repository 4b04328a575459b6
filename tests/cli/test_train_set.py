"""`--set KEY=VALUE`: one recipe, many runs, each with the text of what it really was."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from asyncthink.cli.main import app
from asyncthink.episodes import files
from asyncthink.training.recipe import load_recipe
from asyncthink.training.rl_recipe import load_rl_recipe

QUICK = ["rollout.problems=1", "rollout.episodes=2", "rollout.max_critical_path=20", "update.threads=1"]


def run(*changes: str) -> Result:
    options = [word for change in (*QUICK, *changes) for word in ("--set", change)]
    return CliRunner().invoke(
        app, ["train", "rl", "recipes/embedded-rl.toml", "--set", "start=embedded", *options]
    )


def test_a_run_has_what_was_set_and_goes_on_only_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("update.steps=1", "output=mine", "seed=7").exit_code == 0
    kept = tomllib.loads(Path("mine/config.toml").read_text())
    assert (kept["seed"], kept["output"], kept["update"]["steps"]) == (7, "mine", 1)
    assert kept["rollout"] == {**kept["rollout"], "problems": 1, "episodes": 2, "max_critical_path": 20}
    assert run("update.steps=1", "output=mine", "seed=7").exit_code == 0
    other = run("update.steps=1", "output=mine", "seed=8")
    assert other.exit_code == 2 and "another recipe" in other.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed", "'seed' sets nothing"),
        ("update.stepz=1", "update.steps"),
        ("update.steps=many", "update.steps"),
        ("output.name=x", "output is no section"),
        ("update.learning_rate=nan", "learning_rate"),
    ],
)
def test_what_cannot_be_set_is_one_line(
    change: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(change)
    assert result.exit_code == 2
    assert told in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_packaged_training_recipe_can_be_changed_and_read_again() -> None:
    for name in ("base", "sft", "sft-sequential", "sft-shapes"):
        made = load_recipe(f"recipes/embedded-{name}.toml", ["train.tokens=5"])
        plain = load_recipe(f"recipes/embedded-{name}.toml")
        assert made.train.tokens == 5 and made.data == plain.data and made.model == plain.model
    for name in (
        "rl",
        "rl-sequential",
        "rl-parallel",
        "rl-no-concurrency",
        "rl-no-sft",
        "rl-leverage",
        "rl-shapes",
    ):
        made = load_rl_recipe(f"recipes/embedded-{name}.toml", ["seed=3"])
        plain = load_rl_recipe(f"recipes/embedded-{name}.toml")
        assert made.seed == 3 and (made.rollout, made.reward, made.update) == (
            plain.rollout,
            plain.reward,
            plain.update,
        )


def test_a_run_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("update.steps=1", "output=mine").exit_code == 0
    held = files.lock(Path("mine/metrics.jsonl"), create=False)
    with files.closed_on_error(held):
        other = run("update.steps=1", "output=mine")
        assert other.exit_code == 2 and "another process" in other.stderr
