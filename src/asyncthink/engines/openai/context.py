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
        self._text = prompt

    def request(self) -> dict[str, Any]:
        """See `Context`."""
        return {"prompt": self._text}

    def resumable(self) -> bool:
        """See `Context`."""
        return True

    def add(self, chunk: Chunk) -> None:
        """See `Context`."""
        self._text += chunk.text

    def insert(self, text: str) -> Chunk:
        """See `Context`."""
        self._text += text
        return estimated(text)

    def trim(self, characters: int) -> None:
        """See `Context`."""
        self._text = self._text[: len(self._text) - characters]

    def n_tokens(self) -> int:
        """See `Context`."""
        return -(-len(self._text) // TOKEN)


class ChatContext(Context):
    """Messages, for /v1/chat/completions."""

    route = CHAT

    def __init__(self, messages: Sequence[Message], dialect: Dialect, learned: Learned) -> None:
        self._messages = [{"role": each.role, "content": each.content} for each in messages]
        self._began = len(messages)
        self._dialect, self._learned = dialect, learned
        self.prompt = estimated("\n\n".join(each.content for each in messages))
        self._length = len(self.prompt.text)

    @property
    def _continuation(self) -> Continuation:
        return Continuation.TURNS if self._learned.turns_only else self._dialect.continuation

    def request(self) -> dict[str, Any]:
        """See `Context`."""
        messages: list[dict[str, Any]] = [dict(each) for each in self._messages]
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
        return self._continuation is not Continuation.TURNS or self._messages[-1]["role"] != "assistant"

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
        last = self._messages[-1]
        if last["role"] == role and len(self._messages) > self._began:
            last["content"] += text if role == "assistant" else f"\n{text}"
        else:
            self._messages.append({"role": role, "content": text})

    def trim(self, characters: int) -> None:
        """See `Context`."""
        last = self._messages[-1]
        if last["role"] != "assistant":
            raise Trouble("nothing was decoded that could be trimmed", transient=False)
        last["content"] = last["content"][: len(last["content"]) - characters]
        self._length -= characters

    def n_tokens(self) -> int:
        """See `Context`."""
        return -(-self._length // TOKEN)
