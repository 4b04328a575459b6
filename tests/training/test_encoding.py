"""Rows and batches: what is in the loss, and that batches lose nothing."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from random import Random

import torch

from asyncthink.engines.base import Profile
from asyncthink.engines.llama import Llama
from asyncthink.training.encoding import IGNORED, Row, batches, encode_example, new_lexicon, tensors
from asyncthink.training.recipe import ModelRecipe
from asyncthink.training.sft import loss_of, model_config
from asyncthink.training.synthesis import Example, Piece
from tests.training.sft_world import examples

SHAPE = ModelRecipe(hidden_size=32, intermediate_size=48, layers=1, heads=2, head_dim=16)


def test_the_loss_sees_what_the_model_writes_and_nothing_else() -> None:
    lexicon = new_lexicon()
    some = examples()
    assert sum(not piece.trained for one in some for piece in one.pieces) > 10
    rows = [encode_example(lexicon, one) for one in some]
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
            (kept, lexicon.tokenizer.decode([token for token, _ in group], skip_special_tokens=False))
            for kept, group in groupby(masked, lambda pair: pair[1])
        ]
        *pieces, last = example.pieces
        expected = [(False, f"<bos>{prompt_of(example)}")]
        expected += [(piece.trained, piece.text) for piece in pieces]
        assert stretches == [*expected, (True, f"{last.text}<eos>")]


def prompt_of(example: Example) -> str:
    if example.role == "worker":
        return f"Solve {example.query.strip()}\n"
    return f"{example.query}\nAgents: {example.capacity}\n"


def test_a_row_by_hand() -> None:
    example = Example(
        role="worker",
        query=" 2 5 > 7",
        capacity=1,
        pieces=(
            Piece(text=" 2 5", trained=True),
            Piece(text=" |", trained=False),
            Piece(text=" =", trained=True),
        ),
    )
    lexicon = new_lexicon()
    row = encode_example(lexicon, example)
    tokens = [lexicon.tokenizer.id_to_token(token) for token in row.ids]
    assert tokens == ["<bos>", "Solve", " 2", " 5", " >", " 7", "\n", " 2", " 5", " |", " =", "<eos>"]
    assert row.trained == [*[False] * 7, True, True, False, True, True]


def test_tensors_by_hand() -> None:
    rows = [Row([1, 5, 6, 2], [False, False, True, True]), Row([1, 7], [False, True])]
    ids, targets = tensors(rows)
    assert ids.tolist() == [[1, 5, 6], [1, 7, 0]]
    assert targets.tolist() == [[IGNORED, 6, 2], [7, IGNORED, IGNORED]]


def test_loss_is_the_mean_over_trained_tokens_whatever_the_company() -> None:
    lexicon = new_lexicon()
    rows = [encode_example(lexicon, one) for one in examples()]
    rows = [rows[0], rows[-1]]
    assert len(rows[0].ids) != len(rows[1].ids)
    model = Llama(model_config(SHAPE, lexicon))
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
    assert batches(rows, 100, Random(7)) == batches(rows, 100, Random(7)) != batches(rows, 100, Random(8))


def test_a_new_lexicon_declares_a_model_that_was_trained_on_the_protocol() -> None:
    lexicon = new_lexicon()
    assert lexicon.profile == Profile(trained=True)
    assert [lexicon.tokenizer.id_to_token(token) for token in (lexicon.bos or 0, *lexicon.eos)] == [
        "<bos>",
        "<eos>",
    ]


def test_a_vocabulary_is_filled_up_to_a_multiple_of_eight() -> None:
    lexicon = new_lexicon()
    config = model_config(SHAPE, lexicon)
    assert config.vocab_size % 8 == 0 and 0 <= config.vocab_size - lexicon.tokenizer.get_vocab_size() < 8
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == (32, 1, 1024)
