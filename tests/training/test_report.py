"""The report of trainings: what is drawn and tabled is what metrics.jsonl says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from math import isnan, log10, nan
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest

from asyncthink.training.report.chart import COLOURS, axis, log_axis
from asyncthink.training.report.curves import MOST_POINTS, curve, ends, reach
from asyncthink.training.report.measures import SUBJECTS, Kind, Measure
from asyncthink.training.report.page import DARK, LIGHT, pictures
from asyncthink.training.report.runs import read_runs
from asyncthink.training.report.tables import both_ends, clock, spelled, tables
from asyncthink.training.report.write import default_folder, write_report
from asyncthink.training.sft import Progress
from asyncthink.training.step import StepMetrics
from tests.training.report_world import RL, SFT, SVG, read, rl_line, rows, sft_line, write_run


def measure(kind: Kind, key: str) -> Measure:
    return next(each for each in SUBJECTS[kind].measures if each.key == key)


# What is drawn


def test_what_is_shown_is_what_trainings_write() -> None:
    assert set(SUBJECTS[Kind.RL].keys) <= {each.name for each in fields(StepMetrics)}
    assert set(SUBJECTS[Kind.SFT].keys) <= {each.name for each in fields(Progress)}


def test_every_figure_of_a_line_is_in_its_unit(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [rl_line(1)]))
    found = {each.label: curve(run, each, 5).points for each in run.subject.measures}
    expected = {
        "accuracy": 50.0,
        "solved": 25.0,
        "eta/c": 37.5,
        "forks per episode": 2.5,
        "joins per episode": 1.5,
        "critical path": 213.0,
        "reward": 0.75,
        "format errors": 12.5,
        "even groups": 12.5,
        "KL to the sampler": 2e-9,
        "KL to the start": 0.25,
        "entropy": 0.125,
        "gradient norm": 0.6,
        "decoded tokens per second": 812.0,
        "rollout": 40.0,
        "update": 10.0,
    }
    assert found == {label: [(1.0, value)] for label, value in expected.items()}
    run = read(write_run(tmp_path / "tuned", [sft_line(3)], SFT))
    found = {each.label: curve(run, each, 5).points for each in run.subject.measures}
    ((at, loss),) = found.pop("loss")
    assert (at, loss) == (pytest.approx(0.0003), 2.0), "millions of tokens"
    assert {label: up for label, ((_, up),) in found.items()} == {
        "accuracy": 50.0,
        "tokens per second": 3000.0,
    }


def test_a_moving_mean_reaches_to_both_sides(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [rl_line(n, critical_path=n * n) for n in range(1, 14)]))
    assert reach([run]) == 5
    shown = curve(run, measure(Kind.RL, "critical_path"), 5)
    assert shown.points == [(n, n * n) for n in range(1, 14)]
    squares = {6: 91, 13: 819}
    assert shown.means[0] == (1, squares[6] / 6), "1 + 4 + ... + 36"
    assert shown.means[7] == (8, (squares[13] - 4 - 1) / 11), "3 to 13"
    assert shown.means[12] == (13, (819 - 140) / 6), "8 to 13, less 1 + 4 + ... + 49 = 140"


def test_ends_are_the_first_and_the_last_ten(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [rl_line(n, reward=n) for n in range(1, 26)]))
    assert ends(run, measure(Kind.RL, "reward")) == (5.5, 20.5)
    row = next(row for row in rows(both_ends([run])) if row[0] == "reward")
    assert row == ["reward", "5.5", "20.5", "+15.0"]
    short = read(write_run(tmp_path / "short", [rl_line(1, reward=1), rl_line(2, reward=-2)]))
    assert next(row for row in rows(both_ends([short])) if row[0] == "reward") == [
        "reward",
        "-0.50",
        "-0.50",
        "0.00",
    ]


def test_many_steps_are_thinned_and_the_last_one_stays(tmp_path: Path) -> None:
    run = read(
        write_run(tmp_path / "run", [sft_line(n, loss=n, total_tokens=10**6) for n in range(1, 2002)], SFT)
    )
    assert reach([run]) == 50
    shown = curve(run, measure(Kind.SFT, "loss"), 50)
    assert MOST_POINTS / 2 < len(shown.points) <= MOST_POINTS
    assert [up for _, up in shown.points] == list(range(3, 2002, 6))[-len(shown.points) :]
    assert shown.points[-1][1] == 2001 and shown.means[-1][1] == 1976, "the mean of 1951 to 2001"
    assert [round(at * 1e4) for at, _ in shown.points] == [up for _, up in shown.points]


def test_what_is_no_number_breaks_the_curve_and_is_told(tmp_path: Path) -> None:
    lines = [rl_line(n, gradient_norm={12: nan, 31: float("inf")}.get(n, 1.0)) for n in range(1, 41)]
    path = write_run(tmp_path / "run", lines)
    run = read(path)
    shown = curve(run, measure(Kind.RL, "gradient_norm"), 5)
    assert [n for n, up in shown.means if isnan(up)] == [*range(7, 18), *range(26, 37)]
    assert {up for _, up in shown.means if not isnan(up)} == {1.0}
    write_report([path], path)
    (picture,) = [each for each in pictures([run]) if each.name == "gradient_norm"]
    (way,) = [
        each for each in ElementTree.fromstring(picture.svg).iter(f"{SVG}path") if each.get("data-means")
    ]
    assert way.attrib["d"].count("M") == 3 and "nan" not in picture.svg and "inf" not in picture.svg
    assert next(row for row in rows(both_ends([run])) if row[0] == "gradient norm")[1:] == [
        "1.00",
        "not finite",
        "not finite",
    ]
    huge = read(
        write_run(tmp_path / "huge", [rl_line(1, gradient_norm=1e300), rl_line(2, gradient_norm=-1e300)])
    )
    assert len(list(pictures([huge]))) == 13
    assert ends(huge, measure(Kind.RL, "gradient_norm")) == (pytest.approx(nan, nan_ok=True),) * 2


def placed(svg: str, log: bool = False) -> Callable[[float, float], tuple[float, float]]:
    """Return how pixels of a chart become values, as its ticks say."""
    groups = list(ElementTree.fromstring(svg).iter(f"{SVG}g"))
    ups, overs = groups[0], groups[1]
    spell: Callable[[float], float] = log10 if log else float
    y = [(float(each.attrib["y"]) - 4, spell(float((each.text or "").replace(",", "")))) for each in ups]
    x = [(float(each.attrib["x"]), float((each.text or "").replace(",", ""))) for each in list(overs)[:-1]]

    def value(pixel: float, known: Sequence[tuple[float, float]]) -> float:
        (a, first), (b, last) = known[0], known[-1]
        return first + (pixel - a) / (b - a) * (last - first)

    return lambda over, up: (value(over, x), 10 ** value(up, y) if log else value(up, y))


def dots(svg: str) -> list[tuple[float, float]]:
    """Return the pixels of raw points."""
    (path,) = [each for each in ElementTree.fromstring(svg).iter(f"{SVG}path") if each.get("data-points")]
    found = re.findall(r"M ([0-9.-]+) ([0-9.-]+)h 0", path.attrib["d"])
    return [(float(over), float(up)) for over, up in found]


@pytest.mark.parametrize(("key", "factor"), [("critical_path", 300.0), ("reward", -1.5), ("kl", 3e-9)])
def test_points_stand_where_the_axes_say(key: str, factor: float, tmp_path: Path) -> None:
    rng = Random(4)
    values = [factor * rng.uniform(0.2, 1) for _ in range(30)]
    run = read(write_run(tmp_path / "run", [rl_line(n, **{key: value}) for n, value in enumerate(values, 1)]))
    (picture,) = [each for each in pictures([run]) if each.name == key]
    back = placed(picture.svg)
    for number, (value, pixels) in enumerate(zip(values, dots(picture.svg), strict=True), 1):
        over, up = back(*pixels)
        assert over == pytest.approx(number, abs=0.02)
        assert up == pytest.approx(value, abs=abs(factor) / 1000)


def test_loss_stands_on_a_logarithmic_axis(tmp_path: Path) -> None:
    values = [6.5, 3.0, 1.5, 0.8, 0.31]
    run = read(write_run(tmp_path / "run", [sft_line(n, loss=up) for n, up in enumerate(values, 1)], SFT))
    (picture,) = [each for each in pictures([run]) if each.name == "loss"]
    back = placed(picture.svg, log=True)
    assert [back(*each)[1] for each in dots(picture.svg)] == pytest.approx(values, rel=0.002)


def test_axes_hold_whatever_they_are_given() -> None:
    rng = Random(2)
    for _ in range(500):
        scale = 10.0 ** rng.uniform(-12, 12)
        found = [rng.uniform(-1, 1) * scale if rng.random() < 0.5 else rng.random() * scale for _ in range(5)]
        one = axis(found, 200.0, 20.0, 6, room=0.05)
        assert one.low <= min(0.0, *found) and one.high >= max(0.0, *found)
        assert all(one.low <= tick <= one.high for tick, _ in one.ticks)
        assert 2 <= len(one.ticks) <= 7 and len({text for _, text in one.ticks}) == len(one.ticks)
        assert [float(text.replace(",", "")) for _, text in one.ticks] == pytest.approx(
            [tick for tick, _ in one.ticks]
        )
        assert all(20 <= one.at(value) <= 200 for value in found)
        most = [abs(value) for value in found]
        two = log_axis([*most, 0.0, -1.0], 200.0, 20.0)
        assert two.low <= min(most) and two.high >= max(most) and len(two.ticks) >= 2
        assert all(20 - 1e-6 <= two.at(value) <= 200 + 1e-6 for value in most)


def test_nothing_but_zeros_has_an_axis_too() -> None:
    flat = axis([0.0, 0.0], 200.0, 20.0, 5)
    assert (flat.low, flat.high) == (0.0, 1.0)
    whole = axis([1.0, 2.0], 0.0, 100.0, 6, whole=True)
    assert [text for _, text in whole.ticks] == ["0", "1", "2"]
    assert log_axis([0.0], 200.0, 20.0).high > 1


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", [LIGHT[0], DARK[0]])
def test_curves_are_seen_on_light_and_dark_pages(page: str) -> None:
    for colour in COLOURS:
        low, high = sorted((luminance(page), luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


# Tables


def test_figures_have_decimals_that_tell() -> None:
    assert spelled(0.254, 12.34, nan) == ["0.3", "12.3", "not finite"]
    assert spelled(7.2e-10, 0.0, -1e-12) == ["7.2e-10", "0", "-1.0e-12"]
    assert spelled(0.0, -0.0) == ["0", "0"]
    assert (clock(3753.4), clock(nan), clock(1e300)) == ("1:02:33", "–", "–")


def test_tables_of_one_run(tmp_path: Path) -> None:
    lines = [rl_line(n, format_errors={"no_answer": n} if n > 10 else {}) for n in range(1, 21)]
    main, progress, errors = tables([read(write_run(tmp_path / "mine", lines, seed=7))])
    assert main.columns == ("figure", "first 10 steps", "last 10 steps", "change") and len(main.rows) == 16
    assert progress.columns == (
        "run",
        "steps",
        "of",
        "time",
        "decoded tokens",
        "trained tokens",
        "from",
        "seed",
    )
    assert rows(progress) == [["mine", "20", "40", "0:16:40", "8,000", "6,000", "embedded", "7"]]
    assert rows(errors) == [["no_answer", "0", "155"]], "11 + 12 + ... + 20"


def test_tables_of_a_fine_tuning(tmp_path: Path) -> None:
    main, progress = tables([read(write_run(tmp_path / "mine", [sft_line(1), sft_line(9)], SFT))])
    assert [row[0] for row in rows(main)] == [
        "loss, nats per token",
        "accuracy, % of trained tokens",
        "tokens per second",
    ]
    assert progress.columns == ("run", "steps", "tokens", "of", "time", "from", "seed")
    assert rows(progress) == [["mine", "2", "900", "900", "0:00:18", "nothing", "0"]]


def test_runs_side_by_side(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a" / "run", [rl_line(n) for n in range(1, 41)], seed=1)
    recipe = RL + "episodes = 4\n\n[reward]\nconcurrency = 0.0\n"
    second = write_run(
        tmp_path / "b" / "run", [rl_line(n, reward=0.25) for n in range(1, 21)], recipe, seed=2
    )
    runs = read_runs([first, second])
    assert len({run.name for run in runs}) == 2, "the same folder name, but two runs"
    main, progress, differing, _ = tables(runs)
    found = [row[1:3] for row in rows(main) if row[0] == "reward"]
    assert found == [[runs[0].name, "0.75"], [runs[1].name, "0.25"]]
    assert [row[1] for row in rows(progress)] == ["40", "20"]
    assert rows(differing) == [
        ["seed", "1", "2"],
        ["rollout.episodes", "–", "4"],
        ["reward.concurrency", "–", "0.0"],
    ]
    drawn = list(pictures(runs))
    assert len(drawn) == 16 and len({each.name for each in drawn}) == 16, "each measure alone"
    for each in drawn:
        words = [one.text for one in ElementTree.fromstring(each.svg).iter(f"{SVG}text")]
        assert {run.name for run in runs} <= set(words)
        assert each.svg.count('data-means="') == 2
    folder = default_folder([first, second])
    assert folder == tmp_path / "a" / "report" and default_folder([first]) == first
    write_report([first, second], folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert f'<p class="loud">{runs[1].name} is not finished: 20 of 40 steps.</p>' in text
    assert text.count('class="loud"') == 1
    assert not (first / "report.html").exists()


def test_the_same_runs_but_for_their_folder_have_no_differences(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, [rl_line(1, format_errors={})]) for name in ("x", "y")]
    assert [table.name for table in tables(read_runs(paths))] == ["ends", "runs"]


def test_more_runs_than_colours(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / f"seed{n}", [rl_line(1), rl_line(2)]) for n in range(20)])
    svg = next(pictures(runs)).svg
    ways = [each for each in ElementTree.fromstring(svg).iter(f"{SVG}path") if each.get("data-means")]
    looks = {(each.get("stroke"), each.get("stroke-dasharray")) for each in ways}
    assert len(looks) == 20
    bottom = float(ElementTree.fromstring(svg).attrib["height"])
    assert all(float(each.attrib["y"]) < bottom for each in ElementTree.fromstring(svg).iter(f"{SVG}text"))
