"""Tables: every figure worked out by hand, in a terminal, Markdown and HTML.

With two problems the interval is known: a resample takes the first twice, the second twice, or both, so its 95 %
reach from the smaller value to the larger.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from asyncthink.evaluation.report.cells import Cell, Table, decimals, figure, html, labels, markdown
from asyncthink.evaluation.report.tables import missing, printed, tables
from asyncthink.evaluation.summary import Summary, summarise
from tests.evaluation.rows_world import ARMS, random_summary, row

GOLDEN = Path(__file__).parent / "golden_tables.md"
HOSTILE = "</td><script>alert(1)</script>|<img src=x onerror=y>\x1b[31m\u202e[a](http://x.example)`*_$x$\n# h"


def by_hand() -> Summary:
    """Two problems, one sample; one episode of parallel thinking has no answer."""
    rows = [
        row("asyncthink", "a", correct=4, ticks=100, tokens=150, forks=2, concurrency=0.5, wall=2),
        row("asyncthink", "b", correct=2, ticks=200, tokens=250, forks=4, concurrency=0.6, wall=4),
        row("sequential", "a", method="sequential", correct=3, ticks=150, tokens=150, forks=0, waits=()),
        row("sequential", "b", method="sequential", correct=1, ticks=250, tokens=250, forks=0, waits=()),
        row("parallel", "a", method="parallel", correct=2, pooled=4, ticks=300, tokens=1000, forks=3),
        row(
            *("parallel", "b"),
            method="parallel",
            correct=0,
            pooled=1,
            ticks=300,
            tokens=1200,
            forks=3,
            errors=["no_answer", "malformed_tag"],
        ),
    ]
    return summarise("countdown", rows, ["a", "b"], ["asyncthink", "sequential", "parallel"], 1)


def known(summary: Summary) -> dict[str, Table]:
    found = {table.name: table for table in tables(summary)}
    assert len(found) == len(tables(summary)), "no name stands twice"
    return found


def cells(table: Table, row: int) -> dict[str, str]:
    return dict(zip(table.columns, (cell.whole for cell in table.rows[row]), strict=True))


def test_the_main_table() -> None:
    table = known(by_hand())["main"]
    assert cells(table, 0) == {
        "method": "asyncthink",
        "accuracy %": "50.0 [0.0, 100.0]",
        "score": "0.750 [0.500, 1.000]",
        "T": "150 [100, 200]",
        "wall s": "3.00 [2.00, 4.00]",
        "tokens": "200 [150, 250]",
        "eta/c %": "55.0 [50.0, 60.0]",
        "valid %": "100.0",
        "forks": "3.00 [2.00, 4.00]",
        "episodes": "2",
    }
    assert [cell.whole for cell in table.rows[1]][:3] == ["sequential", "0.0", "0.500 [0.250, 0.750]"]
    assert "2 problems x 1 sample (2 trials a method, c = 4)" in table.note


def test_parallel_thinking_has_the_vote_and_the_pooled_union_side_by_side() -> None:
    found = known(by_hand())
    vote, pooled = cells(found["main"], 2), cells(found["main"], 3)
    assert (vote["method"], pooled["method"]) == ("parallel (vote)", "parallel (pooled)")
    assert (vote["accuracy %"], pooled["accuracy %"]) == ("0.0", "50.0 [0.0, 100.0]")
    assert (vote["score"], pooled["score"]) == ("0.250 [0.000, 0.500]", "0.625 [0.250, 1.000]")
    assert vote["T"] == pooled["T"] == "300" and vote["tokens"] == pooled["tokens"] == "1,100 [1,000, 1,200]"
    assert vote["eta/c %"] == "50.0", "over the one valid episode: it has no interval"
    at_least = found["at_least"]
    assert at_least.columns == ("method", "all 4", "at least 3", "at least 2", "at least 1")
    assert [cell.text for cell in at_least.rows[2]] == ["parallel (vote)", "0.0", "0.0", "50.0", "50.0"]
    assert [cell.text for cell in at_least.rows[3]] == ["parallel (pooled)", "50.0", "50.0", "50.0", "100.0"]


def test_latency_wall_time_and_tokens_are_never_apart() -> None:
    for summary in (by_hand(), random_summary(problems=3, asked=1)):
        columns = known(summary)["main"].columns
        place = columns.index("T")
        assert columns[place : place + 3] == ("T", "wall s", "tokens")
        assert ("score" in columns) == (summary.asked > 1) == ("at_least" in known(summary))


def test_matched_budgets() -> None:
    found = known(by_hand())
    latency = found["matched_critical_path"]
    assert [row[0].text for row in latency.rows] == ["150", "200", "300"] * 2
    assert cells(latency, 0) == {
        "T at most": "150",
        "median of": "asyncthink",
        "measure": "accuracy %",
        "asyncthink": "50.0 [0.0, 100.0]",
        "sequential": "0.0",
        "parallel (vote)": "0.0",
        "parallel (pooled)": "0.0",
    }
    score = cells(latency, 3)
    assert (score["measure"], score["asyncthink"]) == ("score", "0.500 [0.000, 1.000]")
    assert score["sequential"] == "0.375 [0.000, 0.750]"
    tokens = cells(found["matched_decoded_tokens"], 0)
    assert (tokens["tokens at most"], tokens["asyncthink"], tokens["parallel (vote)"]) == (
        *("200", "50.0 [0.0, 100.0]", "0.0"),
    )
    workers = found["matched_workers"]
    assert [row[0].text for row in workers.rows] == ["0", "3"] * 2
    assert cells(workers, 0)["asyncthink"] == "0.0", "it needed more"


def test_latency_at_equal_accuracy() -> None:
    assert cells(known(by_hand())["equal"], 0) == {
        "with": "parallel (pooled)",
        "accuracy %": "45.0",
        "T of asyncthink": "100",
        "T of the other": "300",
        "shorter by %": "–",
    }
    never = summarise("countdown", [row("one"), row("two", correct=3)], ["0"], ["one", "two"], 1)
    assert "equal" not in known(never), "two is never completely right"


def test_paired_differences() -> None:
    table = known(by_hand())["differences"]
    assert [row[0].text for row in table.rows] == ["asyncthink - sequential", "asyncthink - parallel"]
    sequential, parallel = cells(table, 0), cells(table, 1)
    assert sequential["T"] == "-50.0", "both problems have the same difference"
    assert sequential["score"] == "+0.250" and sequential["accuracy, points"].startswith(
        "+50.0 [0.0, +100.0] p = 0."
    )
    assert parallel["T"] == "-150 [-200, -100] p ≤ 0.0005"
    assert parallel["tokens"] == "-900 [-950, -850] p ≤ 0.0005"
    assert parallel["wall s"].startswith("+1.00 [0.00, +2.00] p = 0.")


def test_bounds_errors_and_ends() -> None:
    found = known(by_hand())
    bounds = cells(found["bounds"], 0)
    assert (bounds["lower bound"], bounds["T / bound"]) == ("75 [50, 100]", "2.00")
    assert bounds["saved %"] == "26.7 [20.0, 33.3]", "50 of 150 and 50 of 250"
    assert (bounds["waited"], bounds["T with inserted"]) == ("15.0", "160 [110, 210]")
    errors = found["format_errors"]
    rates = {(row[0].text, row[1].text): row[4].whole for row in errors.rows}
    assert rates["no_answer", "the paper"] == rates["these together", "the paper"] == "50.0"
    assert rates["malformed_tag", "ours"] == rates["these together", "ours"] == "50.0"
    assert rates["unknown_join", "the paper"] == rates["duplicate_join", "ours"] == "0.0"
    assert rates["episodes with any, %", "both"] == "50.0 [0.0, 100.0]"
    assert [row[0].text for row in errors.rows[:4]] == [
        *("duplicate_fork", "pool_overflow", "unknown_join", "no_answer"),
    ]
    ends = cells(found["ends"], 2)
    assert (ends["stop: answer"], ends["stop: budget"], ends["answered %"]) == ("1", "1", "50.0 [0.0, 100.0]")


def test_organisation_gain() -> None:
    right = {"asyncthink": (2, 1), "random-forks": (1, 0), "oracle-forks": (4, 4)}
    rows = [
        row(arm, key, correct=n) for arm, counts in right.items() for key, n in zip("ab", counts, strict=True)
    ]
    table = known(summarise("countdown", rows, ["a", "b"], list(right), 1))["gain"]
    # Means 3/8, 1/8 and 1; on the first problem (2-1)/(4-1), on the second (1-0)/(4-0).
    assert cells(table, 0) == {"measure": "score", "gain": "0.29 [0.25, 0.33]"}
    gains = {line["measure"]: line["gain"] for line in (cells(table, i) for i in range(len(table.rows)))}
    assert next(iter(gains)) == "score" and gains["accuracy"].startswith("0.00")
    assert gains["score at T <= 100"] == gains["score"], "all need the same T"
    assert "gain" not in known(by_hand())


def test_cost_is_shown_where_a_server_was_asked() -> None:
    assert "cost" not in known(by_hand())
    summary = random_summary(problems=3)
    arm = summary.arms[0]
    one = arm.measures["score"]
    measures = {
        **arm.measures,
        "requests": one,
        "cost": type(one)(mean=0.00012, low=0.0001, high=0.0002, problems=3, samples=3),
    }
    priced = replace(summary, arms=(replace(arm, measures=measures), *summary.arms[1:]))
    table = known(priced)["cost"]
    assert cells(table, 0)["cost"] == "0.00012 [0.00010, 0.00020]"
    assert cells(table, 1)["cost"] == "–"


def test_missing_trials_are_loud() -> None:
    assert missing(by_hand()) == ""
    rows = [row("asyncthink", "a"), row("sequential", "a"), row("sequential", "b")]
    summary = summarise("countdown", rows, ["a", "b"], ["asyncthink", "sequential", "parallel"], 1)
    assert missing(summary).startswith("MISSING TRIALS: 1 of 2 of asyncthink, all 2 of parallel. ")
    main = known(summary)["main"]
    assert cells(main, 0)["episodes"] == "1 (1 MISSING)"
    assert cells(main, 2)["method"] == "parallel" and cells(main, 2)["episodes"] == "0 (ALL MISSING)"
    assert cells(known(summary)["ends"], 2)["missing"] == "2"
    assert "MISSING TRIALS" in shown(summary, 100)
    nothing = summarise("countdown", [], ["a", "b"], ["asyncthink"], 1)
    assert [table.name for table in tables(nothing)] == ["main", "ends"]


def test_one_problem_has_no_interval() -> None:
    rows = [row("asyncthink", "a", n, correct=n, ticks=n + 1) for n in range(4)]
    rows += [row("sequential", "a", n, correct=1, ticks=9) for n in range(4)]
    summary = summarise("countdown", rows, ["a"], ["asyncthink", "sequential"], 4)
    assert not any(cell.interval for table in tables(summary) for line in table.rows for cell in line)


def shown(summary: Summary, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(printed(summary))
    return out.getvalue()


@pytest.mark.parametrize("width", [44, 80, 120, 220])
def test_a_terminal_shows_what_it_has_room_for(width: int) -> None:
    text = shown(random_summary(problems=12), width)
    assert all(len(line) <= width for line in text.split("\n"))
    first = text.split("\n")[2]
    assert first.startswith("asyncthink"), "names stand on one line"
    assert ("more columns" in text) == (width < 100)
    assert (len(re.findall(r"\[.+?\]", first)) == 8) == (width == 220), "all intervals"


def test_hostile_names_are_inert() -> None:
    arms = [f"sequential {HOSTILE}", "sequential " + "x" * 5000, "sequential __x__", "sequential max=\u4e2d"]
    summary = random_summary(arms=arms, problems=3)
    assert not set(shown(summary, 100)) & set("\x1b\u202e\x07")
    for table in tables(summary):
        page = html(table)
        found = Elements()
        found.feed(page)
        assert found.names <= {"div", "table", "thead", "tbody", "tr", "th", "td", "span", "p"}
        assert found.rows == 1 + len(table.rows) and len(page) < 30_000
        text = markdown(table)
        rows = [line for line in text.split("\n") if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1, "no name adds a column"
        assert "<" not in text.replace("\\<", "") and "](" not in text and "\x1b" not in text


class Elements(HTMLParser):
    """Names of elements, and how many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.rows += tag == "tr"
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)


def test_random_tables_are_whole() -> None:
    for seed, arms in enumerate([ARMS, ["asyncthink"], ["sequential", "parallel"]]):
        summary = random_summary(seed, arms=arms, problems=5, asked=1 + 3 * (seed % 2))
        for table in tables(summary):
            assert all(len(line) == len(table.columns) for line in table.rows) and table.rows
            assert table.note.endswith(".") and table.note.count(". ") == 0, "one sentence"


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        *((0.0, 0, "0"), (1234.5, 0, "1,234"), (99.94, 1, "99.9"), (9.876, 2, "9.88"), (0.5, 2, "0.50")),
        *((0.0123, 3, "0.012"), (0.00012, 5, "0.00012"), (1e-12, 6, "0.000000"), (-45.67, 1, "-45.7")),
    ],
)
def test_decimals_follow_the_size(value: float, places: int, text: str) -> None:
    assert decimals(value) == places
    assert figure(value, places) == text


def test_nothing_is_minus_zero() -> None:
    assert figure(-0.04, 1) == "0.0" and figure(-0.04, 1, "+") == "0.0" and figure(0.06, 1, "+") == "+0.1"


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        ["x" * 80, "x" * 80 + "y", "y" + "x" * 80, "x" * 40],
        ["", " ", "\n", "\x1b[31m", "\x1b[32m"],
        [f"asyncthink max_worker_tokens={n} max_critical_path=600" for n in (64, 128, 256)],
        ["\u4e2d" * 60, "\u4e2d" * 61],
    ],
)
def test_labels_are_short_clean_and_different(names: Sequence[str]) -> None:
    found = labels(names, 30)
    assert len(set(found.values())) == len(set(names))
    for label in found.values():
        assert 0 < len(label) <= 30 and label.isprintable()
    assert labels(["max_tokens=64"], 30) == {"max_tokens=64": "max_tokens=64"}


def test_golden() -> None:
    assert "\n".join(map(markdown, tables(by_hand()))) == GOLDEN.read_text(encoding="utf-8")


def test_a_cell_joins_its_parts() -> None:
    assert Cell(text="1").whole == "1" and Cell(text="1", interval="[0, 2]").whole == "1 [0, 2]"
