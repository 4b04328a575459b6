"""The tables of a report, made from a summary alone: which figures stand side by side, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from asyncthink.evaluation.equal import SHARE
from asyncthink.evaluation.report.cells import (
    Cell,
    Fitted,
    Table,
    counted,
    difference,
    estimates,
    figure,
    labels,
    table,
)
from asyncthink.evaluation.report.lines import NAME_CELLS, Line, arm_labels, lines
from asyncthink.evaluation.statistics import Estimate
from asyncthink.evaluation.summary import Arm, Comparison, Match, Summary
from asyncthink.protocol.actions import PAPER_ERRORS, FormatError
from asyncthink.viewer.words import NOTHING

Columns: TypeAlias = list[tuple[str, Sequence[Cell | str]]]
SCORE_PLACES = 3
PRINTED = ("main", "at_least", "matched_critical_path", "gain")
"""Tables that stand at the end of a command; the report has all of them."""


def tables(summary: Summary) -> list[Table]:
    """Return all tables, the most important first; those that nothing is known for are left out."""
    made = [
        _main(summary),
        _at_least(summary),
        *([_ablation(summary)] if summary.arms else []),
        _equal(summary),
        *(_matched(summary, budget) for budget in _BUDGETS),
        _differences(summary),
        _gain(summary),
        *([_bounds(summary), _format_errors(summary)] if summary.arms else []),
        _ends(summary),
        _cost(summary),
    ]
    return [each for each in made if each is not None]


def missing(summary: Summary) -> str:
    """Return a warning of trials that have no episode; empty: all have one."""
    names = arm_labels(summary)
    trials = summary.problems * summary.samples
    parts = [f"{arm.missing:,} of {trials:,} of {names[arm.name]}" for arm in summary.arms if arm.missing]
    parts += [f"all {trials:,} of {names[name]}" for name in summary.absent]
    if not parts:
        return ""
    return f"MISSING TRIALS: {', '.join(parts)}. Every figure is over the others only; --resume goes on."


def accuracy(summary: Summary) -> str:
    """Return what accuracy is, in words."""
    if summary.asked < 2:
        return "accuracy is the share of episodes with a right answer"
    return (
        f"accuracy is the share of episodes with all of up to {summary.asked} answers right, "
        "score the mean share of right answers"
    )


def _column(
    rows: Sequence[Line], name: str, *, percent: bool = False, places: int | None = None
) -> list[Cell]:
    return estimates((row.measure(name) for row in rows), percent=percent, places=places)


def _main(summary: Summary) -> Table:
    rows, absent = lines(summary), [arm_labels(summary)[name] for name in summary.absent]
    capacities = sorted({arm.capacity for arm in summary.arms})
    models = labels(sorted({arm.model for arm in summary.arms}), NAME_CELLS)
    columns: Columns = [
        ("method", [row.label for row in rows]),
        ("accuracy %", _column(rows, "all_correct", percent=True)),
        *([("score", _column(rows, "score", places=SCORE_PLACES))] if summary.asked > 1 else []),
        ("T", _column(rows, "critical_path")),
        ("wall s", _column(rows, "wall_seconds")),
        ("tokens", _column(rows, "decoded_tokens")),
        ("eta/c %", _column(rows, "concurrency", percent=True)),
        ("valid %", _column(rows, "valid", percent=True)),
        ("forks", _column(rows, "forks")),
        ("episodes", [_episodes(row.arm) for row in rows]),
    ]
    if len(capacities) > 1:
        columns.append(("c", [str(row.arm.capacity) for row in rows]))
    if len(models) > 1:
        columns.append(("model", [models[row.arm.model] for row in rows]))
    none = {"method": absent, "episodes": ["0 (ALL MISSING)"] * len(absent)}
    whole: Columns = [(name, [*cells, *none.get(name, [NOTHING] * len(absent))]) for name, cells in columns]
    return table("main", "Methods side by side", whole, _main_note(summary, capacities))


def _main_note(summary: Summary, capacities: Sequence[int]) -> str:
    trials = counted(summary.problems * summary.samples, "trial")
    return (
        f"Means over {counted(summary.problems, 'problem')} x {counted(summary.samples, 'sample')} ({trials} a method"
        + (f", c = {capacities[0]}" if len(capacities) == 1 else "")
        + f"): {accuracy(summary)}, T the critical path and tokens those of all agents, both in decoded tokens, "
        "eta/c the share of the c agents that work at a tick, over valid episodes, and valid those without a format "
        "error; 95 % intervals stand in brackets."
    )


def _episodes(arm: Arm) -> str:
    return f"{arm.episodes:,}" + (f" ({arm.missing:,} MISSING)" if arm.missing else "")


def _at_least(summary: Summary) -> Table | None:
    rows = lines(summary)
    if summary.asked < 2 or not rows:
        return None
    columns: Columns = [("method", [row.label for row in rows])]
    for k in range(summary.asked, 0, -1):
        title = f"all {k}" if k == summary.asked else f"at least {k}"
        columns.append((title, _column(rows, f"at_least_{k}", percent=True)))
    note = "Percent of episodes with at least so many different right answers."
    return table("at_least", "At least k correct", columns, note)


def _ablation(summary: Summary) -> Table:
    rows = lines(summary)
    columns: Columns = [
        ("method", [row.label for row in rows]),
        ("accuracy %", _column(rows, "all_correct", percent=True)),
        ("eta/c %", _column(rows, "concurrency", percent=True)),
        ("T", _column(rows, "critical_path")),
    ]
    note = (
        "The layout of the paper's ablations, one arm a row: accuracy over all episodes, eta/c over valid ones, and the "
        "critical path T in ticks."
    )
    return table("ablation", "Accuracy, concurrency, latency", columns, note)


_BUDGETS = {
    "critical_path": (
        "Matched latency: the same cap on T",
        "T at most",
        "of parallel thinking, the traces that are not done by then are left out",
    ),
    "decoded_tokens": (
        "Matched spending: the same cap on all agents' tokens",
        "tokens at most",
        "of parallel thinking, the traces that are not done when it is spent are left out",
    ),
    "workers": (
        "Matched workers: the same cap on how many are forked",
        "workers at most",
        "of parallel thinking, only the first traces count",
    ),
}
"""Budget -> title, column, and how parallel thinking is read."""


def _matched(summary: Summary, budget: str) -> Table | None:
    matches = sorted((one for one in summary.matches if one.budget_of == budget), key=lambda one: one.budget)
    if not matches:
        return None
    title, capped, parallel = _BUDGETS[budget]
    names = arm_labels(summary)
    measures = ["accuracy %", *(["score"] if summary.asked > 1 else [])]
    columns: Columns = [
        (capped, [f"{match.budget:,}" for _ in measures for match in matches]),
        ("median of", [names.get(match.arm, match.arm) for _ in measures for match in matches]),
    ]
    if len(measures) > 1:
        columns.append(("measure", [measure for measure in measures for _ in matches]))
    words = len(columns)
    for line in lines(summary):
        cells = [cell for measure in measures for cell in _under(matches, line.name, measure)]
        columns.append((line.label, cells))
    note = (
        "Each row puts all methods under one budget, the median that one of them needs, read off the record: an "
        f"episode that needed more counts 0; {parallel}."
    )
    return table(f"matched_{budget}", title, columns, note, texts=words)


def _under(matches: Sequence[Match], name: str, measure: str) -> list[Cell]:
    if measure == "score":
        return estimates((match.scores.get(name) for match in matches), places=SCORE_PLACES)
    return estimates((match.all_correct.get(name) for match in matches), percent=True)


def _equal(summary: Summary) -> Table | None:
    if not summary.equals:
        return None
    known = {line.name: line.label for line in lines(summary)}
    first = known[summary.equals[0].first]
    columns: Columns = [
        ("with", [known[one.second] for one in summary.equals]),
        ("accuracy %", [figure(100 * one.all_correct, 1) for one in summary.equals]),
        (f"T of {first}", [f"{one.first_cap:,}" for one in summary.equals]),
        ("T of the other", [f"{one.second_cap:,}" for one in summary.equals]),
        ("shorter by %", estimates((one.shorter for one in summary.equals), percent=True)),
    ]
    note = (
        f"How long {first} and each other method need to be equally accurate: accuracy is {100 * SHARE:g} % of what "
        "the less accurate of the two has in the end, T the least cap under which each has it, read off the record."
    )
    return table("equal", "Latency at equal accuracy", columns, note)


_COMPARED = {
    "all_correct": "accuracy, points",
    "score": "score",
    "critical_path": "T",
    "wall_seconds": "wall s",
    "decoded_tokens": "tokens",
}


def _differences(summary: Summary) -> Table | None:
    pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
    for one in summary.comparisons:
        pairs.setdefault((one.first, one.second), {})[one.measure] = one
    if not pairs:
        return None
    names = arm_labels(summary)
    whose = [f"{names.get(first, first)} - {names.get(second, second)}" for first, second in pairs]
    columns: Columns = [("difference", whose)]
    for measure, title in _COMPARED.items():
        if any(measure in found for found in pairs.values()):
            cells = [_compared(found.get(measure), summary.resamples) for found in pairs.values()]
            columns.append((title, cells))
    both = [max(one.difference.problems for one in found.values()) for found in pairs.values()]
    if len(set(both)) > 1:
        columns.append(("problems", [f"{count:,}" for count in both]))
    note = (
        "The first method less each other one, paired by problem, with 95 % intervals and two-sided p-values from "
        f"{summary.resamples:,} resamples of the problems, not corrected for how many are looked at; of parallel "
        "thinking, the voted answer counts."
    )
    return table("differences", "Paired differences", columns, note)


def _compared(one: Comparison | None, resamples: int) -> Cell:
    if one is None:
        return Cell(text=NOTHING)
    places = SCORE_PLACES if one.measure == "score" else None
    return difference(one.difference, resamples, percent=one.measure == "all_correct", places=places)


def _gain(summary: Summary) -> Table | None:
    if not summary.gains:
        return None
    cells: list[Cell] = []
    for gain in summary.gains.values():
        ends = [figure(end, 2) for end in (gain.low, gain.high) if end is not None]
        interval = f"[{', '.join(ends)}]" if len(set(ends)) > 1 else ""
        cells.append(Cell(text=figure(gain.mean, 2), interval=interval))
    note = (
        "Where asyncthink stands between forking at random (0) and forking as whoever knows what each worker will "
        "find (1), over the same workers; without an interval the oracle's own lead over chance is not clear."
    )
    measures = [measure.replace("all_correct", "accuracy") for measure in summary.gains]
    return table("gain", "Organisation gain", [("measure", measures), ("gain", cells)], note)


def _by_arm(summary: Summary, measures: dict[str, str], percent: Sequence[str]) -> Columns:
    """Return a column for each measure, below its title, and the names in front."""
    rows = [Line(label=arm_labels(summary)[arm.name], arm=arm) for arm in summary.arms]
    named: Columns = [("method", [row.label for row in rows])]
    return named + [
        (title, _column(rows, measure, percent=measure in percent)) for title, measure in measures.items()
    ]


def _bounds(summary: Summary) -> Table:
    measures = {
        "T": "critical_path",
        "T with inserted": "critical_path_with_inserted",
        "lower bound": "lower_bound",
        "T / bound": "over_bound",
        "work": "sequential_tokens",
        "saved %": "saved",
        "waited": "waited",
        "wasted": "wasted_tokens",
    }
    note = (
        "In ticks: no schedule of the same texts on c agents is shorter than the lower bound, the larger of work / c "
        "and the longest single text; saved is the share by which T is shorter than decoding "
        "the work one after the other, waited what organizers stood still for at joins, wasted the tokens of workers "
        "that were never joined, and T with inserted counts each inserted token as a tick."
    )
    title = "Bounds: how short the same work could be"
    return table("bounds", title, _by_arm(summary, measures, ["saved"]), note)


def _format_errors(summary: Summary) -> Table:
    paper = [error.value for error in PAPER_ERRORS]
    ours = [error.value for error in FormatError if error not in PAPER_ERRORS]
    ours += sorted({kind for arm in summary.arms for kind in arm.format_errors} - {*paper, *ours})
    counts = [[kind] for kind in paper] + [paper] + [[kind] for kind in ours] + [ours]
    whose = ["the paper"] * (len(paper) + 1) + ["ours"] * (len(ours) + 1)
    kinds = [*paper, "these together", *ours, "these together", "episodes with any, %"]
    columns: Columns = [("format error", kinds), ("counted by", [*whose, "both"])]
    names = arm_labels(summary)
    for arm in summary.arms:
        rates = [100 * sum(arm.format_errors.get(kind, 0) for kind in each) / arm.episodes for each in counts]
        columns.append((names[arm.name], [*(figure(rate, 1) for rate in rates), _invalid(arm)]))
    note = "Errors in 100 episodes: those that the paper counts stand apart from those that we added."
    return table("format_errors", "Format errors", columns, note, texts=2)


def _invalid(arm: Arm) -> Cell:
    valid = arm.measures.get("valid")
    if valid is None:
        return Cell(text=NOTHING)
    turned = {"mean": 1 - valid.mean, "low": 1 - valid.high, "high": 1 - valid.low}
    return estimates([Estimate(**turned, problems=valid.problems, samples=valid.samples)], percent=True)[0]


def _ends(summary: Summary) -> Table | None:
    arms, names, absent = summary.arms, arm_labels(summary), summary.absent
    if not arms and not absent:
        return None
    trials = summary.problems * summary.samples
    zeros, nothing = ["0"] * len(absent), [NOTHING] * len(absent)
    columns: Columns = [
        ("method", list(names.values())),
        ("trials", [f"{trials:,}"] * (len(arms) + len(absent))),
        ("episodes", [*(f"{arm.episodes:,}" for arm in arms), *zeros]),
        ("missing", [*(f"{arm.missing:,}" for arm in arms), *[f"{trials:,}"] * len(absent)]),
    ]
    for reason in dict.fromkeys(reason for arm in arms for reason in arm.stops):
        columns.append((f"stop: {reason}", [*(f"{arm.stops.get(reason, 0):,}" for arm in arms), *zeros]))
    answered = estimates((arm.measures.get("answered") for arm in arms), percent=True)
    lost = estimates(arm.measures.get("lost_workers") for arm in arms)
    columns += [("answered %", [*answered, *nothing]), ("lost workers", [*lost, *nothing])]
    note = (
        "How episodes ended; a missing trial has no episode, because an engine failed or the run is not finished, "
        "and lost are the joined workers of an episode that had nothing to return."
    )
    return table("ends", "Ends, losses and missing trials", columns, note)


def _cost(summary: Summary) -> Table | None:
    measures = {
        "cost": "cost",
        "requests": "requests",
        "retries": "retries",
        "cached %": "cached_share",
        "prompt tokens": "prompt_tokens",
        "inserted tokens": "inserted_tokens",
    }
    if not any(name in arm.measures for arm in summary.arms for name in ("cost", "requests")):
        return None
    note = "What an episode takes of a server, cost in the price table's currency, cached as a share of what was sent."
    return table("cost", "Cost and requests", _by_arm(summary, measures, ["cached_share"]), note)


class Printed:
    """What stands at the end of a command; best made by `printed`."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        known = {each.name: each for each in tables(self.summary)}
        for name in PRINTED:
            if name in known:
                yield Fitted(known[name])
                yield Text("")
        if warning := missing(self.summary):
            yield Text(warning, style="bold red")


def printed(summary: Summary) -> Printed:
    """Return the most important tables as a rich renderable, the main one first."""
    return Printed(summary)
