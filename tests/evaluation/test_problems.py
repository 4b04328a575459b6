"""Problem files: read as people and tools write them, and told by the line where they cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncthink import extras
from asyncthink.errors import UsageError
from asyncthink.evaluation.problems import Question, drawn, from_file, stored
from asyncthink.tasks import TASKS, Asked, CountdownProblem, MathProblem, Split, get_task

ONE = {"numbers": [2, 3, 5, 7], "target": 28}
PROBLEM = CountdownProblem(numbers=(2, 3, 5, 7), target=28)
GOOD = json.dumps(ONE)


def read(
    folder: Path, content: str | bytes, limit: int | None = None, task: str = "countdown"
) -> list[Question]:
    file = folder / "mine.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return from_file(task, str(file), limit)


def refused(folder: Path, content: str | bytes, task: str = "countdown") -> str:
    """What is said of a file, without its folder."""
    with pytest.raises(UsageError) as caught:
        read(folder, content, task=task)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(str(folder / "mine.jsonl"))
    return said.removeprefix(f"{folder}/")


def keys(questions: list[Question]) -> list[str]:
    return [question.key for question in questions]


def test_lines_become_questions_under_their_ids(tmp_path: Path) -> None:
    lines = [
        {"id": "first", **ONE},
        {**ONE, "ID": 7, "wanted": 2},
        {"Id": None, **ONE, "target": 30},
        {"id": "", **ONE},
        {**ONE, "id": " ü\n"},
        ONE,
    ]
    found = read(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    assert keys(found) == ["first", "7", "3", "4", " ü\n", "6"]
    assert found[0] == Question(key="first", asked=Asked(get_task("countdown"), PROBLEM))
    assert found[1].asked.problem.wanted == 2 and found[2].asked.problem.target == 30


@pytest.mark.parametrize(
    "content",
    [
        f"{GOOD}\n{GOOD}",
        f"\n\n  \n{GOOD}\n\t\n{GOOD}\n\n\n",
        f"{GOOD}\r\n{GOOD}\r\n",
        f"\ufeff{GOOD}\n{GOOD}\n",
        f"\ufeff\r\n{GOOD}\r\n\r\n  {GOOD}  ",
    ],
    ids=["no last end", "blank lines", "CRLF", "byte order mark", "all of it"],
)
def test_files_as_tools_write_them(tmp_path: Path, content: str) -> None:
    assert [question.asked.problem for question in read(tmp_path, content)] == [PROBLEM, PROBLEM]


def test_a_line_without_an_id_is_called_by_its_number(tmp_path: Path) -> None:
    assert keys(read(tmp_path, f"\n{GOOD}\n\n{GOOD}\n")) == ["2", "4"]


def test_line_ends_inside_a_text_do_not_split_it(tmp_path: Path) -> None:
    question = {"problem": "a\nb\u2028c\u0085d", "answer": "1"}
    line = json.dumps(question, ensure_ascii=False)
    (found,) = read(tmp_path, line + "\n", task="contest_math")
    assert found.asked.problem == MathProblem(question="a\nb\u2028c\u0085d", answer="1")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is no JSON: Expecting property name"),
        ("numbers", "is no JSON: Expecting value"),
        (f"{GOOD} {GOOD}", "is no JSON: Extra data"),
        ("[" * 100_000, "is no JSON: maximum recursion depth exceeded"),
        ('{"numbers": [2, 3], "target": ' + "9" * 5000 + "}", "is no JSON: Exceeds the limit"),
        ('{"problem": "\\ud800", "answer": "1"}', "is no JSON: 'utf-8' codec can't encode"),
        ("[1, 2]", ": a problem is a JSON object"),
        ('"text"', ": a problem is a JSON object"),
        ("null", ": a problem is a JSON object"),
        ("{}", ": the column 'numbers' is missing"),
        ('{"numbers": [2, 3]}', ": the column 'target' is missing"),
        ('{"numbers": [2, 3], "targt": 5}', ": unknown column 'targt': did you mean 'target'?"),
        ('{"numbers": [2, 3], "target": 5, "wnted": 1}', ": unknown column 'wnted': did you mean 'wanted'?"),
        ('{"numbers": [2, 3], "target": 5, "id": 9, "ID": 9}', ": unknown column 'ID'"),
        ('{"numbers": [2, "3"], "target": 5}', ": countdown numbers, target and wanted are whole numbers"),
        ('{"numbers": [2, NaN], "target": 5}', ": countdown numbers, target and wanted are whole numbers"),
        ('{"numbers": [2], "target": 5}', ": countdown takes 2 to 6 numbers, not 1"),
        ('{"numbers": [2, 3], "target": 5, "id": 1.5}', ": an id is a text or a whole number, not 1.5"),
        ('{"numbers": [2, 3], "target": 5, "id": true}', ": an id is a text or a whole number, not True"),
        ('{"numbers": [2, 3], "target": 5, "id": false}', ": an id is a text or a whole number, not False"),
        ('{"numbers": [2, 3], "target": 5, "id": ["a"]}', ": an id is a text or a whole number, not ['a']"),
        ('{"numbers": [2, 3], "target": 5, "id": {}}', ": an id is a text or a whole number, not {}"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    said = refused(tmp_path, f"\ufeff{GOOD}\r\n\r\n{line}\r\n{GOOD}\r\n")
    assert said.startswith(f"mine.jsonl line 3{' ' * (says[0] != ':')}{says}")


def test_an_id_that_was_there_before_is_named(tmp_path: Path) -> None:
    first, second = json.dumps({"id": "x", **ONE}), json.dumps({**ONE, "ID": "x"})
    assert refused(tmp_path, f"{first}\n{second}\n") == "mine.jsonl line 2: the id 'x' was there before"
    # A line's number is an id like any other, and so is a whole number.
    numbered = json.dumps({"id": 2, **ONE})
    assert refused(tmp_path, f"{numbered}\n{GOOD}\n") == "mine.jsonl line 2: the id '2' was there before"


@pytest.mark.parametrize("content", [b"", b"\n", b"  \r\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_without_a_problem_is_told(tmp_path: Path, content: bytes) -> None:
    assert refused(tmp_path, content) == "mine.jsonl holds no problem: write one JSON object a line"


def test_what_is_no_text_is_told(tmp_path: Path) -> None:
    said = refused(tmp_path, b"PAR1\xff\xfe\x00" * 100)
    assert said.startswith("mine.jsonl is no text: 'utf-8' codec can't decode byte 0xff")
    assert refused(tmp_path, f"{GOOD}\n".encode("utf-16")).startswith("mine.jsonl is no text")
    assert refused(tmp_path, b"\x00" * 100).startswith("mine.jsonl line 1 is no JSON")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("folder", "Is a directory"),
        ("nowhere.jsonl", "No such file or directory"),
        ("nul\0byte", "is no file's name: embedded null byte"),
        ("\ud800", "is no file's name"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_is_no_file_is_told(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError) as caught:
        from_file("countdown", f"{tmp_path}/{name}", None)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    str(caught.value).encode()


def test_only_so_many_are_read(tmp_path: Path) -> None:
    content = f"\n{GOOD}\n{GOOD}\nnot read any more"
    assert keys(read(tmp_path, content, limit=2)) == ["2", "3"]
    assert keys(read(tmp_path, content, limit=1)) == ["2"]
    assert "line 4" in refused(tmp_path, content)
    assert len(read(tmp_path, f"{GOOD}\n", limit=10)) == 1


MATH = [
    MathProblem(question="What is $1+1$?", answer="2"),
    MathProblem(question='Ünï\n\t"\\frac{1}{2}" \x7f', answer="\\frac{1}{2}"),
    MathProblem(question="id", answer="123456789012345678901234567890"),
]


def questions_of(task: str) -> list[Question]:
    if task == "contest_math":
        known = get_task(task)
        return [Question(key=f"k{n}", asked=Asked(known, one)) for n, one in enumerate(MATH)]
    return drawn(task, Split.DEV, seed=3, limit=1 if task == "countdown-paper" else 12)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_what_a_run_keeps_is_what_it_asked(tmp_path: Path, task: str) -> None:
    questions = questions_of(task)
    content = stored(questions)
    assert content.count(b"\n") == len(questions) and content.endswith(b"\n")
    assert read(tmp_path, content, task=task) == questions
    assert stored(read(tmp_path, content, task=task)) == content


def test_any_id_is_kept_as_it_is(tmp_path: Path) -> None:
    names = ["0", "007", 'a"b\\c\n', "\u2028", "ID", "\x7f", "\U0001f600", " ", "None"]
    questions = [Question(key=name, asked=Asked(get_task("countdown"), PROBLEM)) for name in names]
    assert read(tmp_path, stored(questions)) == questions


def test_a_tasks_own_problems_are_drawn_as_often_as_there_are() -> None:
    found = drawn("countdown", Split.DEV, seed=5, limit=3)
    assert keys(found) == ["0", "1", "2"]
    task = get_task("countdown")
    assert [question.asked.problem for question in found] == [task.problem(Split.DEV, 5, n) for n in range(3)]
    assert found != drawn("countdown", Split.DEV, seed=6, limit=3)
    assert keys(drawn("cases", Split.TEST, seed=0, limit=100)) == ["0", "1", "2"]
    with pytest.raises(UsageError, match=r"brings no problems of its own: .*--problems FILE\.jsonl"):
        drawn("contest_math", Split.DEV, seed=0, limit=10)
    with pytest.raises(UsageError, match="unknown task 'countdwn': did you mean 'countdown'"):
        drawn("countdwn", Split.DEV, seed=0, limit=10)


class Hub(ModuleType):
    """Stands for the package `datasets`, of which only this much is asked."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__("datasets")
        self.rows = rows
        self.exceptions = ModuleType("exceptions")
        self.exceptions.DatasetsError = RuntimeError  # type: ignore[attr-defined]

    def load_dataset(self, place: str) -> dict[str, Hub]:
        assert place == "owner/data"
        return {"test": self}

    def to_list(self) -> list[dict[str, Any]]:
        return self.rows

    def are_progress_bars_disabled(self) -> bool:
        return True

    def disable_progress_bars(self) -> None:
        """There are none."""


def installed(extra: str) -> list[str]:
    """Nothing is missing."""
    del extra
    return []


def hub(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub(list(rows)))
    monkeypatch.setattr(extras, "missing", installed)


@pytest.mark.parametrize("source", ["hf:owner/data", "hf:owner/data:test"])
def test_rows_of_a_data_set_are_problems(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    hub(
        monkeypatch,
        {"ID": "2024-I-1", "Problem": "What is $1+1$?", "Answer": 2},
        {"problem": "Q", "answer": "25"},
    )
    found = from_file("contest_math", source, None)
    assert keys(found) == ["2024-I-1", "2"]
    assert found[0].asked.problem == MathProblem(question="What is $1+1$?", answer="2")
    assert keys(from_file("contest_math", source, 1)) == ["2024-I-1"]


def test_a_row_of_a_data_set_that_is_no_problem_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {"problem": "Q", "answer": "25"}, {"problem": "Q", "anser": "25"})
    with pytest.raises(UsageError, match=r"^hf:owner/data line 2: unknown column 'anser'"):
        from_file("contest_math", "hf:owner/data", None)
    with pytest.raises(UsageError, match="no split 'train'"):
        from_file("contest_math", "hf:owner/data:train", None)
