"""The three fixed questions: spellings of the right answers, near misses, and hostile answers."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from asyncthink.cli.main import app
from asyncthink.errors import UsageError
from asyncthink.tasks import TASKS, CaseProblem, Cases, Split, VertexCover, get_task, judge, recognise
from asyncthink.tasks.cases import ANGLE, CASES, MUSEUM, SHARE
from asyncthink.tasks.vertex_cover import fewest

TASK = Cases()
TETRAHEDRON, MUSEUM_CASE, CROSS = (CaseProblem(case=name) for name in CASES)


def test_the_angle_is_that_of_a_tetrahedron() -> None:
    """Between the normals of two faces of one that stands in a cube."""
    corners = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
    normals = [tuple(-x for x in corners[0]), tuple(-x for x in corners[1])]
    cosine = sum(x * y for x, y in zip(*normals, strict=True)) / 3
    assert math.isclose(ANGLE, 180 - math.degrees(math.acos(cosine)))
    assert round(ANGLE, 2) == 70.53


def test_the_share_is_that_of_all_pairs_of_gametes() -> None:
    counts: Counter[str] = Counter()
    for (r1, y1), (r2, y2) in product(product("Rr", "Yy"), product("Rr", "yy")):
        counts["round green" if "R" in r1 + r2 and "Y" not in y1 + y2 else "other"] += 1
    assert Fraction(counts["round green"], counts.total()) == SHARE == Fraction(3, 8)


def test_the_busiest_room_of_the_museum_needs_no_guard() -> None:
    assert fewest(MUSEUM) == 3
    assert TASK.check(MUSEUM_CASE, "B, C, D").value == 1
    assert TASK.check(MUSEUM_CASE, "{D C B}").value == 1
    assert "4 vertices" in TASK.check(MUSEUM_CASE, "A, B, C, D").reason
    assert "D-G" in TASK.check(MUSEUM_CASE, "A, B, C").reason
    prompt = TASK.prompt(MUSEUM_CASE)
    assert all("-".join(edge) in prompt for edge in MUSEUM.edges) and prompt.count("-") == len(MUSEUM.edges)


@pytest.mark.parametrize(
    "answer",
    [
        "arccos(1/3)",
        "arccos 1/3",
        "Arc cos (1/3)",
        "acos(1 / 3)",
        "cos^-1(1/3)",
        "cos^(-1) (1/3)",
        "cos⁻¹(1/3)",
        r"\arccos\frac{1}{3}",
        r"$\arccos\left(\frac13\right)$",
        r"\(\cos^{-1}\left(\dfrac{1}{3}\right)\)",
        r"\boxed{\arccos\left(\frac{1}{3}\right)}",
        "arctan(2√2)",
        "tan^-1(2 sqrt 2)",
        "arctan(2*sqrt(2))",
        r"\arctan(2\sqrt{2})",
        r"\arcsin\frac{2\sqrt{2}}{3}",
        r"2\arcsin\frac{1}{\sqrt{3}}",
        "2 * arctan(√2/2)",
        "pi - arccos(-1/3)",
        "180° − arccos(−1/3)",
        "70.53°",
        "70.5 degrees",
        "70.528779°",
        "70,53 °",
        "70.53",
        "**70.53°**",
        "about 70.53 deg.",
        "approx. 70.53 degrees",
        "~70.5°",
        r"70.53^\circ",
        r"\boxed{70.53^{\circ}}",
        r"$70.53\,\text{degrees}$",
        "1.231 rad",
        "1.23 radians",
        "1.2309594 rad",
        "θ = arccos(1/3) ≈ 70.53°",
        r"\theta = \arccos(1/3) \approx 1.231\text{ rad} \approx 70.53^\circ",
        "arccos(1/3) (about 70.53°)",
        "arccos(1/3) (70.53 degrees).",
        "arccos(1/3) or 70.53°",
    ],
)
def test_spellings_of_the_angle(answer: str) -> None:
    assert TASK.check(TETRAHEDRON, answer).value == 1


def test_each_exact_spelling_is_the_angle() -> None:
    for value in (
        math.acos(1 / 3),
        math.atan(2 * math.sqrt(2)),
        math.asin(2 * math.sqrt(2) / 3),
        2 * math.asin(1 / math.sqrt(3)),
        2 * math.asin(math.sqrt(3) / 3),
        2 * math.atan(1 / math.sqrt(2)),
        2 * math.atan(math.sqrt(2) / 2),
        math.pi - math.acos(-1 / 3),
    ):
        assert math.isclose(math.degrees(value), ANGLE)


@pytest.mark.parametrize(
    "answer",
    [
        "109.47°",
        "70.47°",
        "70.58°",
        "71°",
        "60",
        "70.53 rad",
        "1.231",
        "1.231°",
        "1.22 rad",
        "70.53%",
        "-70.53°",
        "arccos(-1/3)",
        "arccos(2/3)",
        "arccos(1)/3",
        "arccos(3)",
        "arcsin(1/3)",
        "cos(1/3)",
        "2arccos(1/3)",
        "cos θ = 1/3",
        "1/3",
        r"\arccos\frac{11}{3}",
        r"\arccos\frac{1}{13}",
        "7 0.53°",
        "7*0.53°",
        "7**0.53°",
        r"7\,0.53°",
        r"7\cdot0.53°",
        "70.53° or 109.47°",
        "arccos(1/3) = 60°",
        "70.53° (109.47°)",
        "not 70.53°",
        "the angle is 70.53°",
        "=",
        "θ =",
        "",
    ],
)
def test_other_angles(answer: str) -> None:
    score = TASK.check(TETRAHEDRON, answer)
    assert score.value == 0 and "angle" in score.reason


@pytest.mark.parametrize(
    "answer",
    [
        "3/8",
        " 3 / 8.",
        "(3/8)",
        "6/16",
        "37.5%",
        "37.5 %",
        "37,5 percent",
        "0.375",
        ".375",
        "0.3750",
        r"\frac{3}{8}",
        r"$\frac38$",
        r"\boxed{\dfrac{3}{8}}",
        "3 in 8",
        "3 out of 8",
        "P = 3/8",
        "3/8 (37.5 %)",
        r"3/8 = 0.375 = 37.5\%",
    ],
)
def test_spellings_of_the_share(answer: str) -> None:
    assert TASK.check(CROSS, answer).value == 1


@pytest.mark.parametrize(
    "answer",
    [
        "3/5",
        "3:5",
        "1/8",
        "0.38",
        "37%",
        "37.5",
        "0.375%",
        "3/0",
        "0/0",
        "3 8",
        "3//8",
        "-3/8",
        "1 3/8",
        "3/8 or 1/2",
        "3/8/1",
        "3/8 round green",
        "3e0/8",
        "=",
        "",
    ],
)
def test_other_shares(answer: str) -> None:
    score = TASK.check(CROSS, answer)
    assert score.value == 0 and "share" in score.reason


def test_each_split_has_the_three_in_order() -> None:
    for split in Split:
        assert TASK.available(split) == 3
        assert [TASK.problem(split, seed, index) for seed, index in enumerate(range(3))] == [
            TETRAHEDRON,
            MUSEUM_CASE,
            CROSS,
        ]
        for index in (3, -1):
            with pytest.raises(UsageError, match="3 cases"):
                TASK.problem(split, 0, index)


@pytest.mark.parametrize("name", list(CASES))
def test_a_question_is_known_again(name: str) -> None:
    problem = CaseProblem(case=name)
    prompt = TASK.prompt(problem)
    for sentence in (prompt, "  " + prompt.upper().replace(" ", "\n ") + " ", prompt.rstrip("?")):
        known = recognise(sentence)
        assert known is not None and (known.task, known.problem) == (get_task("cases"), problem)
    assert TASK.parse(prompt.replace("a", "the", 1)) is None
    assert TASK.read({"case": name}) == problem
    assert "?" in prompt and "\n" not in prompt


def test_judge_reads_the_values_of_a_record() -> None:
    assert judge("cases", {"case": "cross"}, "37.5 %").value == 1


NONSENSE: list[dict[str, Any]] = [{}, {"case": "tetrahedrn"}, {"case": 1}, {"case": None}, {"cas": "cross"}]


@pytest.mark.parametrize("values", NONSENSE)
def test_values_that_make_no_sense_are_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TASK.read(values)


def test_an_unknown_case_is_offered_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'tetrahedron'"):
        TASK.read({"case": "tetrahedrn"})


def test_merge_counts_meanings_and_keeps_the_first_spelling() -> None:
    assert TASK.merge(["60°", "60°", " arccos(1/3)", "70.53°", "1.231 rad"]) == "arccos(1/3)"
    assert TASK.merge(["1/2", "1/2", "37.5 %", "3/8", "0.375"]) == "37.5 %"
    assert TASK.merge(["A, B", "A, B", "D C B", "{B, C, D}", "C, B, D"]) == "D C B"
    assert TASK.merge(["so so ", "so so", "3/8"]) == "so so"


def test_no_task_takes_the_sentence_of_another() -> None:
    """However a problem is asked, one task alone reads it; the two presets of countdown share a sentence."""
    for task in TASKS.values():
        count = task.available(Split.DEV)
        for index in range(3 if count is None else min(count, 3)):
            sentence = task.prompt(task.problem(Split.DEV, 1, index))
            readers = {other.name.partition("-")[0] for other in TASKS.values() if other.parse(sentence)}
            assert readers == {task.name.partition("-")[0]}
            known = recognise(sentence)
            assert known is not None and known.task is task
    assert VertexCover().parse(TASK.prompt(MUSEUM_CASE)) is None


def listed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["tasks", *arguments])


def test_the_command_stops_where_a_split_ends() -> None:
    for limit, count in ((2, 2), (3, 3), (5, 3), (10_000, 3)):
        result = listed("cases", "--limit", str(limit))
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [case.prompt for case in CASES.values()][:count]


def test_the_command_shows_a_task_without_problems_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(task: Cases, split: Split) -> int:
        del task, split
        return 0

    monkeypatch.setattr(Cases, "available", none)
    result = listed()
    assert result.exit_code == 0
    shown = dict(line.split("  ") for line in result.stdout.splitlines())
    assert set(shown) == set(TASKS)
    assert shown["cases"].startswith("it has no problems of its own")
    assert shown["sudoku"].startswith("Complete this 4x4 sudoku")
    result = listed("cases")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("asyncthink: cases: it has no problems of its own")


def hostile_answers() -> list[str]:
    shapes = [
        "9**9**8",
        "9" * 10_000_000,
        "9" * 299,
        "0." + "0" * 290 + "1",
        "1/" + "9" * 290,
        "1e999 rad",
        "__import__('os').system('true')",
        "(" * 10_000_000,
        "(" * 150 + "70.54" + ")" * 149,
        r"\frac{" * 50 + "3" + "}{8}" * 50,
        r"\boxed{" * 42,
        "=" * 300,
        " (" * 150,
        "or " * 100,
        r"\text{" * 50,
        "sqrt" * 75,
        "A" * 10_000_000,
        "７０.５３°",
        "٧٠",
        "³⁄₈",
        "⅜",
        "70.53°\x00",
        "3/8\x00",
        "3/8\ud800",
        "\u202e3/8",
        "<ANSWER>3/8</ANSWER>",
        "70.53°</ANSWER>",
        "B, C, D</ANSWER>",
        "nan",
        "inf degrees",
        "lambda: 3/8",
        "{{3/8}}",
        "İ" * 300,
    ]
    rng = random.Random(1)
    alphabet = [
        "1",
        "3",
        "/",
        "(",
        ")",
        "{",
        "}",
        "\\frac",
        "\\sqrt",
        " ",
        "=",
        "°",
        "cos^-1",
        ".",
        "or",
        "$",
        "*",
    ]
    while len(shapes) < 200:
        shapes.append("".join(rng.choice(alphabet) for _ in range(rng.choice([5, 30, 100]))))
    return shapes


@pytest.mark.parametrize("name", list(CASES))
def test_hostile_answers_cost_little_and_earn_nothing(name: str) -> None:
    problem, slowest = CaseProblem(case=name), 0.0
    for answer in hostile_answers():
        began = time.process_time()
        score = TASK.check(problem, answer)
        merged = TASK.merge([answer, answer])
        slowest = max(slowest, time.process_time() - began)
        assert score.value == 0 and score.reason.isprintable(), answer[:80]
        assert merged == answer.strip()
    assert slowest < 0.05


TEXTS = (
    st.text()
    | st.text("0123456789./%°() =arcosdegin\\{}^-$√")
    | st.lists(
        st.sampled_from(
            ["arccos", "1/3", "\\frac{1}{3}", "70.53", "°", " ", "(", ")", "=", "\\", "*", "√", "2"]
        )
    ).map("".join)
    | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
)


@given(TEXTS)
def test_no_text_raises(text: str) -> None:
    for name in CASES:
        assert TASK.check(CaseProblem(case=name), text).value in (0, 1)
    assert TASK.merge([text]) == text.strip()
    assert TASK.parse(text) is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_only_fractions_of_that_value_are_right(over: int, under: int) -> None:
    assert TASK.check(CROSS, f"{over}/{under}").value == (under > 0 and 8 * over == 3 * under)
    assert TASK.check(CROSS, rf"\frac{{{over}}}{{{under}}}").value == (under > 0 and 8 * over == 3 * under)


@given(st.decimals(0, 180, places=3))
def test_only_numbers_near_the_angle_are_right(degrees: Any) -> None:
    near = abs(float(degrees) - 70.528779) <= 0.05
    assert TASK.check(TETRAHEDRON, f"{degrees} degrees").value == near
