r"""Three fixed questions from outside countdown: an angle, a small graph and a genetic cross.

They are for looking at how a model organises a thought, not for figures: the same three stand in every split,
in this order, whatever the seed, and none may be trained on.

| case | question | right answers |
|---|---|---|
| tetrahedron | its dihedral angle | arccos(1/3) and its like, 70.53 degrees +- 0.05, 1.231 rad +- 0.001 |
| museum | a minimum vertex cover | B, C, D: the check of `vertex_cover` |
| cross | a share of offspring | 3/8 exactly, as a fraction, decimal or percentage |

Angles and shares are read from plain text or simple LaTeX. An answer may state its value several times, as in
`arccos(1/3) = 70.53°`; each must then be right. A number without a unit is in degrees.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.tasks.base import OneAnswer, Score, Split, columns
from asyncthink.tasks.vertex_cover import VertexCover, VertexCoverProblem, spelled

MUSEUM = VertexCoverProblem(
    vertices=("A", "B", "C", "D", "E", "F", "G"),
    edges=(("A", "B"), ("A", "C"), ("A", "D"), ("B", "E"), ("C", "F"), ("D", "G")),
)
"""The room with the most corridors, A, is in no minimum cover."""
ANGLE = math.degrees(math.acos(1 / 3))
DEGREES_OFF, RADIANS_OFF = 0.05, 0.001
"""How far a rounded angle may be off."""
SHARE = Fraction(3, 8)
"""Round: 3/4 of Rr x Rr; green: 1/2 of Yy x yy."""
MAX_ANSWER_CHARS = 300
"""A longer answer is refused."""
MAX_SENTENCE_CHARS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseProblem:
    """One of the three questions."""

    case: str
    """Its name in CASES."""

    def __post_init__(self) -> None:
        if self.case not in CASES:
            raise UnknownNameError("case", self.case, CASES)


@dataclass(frozen=True, slots=True)
class Cases(OneAnswer[CaseProblem]):
    """The task."""

    name: str = "cases"
    capacity: int = 4

    def available(self, split: Split) -> int:
        """Return 3: each split has all of them."""
        del split
        return len(CASES)

    def problem(self, split: Split, seed: int, index: int) -> CaseProblem:
        """Return case number `index`, the same for every split and seed."""
        del split, seed
        if not 0 <= index < len(CASES):
            raise UsageError(f"there are {len(CASES)} cases, numbered from 0, so none is number {index}")
        return CaseProblem(case=list(CASES)[index])

    def splits(self, problem: CaseProblem) -> Collection[Split]:
        """Return all of them."""
        del problem
        return tuple(Split)

    def read(self, values: Mapping[str, Any]) -> CaseProblem:
        """Make a problem from `{"case": "tetrahedron"}`."""
        columns(values, ["case"])
        case = values["case"]
        if not isinstance(case, str):
            raise UsageError(f"a case is one of {', '.join(CASES)}")
        return CaseProblem(case=case)

    def prompt(self, problem: CaseProblem) -> str:
        """Return the question; `parse` knows it again."""
        return CASES[problem.case].prompt

    def parse(self, sentence: str) -> CaseProblem | None:
        """Know one of the three questions again, whatever its blanks and capitals."""
        if len(sentence) > MAX_SENTENCE_CHARS:
            return None
        folded = _folded(sentence)
        found = [name for name, case in CASES.items() if _folded(case.prompt) == folded]
        return CaseProblem(case=found[0]) if found else None

    def check(self, problem: CaseProblem, answer: str) -> Score:
        """Score 1 for a right answer, else 0 with the reason."""
        return CASES[problem.case].check(answer)

    def merge(self, answers: Sequence[str]) -> str:
        """Return the first answer of the meaning that most traces gave."""
        meanings = [_meaning(answer) for answer in answers]
        return answers[meanings.index(Counter(meanings).most_common(1)[0][0])].strip()


def _folded(sentence: str) -> str:
    return " ".join(sentence.split()).casefold().rstrip("?. ")


@dataclass(frozen=True, slots=True)
class _Angle:
    degrees: float
    right: bool
    """Judged in the unit that it was written in."""


_NUMBER = r"(?P<number>[0-9]{0,6}(?:[.,][0-9]{1,12})?(?<=[0-9]))"
_DEGREES = re.compile(rf"{_NUMBER}(?:°|deg|degrees?)?", re.ASCII)
_RADIANS = re.compile(rf"{_NUMBER}(?:rad|radians?)", re.ASCII)
_EXACT = {
    "arccos(1/3)",
    "arccos1/3",
    "arctan(2√2)",
    "arcsin(2√2/3)",
    "2arcsin(1/√3)",
    "2arcsin(√3/3)",
    "2arctan(1/√2)",
    "2arctan(√2/2)",
    "π-arccos(-1/3)",
    "180°-arccos(-1/3)",
}
"""Spellings of the angle, as `_pieces` leaves them."""


def _angle(piece: str) -> _Angle | None:
    if piece in _EXACT:
        return _Angle(ANGLE, True)
    if found := _RADIANS.fullmatch(piece):
        radians = float(found["number"].replace(",", "."))
        return _Angle(math.degrees(radians), abs(radians - math.radians(ANGLE)) <= RADIANS_OFF)
    if found := _DEGREES.fullmatch(piece):
        degrees = float(found["number"].replace(",", "."))
        return _Angle(degrees, abs(degrees - ANGLE) <= DEGREES_OFF)
    return None


_RATIO = re.compile(r"\(?([0-9]{1,6})/([0-9]{1,6})\)?", re.ASCII)
_DECIMAL = re.compile(rf"{_NUMBER}(?P<percent>%|percent)?", re.ASCII)


def _share(piece: str) -> Fraction | None:
    if found := _RATIO.fullmatch(piece):
        return Fraction(int(found[1]), int(found[2])) if int(found[2]) else None
    if found := _DECIMAL.fullmatch(piece):
        return Fraction(found["number"].replace(",", ".")) / (100 if found["percent"] else 1)
    return None


_SPELLINGS = [
    (re.compile(pattern, re.ASCII), plain)
    for pattern, plain in (
        (r"\\(?:left|right)|\\[ ,;!()\[\]]|\$", " "),
        (r"\\(?:boxed|text|mathrm) ?\{([^{}]*|.*(?=\}$))\}", r"\1"),
        (r"\^ ?\{? ?\\circ ?\}?|\\degree", "°"),
        (r"\\?sqrt ?(?:\(([0-9])\)|\{([0-9])\}|([0-9]))|√ ?\(([0-9])\)", r"√\1\2\3\4"),
        (r"\\[dt]?frac ?\{([^{}]*)\} ?\{([^{}]*)\}|\\[dt]?frac ?([0-9])([0-9])", r"(\1\3/\2\4)"),
        (r"\\?\b(cos|sin|tan) ?(?:\^ ?(?:-1|\(-1\)|\{-1\})|⁻¹)", r"arc\1"),
        (r"\\?\ba(?:rc ?)?(cos|sin|tan)", r"arc\1"),
        (r"([0-9]) (?:out of|of|in) ([0-9])", r"\1/\2"),
        (r"\\pi\b|\bpi\b", "π"),
        (r"([0-9]) ?(?:\\cdot\b|[*·]) ?(?=√|arc)", r"\1"),
        (r"\\%", "%"),
    )
]
_MARKS = re.compile(
    r"=|≈|~|\\approx\b|\b(?:or|about|approximately|roughly|exactly)\b|\bapprox\b\.?|(?<=[0-9)°%]) +\(",
    re.ASCII,
)
"""What stands between, or before, two statements of one value."""
_NAMES = {"", "θ", "\\theta", "theta", "p"}
"""Pieces that state nothing: what a value may be called."""


def _pieces(answer: str) -> list[str]:
    """Return the values that an answer states, in one spelling, without blanks; none where it is too long."""
    if len(answer) > MAX_ANSWER_CHARS:
        return []
    text = answer.lower().replace("−", "-").strip().removesuffix(".").strip("*$ ")
    for pattern, plain in _SPELLINGS:
        text = pattern.sub(plain, " ".join(text.split()))
    pieces = [_closed(piece) for piece in _MARKS.split(text)]
    return [piece for piece in pieces if piece not in _NAMES]


def _closed(piece: str) -> str:
    """Drop blanks, and what a bracket around a second statement leaves; numbers must not grow together."""
    piece = piece.strip().rstrip("( ")
    if piece.endswith(")") and piece.count(")") > piece.count("("):
        piece = piece[:-1]
    if not re.search(r"[0-9.,] +[0-9.,]", piece):
        piece = piece.replace(" ", "")
    return re.sub(r"\(\(([^()]*)\)\)", r"(\1)", piece)


T = TypeVar("T")


def _judge(answer: str, read: Callable[[str], T | None], right: Callable[[T], bool], kind: str) -> Score:
    values = [read(piece) for piece in _pieces(answer)]
    known = [value for value in values if value is not None]
    if not values or len(known) < len(values):
        return Score(value=0.0, reason=f"it cannot be read as {kind}")
    if not all(map(right, known)):
        return Score(value=0.0, reason=f"it is {kind}, but not the right one")
    return Score(value=1.0, reason="it is right")


def _meaning(answer: str) -> Hashable:
    """Return what equal answers to one question have in common, however they are spelled."""
    piece = next(iter(_pieces(answer)), "")
    if (share := _share(piece)) is not None:
        return share
    if (angle := _angle(piece)) is not None:
        return round(angle.degrees, 1)
    return spelled(answer).strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A question with its check."""

    prompt: str
    check: Callable[[str], Score]


CASES = {
    "tetrahedron": Case(
        prompt="At what angle do two faces of a regular tetrahedron meet, "
        "in degrees or as an exact expression?",
        check=lambda answer: _judge(answer, _angle, lambda angle: angle.right, "an angle"),
    ),
    "museum": Case(
        prompt="A museum has the rooms A, B, C, D, E, F and G and the corridors A-B, A-C, A-D, B-E, C-F and "
        "D-G: in which rooms must guards stand, as few as possible, so that each "
        "corridor has a guard at an end?",
        check=lambda answer: VertexCover().check(MUSEUM, answer),
    ),
    "cross": Case(
        prompt="In peas, round seeds (R) are dominant over wrinkled ones (r) and yellow (Y) over green (y), "
        "and the two genes are not linked: what fraction of the offspring of RrYy and Rryy has "
        "round green seeds?",
        check=lambda answer: _judge(answer, _share, lambda share: share == SHARE, "a share"),
    ),
}
