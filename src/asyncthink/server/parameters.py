"""The parameters of a request: which there are, of which type, and what is said to the others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar, cast

import msgspec

from asyncthink.errors import RequestError, UnknownNameError

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_JSON = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
"""Python's name of a type -> JSON's."""
_NAMES = re.compile(rf"\b({'|'.join(_JSON)})\b(?=[^`]*`)")
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Extension(msgspec.Struct, kw_only=True):
    """`asyncthink` in a request: what OpenAI has no word for."""

    method: str | None = None
    """asyncthink, sequential or parallel."""
    capacity: int | None = None
    max_critical_path: int | None = None
    max_forks: int | None = None
    max_worker_tokens: int | None = None
    max_organizer_tokens: int | None = None
    deadline: float | None = None
    """Wall seconds, from when the thought begins."""
    events: bool = False
    """Chunks of a stream carry what happens."""
    episode: bool = False
    """The answer carries the whole record."""
    view: bool = False
    """Chunks of a stream carry the drawing as it grows, the last one the episode's page, as markup."""


class StreamOptions(msgspec.Struct, kw_only=True):
    """`stream_options` in a request."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Ignored: nothing is obfuscated."""


class Parameters(msgspec.Struct, kw_only=True):
    """What both endpoints take."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Seed | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    asyncthink: Extension | None = None


class ChatParameters(Parameters, kw_only=True):
    """What /v1/chat/completions takes."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None


class TextParameters(Parameters, kw_only=True):
    """What /v1/completions takes."""

    prompt: str | list[str]


P = TypeVar("P", bound=Parameters)

IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""OpenAI's parameters that do not change an answer."""
_TOOLS = "this server calls no tools"
_PENALTY = "tokens are drawn without penalties"
_EFFORT = "asyncthink.max_critical_path and max_tokens say how much may be thought"
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "answers are text"),
    "best_of": ((1,), "asyncthink.method 'parallel' thinks several times and merges"),
    "echo": ((False,), "the prompt is not repeated"),
    "frequency_penalty": ((0,), _PENALTY),
    "function_call": (("none", "auto"), _TOOLS),
    "functions": (([],), _TOOLS),
    "logit_bias": (({},), _PENALTY),
    "logprobs": ((False,), "asyncthink.episode has the log-probabilities of every token"),
    "modalities": ((["text"],), "answers are text"),
    "n": ((1,), "one answer a request: send several requests"),
    "prediction": ((), "there is no predicted output"),
    "presence_penalty": ((0,), _PENALTY),
    "reasoning_effort": ((), _EFFORT),
    "response_format": (({"type": "text"},), "answers are text"),
    "suffix": (("",), "text is not filled in"),
    "tool_choice": (("none", "auto"), _TOOLS),
    "tools": (([],), _TOOLS),
    "top_logprobs": ((0,), "asyncthink.episode has the log-probabilities of every token"),
    "verbosity": ((), _EFFORT),
    "web_search_options": ((), _TOOLS),
}
"""OpenAI's parameters that would change an answer -> values that ask for nothing, and what is said to all others."""


def convert(raw: Mapping[str, Any], shape: type[P]) -> P:
    """Return the parameters of a request.

    Raises:
        RequestError: one is unknown, missing, of another type, or asks for what there is not.
    """
    given = {key: value for key, value in raw.items() if value is not None}
    for name, (harmless, why) in REFUSED.items():
        if name in given and given.pop(name) not in harmless:
            raise RequestError(f"{name} is not supported: {why}", param=name, code="unsupported_parameter")
    for name in IGNORED:
        given.pop(name, None)
    _check_keys(given, shape, "", IGNORED)
    for section, inner in (("stream_options", StreamOptions), ("asyncthink", Extension)):
        if isinstance(found := given.get(section), dict):
            _check_keys(cast("dict[str, Any]", found), inner, f"{section}.")
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        param = place[1] if place else None
        what = _NAMES.sub(lambda name: _JSON[name[0]], _PLACE.sub("", str(error)))
        if missing := _MISSING.search(what):
            param = f"{param}.{missing[1]}" if param else missing[1]
            raise RequestError(f"{param} is missing", param=param, code="missing_parameter") from None
        raise RequestError(f"{param or 'the body'}: {what}", param=param, code="invalid_type") from None


def _check_keys(
    given: Mapping[str, Any], shape: type[msgspec.Struct], prefix: str, more: Collection[str] = ()
) -> None:
    known = (*shape.__struct_fields__, *sorted(more))
    for key in given:
        if key not in known:
            unknown = UnknownNameError("parameter", prefix + key, [prefix + name for name in known])
            raise RequestError(str(unknown), param=prefix + key, code="unknown_parameter")
