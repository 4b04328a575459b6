"""Format fine-tuning: what a run learns and leaves behind, where it begins, and that a killed run loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest
import torch

from asyncthink.engines.base import Message, Sampling
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.lexicon import Lexicon
from asyncthink.engines.local import LocalEngine
from asyncthink.episodes import files
from asyncthink.errors import AsyncThinkError
from asyncthink.tasks import DIVIDERS, Asked, Split
from asyncthink.tasks.countdown import split_of
from asyncthink.tasks.sudoku import completions
from asyncthink.tasks.sudoku import split_of as split_of_grid
from asyncthink.training import sft
from asyncthink.training.encoding import Row, batches, encode_example, new_lexicon, tensors
from asyncthink.training.mixture import Mixture, TrainProblems, limits
from asyncthink.training.recipe import DataRecipe
from asyncthink.training.run_folder import STATE
from asyncthink.training.sft import Progress, loss_of, train_sft
from asyncthink.training.synthesis import Example
from tests.training.sft_world import MODEL, examples, make_small, tiny


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


Run = tuple[Path, list[Progress], bytes]
RunOf = Callable[[str], Run]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    @cache
    def run(optimizer: str) -> Run:
        progress: list[Progress] = []
        folder = train_sft(tiny(tmp_path_factory.mktemp("whole"), optimizer=optimizer), progress.append)
        return folder, progress, weights(folder)

    return run


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# A run


def test_a_run_trains_on_the_train_split_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Asked] = []
    seen: list[Example] = []
    ask = TrainProblems.__call__

    def asking(self: TrainProblems, data: DataRecipe, random: Random) -> Asked:
        asked.append(ask(self, data, random))
        return asked[-1]

    def encoding(lexicon: Lexicon, example: Example) -> Row:
        seen.append(example)
        return encode_example(lexicon, example)

    monkeypatch.setattr(TrainProblems, "__call__", asking)
    monkeypatch.setattr(sft, "encode_example", encoding)
    train_sft(tiny(tmp_path, tokens="1_000"))
    assert {each.task.name for each in asked} == {"countdown", "sudoku"}
    for each, example in zip(asked, seen, strict=True):
        if each.task.name == "sudoku":
            assert {split_of_grid(grid) for grid in completions(each.problem.grid)} == {Split.TRAIN}
        else:
            assert split_of(each.problem.numbers) is Split.TRAIN
        if example.role == "organizer":
            assert each.task.parse(example.query) == each.problem
        else:
            assert example.query in {part.query for part in DIVIDERS[each.task.name].parts(each.problem)}
    assert {example.role for example in seen} == {"organizer", "worker"}


def test_a_tiny_run_learns_and_logs(uninterrupted: RunOf) -> None:
    folder, progress, _ = uninterrupted("muon")
    assert [one.step for one in progress] == list(range(1, len(progress) + 1)) and len(progress) > 7
    assert progress[-2].tokens < 5_000 <= progress[-1].tokens < 5_700
    assert {one.total_tokens for one in progress} == {5_000}
    before, after = progress[:2], progress[-3:]
    assert mean(one.loss for one in after) < 0.9 * mean(one.loss for one in before)
    assert mean(one.accuracy for one in after) > mean(one.accuracy for one in before)
    lines = [(line["step"], line["loss"], line["tokens"]) for line in metrics(folder.parent)]
    assert lines == [(one.step, one.loss, one.tokens) for one in progress]
    assert not list(folder.parent.glob("*.tmp"))


def test_the_checkpoint_is_that_of_the_training(uninterrupted: RunOf, tmp_path: Path) -> None:
    folder, _, _ = uninterrupted("muon")
    checkpoint, lexicon = load_checkpoint(folder), new_lexicon()
    assert (checkpoint.templates, checkpoint.bos, checkpoint.eos) == (
        *(lexicon.templates, lexicon.bos, lexicon.eos),
    )
    assert (checkpoint.profile.capacity, checkpoint.profile.temperature) == (4, 1.0)
    assert checkpoint.profile.trained and checkpoint.profile.tasks == {
        "countdown": {"counts": [3, 4], "largest": 20, "targets": [10, 100]},
        "sudoku": {"blanks": [4, 9]},
    }
    state = torch.load(folder.parent / "state.pt", weights_only=True)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in checkpoint.model.state_dict().items())
    text = " 7 *<FORK-1> 2 3 5 > 4</FORK-1> é<eos>"
    assert checkpoint.tokenizer.encode(text).ids == lexicon.tokenizer.encode(text).ids


def test_what_a_recipe_declares_is_in_the_checkpoint(tmp_path: Path) -> None:
    folder = train_sft(tiny(tmp_path, tokens="300", seed="3\ncapacity = 7\ntemperature = 0.5"))
    profile = load_checkpoint(folder).profile
    assert (profile.capacity, profile.temperature) == (7, 0.5)


@pytest.mark.anyio
@pytest.mark.parametrize("place", [1, 13, -2, -3], ids=["organizer", "sudoku", "worker", "sudoku worker"])
async def test_the_engine_sees_what_the_training_saw(uninterrupted: RunOf, place: int) -> None:
    """Prompt, inserted text and written text become the ids of the training row."""
    folder, _, _ = uninterrupted("muon")
    example, lexicon = examples()[place], new_lexicon()
    row = encode_example(lexicon, example)
    async with LocalEngine(folder) as engine:
        message = Message(role="user", content=example.query)
        session = engine.open([message], role=example.role, episode="e", path="0", capacity=example.capacity)
        for piece in example.pieces:
            session.insert(piece.text)
        assert [*session.ids, *lexicon.eos] == row.ids
        async with session.decode(["</ANSWER>"], 5, Sampling(seed=1)) as chunks:
            assert [chunk async for chunk in chunks]


# A run that is killed


class Killed(Exception):
    pass


def killer(at: int | None, seen: list[Progress]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == at:
            raise Killed

    return report


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize(
    ("kills", "resumed_at"),
    [([2], [1]), ([5], [4]), ([6], [4]), ([4], [4]), ([5, 8, 7], [4, 7, 7])],
    ids=["before the first save", "between saves", "just before a save", "right behind a save", "thrice"],
)
def test_a_killed_run_ends_with_the_same_weights(
    uninterrupted: RunOf, tmp_path: Path, optimizer: str, kills: list[int], resumed_at: list[int]
) -> None:
    _, whole, expected = uninterrupted(optimizer)
    recipe = tiny(tmp_path, optimizer=optimizer)
    for kill, start in zip([*kills, None], [1, *resumed_at], strict=True):
        seen: list[Progress] = []
        torch.rand(start)  # a new process has another state
        if kill is None:
            assert weights(train_sft(recipe, killer(None, seen))) == expected
        else:
            with pytest.raises(Killed):
                train_sft(recipe, killer(kill, seen))
        assert seen[0].step == start, "it went on; it did not begin again"
        assert [one.loss for one in seen] == [one.loss for one in whole[start - 1 : seen[-1].step]]
        lines = [(line["step"], line["loss"], line["accuracy"]) for line in metrics(tmp_path / "run")]
        assert lines == [(one.step, one.loss, one.accuracy) for one in whole[: len(lines)]], "none twice"
        assert len(lines) == (kill or len(whole))


def test_every_save_point_of_a_run_leads_to_the_same_weights(tmp_path: Path) -> None:
    """Among them the last batch of a shard, where a resumed run has nothing left to do in it."""
    whole: list[Progress] = []
    expected = weights(train_sft(tiny(tmp_path / "whole", tokens="3_000"), whole.append))
    assert len(whole) > 4
    for step in range(1, len(whole) + 1):
        recipe = tiny(tmp_path / str(step), tokens="3_000", save_every=str(step))
        if step < len(whole):
            with pytest.raises(Killed):
                train_sft(recipe, killer(step + 1, []))
        seen: list[Progress] = []
        assert weights(train_sft(recipe, seen.append)) == expected
        assert len(seen) == len(whole) - (step if step < len(whole) else 0)


def test_a_line_of_metrics_that_was_cut_off_is_forgotten(uninterrupted: RunOf, tmp_path: Path) -> None:
    _, whole, expected = uninterrupted("adamw")
    recipe = tiny(tmp_path, optimizer="adamw")
    for kill in (2, 5):
        with pytest.raises(Killed):
            train_sft(recipe, killer(kill, []))
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 6, "lo')
    assert weights(train_sft(recipe)) == expected
    assert [line["step"] for line in metrics(tmp_path / "run")] == [one.step for one in whole]


def test_a_save_that_was_cut_off_does_not_count(uninterrupted: RunOf, tmp_path: Path) -> None:
    _, _, expected = uninterrupted("adamw")
    recipe = tiny(tmp_path, optimizer="adamw")
    with pytest.raises(Killed):
        train_sft(recipe, killer(5, []))
    files.draft(tmp_path / "run" / STATE).write_bytes(b"half")
    assert weights(train_sft(recipe)) == expected


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, tokens="1_000")
    before = weights(train_sft(recipe))
    lines = metrics(tmp_path / "run")
    again: list[Progress] = []
    assert weights(train_sft(recipe, again.append)) == before
    assert again == [] and metrics(tmp_path / "run") == lines


def test_a_seed_makes_another_model(uninterrupted: RunOf, tmp_path: Path) -> None:
    _, whole, _ = uninterrupted("muon")
    other: list[Progress] = []
    with pytest.raises(Killed):
        train_sft(tiny(tmp_path, seed="4"), killer(1, other))
    assert other[0].loss != whole[0].loss


# A run that goes on from a checkpoint


def going_on(folder: Path, checkpoint: Path, **changes: str) -> Any:
    return tiny(folder, begin=f'start = "hf:{checkpoint.as_posix()}"\n', seed="8", **changes)


def first_batch(recipe: Any, lexicon: Lexicon) -> list[Row]:
    rows = [encode_example(lexicon, example) for example in Mixture(recipe.data, recipe.seed).shard(0)]
    return batches(rows, recipe.train.batch_tokens, Random(f"batches:{recipe.seed}:0"))[0]


def test_a_run_begins_with_the_weights_of_its_checkpoint(uninterrupted: RunOf, tmp_path: Path) -> None:
    begun, whole, before = uninterrupted("muon")
    recipe = going_on(tmp_path, begun, tokens="1_500")
    seen: list[Progress] = []
    after = weights(train_sft(recipe, seen.append))
    loaded = load_checkpoint(begun)
    with torch.inference_mode():
        loss, accuracy = loss_of(loaded.model, *tensors(first_batch(recipe, loaded)))
    assert abs(seen[0].loss - loss.item()) < 1e-5 and seen[0].accuracy == accuracy
    assert seen[0].loss < 0.8 * whole[0].loss, "it knows something already"
    assert after != before == weights(begun), "what it began with stays"
    trained = load_checkpoint(tmp_path / "run" / "checkpoint").model.state_dict()
    moved = [
        name for name, tensor in loaded.model.state_dict().items() if not torch.equal(tensor, trained[name])
    ]
    assert moved == list(trained), "every parameter is trained"


def test_what_stands_beside_the_weights_is_taken_over(uninterrupted: RunOf, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    for path in uninterrupted("muon")[0].iterdir():
        (begun / path.name).write_bytes(path.read_bytes())
    (begun / "worker.jinja").write_text("Try {{ query | trim }}\n")
    foreign = (begun / "tokenizer.json").read_text().replace('"<eos>"', '"</s>"')
    (begun / "tokenizer.json").write_text(foreign)
    (begun / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    recipe = going_on(tmp_path, begun, tokens="700")
    seen: list[Progress] = []
    made = load_checkpoint(train_sft(recipe, seen.append))
    assert made.templates["worker"] == "Try {{ query | trim }}\n"
    assert made.eos == load_checkpoint(begun).eos != (), "a text ends as it did"
    assert (made_in := tmp_path / "run" / "checkpoint").joinpath("tokenizer.json").read_text() == foreign
    assert (made_in / "tokenizer_config.json").read_text() == '{"eos_token": "</s>"}'
    assert made.profile.tasks == limits(recipe.data)
    with torch.inference_mode():
        loss, _ = loss_of(load_checkpoint(begun).model, *tensors(first_batch(recipe, made)))
    assert abs(seen[0].loss - loss.item()) < 1e-5, "the prompts that were trained on are its own"


@pytest.mark.parametrize("kill", [2, 5])
def test_a_killed_run_from_a_checkpoint_ends_with_the_same_weights(
    uninterrupted: RunOf, tmp_path: Path, kill: int
) -> None:
    begun, _, _ = uninterrupted("muon")
    expected = weights(train_sft(going_on(tmp_path / "whole", begun, tokens="3_000")))
    recipe = going_on(tmp_path / "killed", begun, tokens="3_000")
    with pytest.raises(Killed):
        train_sft(recipe, killer(kill, []))
    seen: list[Progress] = []
    assert weights(train_sft(recipe, seen.append)) == expected
    assert seen[0].step == (4 if kill == 5 else 1)


# What is refused


def refused(call: Callable[[], object], *named: str) -> None:
    with pytest.raises(AsyncThinkError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in named), message


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train_sft(tiny(tmp_path, tokens="500"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    recipe = tiny(tmp_path, tokens="500", learning_rate="0.03")
    refused(lambda: train_sft(recipe), "another recipe", str(tmp_path / "run"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_run_that_earned_nothing_leaves_its_folder_to_the_corrected_recipe(tmp_path: Path) -> None:
    refused(lambda: train_sft(tiny(tmp_path, begin=f"{MODEL}max_length = 20\n")), "no trace is as short")
    assert load_checkpoint(train_sft(tiny(tmp_path, tokens="500"))).model.config.max_position_embeddings > 20


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """Its recipe is not ours, and whether it earned anything nobody can tell."""
    for manifest in (None, "{}", '{"kind": "evaluation"}'):
        run = tmp_path / f"run-{manifest and len(manifest)}"
        run.mkdir()
        (run / "config.toml").write_text("task = 'countdown'\n")
        if manifest:
            (run / "manifest.json").write_text(manifest)
        before = {path: path.read_bytes() for path in run.iterdir()}
        refused(lambda run=run: train_sft(tiny(tmp_path, output=run.as_posix())), "another recipe")
        assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("output", ["taken", "taken/run"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, output: str) -> None:
    (tmp_path / "taken").write_text("a file")
    path = (tmp_path / output).as_posix()
    refused(lambda: train_sft(tiny(tmp_path, output=path)), path, "cannot be written")


def test_traces_that_are_all_too_long_are_refused(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, layers="1\nmax_length = 7")
    refused(lambda: train_sft(recipe), "max_length", "7 tokens")


def test_traces_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    seen: list[Progress] = []
    recipe = tiny(tmp_path, layers="1\nmax_length = 60", tokens="300", batch_tokens="1")
    train_sft(recipe, seen.append)
    lengths = [
        seen[0].tokens,
        *(after.tokens - one.tokens for one, after in pairwise(seen)),
    ]
    assert lengths and max(lengths) <= 60


@pytest.mark.parametrize(
    ("start", "named"),
    [
        ("hf:nowhere", ["nowhere", "config.json is missing"]),
        ("hf:", ["hf: needs a folder"]),
        ("embeded", ["did you mean 'embedded'"]),
        ("runs/base", ["unknown model 'runs/base'", "hf:FOLDER"]),
        ("openai:gpt", ["unknown model 'openai:gpt'"]),
    ],
)
def test_a_start_that_is_no_checkpoint_is_refused(tmp_path: Path, start: str, named: list[str]) -> None:
    recipe = tiny(tmp_path, begin=f'start = "{start}"\n')
    refused(lambda: train_sft(recipe), *named)


def test_an_impossible_request_is_refused(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, numbers="{ 2 = 1.0 }", wanted="{ 4 = 1.0 }")
    refused(lambda: train_sft(recipe), "hardly any target has 4 different expressions of 2 numbers")
