"""The tables of a report of trainings: the runs, the means at both ends, format errors, differing settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from math import isnan
from typing import Any, cast

from asyncthink.evaluation.report.cells import Cell, Table, decimals, figure, table
from asyncthink.training.report.curves import WINDOW, ends
from asyncthink.training.report.measures import Kind, Measure
from asyncthink.training.report.runs import Run
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.words import NOTHING

SETTING_CELLS = 40
SMALL = 1e-4
"""Below it a figure is written as in 2.3e-07."""


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return all tables that there is something for, the most important first."""
    found = [both_ends(runs), progress(runs), differing(runs), format_errors(runs)]
    return [each for each in found if each is not None]


def spelled(*values: float) -> list[str]:
    """Return figures of one row with as many decimals as the largest needs; `not finite` for what is no number."""
    largest = max((abs(value) for value in values if not isnan(value)), default=0.0)
    return [_figure(value, largest) for value in values]


def _figure(value: float, largest: float) -> str:
    if isnan(value):
        return "not finite"
    if 0 < largest < SMALL:
        return f"{value:.1e}" if value else "0"
    return figure(value, decimals(largest))


def both_ends(runs: Sequence[Run]) -> Table:
    """Return each figure's mean over the first and over the last steps, for each run."""
    subject = runs[0].subject
    rows = [(measure, run) for measure in subject.measures for run in runs]
    first, last, change = zip(*(_both(run, measure) for measure, run in rows), strict=True)
    several = len(runs) > 1
    columns: list[tuple[str, Sequence[Cell | str]]] = [
        ("figure", [measure.titled for measure, _ in rows]),
        *([("run", [run.name for _, run in rows])] if several else []),
        (f"first {WINDOW} steps", first),
        (f"last {WINDOW} steps", last),
        ("change", change),
    ]
    note = (
        f"Means over the first and over the last {WINDOW} steps, over as many as there are in a shorter run. "
        f"{subject.about}"
    )
    return table("ends", "From the beginning to the end", columns, note, texts=2 if several else 1)


def _both(run: Run, measure: Measure) -> tuple[str, str, str]:
    first, last = ends(run, measure)
    shown = spelled(first, last, last - first)
    rises = last > first and not shown[2].startswith("-")
    return shown[0], shown[1], f"+{shown[2]}" if rises else shown[2]


def progress(runs: Sequence[Run]) -> Table:
    """Return how far each run is."""
    subject = runs[0].subject
    last = [run.lines[-1] for run in runs]
    counts = [
        (each.label, [f"{sum(int(line[each.key]) for line in run.lines):,}" for run in runs])
        for each in subject.counted
    ]
    across = [] if subject.across.key == "step" else [("steps", [f"{len(run.lines):,}" for run in runs])]
    columns: list[tuple[str, Sequence[Cell | str]]] = [
        ("run", [run.name for run in runs]),
        *across,
        (_plural(subject.across.key), [f"{line[subject.across.key]:,}" for line in last]),
        ("of", [f"{line[subject.target]:,}" for line in last]),
        ("time", [clock(line["seconds"]) for line in last]),
        *counts,
        ("from", [head(str(run.settings.get("start", "nothing")), SETTING_CELLS) for run in runs]),
        ("seed", [str(run.settings.get("seed", 0)) for run in runs]),
    ]
    note = "How far each run is; time is wall time as h:mm:ss, over all sittings, with whatever else the machine did."
    return table("runs", "Runs", columns, note)


def _plural(key: str) -> str:
    return key if key.endswith("s") else f"{key}s"


def clock(seconds: float) -> str:
    """Return `1:02:33`."""
    try:
        return str(timedelta(seconds=round(seconds)))
    except (ValueError, OverflowError):
        return NOTHING


def differing(runs: Sequence[Run]) -> Table | None:
    """Return the settings that are not the same in all runs; None where there are none."""
    flat = [dict(_flat(run.settings)) for run in runs]
    names = list(dict.fromkeys(name for each in flat for name in each if name != "output"))
    told = [name for name in names if len({each.get(name, NOTHING) for each in flat}) > 1]
    if not told:
        return None
    columns: list[tuple[str, Sequence[Cell | str]]] = [
        ("setting", [head(name, SETTING_CELLS) for name in told])
    ]
    columns += [
        (run.name, [head(each.get(name, NOTHING), SETTING_CELLS) for name in told])
        for run, each in zip(runs, flat, strict=True)
    ]
    note = f"What the runs' recipes do not have in common; {NOTHING} where a recipe leaves it at its default."
    return table("settings", "What differs", columns, note)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings by their dotted names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value, ensure_ascii=False, default=str)


def format_errors(runs: Sequence[Run]) -> Table | None:
    """Return how many episodes have which format error, over the first and the last steps."""
    if runs[0].kind is not Kind.RL:
        return None
    counts = [(run, _errors(run.lines[:WINDOW]), _errors(run.lines[-WINDOW:])) for run in runs]
    names = sorted({name for _, first, last in counts for name in (*first, *last)})
    if not names:
        return None
    columns: list[tuple[str, Sequence[Cell | str]]] = [
        ("format error", [head(name, SETTING_CELLS) for name in names])
    ]
    for run, first, last in counts:
        whose = f"{run.name}, " if len(runs) > 1 else ""
        columns.append((f"{whose}first {WINDOW} steps", [f"{first.get(name, 0):,}" for name in names]))
        columns.append((f"{whose}last {WINDOW} steps", [f"{last.get(name, 0):,}" for name in names]))
    note = "Episodes that have such an error; one may have several kinds."
    return table("format_errors", "Format errors by kind", columns, note)


def _errors(lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Sum up what lines count, where they count anything that can be read."""
    found: dict[str, int] = {}
    for line in lines:
        counted: Any = line.get("format_errors")
        if isinstance(counted, dict):
            for name, count in cast("dict[str, Any]", counted).items():
                if type(count) is int:
                    found[name] = found.get(name, 0) + count
    return found
