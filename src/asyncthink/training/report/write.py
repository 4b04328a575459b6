"""Writing the report of trainings.

    report.html   curves and tables in one file
    report.md     the same, with the figures beside it
    figures/      each figure as SVG

A run may be reported while it trains, and again later: each file is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asyncthink.episodes import files
from asyncthink.errors import RecordError
from asyncthink.evaluation.report.cells import Table
from asyncthink.training.report.page import GENERATOR, as_markdown, page, pictures
from asyncthink.training.report.runs import read_runs
from asyncthink.training.report.tables import both_ends

BEGINNING = 2000
"""Bytes of a page in which it says what made it."""


def default_folder(runs: Sequence[Path]) -> Path:
    """Return where a report goes: into the run's own folder, for several into `report` beside the first."""
    return runs[0] if len(runs) == 1 else runs[0].resolve().parent / "report"


def write_report(paths: Sequence[Path], folder: Path) -> Table:
    """Write the report of a run, or of several side by side; return its main table.

    Raises:
        RecordError: a run cannot be read, a file cannot be written, or another program's report is in the way.
        UsageError: the runs are not of one kind, or one is given twice.
    """
    runs = read_runs(paths)
    shown = list(pictures(runs))
    with files.told(folder):
        _check(folder / "report.html")
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for each in shown:
            files.replace(folder / "figures" / f"{each.name}.svg", _bytes(each.file))
        files.replace(folder / "report.md", _bytes(as_markdown(runs, shown)))
        files.replace(folder / "report.html", _bytes(page(runs, shown)))
    return both_ends(runs)


def _check(file: Path) -> None:
    if not file.exists():
        return
    with file.open("rb") as there:
        if GENERATOR.encode() not in there.read(BEGINNING):
            raise RecordError(f"{file} belongs to something else: name another folder with --output")


def _bytes(text: str) -> bytes:
    """Encode text; half a surrogate pair, which no file can hold, is replaced."""
    return text.encode(errors="replace")
