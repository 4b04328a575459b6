r"""Contest mathematics in the layouts of AIME-24, AMC-23 and DeepScaleR: a question, and its answer in LaTeX.

`math_text` says what of a model's text counts. Two plain numbers (whole, decimal, fraction, mixed, percentage;
with thousands separators, leading zeros or a unit) are compared exactly, so 0.333333 is not 1/3; equal text is
equal; words are compared as words. Everything else is decided by math-verify in a process that is killed at its
limit: see `math_pool` and `math_worker`. A sum, product, integral or limit is a question, not an answer, and
counts only where the known answer has one too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from math import isfinite
from typing import Any

from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.tasks.base import OneAnswer, Score, Split
from asyncthink.tasks.math_pool import SECONDS, compare
from asyncthink.tasks.math_text import MAX_CHARS, boxed, letters, plain, squeezed, stated, tidy, unfit, words

COLUMNS = {"problem": "question", "question": "question", "answer": "answer"}
"""Column in lower case -> field."""
IGNORED = (
    *("difficulty", "exam", "level", "number", "problem_type", "question_type", "solution", "source"),
    *("subject", "topic", "type", "unique_id", "url", "uuid", "year"),
)
"""Columns that public data sets have beside these; nothing follows from them."""
ASKED = "Give the answer only, as a whole number or in LaTeX, and nothing else."
SHOWN_CHARS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class MathProblem:
    """A question with its known answer."""

    question: str
    answer: str
    """As the data set writes it: a number, LaTeX or words."""


@dataclass(frozen=True, slots=True)
class ContestMath(OneAnswer[MathProblem]):
    """The task. It brings no problems; they are read from a file."""

    name: str = "contest_math"
    capacity: int = 4
    seconds: float = SECONDS
    """Limit of one comparison by math-verify."""

    def available(self, split: Split) -> int:
        """Return 0: it brings none."""
        del split
        return 0

    def problem(self, split: Split, seed: int, index: int) -> MathProblem:
        """Raise UsageError: it brings none."""
        raise UsageError(
            f"{self.name} brings no problems of its own: asyncthink eval --task {self.name} --problems FILE.jsonl, "
            'with lines of {"problem": "What is 1 + 1?", "answer": "2"}'
        )

    def splits(self, problem: MathProblem) -> Collection[Split]:
        """Return none."""
        del problem
        return ()

    def read(self, values: Mapping[str, Any]) -> MathProblem:
        """Make a problem from `{"problem": ..., "answer": ...}`; names in any case, "question" means "problem"."""
        found: dict[str, str] = {}
        for name, value in values.items():
            field = COLUMNS.get(name.lower())
            if field is None and name.lower() not in IGNORED:
                raise UnknownNameError("column", name, [*COLUMNS, *IGNORED])
            if field in found:
                raise UsageError(f"the column {name!r} gives the {field} a second time: keep one of them")
            if field is not None:
                found[field] = _text(name, value)
        for name in ("problem", "answer"):
            if COLUMNS[name] not in found:
                others = [other for other in values if other.lower() not in COLUMNS]
                near = get_close_matches(name, others, n=1, cutoff=0.0)
                there = f"the nearest there is {near[0]!r}" if near else "there is no other"
                raise UsageError(f"the column {name!r} is missing: {there}")
        if len(found["answer"]) > MAX_CHARS:
            raise UsageError(f"an answer has at most {MAX_CHARS:,} characters, not {len(found['answer']):,}")
        return MathProblem(**found)

    def prompt(self, problem: MathProblem) -> str:
        """Return the question and how its answer is stated."""
        return f"{problem.question.strip()}\n{ASKED}"

    def parse(self, sentence: str) -> None:
        """Return None: a contest question is free text."""

    def check(self, problem: MathProblem, answer: str) -> Score:
        """Judge what of the answer counts.

        Raises:
            MissingExtraError: math-verify is needed, and is not installed.
        """
        gold = tidy(boxed(problem.answer) or problem.answer)
        value = stated(answer, gold)
        if value is None:
            return Score(value=0.0, reason=f"it is longer than {MAX_CHARS:,} characters and has no \\boxed")
        right, reason = _compare(gold, value, self.seconds)
        shown = value if len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…"
        return Score(value=float(right), reason=f"{shown}: {reason}" if shown else reason)

    def merge(self, answers: Sequence[str]) -> str:
        r"""Return the earliest answer with the value that most traces gave; 27, 27.0 and \boxed{27} are one."""
        votes = [(_vote(answer), answer.strip()) for answer in answers if answer.strip()]
        if not votes:
            return ""
        most = Counter(key for key, _ in votes).most_common(1)[0][0]
        return next(answer for key, answer in votes if key == most)


def _text(name: str, value: object) -> str:
    if isinstance(value, float) and isfinite(value):
        value = format(Decimal(repr(value)), "f").removesuffix(".0")
    elif type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise UsageError(f"the column {name!r} is a text or a number, not {value!r}")
    if not value.strip():
        raise UsageError(f"the column {name!r} is empty")
    return value.strip()


def _compare(gold: str, value: str, seconds: float) -> tuple[bool, str]:
    """Return whether a tidy value is the gold one, and a word on why."""
    if not value:
        return False, "the answer is empty"
    known, number, expected = plain(gold), plain(value), words(gold)
    if squeezed(gold) == squeezed(value):
        right = True
    elif known and number:
        right = known.equals(number)
    elif expected:
        right = letters(value) == expected
    elif why := unfit(gold, value):
        return False, why
    else:
        verdict = compare(gold, value, seconds)
        if verdict.reason:
            return False, verdict.reason
        right = verdict.right
    return right, "right" if right else "wrong"


def _vote(answer: str) -> Hashable:
    value = stated(answer, "")
    if value is None:
        return answer.strip()
    return plain(value) or squeezed(value)
