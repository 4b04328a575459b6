"""One request of an agent: its body, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from asyncthink.engines.base import Chunk, Sampling
from asyncthink.engines.openai.context import CHAT, estimate
from asyncthink.engines.openai.pieces import Counts, Piece, one_line

if TYPE_CHECKING:
    from asyncthink.engines.openai.session import RemoteSession

ANY_NUMBER = 1_000_000
"""From here on a token limit is none: the server is left to its own."""
COMPLETION = 2048
"""Tokens asked for at a time of a completions server of unknown context: left alone, it stops after 16."""
SMALLEST = 16
"""Tokens that are asked for at least, where room has to be estimated."""


class Request:
    """One request: its body, and what it came to."""

    def __init__(
        self, session: RemoteSession, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> None:
        engine = session.engine
        self.limit = _limit(max_tokens, engine.capabilities.context, session)
        self.body: dict[str, Any] = {
            "model": engine.model,
            **session.context.request(),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": _seed(sampling.seed, session.path),
        }
        if engine.policy is not None:  # what other weights computed is of no use
            self.body["cache_salt"] = engine.policy
        if self.limit is not None:
            self.body["max_tokens"] = self.limit
        if engine.dialect.usage_each_event:
            self.body["stream_options"]["continuous_usage_stats"] = True
        if engine.dialect.keep_stop and stops:
            self.body |= {"stop": list(stops), **engine.dialect.keep_stop}
        self.body = engine.learned.fit(self.body | dict(engine.extra_body))
        self.finish: str | None = None
        self.refusal = ""
        self.arrived = 0
        """Tokens delivered."""
        self._each_event = engine.dialect.usage_each_event
        self._session, self._usage = session, session.usage
        self._input, self._context_tokens = session.n_tokens(), session.context.n_tokens()
        self._cached = self._output = 0
        self._counts: Counts | None = None
        self._usage.requests += 1
        self._accepted = self._counted_all = False

    def accepted(self) -> None:
        """Take note that the server took it: from here on it is billed."""
        self._accepted = True
        self._usage.input_tokens += self._input

    def count(self, piece: Piece) -> int | None:
        """Take in what the server counted; return how many tokens the piece is, where that is known."""
        n_tokens = None
        if piece.token_ids is not None:
            n_tokens = len(piece.token_ids)
            self._counted_all = True
        elif piece.logprobs is not None:
            n_tokens = len(piece.logprobs)
        counts = piece.counts
        if counts is not None:
            if self._each_event and counts.output is not None and not piece.reasoning:
                n_tokens = max(0, counts.output - max(self._output, self.arrived))
            self._bill(counts)
        return n_tokens

    def arrive(self, chunk: Chunk) -> None:
        """Take note of a delivered chunk."""
        self.arrived += chunk.n_tokens
        if self.arrived > self._output:
            self._bill_output(self.arrived)

    def close(self) -> None:
        """Take note of a request whose server never told what it counted."""
        if self._accepted and not self._counted_all:
            self._usage.exact = False

    @property
    def decoded(self) -> int:
        """Tokens it came to, by the server's count where that is higher."""
        return max(self.arrived, self._output)

    def ended_badly(self) -> str | None:
        """Return why the text ended that nobody can go on from."""
        if self.refusal:
            return f"the model refused: {one_line(self.refusal)}"
        if self.finish == "content_filter":
            return "the server's content filter stopped the text"
        if self.finish in ("tool_calls", "function_call"):
            return "the model called a tool, and was given none"
        return None

    def filled(self, window: int | None) -> bool:
        """Whether the model has read and written as many tokens as it can."""
        return window is not None and self._input + self.decoded >= window - 1

    def reasoned(self, piece: Piece) -> Chunk:
        """Return what a server shows as reasoning: counted, never read."""
        text = piece.reasoning
        return Chunk(text=text, n_tokens=estimate(text), exact=False, hidden=True)

    def uncounted(self) -> Chunk | None:
        """Return the tokens that the server says it decoded beyond those that arrived.

        A single one is the token that ended the text; more are hidden reasoning.
        """
        counts = self._counts
        missing = (counts.output or 0) - self.arrived if counts else 0
        if counts is None or missing <= 0:
            return None
        return Chunk(text="", n_tokens=missing, hidden=counts.reasoning > 0 or missing > 1)

    def _bill(self, counts: Counts) -> None:
        usage = self._usage
        self._counts, self._counted_all = counts, True
        if counts.input:
            self._session.scale = max(1.0, counts.input / max(1, self._context_tokens))
            usage.input_tokens += counts.input - self._input
            self._input = counts.input
            usage.cached_tokens += counts.cached - self._cached
            self._cached = counts.cached
        if counts.output is not None:
            self._bill_output(counts.output)

    def _bill_output(self, output: int) -> None:
        self._usage.output_tokens += output - self._output
        self._output = output


def _limit(max_tokens: int, window: int | None, session: RemoteSession) -> int | None:
    """Return how many tokens to ask for; None: as many as the server gives."""
    if session.most is not None:
        return min(max_tokens, session.most)
    if session.engine.capabilities.token_ids:
        return min(max_tokens, COMPLETION if window is None else max(1, window - session.context.n_tokens()))
    # Servers refuse more than fits, and how much does is an estimate.
    room = None if window is None else max(SMALLEST, window - int(1.3 * session.n_tokens()) - SMALLEST)
    if session.context.route == CHAT:
        return None if max_tokens >= ANY_NUMBER or (room is not None and max_tokens > room) else max_tokens
    return min(max_tokens, COMPLETION if room is None else room)


def _seed(seed: int, path: str) -> int:
    """Return an agent's own seed: 31 bits, since some servers take no more."""
    return int.from_bytes(sha256(f"{seed}/{path}".encode()).digest()[:4]) >> 1
