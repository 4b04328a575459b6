"""What a simulation of growing pools comes to: a table, and a figure of what still gets faster and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncthink.episodes import files
from asyncthink.evaluation.report.cells import Table, figure, markdown, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from asyncthink.evaluation.report.figures import Picture
    from asyncthink.evaluation.simulation import Point

NOTE = (
    "Simulated: the runtime is the real one, what agents write is made up. The dashed line is what the organizer "
    "writes itself, which no pool shortens; seconds are those of the simulated clock."
)


def scaling_table(points: Sequence[Point]) -> Table:
    """Return a row for each pool; speed-ups are over the first one."""
    first = _rate(points[0])
    counted = [
        ("workers", [f"{each.workers:,}" if each.workers else "none" for each in points]),
        ("parts", [f"{each.parts:,}" for each in points]),
        ("T, ticks", [f"{each.critical_path:,}" for each in points]),
        ("speed-up", [figure(_rate(each) / first, 1) for each in points]),
        ("eta/c, %", [figure(100 * each.concurrency, 1) for each in points]),
        ("seconds", [figure(each.seconds, 1) for each in points]),
        ("organizer, %", [figure(100 * each.organizer_tokens / each.critical_path, 1) for each in points]),
        ("decoded", [f"{each.decoded_tokens:,}" for each in points]),
        ("prefilled", [f"{each.prefilled_tokens:,}" for each in points]),
    ]
    return table("scaling", "Pools of growing size", counted, NOTE)


def _rate(point: Point) -> float:
    """Return parts a tick: in weak scaling larger pools have more of them."""
    return point.parts / point.critical_path


def write_scaling(points: Sequence[Point], source: str, command: str, folder: Path) -> None:
    """Write the recipe, scaling.json, which names the command too, scaling.md and the figure.

    Raises:
        RecordError: a file cannot be written.
    """
    shown = scaling_picture(points)
    text = f"{markdown(scaling_table(points))}\n![{shown.title}](scaling.svg)\n"
    with files.told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.replace(folder / "config.toml", source.encode())
        files.replace(folder / "scaling.svg", shown.svg)
        files.replace(folder / "scaling.png", shown.png)
        files.replace(
            folder / "scaling.json",
            msgspec.json.format(msgspec.json.encode({"command": command, "pools": points})) + b"\n",
        )
        files.replace(folder / "scaling.md", text.encode())


def scaling_picture(points: Sequence[Point]) -> Picture:
    """Draw critical path, concurrency and cost over the size of the pool."""
    from asyncthink.evaluation.report.figures import drawn

    return drawn("scaling", "Pools of growing size", NOTE, 6.4, lambda figure: _draw(figure, points))


def _draw(figure: Figure, points: Sequence[Point]) -> None:
    pools = [each for each in points if each.workers]
    workers = [each.workers for each in pools]
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    blue, red, grey = "#1f5f9e", "#c44601", "#666666"
    above.set_title("Critical path")
    above.plot(workers, [each.critical_path for each in pools], color=blue, marker="o", label="T")
    alone = [each.critical_path for each in points if not each.workers]
    if alone:
        above.axhline(alone[0], color=grey, linewidth=1, label="one agent")
    above.plot(
        workers, [each.organizer_tokens for each in pools], color=red, linestyle="--", label="organizer's own"
    )
    above.set_yscale("log")
    above.set_ylabel("ticks")
    above.legend()
    middle.set_title("Concurrency")
    middle.plot(workers, [100 * each.concurrency for each in pools], color=blue, marker="o")
    middle.set_ylabel("eta/c, %")
    middle.set_ylim(0, 100)
    below.set_title("Seconds on the simulated servers")
    below.plot(workers, [each.seconds for each in pools], color=blue, marker="o")
    below.set_yscale("log")
    below.set_ylabel("seconds")
    below.set_xlabel("workers")
    below.set_xscale("log", base=2)
    for axes in (above, middle, below):
        axes.grid(visible=True)
        axes.xaxis.set_major_formatter(_spelled)
    for axes in (above, below):
        axes.yaxis.set_major_formatter(_spelled)
        axes.yaxis.set_minor_formatter(_spelled)


def _spelled(value: float, _place: int | None) -> str:
    """Return a tick's label; on a logarithmic axis only 1, 2 and 5 have one."""
    return f"{value:,.10g}" if f"{value:e}"[0] in "125" or (value % 1 == 0 and value < 8192) else ""
