"""`examples/owpo_loop.py` shows the whole algorithm: it must be the package's, token for token and weight for weight."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.models import EMBEDDED
from asyncthink.training.owpo import train_rl
from asyncthink.training.rl_recipe import load_rl_recipe

EXAMPLE = Path(__file__).parents[2] / "examples" / "owpo_loop.py"

RECIPE = """
start = "embedded"
output = "{output}"
seed = 5

[rollout]
capacity = 4
max_critical_path = 260
problems = 2
episodes = 3

[update]
steps = 2
threads = 1
learning_rate = 1e-3
"""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("owpo_loop", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 300


def test_it_is_the_same_algorithm(example: ModuleType, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(output=(tmp_path / "run").as_posix()))
    trained = load_checkpoint(train_rl(load_rl_recipe(str(path)))).model.state_dict()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    settings = example.Settings(
        capacity=4, cap=260, steps=2, problems=2, episodes=3, seed=5, learning_rate=1e-3
    )
    loop = example.Loop(load_checkpoint(EMBEDDED), settings)
    rewards = loop.train()

    assert rewards == pytest.approx([each["reward"] for each in metrics], abs=1e-12)
    assert len({round(each, 6) for each in rewards}) == 2, "steps whose rewards are all alike show nothing"
    before = load_checkpoint(EMBEDDED).model.state_dict()
    for name, weights in loop.model.state_dict().items():
        moved = (trained[name] - before[name]).abs().max().item()
        assert moved > 1e-4, f"{name} was not trained"
        assert (weights - trained[name]).abs().max().item() < 0.02 * moved, name
