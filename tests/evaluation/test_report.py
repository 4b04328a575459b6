"""Reports: of real runs over scripted models, and of records that attack the page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from asyncthink.episodes.record import (
    Episode,
    Outcome,
    Role,
    Segment,
    SegmentKind,
    StopReason,
    Trace,
    Trial,
    encode,
)
from asyncthink.episodes.store import RunDirectory
from asyncthink.errors import RecordError
from asyncthink.evaluation.preflight import Evaluation, prepare
from asyncthink.evaluation.recipe import resolve
from asyncthink.evaluation.report.samples import chosen
from asyncthink.evaluation.report.tables import tables
from asyncthink.evaluation.report.write import write_report
from asyncthink.evaluation.rows import Row
from asyncthink.evaluation.run import Watcher, begin
from asyncthink.evaluation.summary import Summary
from asyncthink.settings import dump
from asyncthink.viewer.words import visible
from tests.evaluation.rows_world import ARMS, random_row

SCRIPT = {
    "organizer": "<FORK-1>7*6</FORK-1> meanwhile <JOIN-1> <ANSWER>1+2</ANSWER>",
    "workers": {"7*6": "let me see <RETURN>42</RETURN>"},
}
METHODS: Mapping[str, Any] = {"asyncthink": {}, "sequential": {}, "parallel": {}}
HOSTILE = "</script></pre></details><img src=x onerror=alert(1)> \x1b[2J\x00\u202e\ud800 & <!-- ]]> `` | http://x.example"
VOID = ("meta", "br", "img", "link", "input", "hr")


def raw(folder: Path, **more: Any) -> dict[str, Any]:
    script = folder / "script.json"
    script.write_text(json.dumps(SCRIPT), encoding="utf-8")
    return {"task": "countdown", "limit": 3, "model": f"scripted:{script}", "methods": METHODS, **more}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report."""
    folder = tmp_path_factory.mktemp("run")
    with begin(resolve(raw(folder), "test"), folder / "run") as run:
        anyio.run(run.go_on, Watcher())
        write_report(run.evaluation, run.directory)
    return folder / "run"


def again(path: Path) -> Summary:
    """Report a run that is there, as it is now."""
    directory = RunDirectory.open(path)
    recipe = resolve(raw(path.parent), "test")
    return write_report(prepare(recipe, str(path / "problems.jsonl")), directory)


def reported(path: Path) -> Summary:
    """Return the summary that a report holds."""
    return msgspec.convert(json.loads((path / "report.json").read_bytes())["summary"], Summary)


def contents(path: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "report.json", "report.md", "report.html")
    files = [*(path / name for name in names), *sorted((path / "figures").iterdir())]
    return {file.name: file.read_bytes() for file in files}


class Page(HTMLParser):
    """What a page is made of; every element is closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def inert(text: str) -> Page:
    """Read a page, and see that nothing in it acts, asks for anything, or leads to a place that is not there."""
    page = Page(text)
    names = {name for name, _ in page.elements}
    assert not names & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "link",
        "form",
        "base",
        "input",
        "foreignobject",
    }
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "srcset", "action") for name in attributes)
        links = [attributes[name] for name in ("href", "xlink:href") if name in attributes]
        links += re.findall(r"url\((.*?)\)", " ".join(attributes.values()))
        assert all(link.startswith("#") and link[1:] in ids for link in links), links
    assert not re.search(r"@import|url\((?!#)", text)
    assert not any(ord(one) < 32 and one != "\n" for one in text) and "\u202e" not in text
    policy = [each["content"] for name, each in page.elements if each.get("http-equiv") and name == "meta"]
    assert policy and policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    return page


def test_a_finished_run(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    page = inert(text)
    summary = reported(finished)
    shown = " ".join(page.text)
    for table in tables(summary):
        assert table.title in shown and table.note in shown
        assert any(attributes.get("id") == table.name for _, attributes in page.elements)
    assert page.count("table") == len(tables(summary))
    assert sum(len(table.rows) + 1 for table in tables(summary)) == page.count("tr")
    assert page.count("figure") == len(list((finished / "figures").glob("*.svg"))) > 4
    assert page.count("article") == 9, "all episodes: there are fewer than ten"
    assert page.count("svg") == page.count("figure") + 9 + 1, "figures, timelines, and one legend"
    assert "meanwhile" in shown and "let me see" in shown and "42" in shown, "what the agents wrote"
    assert "the model organises itself" in shown and "c traces; voted, and pooled" in shown
    assert "intervals are too narrow" in shown and "dev split" in shown and "MISSING" not in shown
    assert len(text) < 1_000_000


def test_the_files_agree(finished: Path) -> None:
    rows = [
        msgspec.json.decode(line, type=Row) for line in (finished / "metrics.jsonl").read_bytes().splitlines()
    ]
    assert [(row.sample, row.problem, row.arm) for row in rows] == [
        (0, problem, arm) for problem in ("0", "1", "2") for arm in METHODS
    ], "in the order of the trials"
    report = json.loads((finished / "report.json").read_bytes())
    summary = reported(finished)
    assert summary.arms[0].measures["critical_path"].mean == 12, "6 + 3 + 1 ticks, and 2 of waiting"
    assert again(finished) == summary
    assert report["command"] == f"asyncthink eval {finished / 'config.toml'}"
    assert report["made_with"]["kind"] == "evaluation" and "python" in report["made_with"]
    markdown = (finished / "report.md").read_text(encoding="utf-8")
    for table in tables(summary):
        assert f"## {table.title}" in markdown
    for name in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (finished / name).exists()
    assert f"    asyncthink eval {finished / 'config.toml'}\n" in markdown
    assert '    task = "countdown"\n' in markdown


def test_the_same_episodes_make_the_same_bytes_in_any_order(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / finished.name
    shutil.copytree(finished, copy)
    lines = (copy / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    Random(0).shuffle(lines)
    (copy / "episodes.jsonl").write_bytes(b"".join(lines))
    shutil.rmtree(copy / "figures")
    again(copy)
    before, after = contents(finished), contents(copy)
    for name, content in after.items():
        assert content.replace(str(copy).encode(), str(finished).encode()) == before[name], name


def test_what_is_none_of_the_runs_is_left_out(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    episodes = list(RunDirectory.open(finished).episodes())
    first = episodes[0]
    assert first.trial is not None
    strangers = [
        replace(first, trial=replace(first.trial, arm="other")),
        replace(first, trial=replace(first.trial, sample=7)),
        replace(first, trial=None),
        replace(first, answer="twice", wall_seconds=1e6),
    ]
    with (copy / "episodes.jsonl").open("ab") as file:
        file.write(b"".join(encode(one) + b"\n" for one in strangers))
    assert again(copy) == reported(finished)
    assert "twice" not in (copy / "report.html").read_text(encoding="utf-8")


def test_an_unfinished_run_says_so_loudly(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    kept = [
        one for one in RunDirectory.open(finished).episodes() if one.trial and one.trial.arm != "parallel"
    ][1:]
    torn = encode(kept[0])[:-9]
    (copy / "episodes.jsonl").write_bytes(b"".join(encode(one) + b"\n" for one in kept) + torn)
    summary = again(copy)
    assert summary.absent == ("parallel",)
    text = (copy / "report.html").read_text(encoding="utf-8")
    loud = re.findall(r'<p class="loud">(.*?)</p>', text)
    assert loud[0].startswith("MISSING TRIALS: 1 of 3 of ") and "all 3 of parallel" in loud[0]
    assert any("torn last line" in each for each in loud)
    assert "**MISSING TRIALS: 1 of 3 of " in (copy / "report.md").read_text(encoding="utf-8")


def test_no_episode_at_all(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    (copy / "episodes.jsonl").write_bytes(b"")
    assert again(copy).arms == ()
    inert((copy / "report.html").read_text(encoding="utf-8"))


def test_a_file_that_cannot_be_written_is_one_line(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    before = (copy / "report.html").read_bytes()
    shutil.rmtree(copy / "figures")
    (copy / "figures").write_text("in the way", encoding="utf-8")
    with pytest.raises(RecordError, match=r"figures: File exists$"):
        again(copy)
    assert (copy / "report.html").read_bytes() == before


def spoken(path: str, role: Role, kind: SegmentKind = SegmentKind.DECODED) -> Trace:
    text = f"{path} {HOSTILE}\n  indented\r\n" * 60
    forked = None if role is Role.ORGANIZER else 1
    segments = (
        Segment(kind=SegmentKind.PROMPT, text="secret prompt", n_tokens=2),
        Segment(kind=kind, text=text, n_tokens=9),
    )
    return Trace(
        path=path,
        role=role,
        query=HOSTILE,
        segments=segments,
        outcome=Outcome.RETURNED,
        result=HOSTILE,
        forked_at=forked,
    )


def attack(evaluation: Evaluation, workers: int) -> list[Episode]:
    episodes: list[Episode] = []
    for number, (arm, question, trial) in enumerate(evaluation.trials()):
        traces = [spoken("0", Role.ORGANIZER)]
        kinds = (SegmentKind.INSERTED, SegmentKind.REASONED, SegmentKind.DICTATED)
        traces += [spoken(f"0/{n + 1}", Role.WORKER, kinds[n % 3]) for n in range(workers)]
        episodes.append(
            Episode(
                id=str(number),
                trial=trial,
                task="countdown",
                problem=question.values,
                query=HOSTILE * 50,
                method=arm.preset.method.value,
                model=HOSTILE,
                capacity=4,
                seed=0,
                traces=tuple(traces),
                answer=f"{HOSTILE}\n1+{'1' * 5000}\n" * 9,
                stop_reason=StopReason.BUDGET,
                cause=HOSTILE,
                wall_seconds=1.0,
            )
        )
    return episodes


def test_hostile_records_are_inert(tmp_path: Path) -> None:
    arm = f"x {HOSTILE}".replace("\ud800", "").replace("\x00", "")
    methods = {arm: {"method": "sequential"}, "asyncthink": {}, "y" * 3000: {"method": "asyncthink"}}
    recipe = resolve(raw(tmp_path, limit=2, methods=methods), "test")
    evaluation = prepare(recipe)
    path = tmp_path / "run"
    config = dump(recipe.plain())
    RunDirectory.create(path, config, {"kind": "evaluation", "note": HOSTILE.replace("\ud800", "")}).close()
    lines = [encode(clean) for clean in map(utf8, attack(evaluation, workers=40))]
    (path / "episodes.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    summary = write_report(evaluation, RunDirectory.open(path))
    page = inert((path / "report.html").read_text(encoding="utf-8"))
    assert page.count("article") == 6 and page.count("table") == len(tables(summary))
    text = "".join(page.text)
    assert "onerror=alert(1)" in text and "  indented" in text, "as text, and lines as they were"
    assert "secret prompt" not in text and "and 17 more agents" in text
    assert (path / "report.html").stat().st_size < 3_000_000
    marks = {attributes.get("class") for name, attributes in page.elements if name == "span"}
    assert {"inserted", "reasoned", "dictated"} <= marks
    markdown = (path / "report.md").read_text(encoding="utf-8")
    outside = "\n".join(line for line in markdown.split("\n") if not line.startswith("    "))
    assert "<" not in outside.replace("\\<", "") and "\x1b" not in markdown


def utf8(episode: Episode) -> Episode:
    """Drop what no JSON file can hold."""
    whole = msgspec.json.decode(json.dumps(msgspec.to_builtins(episode)).replace("\\ud800", ""))
    return msgspec.convert(whole, Episode)


def test_visible_text_keeps_its_lines_and_blanks() -> None:
    assert visible("a\n\n  b  c \n\td") == "a\n\n  b c \nd"
    assert visible("x\x1b[31m\x00\u202ey\rz") == "x\ufffd[31m\ufffd\ufffdy ↵ z"
    assert visible("") == ""


def rows_of(arms: Sequence[str], problems: int) -> list[Row]:
    rng = Random(3)
    return [random_row(rng, arm, arm, str(n), 0) for n in range(problems) for arm in arms]


def test_shown_episodes_are_spread_over_arms_and_scores() -> None:
    rows = rows_of(ARMS, 60)
    picked = chosen(rows, ARMS)
    assert len(set(picked)) == 10
    assert [trial.arm for trial in picked] == [arm for arm in ARMS for _ in range(2)]
    scores = {(row.arm, row.problem): row.score for row in rows}
    assert len({scores[trial.arm, trial.problem] for trial in picked}) >= 4
    Random(1).shuffle(rows)
    assert chosen(rows, ARMS) == picked, "whatever the order"
    alone = chosen(rows_of(["sequential"], 3), ["sequential", "parallel"])
    assert sorted(trial.problem for trial in alone) == ["0", "1", "2"]
    assert chosen([], ARMS) == []
    many = [f"{n}" for n in range(30)]
    found = [replace(row, arm=arm) for arm in many for row in rows_of(["sequential"], 2)]
    assert [trial.arm for trial in chosen(found, many)] == many[:10]


def test_a_trial_is_shown_once() -> None:
    rows = rows_of(["asyncthink"], 25)
    picked = chosen(rows, ["asyncthink"])
    assert len(set(picked)) == 10 and all(isinstance(trial, Trial) for trial in picked)
