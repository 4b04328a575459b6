"""A hundred hostile texts in every field of a record: nothing runs, is fetched, or moves a cursor."""

from __future__ import annotations

import io
import re
from pathlib import Path

import anyio
from rich.console import Console

from asyncthink.episodes import measure
from asyncthink.viewer import chrome
from asyncthink.viewer.html import page
from asyncthink.viewer.index import line
from asyncthink.viewer.svg import draw
from asyncthink.viewer.terminal import render_episode
from asyncthink.viewer.timeline import timeline
from tests.browser import browser, needs_chromium
from tests.viewer.hostile import payloads, poisoned
from tests.viewer.test_html import elements

PAYLOADS = list(payloads())
OWN = re.compile(r"\x1b\[[0-9;]*m")
"""What rich writes for colours."""
BAD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c\u2028\u2029]")


def test_there_are_a_hundred() -> None:
    assert len(set(PAYLOADS)) >= 90 and len(PAYLOADS) >= 90


def test_pages_consist_of_the_same_elements_whatever_is_in_them() -> None:
    usual = elements(page(poisoned("harmless")))
    for text in PAYLOADS:
        found = elements(page(poisoned(text)))
        if [tag for tag, _ in found] != [tag for tag, _ in usual]:
            # Words may make more or fewer drawn pieces of text, never another kind of element.
            assert {tag for tag, _ in found} <= {tag for tag, _ in usual}, text[:80]
        for tag, attributes in found:
            assert not any(name.startswith("on") for name in attributes), (tag, attributes)
            assert (attributes.get("href") or "#").startswith(("#", "data:,")), (tag, attributes)


def test_nothing_of_them_reaches_a_terminal() -> None:
    for text in PAYLOADS:
        one = poisoned(text)
        out = io.StringIO()
        Console(file=out, force_terminal=True, width=100).print(render_episode(one, None, measure(one)))
        shown = OWN.sub("", out.getvalue())
        assert not BAD.search(shown), (text[:80], BAD.search(shown))
        assert len(shown) < 50_000


def test_other_forms_are_harmless_too() -> None:
    for text in PAYLOADS:
        one = poisoned(text)
        assert not BAD.search(draw(timeline(one), title=text, labels={"0": text}, buttons=True))
        told = line(0, one)
        assert not BAD.search(told.query + told.arm + told.id + told.problem)
        assert not BAD.search(chrome.trace(one).decode())


@needs_chromium
def test_nothing_runs_in_a_browser(tmp_path: Path) -> None:
    files: list[Path] = []
    for number, text in enumerate(PAYLOADS):
        file = tmp_path / f"{number}.html"
        file.write_text(page(poisoned(text)), encoding="utf-8")
        files.append(file)

    async def main() -> None:
        async with browser(tmp_path / "profile") as tab:
            for file in files:
                await tab.goto(file.as_uri())
                await tab.press("n")
                await tab.press("k")
                await tab.press("b")
                assert await tab.run("window.pwned === undefined && document.scripts.length === 1"), file
                assert await tab.run("document.querySelectorAll('article.episode').length") == 1
            assert tab.errors == []
            assert [each for each in tab.requests if not each.startswith(tmp_path.as_uri())] == []

    anyio.run(main)
