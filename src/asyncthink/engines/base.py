"""What an engine is: a prompt goes in; text, token ids and log-probabilities come out.

Engines know no tags: where to stop reaches them as strings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of what an agent is told; the last one is the bare query."""

    role: str
    """system or user."""
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    """Random numbers are keyed by (seed, path), so that an agent's text does not depend on its siblings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A piece of context with its tokens."""

    text: str
    n_tokens: int
    exact: bool = True
    """False where n_tokens is an estimate."""
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """Natural logarithms, one a token, at temperature 1; None for text that was not sampled."""
    hidden: bool = False
    """Reasoning that a server keeps apart from the text: it costs its tokens, and nobody reads it."""


@dataclass(kw_only=True, slots=True)
class Usage:
    """What a session's requests to a server came to, so far."""

    requests: int = 0
    retries: int = 0
    """Of these, the ones that repeated a failed one."""
    input_tokens: int = 0
    """Tokens sent, the prefix of every resumed request included."""
    cached_tokens: int = 0
    """Of these, tokens that the server had in its cache."""
    output_tokens: int = 0
    exact: bool = True
    """False where the server did not tell and tokens were estimated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What an engine can do; what its users go by, and `doctor` shows."""

    token_ids: bool
    streaming: bool
    """It yields text as it is decoded, so that its user can cut it; else it is given stop strings."""
    continues: bool
    """It goes on from its own text after an insertion, without a new turn."""
    aborts: bool = True
    """Leaving a decode block frees the request at once."""
    lockstep: bool = False
    """It advances all agents together, one token a tick, so that real order equals the virtual clock."""
    context: int | None = None
    """Longest context in tokens; None: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What a model declares about itself."""

    capacity: int | None = None
    """Agent pool capacity it was trained with; None: no preference."""
    tasks: Mapping[str, Mapping[str, Any]] | None = None
    """Task name -> limits; None: it takes any question."""
    temperature: float = 1.0
    """Sampling temperature it works best with."""
    trained: bool = False
    """It was trained on the protocol: it needs no instructions and no reminders."""


class Session(Protocol):
    """One agent's context, which grows.

    An agent is *awake* from `open` on; it rests while it waits for somebody else. Engines that advance
    agents together (scripted, local) move when every agent that is awake has asked for its next token, so
    whoever ends a wait calls `wake` before it goes on itself. For other engines both may do nothing.
    """

    @property
    def prompt(self) -> Chunk:
        """The prompt as the engine saw it."""
        ...

    def decode(
        self, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Decode until a stop string is complete (it is kept), the model ends, or max_tokens.

        Entering never waits for the network; leaving the block aborts the request.

        Raises:
            EngineError: while iterating.
        """
        ...

    def insert(self, text: str) -> Chunk:
        """Append text that the model did not write; return it with its tokens."""
        ...

    def trim(self, characters: int) -> None:
        """Forget the last characters that were decoded: they stand past a cut.

        Never asked of a chunk that is exactly one token.
        """
        ...

    @property
    def usage(self) -> Usage | None:
        """What its requests came to so far; None where nobody counts."""
        ...

    def rest(self) -> None:
        """The agent waits for somebody else."""
        ...

    def wake(self) -> None:
        """Its wait is over."""
        ...

    def close(self) -> None:
        """Free what the session held; may be called twice."""
        ...


class Engine(Protocol):
    """A model that answers; an async context manager that holds it open."""

    name: str
    capabilities: Capabilities
    profile: Profile

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> Session:
        """Begin a context; never waits. `episode` and `path` name the agent."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...
