"""The routes, and what stands before them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from asyncthink.errors import AsyncThinkError, EngineError, RequestError, UnknownNameError
from asyncthink.runtime.organization import Organization
from asyncthink.server.admission import Admission
from asyncthink.server.journal import Journal
from asyncthink.server.request import served
from asyncthink.server.response import error_response, json_response
from asyncthink.server.security import Gate, Lock
from asyncthink.server.settings import Settings
from asyncthink.server.thinking import Thinking


def create_app(
    organization: Organization, settings: Settings, *, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """Return the application; `app.state.admission` says who is inside.

    Args:
        organization: open, and its limits bind every request.
        settings: whatever else was decided.
        routes: more of them, which the same checks stand before.
    """
    admission = Admission(settings.at_once, settings.max_waiting)
    counter = Counter(organization, settings, admission)
    paths = [
        Route(
            "/v1/chat/completions", Thinking(organization, settings, admission, chat=True), methods=["POST"]
        ),
        Route("/v1/completions", Thinking(organization, settings, admission, chat=False), methods=["POST"]),
        Route("/v1/models", counter.models, methods=["GET"]),
        Route("/v1/models/{name:path}", counter.model, methods=["GET"]),
        Route("/health", counter.health, methods=["GET"]),
        *routes,
    ]
    app = guarded(paths, settings)
    app.state.admission = admission
    return app


def guarded(routes: Sequence[BaseRoute], settings: Settings) -> Starlette:
    """Return an application whose every route stands behind the checks that the settings ask for."""
    app = Starlette(
        routes=routes,
        middleware=_middleware(settings),
        exception_handlers={AsyncThinkError: _refused, HTTPException: _not_found},
    )
    app.router.redirect_slashes = False
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    found = [
        Middleware(Journal, note=settings.note),
        Middleware(Gate, hosts=settings.allowed_hosts, origins=settings.allowed_origins),
        Middleware(Lock, token=settings.token),
    ]
    if settings.allowed_origins:  # before the lock: a browser's preflight has no token, and reaches no route
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("X-Request-Id", "Retry-After"),
        )
        found.insert(2, cors)
    return found


class Counter:
    """What can be asked without a thought."""

    def __init__(self, organization: Organization, settings: Settings, admission: Admission) -> None:
        self._names = list(served(organization, settings))
        self._admission = admission
        self._created = int(time.time())

    async def models(self, request: Request) -> Response:
        """Return the models that are served."""
        del request
        return json_response({"object": "list", "data": [self._told(name) for name in self._names]})

    async def model(self, request: Request) -> Response:
        """Return one of them."""
        name: str = request.path_params["name"]
        if name not in self._names:
            unknown = UnknownNameError("model", name, self._names)
            raise RequestError(str(unknown), status=404, param="model", code="model_not_found")
        return json_response(self._told(name))

    async def health(self, request: Request) -> Response:
        """Say how many are inside; 503 once the server is to stop."""
        del request
        admission = self._admission
        told = {"running": admission.running, "waiting": admission.waiting}
        if admission.closed:
            return json_response({"status": "stopping", **told}, 503)
        return json_response({"status": "ok", **told})

    def _told(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "asyncthink"}


async def _refused(request: Request, error: Exception) -> Response:
    del request
    if isinstance(error, RequestError):
        return error_response(error)
    if isinstance(error, EngineError):
        return error_response(RequestError(str(error), status=502, code="engine_error"))
    return error_response(RequestError(str(error)))


async def _not_found(request: Request, error: Exception) -> Response:
    """Answer what no route takes, in OpenAI's shape."""
    found = cast("HTTPException", error)
    message, code = found.detail, "unknown_url"
    if found.status_code == 404:
        known = [
            route.path for route in request.app.routes if isinstance(route, Route) and "{" not in route.path
        ]
        message = str(UnknownNameError("path", request.url.path, known))
    elif found.status_code == 405:
        allowed = (found.headers or {}).get("Allow", "")
        message, code = f"{request.method} is not for this path: {allowed} is", "method_not_allowed"
    response = error_response(RequestError(message, status=found.status_code, code=code))
    response.headers.update(found.headers or {})
    return response
