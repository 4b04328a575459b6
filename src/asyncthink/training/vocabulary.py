"""The embedded model's tokenizer: a number, an operator or a tag is one token, blank before it included.

Whatever else is written falls back to bytes, so that every text can be encoded and decoded without loss.
"""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from asyncthink.protocol import tags
from asyncthink.tasks.base import NONE
from asyncthink.tasks.countdown_parts import LARGEST

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SYMBOLS = (" +", " -", " *", " /", " _-", " _/", " (", " )", " |", " :", " ;", " =", " >", " ?", " [", " ]")
WORDS = ("Using", "Agents", "Solve", " the", " numbers", " find", " different", " expressions", " expression")
MORE_WORDS = (
    " that",
    " equal",
    NONE,
    "(",
    "no",
    " result",
    ")",
    "Complete",
    " this",
    "x",
    " sudoku",
    " marks",
    " a",
    " blank",
)
INDICES = range(1, 25)
"""Fork indices that have a token of their own."""


def build_tokenizer() -> Tokenizer:
    """Return the tokenizer; ids are stable as long as the constants above are."""
    pieces = [PAD, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f" {number}" for number in range(LARGEST + 1)]
    pieces += [*SYMBOLS, *WORDS, *MORE_WORDS, "\n", ",", ".", ":"]
    spelled = [tags.fork(index, "") + tags.join(index) + tags.join_end(index) for index in INDICES]
    pieces += re.findall("<[^>]+>", "".join([*spelled, tags.returned(""), tags.answer("")]))
    model = models.BPE(
        vocab={piece: place for place, piece in enumerate(pieces)},
        merges=[],
        byte_fallback=True,
        ignore_merges=True,
    )
    tokenizer = Tokenizer(model)
    pattern = r"</?[A-Z]+(?:-[0-9]+)?>| ?[0-9]+| ?[A-Za-z]+| ?_[-/]| ?[^\sA-Za-z0-9]|\s"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([PAD, BOS, EOS])
    tokenizer.encode_special_tokens = True
    return tokenizer
