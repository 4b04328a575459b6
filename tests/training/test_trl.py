"""TRL's trainer over our episodes: whole runs equal ours, weights included, however a step is cut into micro-batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from asyncthink.cli.main import app
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.errors import DivergedError, EngineError, UsageError
from asyncthink.training.owpo import train_rl
from asyncthink.training.reward import Reward, reward_of
from asyncthink.training.rl_recipe import load_rl_recipe
from asyncthink.training.step import StepMetrics, Watcher
from asyncthink.training.trl.batches import micro_batches
from asyncthink.training.trl.library import without_gpu
from asyncthink.training.trl.rl import train_trl
from asyncthink.training.trl.trainer import trainer_of
from asyncthink.training.trl.weights import SharedWeights
from asyncthink.training.trl.worker import Drawn, EpisodeWorker, samples
from asyncthink.training.update import Updater

from .rl_cases import Watched, random_rows, write_chain, write_noise, write_recipe


@pytest.fixture(autouse=True)
def on_a_cpu() -> None:
    without_gpu()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder).model.state_dict()


@pytest.mark.parametrize("parts", [1, 3])
def test_three_steps_are_ours(tmp_path: Path, parts: int) -> None:
    start = f"hf:{write_chain(tmp_path / 'start')}"
    ours, theirs = (write_recipe(tmp_path / name, start) for name in ("ours", "trl"))
    done = train_rl(load_rl_recipe(str(ours)))
    found = train_trl(load_rl_recipe(str(theirs), [f"trl.micro_batches={parts}", 'trainer="trl"']))
    begun, wanted, got = weights(tmp_path / "start"), weights(done), weights(found)
    assert begun.keys() == got.keys()
    for name, before in begun.items():
        moved = (wanted[name] - before).abs().max()
        assert (got[name] - wanted[name]).abs().max() <= 0.01 * moved, name
    same = (
        "step",
        "reward",
        "accuracy",
        "solved",
        "concurrency",
        "critical_path",
        "forks",
        "rows",
        "trained_tokens",
    )
    lines = metrics(tmp_path / "ours"), metrics(tmp_path / "trl")
    assert [[line[key] for key in same] for line in lines[1]] == [
        [line[key] for key in same] for line in lines[0]
    ]
    for one, other in zip(*lines, strict=True):
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
        assert abs(other["kl"]) < 1e-6, "on policy"


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    start = f"hf:{write_chain(tmp_path / 'start')}"
    whole = train_trl(load_rl_recipe(str(write_recipe(tmp_path / "whole", start))))
    halves = load_rl_recipe(str(write_recipe(tmp_path / "halves", start)))

    class Interrupt(Watcher):
        def step(self, metrics: StepMetrics) -> None:
            if metrics.step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_trl(halves, Interrupt())
    assert [line["step"] for line in metrics(tmp_path / "halves")] == [1, 2]
    done = train_trl(halves)
    lines = metrics(tmp_path / "halves")
    assert [line["problems"] for line in lines] == [[0, 2], [2, 4], [4, 6]], "each problem is used once"
    ours, other = weights(whole), weights(done)
    assert all(torch.equal(other[name], ours[name]) for name in ours)
    assert [line["reward"] for line in lines] == [line["reward"] for line in metrics(tmp_path / "whole")]


def test_a_run_that_was_killed_before_its_checkpoint_was_written(tmp_path: Path) -> None:
    start = f"hf:{write_chain(tmp_path / 'start')}"
    recipe = load_rl_recipe(str(write_recipe(tmp_path / "run", start)))
    done = train_trl(recipe)
    before, lines = weights(done), metrics(tmp_path / "run")
    (done / "model.safetensors").unlink()
    assert train_trl(recipe) == done
    assert all(torch.equal(weights(done)[name], before[name]) for name in before)
    assert metrics(tmp_path / "run") == lines


def test_the_seconds_of_a_step_are_its_own(tmp_path: Path) -> None:
    start = f"hf:{write_chain(tmp_path / 'start')}"
    train_trl(load_rl_recipe(str(write_recipe(tmp_path / "run", start))))
    lines = metrics(tmp_path / "run")
    steps = [line["rollout_seconds"] + line["update_seconds"] for line in lines]
    assert [line["seconds"] for line in lines] == pytest.approx([sum(steps[: n + 1]) for n in range(3)])


@pytest.mark.parametrize("parts", [1, 4])
def test_loss_and_gradient_of_the_same_rows_are_ours(tmp_path: Path, parts: int) -> None:
    folder = write_noise(tmp_path / "start")
    recipe = load_rl_recipe(
        str(write_recipe(tmp_path / "run", f"hf:{folder}")), ["trainer='trl'", f"trl.micro_batches={parts}"]
    )
    model = load_checkpoint(folder).model.requires_grad_(True)
    rows = random_rows(model.config.vocab_size, 12)  # far from what the model would write: ratios are clipped
    rows = [replace(row, ids=tuple(each or 1 for each in row.ids)) for row in rows]  # padding learns nothing
    worth = [place / 4 - 1.3 for place in range(len(rows))]
    old = [torch.tensor([p for p, own in zip(row.logprobs, row.trained, strict=True) if own]) for row in rows]
    watched = Watched(model)
    done = Updater(model, watched, recipe.loss, replace(recipe.update, max_norm=1e9)).step(
        rows, worth, 1.0, old
    )
    assert done.clipped > 0.1
    worker = EpisodeWorker(nullcontext(), nothing, begin=0, steps=1)
    trainer = trainer_of(recipe, tmp_path / "trl", worker, SharedWeights(load_checkpoint(folder).model))
    trainer.current_gradient_accumulation_steps = parts
    drawn = Drawn(rows=rows, advantages=worth, groups=[place // 3 for place in range(len(rows))])
    for sample in samples(drawn, 0):
        worker.rollout_buffer.put(sample)
    worker.sizes.put(len(rows))
    total = 0.0
    for batch in islice(trainer.get_train_dataloader(), parts):
        loss = trainer.compute_loss(trainer.model.train(), batch)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(done.loss, rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        wanted = watched.gradients[name]
        assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm() + 1e-9, name


async def nothing(step: int) -> Drawn:
    raise AssertionError(step)


def a_step(lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Return samples of these lengths whose last token is trained; in each the ids are its place."""
    return [
        {
            "input_ids": torch.full((length,), place),
            "completion_mask": torch.tensor([0] * (length - 1) + [1]),
            "old_log_probs": torch.zeros(length),
            "advantage": 1.0,
            "group_id": place,
            "metrics": {},
        }
        for place, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("lengths", "parts", "expected"),
    [
        ([5, 5, 5, 5], 2, [[[0, 1]], [[2, 3]]]),
        ([20, 2, 2, 2], 2, [[[0]], [[1, 2, 3]]]),
        ([2, 2, 2, 20], 3, [[[0, 1]], [[2]], [[3]]]),
        ([2, 20], 2, [[[0]], [[1]]]),
    ],
)
def test_how_a_step_is_dealt_out(lengths: list[int], parts: int, expected: list[list[list[int]]]) -> None:
    found = micro_batches(a_step(lengths), parts)
    places = [[[sample["group_id"] for sample in row.samples] for row in batch] for batch in found]
    assert sorted(place for batch in places for row in batch for place in row) == list(range(len(lengths)))
    assert places == expected
    for batch in found:
        count = sum(len(row.samples) for row in batch)
        assert {sample["advantage"] for row in batch for sample in row.samples} == {
            count * parts / len(lengths)
        }


def test_fewer_rows_than_micro_batches() -> None:
    with pytest.raises(EngineError, match="2 rows cannot be dealt out to 3"):
        micro_batches(a_step([3, 3]), 3)


def test_what_stops_the_worker_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> Drawn:
        raise EngineError("problem 3 failed 4 times")

    monkeypatch.setattr("asyncthink.training.trl.rl._Run.draw", fails)
    start = f"hf:{write_chain(tmp_path / 'start')}"
    with pytest.raises(EngineError, match="problem 3 failed"):
        train_trl(load_rl_recipe(str(write_recipe(tmp_path / "run", start))))


@pytest.mark.parametrize(
    "change", ["rollout.top_p=0.95", "loss.kl=0.1", 'loss.aggregation="row"', "loss.importance_cap=2.0"]
)
def test_switches_that_the_loss_does_not_have(tmp_path: Path, change: str) -> None:
    recipe = load_rl_recipe(str(write_recipe(tmp_path / "run", "embedded-sft")), [change])
    with pytest.raises(UsageError, match=change.partition("=")[0]):
        train_trl(recipe)
    assert not (tmp_path / "run" / "run").exists()


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process on one GPU"):
        train_trl(load_rl_recipe(str(write_recipe(tmp_path / "run", "embedded-sft"))))


def test_a_gradient_that_is_no_number(tmp_path: Path) -> None:
    paid = 0

    def overflows(*arguments: Any) -> Reward:
        nonlocal paid
        paid += 1
        reward = reward_of(*arguments)
        return reward if paid <= 8 else replace(reward, total=float("inf"))

    start = f"hf:{write_chain(tmp_path / 'start')}"
    with pytest.raises(DivergedError, match=r"step 2: a smaller update\.learning_rate"):
        train_trl(load_rl_recipe(str(write_recipe(tmp_path / "run", start))), reward=overflows)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1], "what was earned is kept"


def test_the_command(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "run", f"hf:{write_chain(tmp_path / 'start')}")
    changes = ("trainer=trl", "trl.micro_batches=2", "update.checkpoint_every=2")
    done = CliRunner().invoke(
        app, ["train", "rl", str(path), *(part for change in changes for part in ("--set", change))]
    )
    assert done.exit_code == 0, done.output
    ways = tmp_path / "run" / "run" / "checkpoints"
    assert [each.name for each in ways.iterdir()] == ["step-00002"]
    assert load_checkpoint(ways / "step-00002").profile == load_checkpoint(ways.parent / "checkpoint").profile
    assert done.stdout.strip().endswith("checkpoint") and "step 3/3" in done.stderr
    assert (tmp_path / "run" / "run" / "report.html").exists()
