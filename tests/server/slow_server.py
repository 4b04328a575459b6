"""`asyncthink serve` over a scripted engine that takes its time, with `/_probe`: what is alive in the process.

python slow_server.py '{"script": {"organizer": ...}, "delay": 0.01}' serve --port 0 ...
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from asyncthink.cli.main import run
from asyncthink.engines import models
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.server import listening


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv.pop(1))
    engine = ScriptedEngine(options["script"], delay=options.get("delay", 0.0))

    def load(name: str, server: object = None) -> ScriptedEngine:
        del name, server
        return engine

    async def probe(request: Request) -> JSONResponse:
        admission = request.app.state.admission
        sessions = sum(unit.members for unit in engine.units.values())
        inside = {"running": admission.running, "waiting": admission.waiting}
        episodes = len(engine.units)
        return JSONResponse(
            {"sessions": sessions, "episodes": episodes, "tasks": len(asyncio.all_tasks()), **inside}
        )

    whole = listening.serve

    async def serve(*arguments: Any, routes: Sequence[BaseRoute] = ()) -> int:
        return await whole(*arguments, routes=[*routes, Route("/_probe", probe)])

    models.load_engine = load
    listening.serve = serve
    run()


if __name__ == "__main__":
    main()
