"""The report of a run: what was measured, as JSON, tables, figures and one page that needs nothing else.

    metrics.jsonl   one judged episode a line
    report.json     every figure of the report, with what made it
    report.md       tables and figures
    report.html     the same in one file, with episodes drawn as timelines
    figures/        each figure as SVG and PNG

A run may be reported before it is finished, and again later: each file is written whole or not at all, and the same
episodes make the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from asyncthink.episodes import files
from asyncthink.episodes.record import Episode, Trial
from asyncthink.episodes.store import RunDirectory
from asyncthink.evaluation.preflight import Evaluation
from asyncthink.evaluation.report.figures import figures
from asyncthink.evaluation.report.findings import caveats, findings, question, title
from asyncthink.evaluation.report.lines import arm_labels
from asyncthink.evaluation.report.page import Content, as_markdown, page
from asyncthink.evaluation.report.samples import article, chosen
from asyncthink.evaluation.report.tables import tables
from asyncthink.evaluation.rows import Row, row_of
from asyncthink.evaluation.summary import Summary, summarise
from asyncthink.tasks import Asked
from asyncthink.viewer.marks import Markup


def write_report(evaluation: Evaluation, directory: RunDirectory) -> Summary:
    """Judge the episodes of a run and write its report into its folder.

    Raises:
        RecordError: an episode cannot be read, or a file cannot be written; the others stand.
    """
    asked = {each.key: each.asked for each in evaluation.questions}
    places = {trial: place for place, (_, _, trial) in enumerate(evaluation.trials())}
    rows = _judged(directory, asked, places)
    arms = [arm.name for arm in evaluation.arms]
    summary = summarise(evaluation.recipe.task, rows, list(asked), arms, evaluation.recipe.samples)
    content = _content(evaluation, directory, summary, rows, asked)
    path = directory.path
    with files.told(path):
        files.replace(path / "metrics.jsonl", b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        report = {"summary": summary, "command": content.command, "made_with": directory.manifest}
        files.replace(path / "report.json", msgspec.json.encode(report) + b"\n")
        (path / "figures").mkdir(exist_ok=True)
        for picture in content.pictures:
            files.replace(path / "figures" / f"{picture.name}.svg", picture.svg)
            files.replace(path / "figures" / f"{picture.name}.png", picture.png)
        files.replace(path / "report.md", _bytes(as_markdown(content)))
        files.replace(path / "report.html", _bytes(page(content)))
    return summary


def _bytes(text: str) -> bytes:
    """Encode text; half a surrogate pair, which no file can hold, is replaced."""
    return text.encode(errors="replace")


def _judged(
    directory: RunDirectory, asked: Mapping[str, Asked], places: Mapping[Trial, int]
) -> Sequence[Row]:
    """Judge each trial's first episode; in the order of the trials, however they came to be done."""
    found: dict[int, Row] = {}
    for episode in directory.episodes():
        place = places.get(episode.trial) if episode.trial is not None else None
        if place is not None and episode.trial is not None and place not in found:
            found[place] = row_of(episode, asked[episode.trial.problem])
    return [found[place] for place in sorted(found)]


def _content(
    evaluation: Evaluation,
    directory: RunDirectory,
    summary: Summary,
    rows: Sequence[Row],
    asked: Mapping[str, Asked],
) -> Content:
    names = arm_labels(summary)
    estimated = sum(not row.metrics.exact for row in rows)
    return Content(
        title=title(evaluation.recipe.task, [names[arm.name] for arm in evaluation.arms]),
        question=question(summary),
        methods={names[arm.name]: arm.preset.about for arm in evaluation.arms},
        findings=findings(summary),
        caveats=list(caveats(summary, evaluation.recipe, directory.warnings, estimated)),
        tables=tables(summary),
        pictures=list(figures(summary)),
        samples=list(_samples(directory, rows, [arm.name for arm in evaluation.arms], names, asked)),
        command=_plain(directory.manifest.get("command", "asyncthink eval config.toml")),
        config=directory.config,
        facts={name: _plain(value) for name, value in directory.manifest.items() if name != "command"},
    )


def _plain(value: Any) -> str:
    """Return a value of the manifest as a reader expects it."""
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _samples(
    directory: RunDirectory,
    rows: Sequence[Row],
    arms: Sequence[str],
    names: Mapping[str, str],
    asked: Mapping[str, Asked],
) -> Iterator[Markup]:
    """Read again the few episodes that are shown."""
    wanted = chosen(rows, arms)
    measured = {Trial(arm=row.arm, problem=row.problem, sample=row.sample): row.metrics for row in rows}
    found: dict[Trial, Episode] = {}
    for episode in directory.episodes():
        if episode.trial in wanted and episode.trial not in found:
            found[episode.trial] = episode
            if len(found) == len(wanted):
                break
    for trial in wanted:
        yield article(found[trial], asked[trial.problem], measured[trial], names[trial.arm])
