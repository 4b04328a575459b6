"""The report of trainings: what is drawn is what metrics.jsonl says; pages are inert; what cannot be read is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from math import isnan, log10, nan
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest

from asyncthink.errors import AsyncThinkError, RecordError, UsageError
from asyncthink.evaluation.report.cells import Table
from asyncthink.training.owpo import StepMetrics, train_rl
from asyncthink.training.report.chart import COLOURS, axis, log_axis
from asyncthink.training.report.curves import MOST_POINTS, curve, ends, reach
from asyncthink.training.report.measures import SUBJECTS, Kind, Measure
from asyncthink.training.report.page import DARK, LIGHT, pictures
from asyncthink.training.report.runs import Run, read_runs
from asyncthink.training.report.tables import both_ends, clock, spelled, tables
from asyncthink.training.report.write import default_folder, write_report
from asyncthink.training.rl_recipe import load_rl_recipe
from asyncthink.training.sft import Progress
from tests.evaluation.test_report import Page, inert

RL = 'start = "embedded"\noutput = "{name}"\nseed = {seed}\n\n[rollout]\nproblems = 2\n'
SFT = 'output = "{name}"\nseed = {seed}\n\n[[data]]\nshare = 1\n\n[train]\ntokens = 900\n'
TINY = """
start = "embedded"
output = "{output}"

[rollout]
problems = 2
episodes = 2
max_critical_path = 60

[update]
steps = 2
threads = 1
"""
HOSTILE = "<script>alert(1)</script> \x1b[2J\u202e `x` | http://x.example &amp; ]]>"
SVG = "{http://www.w3.org/2000/svg}"


def rl_line(step: int, **changes: Any) -> dict[str, Any]:
    """Return a line of reinforcement learning, all of whose figures tell themselves from the others."""
    shares = {"accuracy": 0.5, "solved": 0.25, "concurrency": 0.375, "valid": 0.875, "even_groups": 0.125}
    counts = {
        "critical_path": 213.0,
        "forks": 2.5,
        "joins": 1.5,
        "decoded_tokens": 400,
        "trained_tokens": 300,
    }
    pace = {
        "tokens_per_second": 812.0,
        "rollout_seconds": 40.0,
        "update_seconds": 10.0,
        "seconds": 50.0 * step,
    }
    learning = {"reward": 0.75, "kl": 2e-9, "gradient_norm": 0.6, "steps": 40}
    errors: dict[str, Any] = {"format_errors": {"no_answer": 3}}
    return {"step": step, **learning, **shares, **counts, **pace, **errors, **changes}


def sft_line(step: int, **changes: Any) -> dict[str, Any]:
    rates = {"loss": 2.0, "accuracy": 0.5, "tokens_per_second": 3000.0, "seconds": 2.0 * step}
    return {"step": step, "tokens": 100 * step, "total_tokens": 900, **rates, **changes}


def write_run(path: Path, lines: Iterable[Mapping[str, Any]], recipe: str = RL, seed: int = 0) -> Path:
    path.mkdir(parents=True)
    (path / "config.toml").write_text(recipe.format(name=path.name, seed=seed), encoding="utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> Run:
    (run,) = read_runs([path])
    return run


def measure(kind: Kind, key: str) -> Measure:
    return next(each for each in SUBJECTS[kind].measures if each.key == key)


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


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
        "forks an episode": 2.5,
        "joins an episode": 1.5,
        "critical path": 213.0,
        "reward": 0.75,
        "format errors": 12.5,
        "even groups": 12.5,
        "KL to the sampler": 2e-9,
        "gradient norm": 0.6,
        "decoded tokens a second": 812.0,
        "rollout": 40.0,
        "update": 10.0,
    }
    assert found == {label: [(1.0, value)] for label, value in expected.items()}
    run = read(write_run(tmp_path / "tuned", [sft_line(3)], SFT))
    found = {each.label: curve(run, each, 5).points for each in run.subject.measures}
    ((at, loss),) = found.pop("loss")
    assert (at, loss) == (pytest.approx(0.0003), 2.0), "millions of tokens"
    assert {label: up for label, ((_, up),) in found.items()} == {"accuracy": 50.0, "tokens a second": 3000.0}


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
    assert len(list(pictures([huge]))) == 11
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


def test_loss_stands_on_an_axis_that_multiplies(tmp_path: Path) -> None:
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
    assert main.columns == ("figure", "first 10 steps", "last 10 steps", "change") and len(main.rows) == 14
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
        "loss, nats a token",
        "accuracy, % of trained tokens",
        "tokens a second",
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
    assert len(drawn) == 14 and len({each.name for each in drawn}) == 14, "each measure alone"
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


# Pages


@pytest.mark.parametrize(("recipe", "line", "charts"), [(RL, rl_line, 11), (SFT, sft_line, 3)])
def test_a_page_needs_nothing_else(
    recipe: str, line: Callable[[int], dict[str, Any]], charts: int, tmp_path: Path
) -> None:
    path = write_run(tmp_path / "run", [line(n) for n in range(1, 8)], recipe)
    write_report([path], path)
    text = (path / "report.html").read_text(encoding="utf-8")
    page = inert_page(text)
    assert page.count("figure") == page.count("svg") == charts
    assert page.count("table") == len(tables([read(path)]))
    assert "prefers-color-scheme: dark" in text
    shown = " ".join(page.text)
    assert (
        "asyncthink train report" in shown and "share = 1" in shown
        if recipe == SFT
        else "problems = 2" in shown
    )
    drawings = sorted((path / "figures").iterdir())
    assert len(drawings) == charts
    for each in drawings:
        root = ElementTree.parse(each).getroot()
        assert root.tag == f"{SVG}svg" and "http" not in each.read_text().replace(
            "http://www.w3.org/2000/svg", ""
        )
        assert "prefers-color-scheme:dark" in (root[0].text or "")
    told = (path / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[.*?\]\((.*?)\)", told)
    assert sorted(path / each for each in linked) == drawings
    assert all(f"## {table.title}" in told for table in tables([read(path)]))


def inert_page(text: str) -> Page:
    """See that a page acts in no way, with a policy that is stricter than that of other reports."""
    assert "img-src" not in text
    return inert(text.replace("; base-uri", "; img-src data:; base-uri", 1))


def test_hostile_names_and_recipes_are_text(tmp_path: Path) -> None:
    errors = {HOSTILE: 2, "y" * 5000: 1, "odd": "many"}
    recipe = (
        f'start = {json.dumps(HOSTILE)}\noutput = "x"\nwhen = 1979-05-27\n# </pre>{HOSTILE[:24]}\n'.replace(
            "{", ""
        )
    )
    name = HOSTILE.replace("/", "_")
    paths = [
        write_run(tmp_path / each, [rl_line(1, format_errors=errors)], recipe) for each in (name, "z" * 200)
    ]
    (paths[1] / "config.toml").write_text('start = "other"\noutput = "z"\n')
    write_report(paths, tmp_path / "report")
    page = inert_page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert "alert(1)" in "".join(page.text), "as text"
    told = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    outside = "\n".join(line for line in told.split("\n") if not line.startswith("    "))
    assert "<" not in outside.replace("\\<", "") and "\x1b" not in told and "\u202e" not in told
    for each in (tmp_path / "report" / "figures").iterdir():
        assert not list(ElementTree.parse(each).getroot().iter(f"{SVG}script"))


def test_neither_torch_nor_matplotlib_is_needed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [rl_line(1)])
    code = (
        "import sys\nsys.modules.update(torch=None, matplotlib=None)\n"
        "from pathlib import Path\nfrom asyncthink.training.report.write import write_report\n"
        f"write_report([Path({str(path)!r})], Path({str(path)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (path / "report.html").exists()


def test_the_same_lines_make_the_same_bytes(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [rl_line(n) for n in range(1, 30)])
    names = ("report.html", "report.md", "figures/kl.svg")
    write_report([path], path)
    before = [(path / name).read_bytes() for name in names]
    write_report([path], path)
    assert [(path / name).read_bytes() for name in names] == before


# What is read


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [rl_line(1), rl_line(2)])
    whole = (path / "metrics.jsonl").read_bytes()
    third = json.dumps(rl_line(3)).encode()
    for torn in (third[:1], third[:-1], b"\0" * 40, b'{"step": 3, "x": "\xff'):
        (path / "metrics.jsonl").write_bytes(whole + torn)
        assert [line["step"] for line in read(path).lines] == [1, 2], torn
    (path / "metrics.jsonl").write_bytes(whole + third)
    assert len(read(path).lines) == 3, "only its end is missing"


def no_step(path: Path) -> None:
    (path / "metrics.jsonl").write_text("")


def no_metrics(path: Path) -> None:
    (path / "metrics.jsonl").unlink()


def no_config(path: Path) -> None:
    (path / "config.toml").unlink()


def an_evaluation(path: Path) -> None:
    (path / "config.toml").write_text('task = "countdown"\n\n[methods.asyncthink]\n')


def no_toml(path: Path) -> None:
    (path / "config.toml").write_text("output = \n")


def no_text(path: Path) -> None:
    (path / "config.toml").write_bytes(b'output = "\xff"')


def a_folder(path: Path) -> None:
    (path / "metrics.jsonl").unlink()
    (path / "metrics.jsonl").mkdir()


def second_line(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        lines = [json.dumps(rl_line(1)), text, json.dumps(rl_line(9))]
        (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    return write


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (no_step, "no step is finished yet"),
        (no_metrics, "no step is finished yet"),
        (no_config, "is no training run: it has no config.toml"),
        (an_evaluation, "its config.toml is a recipe of something else"),
        (no_toml, "config.toml is no TOML"),
        (no_text, "config.toml: a file that is no text"),
        (a_folder, "metrics.jsonl: Is a directory"),
        (second_line("{"), "line 2 is no JSON"),
        (second_line("[" * 100_000), "line 2 is no JSON"),
        (second_line("[]"), "line 2 has no number 'step'"),
        (second_line(json.dumps(rl_line(2, reward=None))), "line 2 has no number 'reward'"),
        (second_line(json.dumps(rl_line(2, kl=True))), "line 2 has no number 'kl'"),
        (second_line(json.dumps(rl_line(2, reward=10**400))), "line 2: 'reward' is too large"),
        (second_line(json.dumps(rl_line(1))), "line 2: 'step' does not rise"),
        (second_line(json.dumps({**rl_line(2), "step": nan})), "line 2: 'step' does not rise"),
    ],
)
def test_what_cannot_be_read_is_one_line(spoil: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [rl_line(1), rl_line(2)])
    spoil(path)
    with pytest.raises(AsyncThinkError, match=re.escape(told)) as caught:
        write_report([path], path)
    assert caught.value.exit_status == 2 and "\n" not in str(caught.value)
    assert not (path / "report.html").exists()


def test_a_line_that_lacks_something_is_never_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [rl_line(1), {"step": 2}])
    with pytest.raises(RecordError, match="line 2 has no number 'steps'"):
        read(path)


def test_runs_that_do_not_belong_together(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [rl_line(1)])
    tuned = write_run(tmp_path / "tuned", [sft_line(1)], SFT)
    with pytest.raises(UsageError, match=r"one is a run of train rl, .*tuned of train sft"):
        read_runs([one, tuned])
    with pytest.raises(UsageError, match="given twice"):
        read_runs([one, tmp_path / "tuned" / ".." / "one"])


def test_somebody_elses_report_stays(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [rl_line(1)])
    there = tmp_path / "evaluation"
    there.mkdir()
    (there / "report.html").write_text("<h1>asyncthink eval</h1>")
    with pytest.raises(RecordError, match=r"report.html belongs to something else.*--output"):
        write_report([path], there)
    assert [each.name for each in there.iterdir()] == ["report.html"]
    (path / "figures").write_text("in the way")
    with pytest.raises(RecordError, match=r"figures: File exists$"):
        write_report([path], path)


# A real run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the embedded model on two problems, two episodes each."""
    folder = tmp_path_factory.mktemp("rl")
    (folder / "tiny.toml").write_text(TINY.format(output=folder / "run"))
    train_rl(load_rl_recipe(str(folder / "tiny.toml")))
    return folder / "run"


def test_a_real_run(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    main = write_report([trained], trained)
    found = {row[0]: row[1] for row in rows(main)}
    path = sum(line["critical_path"] for line in lines) / 2
    assert 0 < path <= 60 and found["critical path, ticks"] == f"{path:.1f}"
    errors = 100 - 50 * sum(line["valid"] for line in lines)
    assert float(found["format errors, % of episodes"]) == pytest.approx(errors, abs=0.05)
    text = (trained / "report.html").read_text(encoding="utf-8")
    inert_page(text)
    assert "not finished" not in text


def test_a_killed_run(trained: Path, tmp_path: Path) -> None:
    """As a kill leaves it: one step, and a second one of which only a part was written."""
    first, second = (trained / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.toml").write_bytes((trained / "config.toml").read_bytes())
    (path / "metrics.jsonl").write_bytes(first + second[:50])
    write_report([path], path)
    assert "run is not finished: 1 of 2 steps." in (path / "report.html").read_text(encoding="utf-8")
    assert "**run is not finished: 1 of 2 steps.**" in (path / "report.md").read_text(encoding="utf-8")
