"""What kinds of server are known to do, and what an engine learns when one refuses a parameter.

A server says what it is in `owned_by` of its list of models. Of an unknown one only what every server does is
expected; `asyncthink doctor` finds out more, and options say it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from asyncthink.engines.openai.retry import Trouble

_LOG = logging.getLogger(__name__)


def _has_system(body: Mapping[str, Any]) -> bool:
    messages = body.get("messages")
    return bool(messages) and messages[0].get("role") == "system"


class Continuation(StrEnum):
    """How a chat server is asked to go on from the model's own text."""

    FLAGS = "flags"
    """`continue_final_message` and no `add_generation_prompt`: vLLM, SGLang, llama.cpp."""
    PLAIN = "plain"
    """An assistant message at the end is continued as it is: Ollama."""
    MARK = "mark"
    """An assistant message at the end with `"prefix": true`: Mistral, DeepSeek."""
    TURNS = "turns"
    """Not at all: what was inserted is the next user message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """What a kind of server understands beyond the common core."""

    continuation: Continuation = Continuation.TURNS
    keep_stop: Mapping[str, Any] | None = None
    """Parameters with which a stop string stays in the text; None: it cuts it off, so none is sent."""
    usage_each_event: bool = False
    token_ids: bool = False
    """Completions take token ids and tell them, by `return_token_ids` or in their log-probabilities."""


DIALECTS: Mapping[str, Dialect] = {
    "vllm": Dialect(
        continuation=Continuation.FLAGS,
        keep_stop={"include_stop_str_in_output": True},
        usage_each_event=True,
        token_ids=True,
    ),
    "sglang": Dialect(continuation=Continuation.FLAGS, keep_stop={"no_stop_trim": True}),
    "llamacpp": Dialect(continuation=Continuation.FLAGS, token_ids=True),
    "library": Dialect(continuation=Continuation.PLAIN),
}
"""By `owned_by`; `library` is Ollama's."""

_OPTIONAL = (
    "stream_options",
    "seed",
    "stop",
    "logprobs",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "include_stop_str_in_output",
    "no_stop_trim",
    "return_token_ids",
    "cache_salt",
    "continue_final_message",
    "add_generation_prompt",
)
"""Parameters that an engine can do without."""
_REFUSAL = re.compile(
    r"unsupport|not support|unrecogni[sz]ed|not permitted|not allowed|unknown|unexpected|only the default|only user and assistant",
    re.I,
)
_NO_SYSTEM = re.compile(
    r"\bsystem\b.{0,20}\brole|\brole\b.{0,20}\bsystem\b|only user and assistant roles", re.I
)
_KEEPING = ("include_stop_str_in_output", "no_stop_trim")
_CONTINUING = ("continue_final_message", "add_generation_prompt")


@dataclass(slots=True)
class Learned:
    """What an engine found out about its servers by being refused."""

    dropped: set[str] = field(default_factory=set[str])
    system_role: bool = True
    """False: instructions go into the user's first message."""

    @property
    def turns_only(self) -> bool:
        """Whether the servers will not go on from the model's own text."""
        return not self.dropped.isdisjoint(_CONTINUING)

    def fit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Leave out of a request what was refused before."""
        if "max_tokens" in self.dropped and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        for name in self.dropped:
            body.pop(name, None)
        if not self.dropped.isdisjoint(_KEEPING):
            body.pop("stop", None)  # a stop string that is cut off the text would be lost
        return body

    def learn(self, trouble: Trouble, body: Mapping[str, Any]) -> bool:
        """Take note of a refusal of this body; say whether the request may now succeed in another form."""
        text = f"{trouble.parameter or ''} {trouble}"
        if trouble.status not in (400, 422, 500) or not _REFUSAL.search(text):
            return False
        if _has_system(body) and _NO_SYSTEM.search(text):
            if self.system_role:
                _LOG.warning("the server takes no system message: instructions go into the user's")
            self.system_role = False
            return True
        named = [name for name in _OPTIONAL if name in body and re.search(rf"\b{name}\b", text)]
        for name in sorted(named, key=lambda each: each != trouble.parameter)[:1]:
            if name not in self.dropped:  # another agent may have been told the same just now
                _LOG.warning("the server does not take %r: it is left out from now on", name)
            self.dropped.add(name)
        return bool(named)
