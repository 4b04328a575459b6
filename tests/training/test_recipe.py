"""Recipes of fine-tuning: what they must say, and that what makes no sense is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asyncthink.errors import UsageError
from asyncthink.training.recipe import DataRecipe, Kind, load_recipe
from asyncthink.training.structures import Structure
from tests.training.sft_world import MODEL, tiny, write_recipe

PACKAGED = Path(__file__).parents[2] / "src" / "asyncthink" / "recipes"
OF_SFT = sorted(path.name for path in PACKAGED.glob("*.toml") if "[[data]]" in path.read_text())


def refused(call: Callable[[], object], *named: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in named), message


def test_a_recipe_is_read(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    assert recipe.model is not None and recipe.start is None
    assert (recipe.seed, recipe.capacity, recipe.temperature) == (3, 4, 1.0)
    assert (recipe.model.layers, recipe.model.max_length, recipe.train.save_every) == (1, 1024, 3)
    first, second, third = recipe.data
    assert (first.numbers, first.wanted) == ({"3": 0.5, "4": 0.5}, {"1": 0.5, "2": 0.5})
    assert second == DataRecipe(share=1.5, kind=Kind.WORKER)
    assert third == DataRecipe(share=0.3, task="sudoku")
    assert third.structure is Structure.RANDOM and third.capacities == {"4": 1.0}
    assert recipe.source == (tmp_path / "tiny.toml").read_text()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layers": "1\nlayer = 2"}, ["model.layer'", "did you mean 'model.layers'"]),
        ({"threads": "1\nlearnig_rate = 0.2"}, ["did you mean 'train.learning_rate'"]),
        ({"seed": "1\nsource = 'x'"}, ["source"]),
        ({"save_every": "3\n[eval]\nx = 1"}, ["'eval'"]),
        ({"layers": "'2'"}, ["tiny.toml", "int", "model.layers"]),
        ({"layers": "true"}, ["tiny.toml", "model.layers"]),
        ({"tokens": "5.5"}, ["tiny.toml", "train.tokens"]),
        ({"learning_rate": "'fast'"}, ["tiny.toml", "train.learning_rate"]),
        ({"bfloat16": "1"}, ["tiny.toml", "train.bfloat16"]),
        ({"optimizer": "'sgd'"}, ["tiny.toml", "sgd"]),
        ({"save_every": "0"}, ["tiny.toml", "train.save_every"]),
        ({"warmup_steps": "0"}, ["tiny.toml", "train.warmup_steps"]),
        ({"batch_tokens": "-1"}, ["tiny.toml", "train.batch_tokens"]),
        ({"save_every": "3\n[trl.lora]\nrank = 4"}, ["tiny.toml", "[trl]", 'trainer = "trl"']),
        ({"learning_rate": "-1.0"}, ["tiny.toml", "train.learning_rate"]),
        ({"learning_rate": "nan"}, ["tiny.toml", "train.learning_rate"]),
        ({"bfloat16": "false\nweight_decay = -0.1"}, ["tiny.toml", "train.weight_decay"]),
        ({"head_dim": "33"}, ["tiny.toml", "model.head_dim"]),
        ({"seed": "-1"}, ["tiny.toml", "seed"]),
        ({"seed": "99999999999999999999"}, ["tiny.toml", "seed"]),
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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": '"organizer"\nshares = 1'}, ["'data[1].shares'", "did you mean 'data[1].share'"]),
        ({"task": '"sudoku"\nmost_part = 3'}, ["did you mean 'data[3].most_parts'"]),
        ({"kind": '"organiser"'}, ["tiny.toml", "organiser", "data[0].kind"]),
        ({"task": '"vertex_cover"'}, ["tiny.toml", "vertex_cover", "data[2].task"]),
        ({"structure": '"wave"'}, ["tiny.toml", "wave", "data[0].structure"]),
        ({"share": "0"}, ["tiny.toml", "data[0].share"]),
        ({"share": "-1"}, ["tiny.toml", "data[0].share"]),
        ({"share": "'much'"}, ["tiny.toml", "data[0].share"]),
        ({"most_parts": "0"}, ["tiny.toml", "data[0].most_parts"]),
        ({"capacities": "[4]"}, ["tiny.toml", "data[0].capacities"]),
        ({"capacities": "{}"}, ["tiny.toml", "data[0].capacities"]),
        ({"capacities": "{ four = 1.0 }"}, ["tiny.toml", "data[0].capacities"]),
        ({"capacities": "{ 04 = 1.0 }"}, ["tiny.toml", "data[0].capacities"]),
        ({"capacities": "{ 0 = 1.0 }"}, ["tiny.toml", "data[0].capacities"]),
        ({"capacities": "{ 10000 = 1.0 }"}, ["tiny.toml", "data[0].capacities"]),
        ({"wanted": "{ 4 = 0 }"}, ["tiny.toml", "data[0].wanted"]),
        ({"wanted": "{ 4 = 1.0, 5 = 1.0 }"}, ["tiny.toml: wanted are 1 to 4, not 5"]),
        ({"numbers": "{ 1 = 1.0 }"}, ["tiny.toml: numbers are 2 to 5, not 1"]),
        ({"numbers": "{ 3 = 1.0, 6 = 1.0 }"}, ["tiny.toml: numbers are 2 to 5, not 6"]),
        ({"kind": '"file"'}, ["tiny.toml", "'file' and the kind 'file' belong together"]),
        ({"kind": '"worker"\nfile = "x.jsonl"'}, ["tiny.toml", "belong together"]),
    ],
    ids=str,
)
def test_data_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, str], named: list[str]
) -> None:
    path = write_recipe(tmp_path, **changes)
    refused(lambda: load_recipe(str(path)), *named)


@pytest.mark.parametrize("data", ["data = []", "data = [1]", "data = 1", "[data]\nshare = 1", ""])
def test_data_that_is_no_list_of_sections_is_refused(tmp_path: Path, data: str) -> None:
    lines = write_recipe(tmp_path).read_text().split("\n")
    first, train = lines.index("[[data]]"), lines.index("[train]")
    head = lines.index("[model]")
    text = "\n".join([*lines[:head], *([data] if data[:1] != "[" else []), *lines[head:first]])
    text += "\n" + "\n".join([*([data] if data[:1] == "[" else []), *lines[train:]])
    (tmp_path / "tiny.toml").write_text(text)
    refused(lambda: load_recipe(str(tmp_path / "tiny.toml")), "tiny.toml", "data")


@pytest.mark.parametrize("key", ["hidden_size", "share", "tokens", "output"])
def test_a_recipe_without_a_key_is_refused(tmp_path: Path, key: str) -> None:
    path = write_recipe(tmp_path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} =")]
    path.write_text("\n".join(lines))
    refused(lambda: load_recipe(str(path)), str(path), "missing", key)


@pytest.mark.parametrize("begin", ["", MODEL.replace("[model]", 'start = "embedded"\n[model]')])
def test_a_run_has_a_model_to_make_or_one_to_start_from(tmp_path: Path, begin: str) -> None:
    path = write_recipe(tmp_path, begin=begin)
    refused(lambda: load_recipe(str(path)), str(path), "either a [model] to make or a 'start' to go on from")


def test_embeddings_may_have_a_rate_of_their_own_or_none(tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path, learning_rate="0.5"))
    for own, rate in {"0.25": 0.25, "0.0": 0.0}.items():
        assert load_recipe(path, [f"train.embedding_learning_rate={own}"]).train.rates == (0.5, rate)
    lines = [line for line in Path(path).read_text().splitlines() if not line.startswith("embedding_")]
    Path(path).write_text("\n".join(lines))
    assert load_recipe(path).train.rates == (0.5, 0.5)


def test_a_recipe_that_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_bytes(b"seed = 1 # \xff\xfe")
    refused(lambda: load_recipe(str(tmp_path / "broken.toml")), "broken.toml")
    refused(lambda: load_recipe(str(tmp_path / "none.toml")), "none.toml", "embedded-base.toml")
    refused(lambda: load_recipe(str(tmp_path)), str(tmp_path))


def test_packaged_recipes_are_found_by_name_and_files_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = load_recipe("recipes/embedded-base.toml")
    assert packaged.output == "runs/base" and packaged.model is not None
    write_recipe(tmp_path).rename(tmp_path / "embedded-base.toml")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("embedded-base.toml").seed == 3


@pytest.mark.parametrize("name", OF_SFT)
def test_a_packaged_recipe_has_shares_that_are_parts_of_one(name: str) -> None:
    data = load_recipe(f"recipes/{name}").data
    for each in data:
        for shares in (each.numbers, each.wanted, each.capacities):
            assert abs(sum(shares.values()) - 1) < 1e-9


def test_there_are_packaged_recipes() -> None:
    assert "embedded-base.toml" in OF_SFT


def test_keys_that_are_changed_are_in_the_source_too(tmp_path: Path) -> None:
    path = str(write_recipe(tmp_path))
    changed = load_recipe(path, ["seed=9", "train.tokens=77", "output=elsewhere"])
    assert (changed.seed, changed.train.tokens, changed.output) == (9, 77, "elsewhere")
    assert changed.data == load_recipe(path).data
    again = tmp_path / "again.toml"
    again.write_text(changed.source)
    assert load_recipe(str(again)) == changed
    refused(lambda: load_recipe(path, ["train.tokns=5"]), "did you mean 'train.tokens'")
    refused(lambda: load_recipe(path, ["train.tokens=many"]), "train.tokens")
