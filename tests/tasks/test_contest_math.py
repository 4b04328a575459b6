"""Contest mathematics: what is read, what of an answer counts, exact cases, and answers that attack the check."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink import extras
from asyncthink.errors import MissingExtraError, UnknownNameError, UsageError
from asyncthink.tasks import contest_math, math_pool
from asyncthink.tasks.base import Split
from asyncthink.tasks.contest_math import ContestMath, MathProblem
from asyncthink.tasks.math_pool import MathPool, Verdict
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
    with pytest.raises(UsageError, match=r"asyncthink eval --task contest_math --problems FILE\.jsonl$"):
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

HANGS = "9^{9^{9}}"


@pytest.fixture(name="pool", scope="module")
def one_process() -> Iterator[MathPool]:
    pool = MathPool(1)
    yield pool
    pool.close()


def alive(pid: int) -> bool:
    """Return whether a process runs: one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(pids: list[int], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def works(pool: MathPool) -> bool:
    return pool.compare("\\sqrt{2}", "\\frac{2}{\\sqrt{2}}", 30).right


@pytest.mark.parametrize("hostile", [HANGS, "\\sin(" * 60 + "x" + ")" * 60])
def test_what_takes_for_ever_is_killed_at_its_limit(pool: MathPool, hostile: str) -> None:
    assert works(pool)
    (pid,) = pool.pids()
    started = time.monotonic()
    assert pool.compare("27", hostile, 0.3) == Verdict(
        right=False, reason="comparing it takes longer than 0.3 s"
    )
    assert 0.3 <= time.monotonic() - started < 2
    assert not alive(pid) and pool.pids() == []
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "hostile",
    [
        "\\operatorname{zeros}(20000,20000)",
        "9" * 1900,
        "1e999999999",
        "\\operatorname{exit}(3)",
        "\\text{__import__('os')._exit(3)}",
        "$}{\\)\x00\ud800\n",
        "=" * 1000,
        "x" * 100_000,
    ],
)
def test_hostile_values_are_wrong_and_the_next_comparison_works(pool: MathPool, hostile: str) -> None:
    assert not pool.compare("27", hostile, 0.5).right
    assert works(pool)


def test_the_task_has_the_limit_too_and_remembers_what_ran_into_it() -> None:
    task, problem = ContestMath(seconds=0.3), MathProblem(question="?", answer="27")
    score = task.check(problem, f"\\boxed{{{HANGS}}}")
    assert score.value == 0
    assert score.reason == f"{HANGS}: comparing it takes longer than 0.3 s"
    started = time.monotonic()
    assert task.check(problem, HANGS) == score
    assert time.monotonic() - started < 0.2


@pytest.mark.parametrize(
    "value", ["__import__('os').system('touch FILE')", "\\text{__import__('os').system('touch FILE')}"]
)
def test_an_answer_is_never_run(pool: MathPool, value: str, tmp_path: Path) -> None:
    file = tmp_path / "made"
    for each in (value, f"$({value})$", f"1+{value}", f"\\operatorname{{{value}}}(1)", f"x_{{{value}}}"):
        assert not pool.compare("27", each.replace("FILE", str(file)), 2).right
    assert not file.exists()


def test_a_process_that_was_killed_from_outside_is_replaced(pool: MathPool) -> None:
    assert works(pool)
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGKILL)
    assert works(pool)
    assert pool.pids() != [pid] and not alive(pid)


def test_processes_are_replaced_after_so_many_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_pool, "CHECKS", 2)
    pool = MathPool(1)
    assert works(pool)
    (first,) = pool.pids()
    assert works(pool)
    assert pool.pids() == [] and not alive(first)
    pool.close()


def test_threads_share_the_processes() -> None:
    pool = MathPool(2)
    pairs = [(f"{n}\\sqrt{{2}}", f"\\frac{{{2 * n}}}{{\\sqrt{{2}}}}", n % 3 > 0) for n in range(2, 14)]

    def judge(pair: tuple[str, str, bool]) -> bool:
        gold, answer, good = pair
        return pool.compare(gold, answer if good else answer + "+1", 30).right is good

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(judge, pairs))
    assert 1 <= len(pool.pids()) <= 2
    pool.close()
    assert pool.pids() == []


def stub(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> MathPool:
    """Return a pool whose processes run `text`."""
    path.write_text("import json, os, sys, time\n" + text)
    monkeypatch.setattr(math_pool, "WORKER", path)
    return MathPool(1)


def test_a_process_that_dies_over_a_value_is_asked_twice_and_then_it_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    text = f"print('{{\"ready\": true}}', flush=True)\nopen({str(log)!r}, 'a').write(input()[:8])\n"
    pool = stub(monkeypatch, tmp_path / "w.py", text)
    assert pool.compare("1", "2") == Verdict(right=False, reason="the process that compared it died")
    assert len(log.read_text()) == 16


def test_a_process_does_not_see_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    text = (
        "print('{\"ready\": true}', flush=True)\ninput()\n"
        "print(json.dumps({'right': False, 'reason': ' '.join(os.environ)}), flush=True)\ninput()"
    )
    pool = stub(monkeypatch, tmp_path / "w.py", text)
    names = pool.compare("1", "2").reason.split()
    pool.close()
    assert "PATH" in names and "OPENAI_API_KEY" not in names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("print(json.dumps({'ready': False, 'reason': 'ImportError: no antlr'}))", "(ImportError: no antlr)"),
        ("sys.exit(1)", "(it ended)"),
        ("time.sleep(60)", "(no sign of life for 0.5 s)"),
    ],
)
def test_a_process_that_does_not_start_is_told(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_pool, "START_SECONDS", 0.5)
    with pytest.raises(MissingExtraError) as caught:
        stub(monkeypatch, tmp_path / "w.py", text).compare("1", "2")
    assert str(caught.value) == f"math-verify does not start {told}: pip install math-verify"


def test_a_missing_package_is_told_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(extra: str) -> list[str]:
        return list(extras.EXTRAS[extra])

    monkeypatch.setattr(extras, "missing", missing)
    with pytest.raises(
        MissingExtraError, match=r"^comparing mathematics needs math_verify: pip install math-verify$"
    ):
        MathPool(1).compare("\\sqrt{3}", "3^{1/2}")
    assert right("27", "27.0")


ALONE = """
import runpy, sys
worker = runpy.run_path({worker!r})
compare = worker["load"]()
print(compare("1", "2"), compare("0.5", "\\\\frac12"), compare("1", "9)"))
print(sorted({{"torch", "transformers", "asyncthink"}} & set(sys.modules)))
worker["confine"]()
import os, resource, socket, subprocess
for attempt in (
    lambda: os.system("true"),
    lambda: subprocess.Popen(["true"]),
    lambda: open({file!r}, "w"),
    lambda: os.open({file!r}, os.O_CREAT),
    lambda: os.remove({worker!r}),
    lambda: socket.socket().connect(("127.0.0.1", 9)),
):
    try:
        print("done", attempt())
    except PermissionError as error:
        print("refused")
print(resource.getrlimit(resource.RLIMIT_AS)[0] == worker["MEMORY"])
print(worker["judge"](lambda gold, answer: bytearray(2**31), "1", "2"))
"""


def test_a_worker_imports_little_and_can_do_nothing_but_compare(tmp_path: Path) -> None:
    script = ALONE.format(worker=str(math_pool.WORKER), file=str(tmp_path / "made"))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    compared, modules, *refused, limited, memory = run.stdout.splitlines()
    assert compared == "(False, '') (True, '') (False, 'it cannot be read as mathematics')"
    assert modules == "[]"
    assert refused == ["refused"] * 6
    assert limited == "True"
    assert memory == "(False, 'it takes more than 512 MB to compare')"
    assert not (tmp_path / "made").exists()


FORK = """
import os, sys
from pathlib import Path
from asyncthink.tasks import math_pool
math_pool.WORKER = Path(sys.argv[1])
before = math_pool.compare("1", "a").reason
if os.fork() == 0:
    print(math_pool.compare("1", "b").reason != before)
    sys.exit()
os.wait()
print(math_pool.compare("1", "c").reason == before)
"""


def test_a_fork_of_the_parent_gets_processes_of_its_own(tmp_path: Path) -> None:
    worker = tmp_path / "w.py"
    worker.write_text(
        "import json, os, sys\nprint('{\"ready\": true}', flush=True)\n"
        "for _ in sys.stdin:\n    print(json.dumps({'right': True, 'reason': str(os.getpid())}), flush=True)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", FORK, str(worker)], capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("True\nTrue\n", "")


PARENT = """
from threading import Thread
from asyncthink.tasks.math_pool import MathPool
pool = MathPool({idle} + 1)
threads = [Thread(target=pool.compare, args=("1", str(n), 30)) for n in range({idle} + 1)]
[each.start() for each in threads]
[each.join() for each in threads]
print(*pool.pids(), flush=True)
try:
    pool.compare("1", {hangs!r}, {seconds})
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(("end", "idle", "seconds"), [(signal.SIGKILL, 1, 0.5), (signal.SIGINT, 0, 60)])
def test_no_process_outlives_its_parent(end: signal.Signals, idle: int, seconds: float) -> None:
    """The script comes by standard input, so its __main__ is no file, as in a REPL; one of its processes hangs."""
    parent = subprocess.Popen(
        [sys.executable, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with parent:
        assert parent.stdin and parent.stdout and parent.stderr
        parent.stdin.write(PARENT.format(idle=idle, hangs=HANGS, seconds=seconds))
        parent.stdin.close()
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert children and all(map(alive, children))
        time.sleep(0.2)  # so that it is in the middle of a comparison
        os.killpg(parent.pid, end)
        assert parent.wait(10) == (-signal.SIGKILL if end is signal.SIGKILL else 0)
        assert wait_for_end(children, 8) == []
        assert parent.stderr.read() == ""
        assert parent.stdout.read() == ("" if end is signal.SIGKILL else "stopped\n")
