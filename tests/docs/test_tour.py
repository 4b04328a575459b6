"""The pages under docs/ stay true: every name in them exists, every example in them runs."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NAMED, EXECUTED = (
    ("paper.md", "protocol.md", "synthesis.md", "tour.md", "training.md"),
    ("paper.md", "protocol.md"),
)
NAME = re.compile(r"\basyncthink(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
HOP = re.compile(r"^[0-9]+\. (.*(?:\n {2,}.*)*)", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.FAIL_FAST


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def resolve(name: str) -> Any:
    """Import the longest module that a dotted name begins with, and follow the rest as attributes.

    The longest, because a package may hold a function of the same name as one of its modules.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # something that the module itself needs
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def names() -> list[str]:
    return sorted({name for each in NAMED for name in NAME.findall(page(each))})


@pytest.mark.parametrize("name", names())
def test_every_name_exists(name: str) -> None:
    resolve(name)


@pytest.mark.parametrize(
    "name",
    [
        "asyncthink.nowhere",
        "asyncthink.runtime.nowhere",
        "asyncthink.runtime.organizer.nothing",
        "asyncthink.runtime.pool.Pool.nothing",
    ],
)
def test_a_name_that_does_not_exist_fails(name: str) -> None:
    with pytest.raises((ModuleNotFoundError, AttributeError)):
        resolve(name)


def test_the_tour_has_about_a_dozen_hops_and_each_names_its_place() -> None:
    hops = HOP.findall(page("tour.md"))
    assert 10 <= len(hops) <= 16
    assert all(NAME.search(hop) for hop in hops)


@pytest.mark.parametrize("name", EXECUTED)
def test_every_example_runs(name: str) -> None:
    blocks = PYTHON.findall(page(name))
    assert blocks
    assert all(block.startswith(">>> ") for block in blocks)
    told: list[str] = []
    example = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name, name, 0)
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("name", NAMED)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page(name)):
        assert (DOCS / target).exists(), target
