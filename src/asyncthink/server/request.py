"""A body in OpenAI's language -> what is to be thought."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncthink.errors import RequestError, UnknownNameError, UsageError
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Method, Organization, method_of
from asyncthink.server.messages import question
from asyncthink.server.parameters import ChatParameters, Extension, Parameters, TextParameters, convert
from asyncthink.server.settings import Settings

METHODS = (Method.ASYNCTHINK, Method.SEQUENTIAL, Method.PARALLEL)
_MOST_STOPS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ThoughtRequest:
    """One request, understood."""

    organization: Organization
    """As this request wants it, over the engine that all share."""
    model: str
    """As the client named it."""
    query: str
    seed: int
    stops: tuple[str, ...]
    """The answer is cut before the first of them."""
    chat: bool
    stream: bool
    usage: bool
    """The stream ends with a chunk of usage."""
    events: bool
    episode: bool
    view: bool


def served(organization: Organization, settings: Settings) -> dict[str, Method]:
    """Return the names of the models that are served, and how each of them thinks."""
    variants = {
        f"{settings.model}:{method}": method for method in METHODS if method is not organization.method
    }
    return {settings.model: organization.method, **variants}


def understand(
    raw: Mapping[str, Any], organization: Organization, settings: Settings, *, chat: bool
) -> ThoughtRequest:
    """Return what a body asks for.

    Raises:
        RequestError: it cannot be done; the message says what can.
    """
    given: ChatParameters | TextParameters
    if chat:
        given = convert(raw, ChatParameters)
        method = _method(given, organization, settings)
        query = question(given.messages, alone=organization.engine.profile.tasks is not None)
    else:
        given = convert(raw, TextParameters)
        method = _method(given, organization, settings)
        query = _prompt(given.prompt)
    if given.stream_options is not None and not given.stream:
        raise RequestError("stream_options needs stream", param="stream_options")
    wish = given.asyncthink or Extension()
    for name in ("events", "view"):
        if getattr(wish, name) and not given.stream:
            raise RequestError(f"asyncthink.{name} needs stream", param=f"asyncthink.{name}")
    changed = _organization(given, wish, method, organization, settings)
    try:
        changed.capacity_for(query)
    except UsageError as error:
        raise RequestError(
            str(error), param="messages" if chat else "prompt", code="unsupported_query"
        ) from None
    return ThoughtRequest(
        organization=changed,
        model=given.model,
        query=query,
        seed=secrets.randbelow(2**31) if given.seed is None else given.seed,
        stops=_stops(given.stop),
        chat=chat,
        stream=bool(given.stream),
        usage=bool(given.stream_options and given.stream_options.include_usage),
        events=wish.events,
        episode=wish.episode,
        view=wish.view,
    )


def _method(given: Parameters, organization: Organization, settings: Settings) -> Method:
    models = served(organization, settings)
    if given.model not in models:
        unknown = UnknownNameError("model", given.model, models)
        raise RequestError(str(unknown), status=404, param="model", code="model_not_found")
    method, wished = models[given.model], given.asyncthink and given.asyncthink.method
    if wished is None:
        return method
    if wished not in METHODS:
        unknown = UnknownNameError("method", wished, METHODS)
        raise RequestError(str(unknown), param="asyncthink.method", code="unknown_method")
    if given.model != settings.model and wished != method:
        raise RequestError(
            f"the model {given.model!r} thinks by the method {str(method)!r}: ask {settings.model!r} for another",
            param="asyncthink.method",
        )
    return method_of(wished)


def _organization(
    given: ChatParameters | TextParameters,
    wish: Extension,
    method: Method,
    organization: Organization,
    settings: Settings,
) -> Organization:
    wished = [given.max_tokens, given.max_completion_tokens if isinstance(given, ChatParameters) else None]
    changes: dict[str, Any] = {"method": method}
    if method is not Method.PLAN:
        changes["plan"] = None
    if given.temperature is not None:
        changes["temperature"] = given.temperature
    if given.top_p is not None:
        changes["top_p"] = given.top_p
    if wish.capacity is not None:
        changes["capacity"] = min(wish.capacity, settings.max_capacity)
    try:
        limits = Limits(
            max_tokens=min((each for each in wished if each is not None), default=None),
            max_critical_path=wish.max_critical_path,
            max_forks=wish.max_forks,
            max_worker_tokens=wish.max_worker_tokens,
            max_organizer_tokens=wish.max_organizer_tokens,
            deadline=wish.deadline,
        )
        return organization.like(**changes, limits=limits.within(organization.limits))
    except UsageError as error:
        name = str(error).partition(" ")[0]  # every such message begins with what is wrong
        param = f"asyncthink.{name}" if name in wish.__struct_fields__ else name
        raise RequestError(str(error), param=param, code="invalid_value") from None


def _prompt(prompt: str | list[str]) -> str:
    if isinstance(prompt, list):
        if len(prompt) != 1:
            raise RequestError("one prompt a request: send several requests", param="prompt")
        prompt = prompt[0]
    if not prompt.strip():
        raise RequestError("the prompt is empty", param="prompt")
    return prompt


def _stops(given: str | list[str] | None) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else tuple(given or ())
    if len(stops) > _MOST_STOPS or not all(stops):
        raise RequestError(f"stop is a text, or at most {_MOST_STOPS} of them, none empty", param="stop")
    return stops
