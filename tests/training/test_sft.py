"""Format fine-tuning: what is in the loss, where the data comes from, and that a killed run loses nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import groupby, islice, permutations
from pathlib import Path
from random import Random
from statistics import mean

import pytest
import torch

from asyncthink.engines.base import Message, Sampling
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.llama import Llama
from asyncthink.engines.local import LocalEngine
from asyncthink.errors import UsageError
from asyncthink.tasks import countdown
from asyncthink.tasks.base import Split
from asyncthink.tasks.countdown import Countdown, CountdownProblem, forms_by_target, split_of
from asyncthink.tasks.countdown_parts import candidates
from asyncthink.training import sft
from asyncthink.training.recipe import DataRecipe, Recipe, load_recipe
from asyncthink.training.sft import IGNORED, Encoder, Progress, Row, TrainProblems, batches, loss_of, tensors
from asyncthink.training.synthesis import Example, organizer_example, worker_example

RECIPE = """
seed = 3
output = "{output}"

[model]
hidden_size = 32
intermediate_size = 48
layers = 1
heads = 2
head_dim = 16

[data]
capacities = {{ 1 = 0.2, 4 = 0.8 }}
wanted = {{ 1 = 0.5, 4 = 0.5 }}
workers_per_organizer = 1.5

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
    for a, b, c, d in set(permutations(numbers)):
        for first in (a + b, a - b, a * b):
            for second in (first + c, first - c, first * c):
                found.update((second + d, second - d, second * d))
    return Counter({target: count for target, count in found.items() if 10 <= target <= 100})


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few batches, so that a run of seconds crosses several."""
    monkeypatch.setattr(sft, "SHARD", 5)
    monkeypatch.setattr(countdown, "forms_by_target", quick_forms)


def write_recipe(folder: Path, *, optimizer: str = "muon", output: str | None = None, **changes: str) -> Path:
    """Write a tiny recipe; a change replaces the value of that key."""
    text = RECIPE.format(output=output or (folder / "run").as_posix(), optimizer=optimizer)
    lines = [
        f"{key} = {changes[key]}" if (key := line.partition(" = ")[0]) in changes else line
        for line in text.splitlines()
    ]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny(folder: Path, **changes: str) -> Recipe:
    folder.mkdir(exist_ok=True)
    return load_recipe(str(write_recipe(folder, **changes)))


def examples() -> list[Example]:
    problem = CountdownProblem(numbers=(2, 3, 5, 7), target=28)
    organizers = [organizer_example(problem, 1 + seed % 4, Random(seed)) for seed in range(12)]
    return [*organizers, *(worker_example(one.query) for one in candidates(problem)[:4])]


# What is in the loss


def test_the_loss_sees_what_the_model_writes_and_nothing_else() -> None:
    encoder = Encoder()
    some = examples()
    assert sum(not piece.trained for one in some for piece in one.pieces) > 10
    rows = [encoder.row(one) for one in some]
    ids, targets = tensors(rows)
    for place, (example, row) in enumerate(zip(some, rows, strict=True)):
        # the position before a token carries it as its target
        masked = [(int(ids[place, 0]), False)]
        for at in range(1, len(row.ids)):
            target = int(targets[place, at - 1])
            assert target in (IGNORED, row.ids[at])
            masked.append((row.ids[at], target != IGNORED))
        assert [token for token, _ in masked] == row.ids
        assert (targets[place, len(row.ids) - 1 :] == IGNORED).all(), "padding"
        stretches = [
            (kept, encoder.tokenizer.decode([token for token, _ in group], skip_special_tokens=False))
            for kept, group in groupby(masked, lambda pair: pair[1])
        ]
        first, *between, last = example.pieces if len(example.pieces) > 1 else (None, *example.pieces)
        expected = [(False, f"<bos>{prompt_of(example)}")]
        expected += [(piece.trained, piece.text) for piece in (first, *between) if piece]
        assert stretches == [*expected, (True, f"{last.text if last else ''}<eos>")]


def prompt_of(example: Example) -> str:
    if example.role == "worker":
        return f"Solve {example.query.strip()}\n"
    return f"{example.query}\nAgents: {example.capacity}\n"


def test_loss_is_the_mean_over_trained_tokens_whatever_the_company(tmp_path: Path) -> None:
    encoder = Encoder()
    rows = [encoder.row(one) for one in examples()]
    rows = [rows[0], rows[-1]]
    assert len(rows[0].ids) != len(rows[1].ids)
    model = Llama(sft.model_config(tiny(tmp_path), encoder))
    with torch.inference_mode():
        together, _ = loss_of(model, *tensors(rows))
        alone = [(loss_of(model, *tensors([row]))[0], sum(row.trained)) for row in rows]
    expected = sum(loss * count for loss, count in alone) / sum(count for _, count in alone)
    assert torch.allclose(together, torch.as_tensor(expected), rtol=1e-5)


def test_batches_hold_every_row_once_and_little_padding() -> None:
    random = Random(2)
    lengths = [random.randint(5, 60) for _ in range(300)] + [150]
    rows = [Row([place] * length, [True] * length) for place, length in enumerate(lengths)]
    groups = batches(rows, 100, random)
    assert Counter(row.ids[0] for group in groups for row in group) == Counter(range(301))
    padded = [len(group) * max(len(row.ids) for row in group) for group in groups]
    assert sorted(padded)[-2:] == [max(size for size in padded if size <= 100), 150]
    assert sum(padded) < 1.1 * sum(lengths)
    assert padded != sorted(padded), "short and long ones take turns"


# Where the data comes from


def test_problems_are_of_the_train_split_and_have_enough_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(numbers: tuple[int, ...]) -> Counter[int]:
        return Counter({24: 4, 30: 3, 60 + min(numbers): 9})

    monkeypatch.setattr(countdown, "forms_by_target", counts)
    problems, random = TrainProblems(), Random(0)
    drawn = [problems(random, 1 + place % 4) for place in range(2000)]
    assert {split_of(problem.numbers) for problem in drawn} == {Split.TRAIN}
    assert all(problem.target in (24, 60 + min(problem.numbers)) for problem in drawn)
    assert [problem.wanted for problem in drawn] == [1 + place % 4 for place in range(2000)]
    assert {number for problem in drawn for number in problem.numbers} == set(range(1, 21))
    assert any(list(problem.numbers) != sorted(problem.numbers) for problem in drawn)


def test_a_real_problem_has_enough_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countdown, "forms_by_target", forms_by_target)
    problem = TrainProblems()(Random(1), 2)
    assert split_of(problem.numbers) is Split.TRAIN and forms_by_target(problem.numbers)[problem.target] >= 4


def test_a_shard_does_not_depend_on_what_was_solved_before() -> None:
    data = DataRecipe(capacities={"4": 1.0}, wanted={"4": 1.0}, workers_per_organizer=1.0)
    warm = TrainProblems()
    first = list(islice(sft.shard_examples(warm, data, 3, 0), 4))
    assert list(islice(sft.shard_examples(warm, data, 3, 0), 4)) == first
    assert list(islice(sft.shard_examples(TrainProblems(), data, 3, 0), 4)) == first
    assert list(islice(sft.shard_examples(warm, data, 3, 1), 4)) != first


def test_shares_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "SHARD", 400)
    data = DataRecipe(capacities={"1": 1, "3": 3}, wanted={"1": 4, "2": 1}, workers_per_organizer=1.5)
    problem = CountdownProblem(numbers=(2, 3, 5, 7), target=28)
    asked: list[int] = []

    def source(_: Random, wanted: int) -> CountdownProblem:
        asked.append(wanted)
        return problem

    found = Counter((one.role, one.capacity) for one in sft.shard_examples(source, data, 0, 0))
    assert found.keys() == {("organizer", 1), ("organizer", 3), ("worker", 1)}
    assert abs(found["organizer", 3] - 300) < 30
    assert abs(found["worker", 1] - 600) < 40
    assert len(asked) == 400 and abs(asked.count(2) - 80) < 30


def test_a_run_trains_on_the_train_split_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Example] = []
    row = Encoder.row

    def spy(self: Encoder, example: Example) -> Row:
        seen.append(example)
        return row(self, example)

    monkeypatch.setattr(Encoder, "row", spy)
    sft.train_sft(tiny(tmp_path, tokens="1_000"))
    queries: set[str] = set()
    for example in seen:
        if example.role == "organizer":
            problem = Countdown().parse(example.query)
            assert problem and split_of(problem.numbers) is Split.TRAIN
            queries = {one.query for one in candidates(problem)}
        else:
            assert example.query in queries, "a worker's query is one of the problem's before it"
    assert {example.role for example in seen} == {"organizer", "worker"}


# A run


Run = tuple[Path, list[Progress], bytes]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    @cache
    def run(optimizer: str) -> Run:
        progress: list[Progress] = []
        folder = sft.train_sft(tiny(tmp_path_factory.mktemp("whole"), optimizer=optimizer), progress.append)
        return folder, progress, weights(folder)

    return run


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_tiny_run_learns_and_logs(uninterrupted: Callable[[str], Run]) -> None:
    folder, progress, _ = uninterrupted("muon")
    assert [one.step for one in progress] == list(range(1, len(progress) + 1)) and len(progress) > 7
    assert progress[-2].tokens < 5_000 <= progress[-1].tokens < 5_700
    before, after = progress[:2], progress[-3:]
    assert mean(one.loss for one in after) < 0.9 * mean(one.loss for one in before)
    assert mean(one.accuracy for one in after) > mean(one.accuracy for one in before)
    lines = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(one.step, one.loss) for one in progress]
    assert not list(folder.parent.glob("*.tmp"))


def test_the_checkpoint_is_that_of_the_training(uninterrupted: Callable[[str], Run]) -> None:
    folder, _, _ = uninterrupted("muon")
    checkpoint = load_checkpoint(folder)
    encoder = Encoder()
    assert checkpoint.templates == encoder.templates and checkpoint.bos == encoder.bos
    assert checkpoint.eos == (encoder.eos,)
    assert checkpoint.profile.capacity == 4 and checkpoint.profile.tasks == sft.LIMITS
    assert checkpoint.model.config.vocab_size >= encoder.tokenizer.get_vocab_size()
    state = torch.load(folder.parent / "state.pt", weights_only=True)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in checkpoint.model.state_dict().items())
    text = " 7 *<FORK-1> 2 3 5 > 4</FORK-1> é<eos>"
    assert checkpoint.tokenizer.encode(text).ids == encoder.tokenizer.encode(text).ids


@pytest.mark.anyio
@pytest.mark.parametrize("place", [1, -1], ids=["organizer", "worker"])
async def test_the_engine_sees_what_the_training_saw(uninterrupted: Callable[[str], Run], place: int) -> None:
    """Prompt, inserted text and written text become the ids of the training row."""
    folder, _, _ = uninterrupted("muon")
    example = examples()[place]
    row = Encoder().row(example)
    async with LocalEngine(folder) as engine:
        message = Message(role="user", content=example.query)
        session = engine.open([message], role=example.role, episode="e", path="0", capacity=example.capacity)
        for piece in example.pieces:
            session.insert(piece.text)
        assert [*session.ids, Encoder().eos] == row.ids
        async with session.decode(["</ANSWER>"], 5, Sampling(seed=1)) as chunks:
            assert [chunk async for chunk in chunks]


class Killed(Exception):
    pass


def killer(at: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
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
    uninterrupted: Callable[[str], Run],
    tmp_path: Path,
    optimizer: str,
    kills: list[int],
    resumed_at: list[int],
) -> None:
    _, whole, expected = uninterrupted(optimizer)
    recipe = tiny(tmp_path, optimizer=optimizer)
    for kill, start in zip([*kills, None], [1, *resumed_at], strict=True):
        seen: list[Progress] = []

        def report(progress: Progress, seen: list[Progress] = seen, kill: int | None = kill) -> None:
            seen.append(progress)
            if progress.step == kill:
                raise Killed

        torch.rand(start)  # a new process has another state
        if kill is None:
            assert weights(sft.train_sft(recipe, report)) == expected
        else:
            with pytest.raises(Killed):
                sft.train_sft(recipe, report)
        assert seen[0].step == start, "it went on; it did not begin again"
        assert [one.loss for one in seen] == [one.loss for one in whole[start - 1 : seen[-1].step]]


def test_every_save_point_of_a_run_leads_to_the_same_weights(
    uninterrupted: Callable[[str], Run], tmp_path: Path
) -> None:
    """Among them the last batch of a shard, where a resumed run has nothing left to do in it."""
    _, whole, expected = uninterrupted("adamw")
    for step in range(1, len(whole) + 1):
        recipe = tiny(tmp_path / str(step), optimizer="adamw", save_every=str(step))
        if step < len(whole):
            with pytest.raises(Killed):
                sft.train_sft(recipe, killer(step + 1))
        seen: list[Progress] = []
        assert weights(sft.train_sft(recipe, seen.append)) == expected
        assert len(seen) == len(whole) - (step if step < len(whole) else 0)


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, tokens="1_000")
    before = weights(sft.train_sft(recipe))
    again: list[Progress] = []
    assert weights(sft.train_sft(recipe, again.append)) == before
    assert again == []


def test_a_seed_makes_another_model(uninterrupted: Callable[[str], Run], tmp_path: Path) -> None:
    _, whole, _ = uninterrupted("muon")
    other: list[Progress] = []
    with pytest.raises(Killed):
        sft.train_sft(
            tiny(tmp_path, seed="4"), lambda progress: (other.append(progress), killer(1)(progress))[1]
        )
    assert other[0].loss != whole[0].loss


# What is refused


def refused(call: Callable[[], object], *named: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in named), message


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    sft.train_sft(tiny(tmp_path, tokens="500"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    recipe = tiny(tmp_path, tokens="500", learning_rate="0.03")
    refused(lambda: sft.train_sft(recipe), "another recipe", str(tmp_path / "run"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize("output", ["taken", "taken/run"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, output: str) -> None:
    (tmp_path / "taken").write_text("a file")
    path = (tmp_path / output).as_posix()
    refused(lambda: sft.train_sft(tiny(tmp_path, output=path)), path, "cannot be written")


def test_traces_that_are_all_too_long_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, layers="1\nmax_length = 20")))
    refused(lambda: sft.train_sft(recipe), "max_length")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layers": "1\nlayer = 2"}, ["model.layer'", "did you mean 'model.layers'"]),
        ({"threads": "1\nlearnig_rate = 0.2"}, ["did you mean 'train.learning_rate'"]),
        ({"seed": "1\nsource = 'x'"}, ["source"]),
        ({"save_every": "3\n[eval]\nx = 1"}, ["'eval'"]),
        ({"save_every": "3\n[finish]\nsteps = 2"}, ["unknown recipe key 'finish"]),
        ({"layers": "'2'"}, ["tiny.toml", "int", "model.layers"]),
        ({"layers": "true"}, ["tiny.toml", "model.layers"]),
        ({"tokens": "5.5"}, ["tiny.toml", "train.tokens"]),
        ({"learning_rate": "'fast'"}, ["tiny.toml", "train.learning_rate"]),
        ({"bfloat16": "1"}, ["tiny.toml", "train.bfloat16"]),
        ({"optimizer": "'sgd'"}, ["tiny.toml", "sgd"]),
        ({"capacities": "[4]"}, ["tiny.toml", "data.capacities"]),
        ({"capacities": "{}"}, ["tiny.toml", "data.capacities"]),
        ({"capacities": "{ four = 1.0 }"}, ["tiny.toml", "data.capacities"]),
        ({"wanted": "{ 4 = 0 }"}, ["tiny.toml", "data.wanted"]),
        ({"save_every": "0"}, ["tiny.toml", "train.save_every"]),
        ({"warmup_steps": "0"}, ["tiny.toml", "train.warmup_steps"]),
        ({"batch_tokens": "-1"}, ["tiny.toml", "train.batch_tokens"]),
        ({"seed": "="}, ["tiny.toml", "line 2"]),
        ({"seed": "1\nseed = 2"}, ["tiny.toml"]),
    ],
    ids=str,
)
def test_a_recipe_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, str], named: list[str]
) -> None:
    path = write_recipe(tmp_path, **changes)
    refused(lambda: load_recipe(str(path)), *named)


@pytest.mark.parametrize("key", ["hidden_size", "wanted", "tokens", "output"])
def test_a_recipe_without_a_key_is_refused(tmp_path: Path, key: str) -> None:
    path = write_recipe(tmp_path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} =")]
    path.write_text("\n".join(lines))
    refused(lambda: load_recipe(str(path)), str(path), "missing", key)


def test_a_recipe_that_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_bytes(b"seed = 1 # \xff\xfe")
    refused(lambda: load_recipe(str(tmp_path / "broken.toml")), "broken.toml")
    refused(lambda: load_recipe(str(tmp_path / "none.toml")), "none.toml", "embedded.toml")
    refused(lambda: load_recipe(str(tmp_path)), str(tmp_path))


def test_packaged_recipes_are_found_by_name_and_files_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = load_recipe("recipes/embedded.toml")
    assert packaged.output == "runs/embedded" and abs(sum(packaged.data.capacities.values()) - 1) < 1e-9
    write_recipe(tmp_path).rename(tmp_path / "embedded.toml")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("embedded.toml").seed == 3


FINISH = (
    "\n[finish]\ntokens = 2_000\nlearning_rate = 0.01\nembedding_learning_rate = 0.01\nown_search = 0.0\n"
)


def test_a_second_stage_and_every_save_point_around_it(tmp_path: Path) -> None:
    """The rates rise and fall twice; killed anywhere, the weights are the same."""
    whole: list[Progress] = []
    expected = weights(
        sft.train_sft(tiny(tmp_path / "whole", tokens="2_000", save_every="3" + FINISH), whole.append)
    )
    assert whole[-1].total_tokens == 4_000 <= whole[-1].tokens
    for step in range(1, len(whole)):
        for save_every in (step, step + 1):  # killed right behind a save, and without one
            text = {"tokens": "2_000", "save_every": str(save_every) + FINISH}
            recipe = tiny(tmp_path / f"{step}-{save_every}", **text)

            def kill(progress: Progress, step: int = step) -> None:
                if progress.step == step + 1:
                    raise Killed

            with pytest.raises(Killed):
                sft.train_sft(recipe, kill)
            assert weights(sft.train_sft(recipe)) == expected
