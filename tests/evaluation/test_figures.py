"""Figures: what they show is what the summary says; the same bytes each time; nothing makes them fail."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from itertools import islice
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from asyncthink.evaluation.report import charts
from asyncthink.evaluation.report.charts import COLOURS, scene
from asyncthink.evaluation.report.figures import Picture, figures
from asyncthink.evaluation.summary import Summary, summarise
from tests.evaluation.rows_world import ARMS, random_summary, row

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    *(
        "sequential </text><script>alert(1)</script>",
        "sequential $\\frac{x$",
        "sequential \x1b[31m\u202e&amp;",
    ),
    *(
        "sequential \u4e2d\u6587",
        "sequential _x",
        "sequential " + "y" * 3000,
        "sequential a\nb",
        "sequential %s {0}",
    ),
)


@pytest.fixture(scope="module")
def summary() -> Summary:
    return random_summary(problems=12)


@pytest.fixture(scope="module")
def pictures(summary: Summary) -> dict[str, Picture]:
    return {picture.name: picture for picture in figures(summary)}


def words(picture: Picture) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(picture.svg).iter(f"{SVG}text")]


def whole(picture: Picture) -> None:
    """See that both files can be read, are not large, and say nothing of when or with what they were made."""
    root = ElementTree.fromstring(picture.svg)
    assert root.tag == f"{SVG}svg" and not list(root.iter(f"{SVG}script"))
    assert b"dc:date" not in picture.svg and b"atplotlib v" not in picture.svg and len(picture.svg) < 400_000
    assert picture.png[:8] == b"\x89PNG\r\n\x1a\n" and len(picture.png) < 500_000
    wide, high = struct.unpack(">II", picture.png[16:24])
    assert 700 <= wide <= 1000 and 300 <= high <= 3000
    assert picture.note.endswith(".")


def test_all_figures_of_an_evaluation(summary: Summary, pictures: dict[str, Picture]) -> None:
    assert list(pictures) == [
        *("frontier", "frontier_tokens", "at_least", "spending", "organisation", "joins", "format_errors"),
    ]
    for picture in pictures.values():
        whole(picture)
        text = " ".join(words(picture))
        shown = ["asyncthink", "oracle-forks"] + ["sequential", "parallel"] * (picture.name != "joins")
        assert all(name in text for name in shown)
        assert ("sequential" in text) == (picture.name != "joins"), "it has no joins"
        assert COLOURS[0] in picture.svg.decode(), "the first arm has its colour everywhere"
    again = list(islice(figures(random_summary(problems=12)), 3))
    assert again == list(pictures.values())[:3], "the same bytes"


def test_nothing_is_set_for_the_whole_process() -> None:
    before = dict(matplotlib.rcParams)
    unfinished = figures(random_summary(arms=["sequential"], problems=2))
    next(unfinished)
    assert dict(matplotlib.rcParams) == before
    code = "import sys, asyncthink.evaluation.report; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_users_own_style_changes_nothing(pictures: dict[str, Picture], summary: Summary) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        picture = next(figures(summary))
    assert picture == pictures["frontier"]


def panels(figure: Figure) -> list[Axes]:
    return figure.axes


def curves(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """Return the points of every line, across and up."""
    return [
        (
            np.asarray(line.get_xdata(), dtype=float).tolist(),
            np.asarray(line.get_ydata(), dtype=float).tolist(),
        )
        for line in axes.lines
    ]


def test_the_frontier_is_the_summarys_curve(summary: Summary) -> None:
    figure = Figure()
    charts.frontier(figure, scene(summary), "critical_path", "T")
    accuracy, score = panels(figure)
    for arm in summary.arms:
        points = arm.curves["critical_path"]
        budgets = [float(point.budget) for point in points]
        assert (budgets, [100 * point.all_correct.mean for point in points]) in curves(accuracy)
        assert (budgets, [point.score.mean for point in points]) in curves(score)
        own = [arm.measures["critical_path"].mean], [arm.measures["score"].mean]
        assert own in curves(score)
    assert len(accuracy.collections) >= len(summary.arms), "a band each"
    low, high = accuracy.get_ylim()
    assert low == 0 and high <= 104


def heights(axes: Axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]


def test_bars_are_the_summarys_means(summary: Summary) -> None:
    figure = Figure()
    charts.at_least(figure, scene(summary))
    expected = [
        100 * arm.measures[f"{kind}at_least_{k}"].mean
        for arm in summary.arms
        for kind in (("", "pooled_") if arm.method == "parallel" else ("",))
        for k in range(1, 5)
    ]
    assert heights(panels(figure)[0]) == pytest.approx(expected)

    figure = Figure()
    charts.spending(figure, scene(summary))
    measures = ("critical_path", "wall_seconds", "decoded_tokens")
    first = summary.arms[0].measures
    ratios = [arm.measures[name].mean / first[name].mean for name in measures for arm in summary.arms]
    assert heights(panels(figure)[0]) == pytest.approx(ratios)
    assert ratios[0] == ratios[5] == ratios[10] == 1


def test_format_errors_are_rates_and_the_papers_come_first() -> None:
    rows = [
        row("asyncthink", str(n), errors=["no_return", "unknown_join"] if n < 3 else []) for n in range(4)
    ]
    figure = Figure()
    charts.format_errors(figure, scene(summarise("countdown", rows, list("0123"), ["asyncthink"], 1)))
    axes = panels(figure)[0]
    widths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert widths == [0, 0, 75, 0, 0, 0, 75]
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert named[2] == "unknown_join" and named[4] == "duplicate_join"


def test_joins_show_what_each_costs() -> None:
    rows = [row("asyncthink", "0", waits=(10, 20)), row("asyncthink", "1", waits=(30,))]
    rows += [row("parallel", "0", method="parallel", waits=(99,))]
    figure = Figure()
    charts.joins(figure, scene(summarise("countdown", rows, ["0", "1"], ["asyncthink", "parallel"], 1)))
    waited, share = map(curves, panels(figure))
    assert ([1, 2], [20, 20]) in waited, (
        "the first join: 10 and 30; the second: 20 in the one episode that has it"
    )
    assert any(up == pytest.approx([100 * 40 / 60, 100 * 20 / 60]) for _, up in share)
    assert not any(99 in up for _, up in waited), "nobody chose where parallel thinking joins"


def test_sweeps_are_joined_in_the_order_of_what_they_spend() -> None:
    names = [f"asyncthink max_worker_tokens={n}" for n in (256, 64, 128)]
    spent = dict(zip(names, (300, 100, 200), strict=True))
    rows = [row(name, key, ticks=spent[name], correct=int(key)) for name in names for key in "14"]
    figure = Figure()
    charts.frontier(figure, scene(summarise("countdown", rows, ["1", "4"], names, 1)), "critical_path", "T")
    assert any(across == [100, 200, 300] for across, _ in curves(panels(figure)[1]))


def drawn(found: Summary) -> dict[str, Picture]:
    made = {picture.name: picture for picture in figures(found)}
    for picture in made.values():
        whole(picture)
    return made


def test_one_arm_one_problem_no_forks_nothing_valid_no_ticks() -> None:
    errors = ["no_answer"]
    only = row(
        "a", "0", ticks=0, tokens=0, forks=0, waits=(), correct=0, errors=errors, wall=0, concurrency=0
    )
    made = drawn(summarise("countdown", [only], ["0"], ["a"], 1))
    assert "joins" not in made
    assert "the first method spends nothing" in words(made["spending"])
    assert "no valid episode" in words(made["organisation"])


def test_hostile_names_are_shown_and_do_nothing() -> None:
    made = drawn(random_summary(arms=HOSTILE, problems=2, samples=1, asked=1))
    assert "at_least" not in made and "format_errors" not in made
    text = words(made["frontier"])
    assert "sequential $\\frac{x$" in text, "no formula"
    assert any("</" in one and one.endswith("script>") for one in text), "text, not an element"
    assert not any(re.search(r"[\x00-\x1f\u202e]", one) for one in text)
    assert len([one for one in text if one.startswith("sequential")]) == len(HOSTILE)


def test_more_arms_than_colours() -> None:
    arms = [f"sequential {n}" for n in range(20)]
    many = random_summary(arms=arms, problems=2, samples=1)
    picture = next(figures(many))
    whole(picture)
    assert set(arms) <= set(words(picture))
    assert len({(look.colour, look.dash) for look in scene(many).looks.values()}) == len(arms)


def test_no_figure_without_an_episode() -> None:
    assert list(figures(summarise("countdown", [], ["0"], list(ARMS), 1))) == []
