"""What a report says one should keep in mind."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from asyncthink.evaluation.recipe import resolve
from asyncthink.evaluation.report.findings import Caveat, caveats
from asyncthink.evaluation.rows import Row
from asyncthink.evaluation.summary import summarise
from tests.evaluation.rows_world import row

METHODS = ("asyncthink", "parallel")


def kept_in_mind(rows: list[Row]) -> list[Caveat]:
    summary = summarise("countdown", rows, [str(i) for i in range(20)], METHODS, 1)
    recipe = resolve(
        {"task": "countdown", "model": "embedded", "methods": {name: {} for name in METHODS}}, "test"
    )
    return list(caveats(summary, recipe, [], 0))


@pytest.mark.parametrize(("failed", "told"), [(0, None), (1, "asyncthink 0.1"), (5, "asyncthink 0.5")])
def test_what_an_engine_failed_is_told_loudly(failed: int, told: str | None) -> None:
    rows = [row(arm, str(i), method=arm) for arm in METHODS for i in range(20)]
    rows[:2] = [replace(each, failed_workers=failed) for each in rows[:2]]
    found = [each for each in kept_in_mind(rows) if "engine failed" in each.text]
    if told is None:
        assert found == []
    else:
        (one,) = found
        assert one.loud and one.text.endswith(f"an episode: {told}."), (
            "of the method that lost some, and no other"
        )


@pytest.mark.parametrize(("model", "told"), [("embedded", True), ("hf:alone", False)])
def test_baselines_with_the_weights_of_an_organizer_are_told(model: str, told: bool) -> None:
    rows = [
        row(arm, str(i), method=arm, model=model if arm == "parallel" else "embedded")
        for arm in METHODS
        for i in range(20)
    ]
    found = [each.text for each in kept_in_mind(rows) if "think alone" in each.text]
    assert [text.startswith("parallel: the same weights") for text in found] == [True] * told


def test_names_that_are_told_are_inert() -> None:
    rows = [replace(row("a\x1b[2J\u202e", str(i), method="parallel"), failed_workers=1) for i in range(20)]
    rows += [row("b", str(i)) for i in range(20)]
    summary = summarise("countdown", rows, [str(i) for i in range(20)], ("a\x1b[2J\u202e", "b"), 1)
    recipe = resolve({"task": "countdown", "model": "embedded"}, "test")
    text = " ".join(each.text for each in caveats(summary, recipe, [], 0))
    assert "engine failed" in text and "think alone" in text
    assert text.isprintable(), text
