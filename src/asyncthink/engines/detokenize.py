"""From token ids back to text, one token at a time and without loss.

A token is bytes; text is what those bytes spell in UTF-8. An incomplete character is held back until the
token that completes it.
"""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_DECODER = getincrementaldecoder("utf-8")


class TokenBytes:
    """The bytes of every token of a tokenizer; special tokens have none."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        kinds = _decoder_kinds(tokenizer)
        self._fallback = "ByteFallback" in kinds
        self._letters = byte_letters() if "ByteLevel" in kinds else None
        self._added = tokenizer.get_added_tokens_decoder()
        self._anchor: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token: int) -> bytes:
        if token not in self._known:
            self._known[token] = self._find(token)
        return self._known[token]

    def _find(self, token: int) -> bytes:
        if added := self._added.get(token):
            return b"" if added.special else added.content.encode()
        name = self._tokenizer.id_to_token(token) or ""
        if self._fallback and (match := _BYTE.fullmatch(name)):
            return bytes.fromhex(match[1])
        if self._letters is not None and all(letter in self._letters for letter in name):
            return bytes(self._letters[letter] for letter in name)
        return self._in_context(token).encode()

    def _in_context(self, token: int) -> str:
        """Return what the token adds behind a letter: decoders treat the first token of a text differently."""
        before = self._tokenizer.decode(self._anchor)
        both = self._tokenizer.decode([*self._anchor, token])
        return both[len(before) :] if both.startswith(before) else self._tokenizer.decode([token])


class Detokenizer:
    """The text of one decode block."""

    def __init__(self, table: TokenBytes) -> None:
        self._table = table
        self._decoder = _DECODER(errors="replace")

    def feed(self, token: int, *, last: bool = False) -> str:
        """Return the text that the token completes; with `last`, what is incomplete becomes U+FFFD."""
        return self._decoder.decode(self._table[token], last)

    def flush(self) -> str:
        """Return what is held back, as U+FFFD."""
        return self._decoder.decode(b"", True)


def byte_letters() -> dict[str, int]:
    """Return the letters by which byte-level tokenizers write bytes (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in plain)
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


def _decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    """Return the names of the tokenizer's decoders, those in a sequence included."""
    decoder: Any = tokenizer.decoder
    if decoder is None:
        return set()
    state: Mapping[str, Any] = json.loads(decoder.__getstate__())
    return {state["type"], *(each["type"] for each in state.get("decoders", ()))}
