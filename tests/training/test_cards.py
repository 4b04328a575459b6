"""Cards of trained checkpoints: what they began with and learned from, no figure, and never over somebody's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.training import mixture, owpo, sft
from asyncthink.training.cards import write_model_card
from asyncthink.training.recipe import load_recipe
from asyncthink.training.rl_recipe import load_rl_recipe
from asyncthink.training.trl import rl as trl_rl
from asyncthink.training.trl import sft as trl_sft

from .chat_world import write_chat_model, write_chat_recipe
from .rl_cases import write_chain, write_recipe
from .sft_world import make_small, tiny


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the header as the hub reads it, and the text."""
    card = ModelCard.load(folder / "README.md")
    return card.data.to_dict(), card.text


@pytest.mark.parametrize("trainer", ["ours", "trl"])
def test_reinforcement_learning_writes_one(tmp_path: Path, trainer: str) -> None:
    start = f"hf:{write_chain(tmp_path / 'chain')}"
    changes = [f'trainer="{trainer}"', "update.steps=1"]
    recipe = load_rl_recipe(str(write_recipe(tmp_path / "a", start)), changes)
    folder = trl_rl.train_trl(recipe) if trainer == "trl" else owpo.train_rl(recipe)
    header, text = card_of(folder)
    assert header["library_name"] == "transformers" and "license" not in header
    assert f"| began with | `{start}` |" in text and "rewards of asyncthink episodes on `countdown`" in text
    assert recipe.source.strip() in text and "No score of it was measured" in text
    (folder / "README.md").write_text("mine")
    write_model_card(folder, recipe)
    assert (folder / "README.md").read_text() == "mine"


def test_fine_tuning_writes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    monkeypatch.setattr(mixture, "SHARD", 30)
    folder = sft.train_sft(tiny(tmp_path / "ours", tokens="700"))
    _, text = card_of(folder)
    assert "| began with | random weights |" in text and "1.5 of worker traces of countdown" in text
    load_checkpoint(folder)
    chat = write_chat_model(tmp_path / "chat")
    path = write_chat_recipe(tmp_path / "theirs", chat, tokens=400, batch_tokens=400)
    _, text = card_of(trl_sft.train_sft(load_recipe(str(path))))
    assert f"`hf:{chat}`" in text and "1 of the file" in text and "| trainer | TRL's |" in text
