"""An agent's context as a request holds it: token ids, text, or messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from asyncthink.engines.base import Chunk, Message
from asyncthink.engines.openai.dialect import Continuation, Dialect, Learned
from asyncthink.engines.openai.pieces import Piece
from asyncthink.engines.openai.retry import Trouble

LONGEST_TOKEN = 16
"""Characters up to which a piece of unknown size counts as one token: most servers send one a piece."""
TOKEN = 4
"""Characters of a token, on average, in a longer one."""
COMPLETIONS, CHAT = "completions", "chat/completions"


def estimate(text: str) -> int:
    """Return about how many tokens a piece of text is; none for no text."""
    length = len(text)
    return -(-length // TOKEN) if length > LONGEST_TOKEN else min(length, 1)


def estimated(text: str) -> Chunk:
    """Return a text that the model did not write, with about as many tokens as it has."""
    return Chunk(text=text, n_tokens=-(-len(text) // TOKEN), exact=False)


class _Growing:
    """A text that grows by small pieces: put together only when it is asked for."""

    def __init__(self, text: str) -> None:
        self.length = len(text)
        self._parts = [text]

    def __str__(self) -> str:
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def add(self, text: str) -> None:
        """Put a text behind it."""
        self._parts.append(text)
        self.length += len(text)

    def trim(self, characters: int) -> None:
        """Take characters off its end."""
        whole = str(self)
        self._parts = [whole[: len(whole) - characters]]
        self.length = len(self._parts[0])


class Context(ABC):
    """What a request says of everything so far; grows with what was decoded and inserted."""

    route: str
    prompt: Chunk

    @abstractmethod
    def request(self) -> dict[str, Any]:
        """Return the part of a request's body that holds the context."""

    @abstractmethod
    def resumable(self) -> bool:
        """Whether a request made now goes on exactly behind the last decoded character."""

    def begin(self) -> None:  # noqa: B027
        """A decode block begins."""

    def end(self) -> list[Chunk]:
        """A decode block ends: return what was held back."""
        return []

    def chunks(self, piece: Piece, n_tokens: int | None) -> list[Chunk]:
        """Return what a piece is for the reader; `n_tokens` where the server says how many it was.

        Nothing is added yet: what the reader leaves behind never belonged to the context.
        """
        text = piece.text
        if n_tokens is None:
            return [Chunk(text=text, n_tokens=estimate(text), exact=False)] if text else []
        return [Chunk(text=text, n_tokens=n_tokens)] if text or n_tokens else []

    @abstractmethod
    def add(self, chunk: Chunk) -> None:
        """Add what was decoded and read."""

    @abstractmethod
    def insert(self, text: str) -> Chunk:
        """Add what the model did not write."""

    @abstractmethod
    def trim(self, characters: int) -> None:
        """Forget the last characters that were decoded."""

    @abstractmethod
    def n_tokens(self) -> int:
        """Return about how many tokens it has."""


class TextContext(Context):
    """Plain text, for /v1/completions."""

    route = COMPLETIONS

    def __init__(self, prompt: str) -> None:
        self.prompt = estimated(prompt)
        self._text = _Growing(prompt)

    def request(self) -> dict[str, Any]:
        """See `Context`."""
        return {"prompt": str(self._text)}

    def resumable(self) -> bool:
        """See `Context`."""
        return True

    def add(self, chunk: Chunk) -> None:
        """See `Context`."""
        self._text.add(chunk.text)

    def insert(self, text: str) -> Chunk:
        """See `Context`."""
        self._text.add(text)
        return estimated(text)

    def trim(self, characters: int) -> None:
        """See `Context`."""
        self._text.trim(characters)

    def n_tokens(self) -> int:
        """See `Context`."""
        return -(-self._text.length // TOKEN)


class ChatContext(Context):
    """Messages, for /v1/chat/completions."""

    route = CHAT

    def __init__(self, messages: Sequence[Message], dialect: Dialect, learned: Learned) -> None:
        self._messages = [(each.role, _Growing(each.content)) for each in messages]
        self._began = len(messages)
        self._dialect, self._learned = dialect, learned
        self.prompt = estimated("\n\n".join(each.content for each in messages))
        self._length = len(self.prompt.text)

    @property
    def _continuation(self) -> Continuation:
        return Continuation.TURNS if self._learned.turns_only else self._dialect.continuation

    def request(self) -> dict[str, Any]:
        """See `Context`."""
        messages: list[dict[str, Any]] = []
        for role, content in self._messages:
            if messages and messages[-1]["role"] == role:  # strict templates want turns to alternate
                messages[-1]["content"] += f"\n{content}"
            else:
                messages.append({"role": role, "content": str(content)})
        body: dict[str, Any] = {"messages": messages}
        if not self._learned.system_role and messages[0]["role"] == "system":
            first = messages.pop(0)
            messages[0]["content"] = f"{first['content']}\n\n{messages[0]['content']}"
        if messages[-1]["role"] == "assistant":
            match self._continuation:
                case Continuation.FLAGS:
                    body |= {"continue_final_message": True, "add_generation_prompt": False}
                case Continuation.MARK:
                    messages[-1]["prefix"] = True
                case Continuation.PLAIN:
                    pass
                case Continuation.TURNS:
                    messages.append({"role": "user", "content": "Go on exactly where you stopped."})
        return body

    def resumable(self) -> bool:
        """See `Context`."""
        return self._continuation is not Continuation.TURNS or self._messages[-1][0] != "assistant"

    def add(self, chunk: Chunk) -> None:
        """See `Context`."""
        if chunk.text:
            self._say("assistant", chunk.text)

    def insert(self, text: str) -> Chunk:
        """See `Context`: as a turn of the user's, or in the assistant's own."""
        if self._continuation is Continuation.TURNS:
            self._say("user", text)
        else:
            self._say("assistant", text)
        return estimated(text)

    def _say(self, role: str, text: str) -> None:
        self._length += len(text)
        last, content = self._messages[-1]
        if last == role and len(self._messages) > self._began:
            content.add(text if role == "assistant" else f"\n{text}")
        else:
            self._messages.append((role, _Growing(text)))

    def trim(self, characters: int) -> None:
        """See `Context`."""
        last, content = self._messages[-1]
        if last != "assistant":
            raise Trouble("nothing was decoded that could be trimmed", transient=False)
        content.trim(characters)
        self._length -= characters

    def n_tokens(self) -> int:
        """See `Context`."""
        return -(-self._length // TOKEN)
