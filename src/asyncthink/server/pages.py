"""Runs and episodes as pages: routes for an application that guards them.

/                                   the runs
/runs/NAME                          a run's episodes, a table
/runs/NAME/lines?from=N             its lines from the Nth on, as far as they are read in a moment
/runs/NAME/episodes/N               an episode; with .html, .svg, .json or .trace.json the same as a file
/runs/NAME/report                   what the run reported
"""

from __future__ import annotations

import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from asyncthink.episodes.record import Episode, encode
from asyncthink.episodes.store import RunDirectory
from asyncthink.errors import AsyncThinkError, RecordError
from asyncthink.viewer import chrome, html
from asyncthink.viewer.index import RunLines, runs_below
from asyncthink.viewer.library import Shelf, asking_page, episode_page, run_page, runs_page
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.svg import draw
from asyncthink.viewer.timeline import timeline

AT_FIRST, AT_ONCE = 0.25, 1.0
"""Seconds that a request for lines reads: the first one of a table, and any other."""
_HTML = "text/html; charset=utf-8"
KINDS: Mapping[str, tuple[str, Callable[[Episode], bytes]]] = {
    "html": (_HTML, lambda episode: html.page(episode).encode()),
    "svg": ("image/svg+xml", lambda episode: draw(timeline(episode)).encode()),
    "json": ("application/json", encode),
    "trace.json": ("application/json", chrome.trace),
}
"""What an episode can be had as: media type, and how it is made."""


class Library:
    """The runs in a folder, or one run.

    Args:
        folder: where they are; it is looked through again whenever the list is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, RunLines] = {}

    def names(self) -> dict[str, Path]:
        """Return the runs that there are now, by name: the path below the folder, `!` for its slashes, or the folder's own."""
        if not self.folder.is_dir():
            return {}
        found = list(runs_below(self.folder))
        return {self._name(path): path for path in found}

    def _name(self, path: Path) -> str:
        return (
            path.name if path == self.folder else path.relative_to(self.folder).as_posix().replace("/", "!")
        )

    def run(self, name: str) -> RunLines:
        """Return a run.

        Raises:
            RecordError: there is none of that name, or it cannot be read.
        """
        path = self.names().get(name)
        if path is None:
            raise RecordError(f"there is no run {head(name, 80)!r}")
        if name not in self._open:
            self._open[name] = RunLines(RunDirectory.open(path))
        return self._open[name]

    def shelf(self, name: str, path: Path) -> Shelf:
        """Return what the list says of a run; a broken one is in it too."""
        try:
            run = RunDirectory.open(path)
            manifest = {**_settings(run.config), **run.manifest}
        except RecordError as error:
            manifest = {"kind": f"broken: {error}"}
        told = [str(manifest[key]) for key in ("kind", "command", "model", "task") if key in manifest]
        return Shelf(
            name=head(name, 120),
            address=address(name),
            created=head(str(manifest.get("created", "")).replace("T", " ").replace("+00:00", " UTC"), 40),
            about=head(", ".join(told), 160),
        )


def _settings(config: str) -> dict[str, Any]:
    """Return a run's settings; none where they cannot be read: then the list says less."""
    try:
        return tomllib.loads(config)
    except tomllib.TOMLDecodeError:
        return {}


def address(name: str) -> str:
    """Return the path of a run's page."""
    return f"/runs/{quote(name, safe='')}"


def routes(library: Library, models: Sequence[str] = (), example: str = "") -> list[Route]:
    """Return the routes of a library.

    Args:
        library: the runs.
        models: what the first page can ask; none: it only lists the runs.
        example: the question that it begins with.
    """

    def runs(request: Request) -> Response:
        del request
        shelves = [library.shelf(name, path) for name, path in library.names().items()]
        return HTMLResponse(asking_page(models, shelves, example) if models else runs_page(shelves))

    def run(request: Request) -> Response:
        name = request.path_params["name"]
        lines = library.run(name)
        report = f"{address(name)}/report" if (lines.run.path / "report.html").is_file() else None
        return HTMLResponse(run_page(head(name, 120), address(name), report=report, up="/"))

    def lines(request: Request) -> Response:
        first = _number(request.query_params.get("from", "0"))
        found = library.run(request.path_params["name"])
        everything = found.read((AT_ONCE if first else AT_FIRST) if len(found.lines) <= first else 0.0)
        told = {"lines": found.lines[first:], "all": everything, "broken": found.broken}
        return Response(msgspec.json.encode(told), media_type="application/json")

    def episode(request: Request) -> Response:
        name = request.path_params["name"]
        number, _, kind = request.path_params["number"].partition(".")
        found = library.run(name)
        one = found.episode(_number(number))
        if not kind:
            return HTMLResponse(
                episode_page(one, number=int(number), count=len(found.lines), address=address(name))
            )
        if kind not in KINDS:
            raise RecordError(f"an episode is to be had as {', '.join(KINDS)}")
        media, made = KINDS[kind]
        file = f'attachment; filename="episode-{int(number)}.{kind}"'
        return Response(made(one), media_type=media, headers={"content-disposition": file})

    def report(request: Request) -> Response:
        path = library.run(request.path_params["name"]).run.path / "report.html"
        try:
            return Response(path.read_bytes(), media_type=_HTML)
        except OSError:
            raise RecordError("this run has no report") from None

    return [
        Route("/", _told(runs)),
        Route("/runs/{name}", _told(run)),
        Route("/runs/{name}/lines", _told(lines)),
        Route("/runs/{name}/episodes/{number}", _told(episode)),
        Route("/runs/{name}/report", _told(report)),
    ]


def _told(answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Answer in a thread, since files are read; what is not there is told as a line of text."""

    async def endpoint(request: Request) -> Response:
        try:
            return await to_thread.run_sync(answer, request)
        except AsyncThinkError as error:
            return Response(f"{error}\n", 404, media_type="text/plain; charset=utf-8")

    return endpoint


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise RecordError(f"{head(text, 40)!r} is no number")
    return int(text)
