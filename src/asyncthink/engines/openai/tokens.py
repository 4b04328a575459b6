"""A context of token ids, for servers that take them and tell them: what the model saw, exactly.

The tokenizer is that of the served checkpoint; it encodes prompts and insertions and spells single tokens.
What was decoded is never encoded again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncthink.engines.base import Chunk
from asyncthink.engines.detokenize import Detokenizer, TokenBytes
from asyncthink.engines.lexicon import Lexicon, load_lexicon
from asyncthink.engines.openai.context import COMPLETIONS, Context
from asyncthink.engines.openai.pieces import Piece
from asyncthink.engines.openai.retry import Trouble
from asyncthink.engines.prompting import Prompts


class Tokens:
    """What all contexts of an engine share: the served checkpoint's tokenizer and templates.

    Raises:
        CheckpointError: the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.lexicon: Lexicon = load_lexicon(folder)
        self.prompts = Prompts(folder, self.lexicon)
        self.table = TokenBytes(self.lexicon.tokenizer)
        self.eos = frozenset(self.lexicon.eos)
        self.begin = self._begin()
        """What a prompt that is sent as text begins with: the first token's name, unless the server adds it."""

    def _begin(self) -> str:
        bos, tokenizer = self.lexicon.bos, self.lexicon.tokenizer
        if bos is None or bos in tokenizer.encode("a", add_special_tokens=True).ids:
            return ""
        return tokenizer.id_to_token(bos) or ""


class TokenContext(Context):
    """Token ids, for /v1/completions."""

    route = COMPLETIONS

    def __init__(self, prompt: Chunk, tokens: Tokens) -> None:
        self.prompt = prompt
        self._tokens = tokens
        self._ids = list(prompt.token_ids or ())
        self._text = Detokenizer(tokens.table)

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens of the context: prompt, decoded and inserted."""
        return tuple(self._ids)

    def request(self) -> dict[str, Any]:
        """See `Context`."""
        return {"prompt": self._ids, "return_token_ids": True, "logprobs": 1}

    def resumable(self) -> bool:
        """See `Context`."""
        return True

    def begin(self) -> None:
        """See `Context`."""
        self._text = Detokenizer(self._tokens.table)

    def chunks(self, piece: Piece, n_tokens: int | None) -> list[Chunk]:
        """See `Context`: one chunk a token, so that a cut never divides one."""
        if piece.token_ids is None:
            if piece.text:
                raise Trouble("the server sent text without token ids", transient=False)
            return []
        logprobs = piece.logprobs or ()
        known = len(logprobs) == len(piece.token_ids)
        try:
            return [
                Chunk(
                    text="" if token in self._tokens.eos else self._text.feed(token),
                    n_tokens=1,
                    token_ids=(token,),
                    logprobs=(logprobs[place],) if known else None,
                )
                for place, token in enumerate(piece.token_ids)
            ]
        except OverflowError as error:
            raise Trouble("the server sent a token id that no tokenizer has", transient=False) from error

    def add(self, chunk: Chunk) -> None:
        """See `Context`."""
        self._ids += chunk.token_ids or ()

    def end(self) -> list[Chunk]:
        """See `Context`: half a character at the end is shown as a replacement mark."""
        rest = self._text.flush()
        return [Chunk(text=rest, n_tokens=0, token_ids=(), logprobs=())] if rest else []

    def insert(self, text: str) -> Chunk:
        """See `Context`; special-token strings in the text stay text."""
        chunk = self._tokens.prompts.insertion(text)
        self._ids += chunk.token_ids or ()
        return chunk

    def trim(self, characters: int) -> None:
        """See `Context`."""
        raise Trouble(f"a token cannot be cut, not by {characters} characters", transient=False)

    def n_tokens(self) -> int:
        """See `Context`."""
        return len(self._ids)
