"""What the tests of verl's trainer share: how verl is reached, and a launch configuration cut down to a small model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest

import asyncthink
from asyncthink.engines.models import SHIPPED
from asyncthink.training.rl_recipe import load_rl_recipe
from asyncthink.training.verl_data import write_problems

MODEL = SHIPPED["embedded-sft"]
RECIPES = Path(asyncthink.__file__).parent / "recipes"
PROBLEMS, EPISODES = 3, 4


def load(place: str) -> Any:
    """Return a module, or what stands in one: verl is not there where types are checked."""
    pytest.importorskip("verl", reason="verl is not installed: scripts/verl runs these")
    with catch_warnings():
        simplefilter("ignore")
        try:
            return import_module(place)
        except ModuleNotFoundError:
            module, _, name = place.rpartition(".")
            return getattr(import_module(module), name)


def composed(*changes: str, name: str = "verl-countdown") -> Any:
    """Return the configuration as verl's command would have it."""
    with load("hydra").initialize_config_dir(str(RECIPES), version_base=None):
        return load("hydra").compose(name, overrides=list(changes))


def write_recipe(folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(f"""
        seed = 5
        start = "embedded-sft"
        output = "unused"
        [rollout]
        capacity = 4
        max_critical_path = 600
        problems = {PROBLEMS}
        episodes = {EPISODES}
        [reward]
        concurrency = 0.6
        [update]
        steps = 1
    """)
    return path


def config_of(folder: Path, *changes: str) -> Any:
    """Return the launch configuration, cut down to a small model and few problems."""
    recipe = write_recipe(folder)
    train, dev = write_problems(load_rl_recipe(str(recipe)), folder, 2)
    return composed(
        f"asyncthink.recipe={recipe}",
        f"data.train_files={train}",
        f"data.val_files={dev}",
        f"data.train_batch_size={PROBLEMS}",
        "data.max_prompt_length=100",
        "data.max_response_length=900",
        f"actor_rollout_ref.model.path={MODEL}",
        f"actor_rollout_ref.rollout.n={EPISODES}",
        "actor_rollout_ref.rollout.max_model_len=1000",
        *changes,
    )
