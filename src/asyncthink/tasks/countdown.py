"""Multi-solution countdown: from given numbers find several different expressions for one target.

Every number is used exactly once; arithmetic is exact. Presets: `countdown` (easy) draws 4 numbers from
1-20, `countdown-paper` draws 5; both ask for 4 different expressions, as arXiv 2510.26658 does. Problems are split by a hash of
the numbers, so that no number set of dev or test is ever seen in training, whatever the stage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from asyncthink.errors import UsageError
from asyncthink.tasks.base import Part, Score, Split, columns, split_of_text
from asyncthink.tasks.expressions import Form, all_forms, canonical, numbers_in, read

WANTED = 4
"""n_s of the paper: different expressions that are asked for."""
TARGETS = range(10, 101)
MAX_NUMBERS, MAX_NUMBER, MAX_TARGET = 6, 999, 9999
SHOWN_CHARS = 80
MAX_ANSWER_CHARS = 10_000
"""An answer is read this far; four lines of any legal problem are a fraction of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CountdownProblem:
    """Reach the target with each number exactly once, in several different ways."""

    numbers: tuple[int, ...]
    target: int
    wanted: int = WANTED
    """How many different expressions are asked for."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.numbers) <= MAX_NUMBERS:
            raise UsageError(f"countdown takes 2 to {MAX_NUMBERS} numbers, not {len(self.numbers)}")
        if not all(1 <= number <= MAX_NUMBER for number in self.numbers):
            raise UsageError(f"countdown numbers are whole numbers from 1 to {MAX_NUMBER}")
        if not 1 <= self.target <= MAX_TARGET:
            raise UsageError(f"the countdown target is a whole number from 1 to {MAX_TARGET}")
        if not 1 <= self.wanted <= WANTED:
            raise UsageError(f"countdown asks for 1 to {WANTED} expressions, not {self.wanted}")


def parse_numbers(numbers: str, target: int) -> CountdownProblem:
    """Return the problem for numbers written as in `2,3,5,7`.

    Raises:
        UsageError: they make no sense.
    """
    words = re.split(r"[,\s]+", numbers.strip())
    if not all(re.fullmatch(r"[0-9]{1,9}", word, re.ASCII) for word in words):
        raise UsageError(f"countdown numbers are whole numbers with commas, as in 2,3,5,7, not {numbers!r}")
    return CountdownProblem(numbers=tuple(map(int, words)), target=target)


def split_of(numbers: Sequence[int]) -> Split:
    """Return the split that a number set belongs to, whatever its order."""
    return split_of_text(",".join(map(str, sorted(numbers))))


def forms_by_target(numbers: Sequence[int]) -> Counter[int]:
    """Count the different expressions over `numbers` for every target in TARGETS."""
    return Counter(
        form.value[0] for form in all_forms(tuple(numbers)) if form.value[1] == 1 and form.value[0] in TARGETS
    )


_SENTENCE = re.compile(
    r"\s*Using the numbers?\s+(?P<numbers>[0-9]{1,4}(?:\s*(?:,|and|,\s*and|\s)\s*[0-9]{1,4}){1,15})\s*,?\s*"
    r"find\s+(?P<wanted>[0-9]{1,2})\s+(?:different\s+)?expressions?\s+that\s+(?:are\s+equal\s+to|equals?|make)"
    r"\s+(?P<target>[0-9]{1,5})\s*\.?\s*",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Countdown:
    """The task; `size` numbers are drawn from 1 to `largest`, with repetition."""

    name: str = "countdown"
    size: int = 4
    largest: int = 20
    capacity: int = 4

    def available(self, split: Split) -> None:
        """Return None: as many problems as are asked for."""

    def problem(self, split: Split, seed: int, index: int) -> CountdownProblem:
        """Make one problem that has at least `WANTED` different solutions."""
        random = Random(f"countdown:{self.size}:{self.largest}:{split}:{seed}:{index}")
        while True:
            numbers = tuple(random.randint(1, self.largest) for _ in range(self.size))
            if targets := self.targets(numbers, split):
                return CountdownProblem(numbers=numbers, target=random.choice(targets))

    def splits(self, problem: CountdownProblem) -> Collection[Split]:
        """Return that of its numbers, whatever the target."""
        return (split_of(problem.numbers),)

    def read(self, values: Mapping[str, Any]) -> CountdownProblem:
        """Make a problem from `{"numbers": [2, 3, 5, 7], "target": 28}`, and perhaps "wanted"."""
        columns(values, ["numbers", "target"], ["wanted"])
        numbers, rest = values["numbers"], {name: values[name] for name in values if name != "numbers"}
        if not isinstance(numbers, list | tuple):
            raise UsageError("countdown numbers are a list, as in [2, 3, 5, 7]")
        listed: tuple[Any, ...] = tuple(cast("list[Any]", numbers))
        if not all(type(each) is int for each in (*listed, *rest.values())):
            raise UsageError("countdown numbers, target and wanted are whole numbers")
        return CountdownProblem(numbers=listed, **rest)

    def targets(self, numbers: tuple[int, ...], split: Split) -> list[int]:
        """Return the targets with at least `WANTED` different solutions; none outside the split."""
        if split_of(numbers) is not split:
            return []
        return sorted(target for target, count in forms_by_target(numbers).items() if count >= WANTED)

    def prompt(self, problem: CountdownProblem) -> str:
        """Return the problem as a sentence; `parse` reads it back."""
        numbers = ", ".join(map(str, problem.numbers))
        plural = "expressions" if problem.wanted > 1 else "expression"
        return f"Using the numbers {numbers}, find {problem.wanted} different {plural} that equal {problem.target}."

    def parse(self, sentence: str) -> CountdownProblem | None:
        """Read the sentence; raises UsageError where its numbers make no sense."""
        found = _SENTENCE.fullmatch(sentence) if len(sentence) <= 1000 else None
        if found is None:
            return None
        return CountdownProblem(
            numbers=tuple(map(int, re.findall(r"[0-9]+", found["numbers"]))),
            target=int(found["target"]),
            wanted=int(found["wanted"]),
        )

    def makes(self, problem: CountdownProblem) -> bool:
        """Return whether this preset draws so many numbers of that size."""
        return len(problem.numbers) == self.size and max(problem.numbers) <= self.largest

    def check(self, problem: CountdownProblem, answer: str) -> Score:
        """Score min(n_c, n_s) / n_s over the first n_s non-blank lines."""
        return self._score(problem, first_lines(answer, problem.wanted))

    def pool(self, problem: CountdownProblem, answers: Sequence[str]) -> Score:
        """Score the same over the lines of all answers: the pooled union."""
        return self._score(problem, [line for each in answers for line in first_lines(each, problem.wanted)])

    def _score(self, problem: CountdownProblem, lines: Sequence[str]) -> Score:
        parts: list[Part] = []
        seen: set[Form] = set()
        for line in lines:
            form, reason = self._judge(problem, line)
            if form is not None and form in seen:
                form, reason = None, "the same as an earlier one"
            elif form is not None:
                seen.add(form)
            parts.append(Part(text=line[:SHOWN_CHARS], correct=form is not None, reason=reason))
        found = min(len(seen), problem.wanted)
        return Score(
            value=found / problem.wanted,
            of=problem.wanted,
            parts=tuple(parts),
            reason=f"{found} of {problem.wanted} different expressions are right",
        )

    def _judge(self, problem: CountdownProblem, line: str) -> tuple[Form | None, str]:
        body, equals, claimed = line.partition("=")
        if equals and claimed.strip() != str(problem.target):
            return None, f"it claims another value than {problem.target}"
        tree = read(body.strip())
        if isinstance(tree, str):
            return None, tree
        if sorted(numbers_in(tree)) != sorted(problem.numbers):
            return None, "it does not use each number exactly once"
        form = canonical(tree)
        if form is None:
            return None, "it divides by zero"
        if form.value != (problem.target, 1):
            shown = str(form.value[0]) if form.value[1] == 1 else f"{form.value[0]}/{form.value[1]}"
            return None, f"its value is {shown}"
        return form, f"= {problem.target}"

    def merge(self, answers: Sequence[str]) -> str:
        """Return the lines of all answers that most traces voted for, different ones first n_s."""
        votes: Counter[Form | str] = Counter()
        spelled: dict[Form | str, str] = {}
        for answer in answers:
            keys: set[Form | str] = set()
            for line in first_lines(answer, WANTED):
                tree = read(line.partition("=")[0].strip())
                form = None if isinstance(tree, str) else canonical(tree)
                key = line.strip() if form is None else form
                spelled.setdefault(key, line.strip())
                keys.add(key)
            votes.update(keys)
        order = sorted(spelled, key=lambda key: -votes[key])
        return "\n".join(spelled[key] for key in order[:WANTED])

    def outside(self, problem: CountdownProblem, limits: Mapping[str, Any]) -> str | None:
        """Return what `limits` (counts, largest, targets) do not allow, or None."""
        counts: list[int] = limits["counts"]
        low, high = limits["targets"]
        if len(problem.numbers) not in counts:
            return f"{len(problem.numbers)} numbers (it knows {' or '.join(map(str, counts))})"
        if max(problem.numbers) > limits["largest"]:
            return f"the number {max(problem.numbers)} (it knows 1 to {limits['largest']})"
        if not low <= problem.target <= high:
            return f"the target {problem.target} (it knows {low} to {high})"
        return None


def first_lines(answer: str, count: int) -> list[str]:
    """Return the first `count` non-blank lines, unreadable ones included."""
    return list(_non_blank(answer[:MAX_ANSWER_CHARS], count))


def _non_blank(answer: str, count: int) -> Iterator[str]:
    for line in answer.split("\n"):
        if count == 0:
            return
        if line.strip():
            count -= 1
            yield line.strip()
