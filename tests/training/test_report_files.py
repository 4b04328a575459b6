"""The files of a report of trainings: pages are inert, other people's files stay, what cannot be read is one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from asyncthink.errors import AsyncThinkError, RecordError, UsageError
from asyncthink.training.owpo import train_rl
from asyncthink.training.report.runs import read_runs
from asyncthink.training.report.tables import tables
from asyncthink.training.report.write import write_report
from asyncthink.training.rl_recipe import load_rl_recipe
from tests.evaluation.test_report import Page, inert
from tests.training.report_world import RL, SFT, SVG, read, rl_line, rows, sft_line, write_run

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


# Pages


@pytest.mark.parametrize(
    ("recipe", "line", "charts"), [(RL, rl_line, 13), (SFT, sft_line, 3)], ids=["rl", "sft"]
)
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
