"""`asyncthink view`: runs and episodes in the browser, or one episode as a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from asyncthink.cli.options import FAILED_OUTPUT, fail, one_line_errors, option
from asyncthink.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from asyncthink.episodes.record import Episode
    from asyncthink.viewer.timeline import Base


@one_line_errors
def view_command(
    path: Annotated[
        str,
        typer.Argument(
            help="A run directory, a folder of runs, or a file with one episode: a run's line, or a record."
        ),
    ] = "runs",
    episode: Annotated[
        str | None, option("--episode", "Which one: its number in the run, or its id or how that begins.")
    ] = None,
    html: Annotated[
        str | None, option("--html", "Write the episode's page, which needs nothing else.")
    ] = None,
    svg: Annotated[str | None, option("--svg", "Write the drawing alone.")] = None,
    chrome_trace: Annotated[
        str | None, option("--chrome-trace", "Write a trace for Perfetto or chrome://tracing.")
    ] = None,
    base: Annotated[str, option("--base", "Of the drawing and the trace: ticks or wall.")] = "ticks",
    port: Annotated[
        int, option("--port", "Of the page's server; 0: any that is free.", min=0, max=65535)
    ] = 0,
    browser: Annotated[bool, option("--browser/--no-browser", "Open the page.")] = True,
) -> None:
    """Look at runs and episodes: who worked when, what waited for what, and what each fork was worth.

    asyncthink view runs/countdown

    asyncthink view runs/countdown --episode 17 --html episode.html

    A - instead of a file stands for standard output.
    """
    from pathlib import Path

    from asyncthink.episodes.store import EPISODES, MANIFEST

    files = {"html": html, "svg": svg, "trace": chrome_trace}
    wanted = {kind: file for kind, file in files.items() if file is not None}
    time = _base(base)
    where = Path(path)
    if where.name == EPISODES and (where.parent / MANIFEST).is_file():
        where = where.parent
    if wanted or where.is_file():
        one = _episode(where, episode)
        for kind, file in wanted.items():
            _write(file, _made(kind, one, time))
        if not wanted:
            _show(one, time)
        return
    if episode is not None:
        _show(_episode(where, episode), time)
        return
    _serve(where, port, browser)


def _base(name: str) -> Base:
    from asyncthink.errors import UnknownNameError
    from asyncthink.viewer.timeline import Base

    try:
        return Base(name)
    except ValueError:
        raise UnknownNameError("time base", name, list(Base)) from None


def _episode(path: Path, name: str | None) -> Episode:
    """Return the episode that is meant."""
    from asyncthink.episodes.store import RunDirectory, read_episode
    from asyncthink.viewer.index import RunLines, runs_below

    if path.is_file():
        return read_episode(path)
    inside = list(runs_below(path))
    if inside and inside != [path]:
        raise UsageError(f"{path} is a folder of runs: name one of them, such as {inside[0]}")
    run = RunLines(RunDirectory.open(path))
    if name is None:
        while not run.read(60.0):
            pass
        if len(run.lines) != 1:
            raise UsageError(f"{path} has {len(run.lines):,} episodes: choose one with --episode, from 0 on")
        name = "0"
    found = run.episode(run.find(name))
    for told in filter(None, (run.broken, *run.run.warnings)):
        sys.stderr.write(f"asyncthink: {told}\n")
    return found


def _show(episode: Episode, base: Base) -> None:
    """Draw an episode on the terminal."""
    from rich.console import Console

    from asyncthink.episodes.metrics import measure
    from asyncthink.viewer.index import score_of
    from asyncthink.viewer.terminal import render_episode
    from asyncthink.viewer.timeline import Base

    if base is not Base.TICKS:
        raise UsageError("the terminal draws ticks: --base wall is for --svg and --chrome-trace")
    Console().print(render_episode(episode, score_of(episode), measure(episode)))


def _made(kind: str, episode: Episode, base: Base) -> bytes:
    from asyncthink.viewer import chrome, html
    from asyncthink.viewer.svg import draw
    from asyncthink.viewer.timeline import timeline

    match kind:
        case "html":
            return html.page(episode).encode()
        case "svg":
            labels = {trace.path: trace.query for trace in episode.traces[1:]}
            return draw(timeline(episode, base), title=episode.query, labels=labels).encode()
        case _:
            return chrome.trace(episode, base)


def _write(file: str, content: bytes) -> None:
    from pathlib import Path

    if file == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        Path(file).write_bytes(content)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}", FAILED_OUTPUT)
    sys.stderr.write(f"{file}: {len(content):,} bytes\n")


def _serve(folder: Path, port: int, browser: bool) -> None:
    from asyncthink.extras import require

    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: name a run directory, or a folder of runs")
    require("serve", "the page")
    import webbrowser

    import anyio

    from asyncthink.server.app import guarded
    from asyncthink.server.listening import listen, show
    from asyncthink.server.pages import Library, address, routes
    from asyncthink.server.settings import Settings

    library = Library(folder)
    names = library.names()
    if not names:
        raise UsageError(f"there is no run in {folder}")
    settings = Settings(model="pages")

    def begun(url: str) -> None:
        page = url + (address(next(iter(names))) if list(names.values()) == [folder] else "/")
        sys.stderr.write(f"{page}  (Ctrl-C ends it)\n")
        sys.stderr.flush()
        if browser:
            webbrowser.open(page)

    with listen("127.0.0.1", port) as sock:
        anyio.run(show, guarded(routes(library), settings), sock, begun)
