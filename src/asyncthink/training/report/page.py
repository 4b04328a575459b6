"""The report of trainings as one HTML page, light and dark, that needs no network and no script; and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asyncthink.evaluation.report.cells import html, markdown, markdown_text
from asyncthink.training.report.chart import Drawn, draw
from asyncthink.training.report.curves import WINDOW, curve, ends, reach
from asyncthink.training.report.measures import Chart, Kind, Measure
from asyncthink.training.report.runs import Run
from asyncthink.training.report.tables import spelled, tables
from asyncthink.viewer.marks import Markup, tag
from asyncthink.viewer.page import whole
from asyncthink.viewer.words import visible

GENERATOR = "asyncthink train report"
"""What a page of ours says it was made with."""
LIGHT, DARK = ("#ffffff", "#1c1c1e"), ("#17171a", "#e9e9ec")
"""Page and text."""
DRAWING_STYLE = (
    f":root{{background:{LIGHT[0]};color:{LIGHT[1]}}}"
    f"@media(prefers-color-scheme:dark){{:root{{background:{DARK[0]};color:{DARK[1]}}}}}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure of a report."""

    name: str
    """Of its file, without the ending."""
    title: str
    note: str
    svg: Markup
    """An element of a page."""

    @property
    def file(self) -> str:
        """The figure as a file of its own, which brings its colours along."""
        begin, _, rest = self.svg.partition(">")
        return f"{begin}><style>{DRAWING_STYLE}</style>{rest}\n"


def pictures(runs: Sequence[Run]) -> Iterator[Picture]:
    """Draw all charts; with several runs each measure has its own, so that a curve is a run."""
    for chart in runs[0].subject.charts:
        if len(runs) == 1 or len(chart.measures) == 1:
            yield _picture(chart, chart.name, chart.measures, runs)
            continue
        for measure in chart.measures:
            yield _picture(chart, measure.key, [measure], runs)


def _picture(chart: Chart, name: str, measures: Sequence[Measure], runs: Sequence[Run]) -> Picture:
    wide = reach(runs)
    drawn = [
        Drawn(name=run.name if len(runs) > 1 else measure.label, curve=curve(run, measure, wide))
        for measure in measures
        for run in runs
    ]
    title = chart.title if len(measures) == len(chart.measures) else _capital(measures[0].titled)
    told = " ".join(_told(run, measure) for measure in measures for run in runs)
    svg = draw(title, told, runs[0].subject.across.titled, drawn, log=chart.log)
    return Picture(name=name, title=title, note=chart.note, svg=svg)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _told(run: Run, measure: Measure) -> str:
    first, last = spelled(*ends(run, measure))
    return f"{run.name}, {measure.label}: {first} in the first {WINDOW} steps, {last} in the last {WINDOW}."


def title(runs: Sequence[Run]) -> str:
    """Return what a report is called."""
    return f"Training: {', '.join(run.name for run in runs)}"


def _loud(runs: Sequence[Run]) -> Iterator[str]:
    subject = runs[0].subject
    for run in runs:
        if not run.finished:
            last = run.lines[-1]
            far = f"{last[subject.across.key]:,} of {last[subject.target]:,}"
            what = "steps" if subject.across.key == "step" else subject.across.key
            yield f"{run.name} is not finished: {far} {what}."


def _calm(runs: Sequence[Run]) -> Iterator[str]:
    yield (
        f"Faint points are single steps; a line is the mean over a step and up to {reach(runs)} on either side, and its end "
        "has a dot."
    )
    if runs[0].kind is Kind.RL:
        yield (
            "Everything is measured on problems of the train split while the model learns from them, sampled at "
            "temperature 1: what the model can do on others, asyncthink eval measures."
        )
    if len(runs) == 1:
        yield "This is one run: another seed would give other curves."


def command(runs: Sequence[Run]) -> str:
    """Return what makes the same report again."""
    return " ".join(["asyncthink train report", *(str(run.path) for run in runs)])


def page(runs: Sequence[Run], shown: Sequence[Picture]) -> str:
    """Return the report as an HTML page."""
    return whole(title(runs), _body(runs, shown), generator=GENERATOR)


def _body(runs: Sequence[Run], shown: Sequence[Picture]) -> Iterator[Markup]:
    yield tag("h1", title(runs))
    for loud in _loud(runs):
        yield tag("p", loud, **{"class": "loud"})
    yield tag("ul", *(tag("li", calm) for calm in _calm(runs)))
    main, *others = tables(runs)
    yield _section("figures", "Curves", tag("div", *map(_card, shown), **{"class": "charts"}))
    for each in (main, *others):
        yield _section(each.name, each.title, html(each))
    configs = (
        tag("details", tag("summary", f"{run.name}: config.toml"), tag("pre", visible(run.config)))
        for run in runs
    )
    made = (tag("p", "The same again, with what there is by then:"), tag("pre", visible(command(runs))))
    yield _section("made", "How it was made", *made, *configs)


def _section(name: str, heading: str, *content: str) -> Markup:
    return tag("section", tag("h2", heading), *content, id=name)


def _card(picture: Picture) -> Markup:
    return tag("figure", picture.svg, tag("figcaption", picture.note), id=f"figure-{picture.name}")


def as_markdown(runs: Sequence[Run], shown: Sequence[Picture]) -> str:
    """Return the report as Markdown, with the figures as files beside it."""
    main, *others = tables(runs)
    parts = [f"# {markdown_text(title(runs))}\n"]
    parts += [f"**{markdown_text(loud)}**\n" for loud in _loud(runs)]
    parts.append("".join(f"* {markdown_text(calm)}\n" for calm in _calm(runs)))
    parts += [markdown(main), "## Curves\n"]
    parts += [
        f"![{markdown_text(each.title)}](figures/{each.name}.svg)\n\n{markdown_text(each.note)}\n"
        for each in shown
    ]
    parts += [markdown(each) for each in others]
    parts += ["## How it was made\n", _indented(command(runs))]
    parts += [f"{markdown_text(run.name)}:\n\n{_indented(run.config)}" for run in runs]
    return "\n".join(parts)


def _indented(text: str) -> str:
    """Return text as a block of code that nothing in it can end."""
    return "".join(f"    {line}\n" for line in visible(text).split("\n"))
