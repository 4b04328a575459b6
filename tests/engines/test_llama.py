"""Our Llama and transformers' are the same function of the same folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_worlds import random_model, tiny_config, transformers_model, write_checkpoint

from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.lexicon import load_profile
from asyncthink.engines.llama import Cache, CacheView, Run
from asyncthink.errors import CheckpointError

SHAPES: list[dict[str, Any]] = [
    {},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1},
    {"tie_word_embeddings": False},
    {"rope_theta": 5e5, "head_dim": 16, "rms_norm_eps": 1e-3},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_logits_equal_those_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_checkpoint(tmp_path, **changes)
    theirs = transformers_model(tmp_path)
    ours = load_checkpoint(tmp_path).model
    ids = torch.randint(0, ours.config.vocab_size, (3, 40))
    with torch.inference_mode():
        expected = theirs(ids).logits
        found = ours(ids, torch.arange(40).expand_as(ids))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}], ids=str)
def test_with_a_cache_it_is_the_same_function(changes: dict[str, Any]) -> None:
    model = random_model(tiny_config(50, **changes))
    ids, positions = torch.randint(0, 50, (2, 12)), torch.arange(12).expand(2, 12)
    cache = Cache(model.config, 4, 16, torch.device("cpu"))
    parts: list[torch.Tensor] = []
    with torch.inference_mode():
        for first, stop in ((0, 5), (5, 6), (6, 11), (11, 12)):
            at = positions[:, first:stop]
            hidden = torch.arange(16) > at[..., None]
            mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None]
            view = CacheView([Run(cache, slice(0, 2), slice(1, 3), 16)], mask)
            parts.append(model(ids[:, first:stop], at, view))
        torch.testing.assert_close(torch.cat(parts, 1), model(ids, positions), atol=2e-5, rtol=1e-4)


def test_tied_weights_stay_one_parameter(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = load_checkpoint(tmp_path).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_shards_are_read(tmp_path: Path) -> None:
    expected = write_checkpoint(tmp_path).model.state_dict()
    theirs = transformers_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    found = load_checkpoint(tmp_path).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_a_folder_says_of_itself(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    checkpoint = load_checkpoint(tmp_path)
    assert (checkpoint.bos, checkpoint.eos) == (1, (2, 5))
    assert checkpoint.profile == load_profile(tmp_path)
    assert checkpoint.profile.capacity == 4


def _drop(name: str) -> Any:
    def change(folder: Path) -> None:
        (folder / name).unlink()

    return change


def _write(name: str, text: str) -> Any:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def _config(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | changes))

    return change


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (_drop("config.json"), "config.json is missing"),
        (_drop("model.safetensors"), "model.safetensors is missing"),
        (_drop("tokenizer.json"), "tokenizer.json is missing"),
        (_write("config.json", "{"), "config.json"),
        (_write("config.json", "[]"), "an object is expected"),
        (_write("config.json", '{"model_type": "llama"}'), "config.json is incomplete or wrong"),
        (_write("model.safetensors", "no weights"), "model.safetensors cannot be read"),
        (_write("tokenizer.json", "{}"), "tokenizer.json cannot be read"),
        (_write("asyncthink.json", "no"), "asyncthink.json"),
        (_config(model_type="gpt2"), "'gpt2' is not supported"),
        (_config(hidden_act="gelu"), "hidden_act 'gelu' is not supported"),
        (_config(rope_parameters={"rope_type": "llama3"}), "rope type 'llama3' is not supported"),
        (_config(hidden_size=64), "32), not ("),
        (_config(num_hidden_layers=3), "is missing, not"),
    ],
)
def test_a_broken_folder_is_one_line(tmp_path: Path, harm: Any, cause: str) -> None:
    write_checkpoint(tmp_path)
    harm(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def _changed(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    "change",
    [
        _changed("config.json", vocab_size="528"),
        _changed("config.json", hidden_size=10**18),
        _changed("config.json", max_position_embeddings=-5),
        _changed("config.json", max_position_embeddings=10**12),
        _changed("config.json", num_hidden_layers=10**9),
        _changed("config.json", rope_parameters=5),
        _changed("config.json", rope_parameters={"rope_theta": "x"}),
        _changed("config.json", eos_token_id=[[1]]),
        _changed("config.json", eos_token_id="x"),
        _changed("asyncthink.json", capacity="x"),
        _changed("asyncthink.json", capacity=0),
        _changed("asyncthink.json", temperature=None),
        _changed("asyncthink.json", tasks="countdown"),
        _write("config.json", "[" * 100_000),
        _write("model.safetensors.index.json", '{"weight_map": 5}'),
    ],
)
def test_values_that_make_no_sense_are_one_line(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_checkpoint(tmp_path)
    change(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
