"""Examples -> rows of token ids, rows -> padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from random import Random

import torch
from torch import Tensor

from asyncthink.engines.base import Profile
from asyncthink.engines.lexicon import Lexicon, render
from asyncthink.engines.prompting import encode
from asyncthink.errors import UsageError
from asyncthink.training.synthesis import Example
from asyncthink.training.vocabulary import BOS, EOS, build_tokenizer

IGNORED = -100
"""A target that is not in the loss."""


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded example."""

    ids: list[int]
    trained: list[bool]
    """Whether each id is a target of the loss."""


def new_lexicon() -> Lexicon:
    """Return the tokenizer and the templates of models made from nothing."""
    tokenizer = build_tokenizer()
    folder = resources.files("asyncthink") / "training" / "templates"
    return Lexicon(
        tokenizer=tokenizer,
        templates={role: (folder / f"{role}.jinja").read_text() for role in ("organizer", "worker")},
        profile=Profile(trained=True),
        bos=tokenizer.token_to_id(BOS),
        eos=(tokenizer.token_to_id(EOS) or 0,),
    )


def encode_example(lexicon: Lexicon, example: Example) -> Row:
    """Encode an example behind its prompt, with an end of text; prompts and inserted text are not trained.

    Raises:
        UsageError: the checkpoint was not made for the protocol.
    """
    if example.role not in lexicon.templates or not lexicon.eos:
        raise UsageError(
            f"the checkpoint has no template for the role {example.role!r}, or no end-of-text token"
        )
    prompt = render(lexicon.templates[example.role], query=example.query, capacity=example.capacity)
    ids = [] if lexicon.bos is None else [lexicon.bos]
    return encode_pieces(lexicon, [*ids, *encode(lexicon.tokenizer, prompt)], example)


def encode_pieces(lexicon: Lexicon, prompt: Sequence[int], example: Example) -> Row:
    """Encode an example's pieces, one by one as the engine meets them, behind the ids of its prompt."""
    ids, trained = list(prompt), [False] * len(prompt)
    for piece in example.pieces:
        piece_ids = encode(lexicon.tokenizer, piece.text)
        ids += piece_ids
        trained += [piece.trained] * len(piece_ids)
    return Row([*ids, lexicon.eos[0]], [*trained, True])


def batches(rows: Sequence[Row], batch_tokens: int, random: Random) -> list[list[Row]]:
    """Group rows of like length into batches of at most `batch_tokens` padded tokens, shuffled."""
    groups: list[list[Row]] = []
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if group and (len(group) + 1) * len(row.ids) > batch_tokens:
            groups.append(group)
            group = []
        group.append(row)
    groups.append(group)
    random.shuffle(groups)
    return groups


def tensors(batch: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Pad a batch on the right; return inputs [B, T-1] and targets [B, T-1] with IGNORED outside the loss."""
    width = max(len(row.ids) for row in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    targets = torch.full((len(batch), width), IGNORED)
    for place, row in enumerate(batch):
        length = len(row.ids)
        ids[place, :length] = torch.tensor(row.ids)
        targets[place, :length] = torch.where(torch.tensor(row.trained), ids[place, :length], IGNORED)
    return ids[:, :-1], targets[:, 1:]
