"""Contest mathematics: what is read, what of an answer counts, exact cases, and answers that attack the check."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.tasks import contest_math
from asyncthink.tasks.base import Split
from asyncthink.tasks.contest_math import ContestMath, MathProblem
from asyncthink.tasks.math_pool import Verdict
from asyncthink.tasks.math_text import MAX_CHARS, plain, stated

TASK = ContestMath()
DATA = Path(__file__).parents[3] / "shared" / "data"


def right(gold: str, answer: str) -> bool:
    score = TASK.check(MathProblem(question="?", answer=gold), answer)
    assert score.value in (0.0, 1.0)
    return score.value == 1.0


# What is read


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"problem": "Q", "answer": "27"}, "27"),
        ({"question": "Q", "answer": 27, "url": "u"}, "27"),
        ({"problem": " Q\n", "answer": 27.0, "solution": None, "year": 2024, "source": "s"}, "27"),
        ({"Problem": "Q", "Answer": "025", "Solution": "..."}, "025"),
        (
            {"PROBLEM": "Q", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 3, "unique_id": "x"},
            "\\frac{1}{2}",
        ),
        ({"problem": "Q", "answer": 0.5}, "0.5"),
        ({"problem": "Q", "answer": 1e22}, "10000000000000000000000"),
        ({"problem": "Q", "answer": -3}, "-3"),
    ],
)
def test_public_layouts_are_read(values: dict[str, Any], answer: str) -> None:
    assert TASK.read(values) == MathProblem(question="Q", answer=answer)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "the column 'problem' is missing: there is no other"),
        ({"answer": "1"}, "the column 'problem' is missing: there is no other"),
        (
            {"problem": "Q", "Solution": "1"},
            "the column 'answer' is missing: the nearest there is 'Solution'",
        ),
        ({"problem": "Q", "anwser": "1"}, "unknown column 'anwser': did you mean 'answer'?"),
        ({"problem": "Q", "final_answer": "1"}, "unknown column 'final_answer': did you mean 'answer'?"),
        ({"problem": "Q", "question": "Q", "answer": "1"}, "gives the question a second time"),
        ({"problem": "Q", "answer": "1", "Answer": "1"}, "gives the answer a second time"),
        ({"problem": " ", "answer": "1"}, "the column 'problem' is empty"),
        ({"problem": "Q", "answer": ""}, "the column 'answer' is empty"),
        ({"problem": "Q", "answer": None}, "'answer' is a text or a number, not None"),
        ({"problem": "Q", "answer": True}, "'answer' is a text or a number, not True"),
        ({"problem": "Q", "answer": float("nan")}, "'answer' is a text or a number, not nan"),
        ({"problem": ["Q"], "answer": "1"}, "'problem' is a text or a number"),
        ({"problem": "Q", "answer": "1" * 2001}, "an answer has at most 2,000 characters, not 2,001"),
    ],
)
def test_rows_that_make_no_sense_are_told_in_one_line(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        TASK.read(values)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnknownNameError) == told.startswith("unknown")


def test_it_brings_no_problems_and_says_how_to_give_them() -> None:
    assert [TASK.available(split) for split in Split] == [0, 0, 0]
    with pytest.raises(UsageError, match=r"asyncthink eval --task contest_math --problems FILE\.jsonl,"):
        TASK.problem(Split.TEST, 0, 0)


def test_the_prompt_is_the_question_and_how_to_answer() -> None:
    prompt = TASK.prompt(MathProblem(question=" What is $1+1$?\n", answer="2"))
    assert prompt.splitlines()[0] == "What is $1+1$?"
    assert len(prompt.splitlines()) == 2
    assert "2" not in prompt
    assert TASK.parse(prompt) is None


@pytest.mark.parametrize(("file", "count"), [("aime24.jsonl", 30), ("amc23.jsonl", 40)])
def test_every_gold_answer_of_the_data_is_itself_and_not_its_successor(file: str, count: int) -> None:
    if not (DATA / file).exists():
        pytest.skip("the data is not here")
    rows = [json.loads(line) for line in (DATA / file).read_text().splitlines()]
    assert len(rows) == count
    for row in rows:
        problem = TASK.read({name: row[name] for name in row if name != "id"})
        assert TASK.check(problem, row["answer"]).value == 1
        assert TASK.check(problem, f"So the answer is \\boxed{{{int(row['answer'])}}}.").value == 1
        assert TASK.check(problem, str(int(row["answer"]) + 1)).value == 0


# What of an answer counts


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("27", "27"),
        ("**27**", "27"),
        ("The answer is 27.", "27"),
        ("The final answer is: $27$", "27"),
        ("Answer: 27 minutes", "27 minutes"),
        ("The answer is 27.\nI tried 30 cases.", "27"),
        ("So the answer is\n\\[\n27\n\\]\nas 3 and 9 show.", "27"),
        ("$m + n = 25 + 2 = 27$", "27"),
        ("x=3\ny=24\nx+y=27", "27"),
        ("We add 3 and 24, which gives 27 ways", "27"),
        ("The area of $\\triangle ABC$ is 27", "27"),
        ("27 is the value of $m+n$.", "27"),
        ("The length $AB$ is $3\\sqrt{13}$.", "3\\sqrt{13}"),
        ("It is 3\\sqrt{13} units.", "3\\sqrt{13}"),
        ("The pair (3, 5) works", "(3, 5)"),
        ("either 27 or 28", "27, 28"),
        ("$27$ or $28$", "27, 28"),
        ("3, 5, and 7", "3, 5, 7"),
        ("27 thousand people", "27 thousand"),
        ("\\boxed{26}, no, \\boxed{27}. I tried 30 cases.", "27"),
        ("\\boxed{x = \\fbox{27}}", "27"),
        ("\\boxed{\\frac{1}{2}} or 3", "\\frac{1}{2}"),
        ("\\boxed {\\{1, 2\\}} or 3", "\\{1, 2\\}"),
        ("\\boxed{27", "27"),
        ("\\boxed{}", ""),
        ("x = 3, y = 5", "x = 3, y = 5"),
        ("It is Friday", "It is Friday"),
        ("\\dfrac12", "\\frac{1}{2}"),
        ("\\left(3,\\,\\tfrac{\\pi}{2}\\right)", "(3, \\frac{\\pi}{2})"),
        ("1{,}234\\,567", "1,234,567"),
        ("\\begin{pmatrix}1\\\\ 2\\end{pmatrix}", "\\begin{pmatrix}1\\\\ 2\\end{pmatrix}"),
        ("x" * 5000 + "\\boxed{27}" + "y" * 5000, "27"),
        ("x" * 5000 + "\\boxed{" + "y" * 5000, None),
        ("27" + " " * 5000, None),
    ],
)
def test_what_counts(answer: str, value: str | None) -> None:
    assert stated(answer, "") == value


def test_an_equation_counts_whole_where_the_answer_is_one() -> None:
    assert stated("y = 2x + 3", "x + y = 1") == "y = 2x + 3"
    assert stated("y = 2x + 3", "5") == "2x + 3"


def undecided(gold: str, value: str, seconds: float) -> Verdict:
    """Stand in for the processes, where none should be needed."""
    del gold, seconds
    return Verdict(right=False, reason=f"{value!r} is not plain")


@given(st.text(alphabet="\\${}()[],.=^_/%~ \n012aIb√·text frac boxed answer is or", max_size=60))
def test_any_text_is_judged(text: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(contest_math, "compare", undecided)
        assert TASK.check(MathProblem(question="?", answer="27"), text).value == 0
        assert TASK.check(MathProblem(question="?", answer=text + "3"), text + "3").value == 1
    assert TASK.merge([text, text, "27"]) == (text.strip() or "27")


@given(
    st.integers(-9999, 9999),
    st.sampled_from(
        [
            "{}",
            "${}$",
            "{}.",
            "{}.0",
            "\\boxed{{{}}}",
            "The answer is {}.",
            "x = {}",
            "We try 8 and find {}",
            "{} minutes",
            "{}^\\circ",
            "\\[\n{}\n\\]",
            "\\frac{{{}}}{{1}}",
            "{}/1",
            "so $a+b={}$ as told",
        ]
    ),
)
def test_spellings_of_a_number_are_that_number_and_no_other(number: int, spelling: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(contest_math, "compare", undecided)
        assert right(str(number), spelling.format(number))
        assert not right(str(number + 1), spelling.format(number))


@pytest.mark.parametrize(
    "piece",
    [
        "\\text{",
        "\\boxed{",
        "$",
        "\\(",
        "\\[",
        "\\begin{",
        "answer is ",
        "1,",
        "1 ",
        "1,111",
        "a ",
        "=",
        "{",
        "√",
        "\n",
        "\\",
    ],
)
def test_reading_hostile_text_takes_no_time(piece: str) -> None:
    started = time.process_time()
    for text in (piece * (MAX_CHARS // len(piece)), piece * 1_000_000):
        value = stated(text, "27")
        plain(value or "")
        TASK.merge([text])
    assert time.process_time() - started < 1


# Exact cases

NUMBERS: list[tuple[str, list[str], list[str]]] = [
    (
        "27",
        [
            "27",
            "027",
            "27.0",
            "+27",
            "$27$",
            "\\boxed{27}",
            "x = 27",
            "27 minutes",
            "27\\text{ cm}^2",
            "54/2",
            "(27)",
            "27^{\\circ}",
            "27°",
            "\\$27.00",
            "\\frac{54}{2}",
            "27%",
            "27.",
            "The value of $m+n$ is 27.",
        ],
        ["28", "-27", "2 7", "270", "2.7", "27.0000001", "27/0", "\\boxed{}", "", "0.27%"],
    ),
    ("025", ["25", "025", "25.0", "\\boxed{025}", "0025"], ["0.25", "250", "5", "25/100"]),
    ("1,000", ["1000", "1{,}000", "1\\,000", "1 000", "1,000.0"], ["1", "1,00", "100", "1,000,000", "10,00"]),
    ("3159", ["3,159", "3159 units"], ["31,59", "3.159"]),
    (
        "\\frac{1}{2}",
        ["0.5", ".5", "1/2", "2/4", "\\dfrac12", "50%", "50\\%"],
        ["0.5%", "2", "-1/2", "1/-2", "50"],
    ),
    ("\\frac{1}{3}", ["1/3", "\\frac{3}{9}"], ["0.333333", "0.33", "33.3333%"]),
    ("-\\frac{3}{4}", ["-0.75", "−3/4", "\\frac{-3}{4}", "-\\tfrac34"], ["0.75", "3/4", "-\\frac{-3}{4}"]),
    ("2\\frac{1}{2}", ["2.5", "5/2", "2 1/2", "2\\frac12"], ["1", "21/2", "-2.5"]),
    (
        "50\\%",
        ["50", "0.5", "50%", "50 percent", "\\frac12", "50\\text{ percent}"],
        ["0.05", "0.5%", "5", "500"],
    ),
    ("-1", ["-1", "- 1", "−1"], ["1", "-1.5"]),
    ("15\\mbox{ cm}^2", ["15", "15 cm^2", "15\\text{ cm}^2"], ["225", "150"]),
]
WORDS: list[tuple[str, list[str], list[str]]] = [
    ("\\text{(C)}", ["C", "(C)", "\\boxed{C}", "The answer is (C)."], ["D", "CC", "27"]),
    ("Friday", ["friday", "\\text{Friday}", "The answer is Friday."], ["Saturday", "Fri", "27", "day fri"]),
    ("4343_6", ["4343_{6}", "4343_6"], ["4343_5", "43436"]),
]
LATEX: list[tuple[str, list[str], list[str]]] = [
    (
        "3\\sqrt{13}",
        ["\\sqrt{117}", "3√13", "The length $AB$ is $3\\sqrt{13}$.", "\\boxed{AB = 3\\sqrt{13}}"],
        ["3\\sqrt{12}", "10.816654", "13\\sqrt{3}"],
    ),
    ("\\frac{\\sqrt{3}}{3}", ["\\frac{1}{\\sqrt{3}}"], ["\\sqrt{3}", "0.577350"]),
    ("[0, \\infty)", ["\\left[0,\\infty\\right)", "x \\in [0,\\infty)"], ["(0,\\infty)", "[0,1)"]),
    ("(-\\infty,-2) \\cup (3,\\infty)", ["(3,\\infty)\\cup(-\\infty,-2)"], ["(-\\infty,-2]\\cup(3,\\infty)"]),
    ("(3, \\frac{\\pi}{2})", ["\\left(3,\\pi/2\\right)"], ["(\\frac{\\pi}{2},3)", "(3,\\frac{\\pi}{3})"]),
    ("3, 5, 7", ["7,5,3", "$3$, $5$, and $7$", "\\{3,5,7\\}"], ["3,5", "3,5,7,9", "357"]),
    ("1 \\pm \\sqrt{19}", ["1-\\sqrt{19}, 1+\\sqrt{19}"], ["1+\\sqrt{19}"]),
    ("x^2+2x+1", ["(x+1)^2", "f(x) = 1+2x+x^2"], ["x^2+2x", "x^2+2x+2"]),
    ("y = 2x + 3", ["2x-y+3=0"], ["y=2x+4"]),
    ("x=5", ["5"], ["y=5", "6"]),
    ("6+9i", ["9i+6"], ["6-9i", "15"]),
    ("10\\pi", ["10π", "\\pi\\cdot 10\\text{ cm}"], ["31.4159265", "10"]),
    ("2^{100}", ["1267650600228229401496703205376"], ["2^{99}"]),
    (
        "27",
        ["\\sqrt{729}", "3^3", "3 \\times 9"],
        ["27 or 28", "27!", "27\\pi", "27x", "27\\text{ thousand}", "27i"],
    ),
    (
        "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
        ["\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}"],
        ["\\begin{pmatrix}2\\\\1\\end{pmatrix}"],
    ),
    ("\\log_2 3", ["\\frac{\\ln 3}{\\ln 2}"], ["\\log_3 2"]),
    ("52_8", ["52"], ["42"]),
    ("6", ["\\binom{4}{2}"], ["\\sum_{k=1}^{3} k", "\\int_0^6 dx", "6 squared", "the 6 of 7"]),
]


@pytest.mark.parametrize(("gold", "yes", "no"), NUMBERS + WORDS)
def test_plain_numbers_and_words_need_no_library(
    gold: str, yes: list[str], no: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest_math, "compare", undecided)
    assert [answer for answer in [*yes, gold] if not right(gold, answer)] == []
    assert [answer for answer in no if right(gold, answer)] == []


@pytest.mark.parametrize(("gold", "yes", "no"), LATEX)
def test_latex_is_decided_by_math_verify(gold: str, yes: list[str], no: list[str]) -> None:
    assert [answer for answer in [*yes, gold] if not right(gold, answer)] == []
    assert [answer for answer in no if right(gold, answer)] == []


def test_the_reason_shows_what_was_read() -> None:
    problem = MathProblem(question="?", answer="27")
    assert TASK.check(problem, "I think it is 28.").reason == "28: wrong"
    assert TASK.check(problem, "\\boxed{27}").reason == "27: right"
    assert TASK.check(problem, " ").reason == "the answer is empty"
    assert "longer than 2,000 characters and has no \\boxed" in TASK.check(problem, "27 " * 4_000_000).reason
    assert TASK.check(problem, "\\sum_{k=1}^{27} 1").reason.endswith(
        "sum, product, integral or limit to be worked out"
    )
    assert TASK.pool(problem, ["26", "\\boxed{27}"]).value == 1


@pytest.mark.parametrize(
    ("answers", "merged"),
    [
        (["28", "27", "\\boxed{27}"], "27"),
        (["28", "\\boxed{27}", "28.5", "27.0", "The answer is $27$."], "\\boxed{27}"),
        (["1/2", "3", "0.5", "3", "\\frac12"], "1/2"),
        (["3", "5"], "3"),
        (["\\sqrt{2}", "3", "\\sqrt2 ", "$\\sqrt{2}$"], "\\sqrt{2}"),
        (["", " ", "5"], "5"),
        (["", ""], ""),
        ([], ""),
        (["x" * 3000, "27", "27"], "27"),
    ],
)
def test_merging_counts_values_and_keeps_the_earliest(answers: list[str], merged: str) -> None:
    assert TASK.merge(answers) == merged


# The processes
