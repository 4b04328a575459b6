"""The pages: what they answer, who may see them, and a real browser on them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from urllib.parse import quote

import anyio
import msgspec
import pytest
from server.serving_worlds import LONG, Serving, ask
from starlette.applications import Starlette

from asyncthink.episodes import Episode
from asyncthink.episodes.record import Trial, decode
from asyncthink.episodes.store import RunDirectory
from asyncthink.server.app import guarded
from asyncthink.server.pages import Library, address, routes
from asyncthink.server.security import Token
from asyncthink.server.settings import Settings
from tests.browser import browser, needs_chromium
from tests.episodes.episode_worlds import episode, organizer, random_episode, worker
from tests.viewer.hostile import payloads, poisoned

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def numbered(number: int) -> Episode:
    """An episode that joins one worker and leaves one; every third has a problem to be checked, and is right."""
    one = episode(3, organizer(6 + number % 5, 2), worker("0/1", 20, 2, 4), worker("0/2", 3, 3))
    right = number % 3 == 0
    return msgspec.structs.replace(
        one,
        id=f"episode-{number}",
        query=f"question {number}",
        trial=Trial(arm="even" if number % 2 == 0 else "odd", problem=str(number), sample=0),
        task="countdown" if right else None,
        problem={"numbers": [2, 3], "target": 6, "wanted": 1} if right else None,
        answer="2 * 3" if right else "a",
    )


def make_run(path: Path, count: int) -> None:
    with RunDirectory.create(path, 'command = "eval"\n', {"command": "eval"}) as run:
        for number in range(count):
            run.append(numbered(number))


def pages(folder: Path, token: str | None = None) -> Starlette:
    settings = Settings(model="pages", token=Token(token) if token else None)
    return guarded(routes(Library(folder)), settings)


async def test_what_they_answer(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "b", 7)
    make_run(tmp_path / "c", 0)
    app = pages(tmp_path)
    listed = await ask(app, "/")
    assert listed.status == 200 and b'href="/runs/a%21b"' in listed.body and b'href="/runs/c"' in listed.body
    assert (await ask(app, "/runs/a!b")).status == 200
    lines = (await ask(app, "/runs/a!b/lines")).json
    while not lines["all"]:
        lines = (await ask(app, "/runs/a!b/lines")).json
    assert [one["id"] for one in lines["lines"]] == [f"episode-{n}" for n in range(7)]
    assert [one["score"] for one in lines["lines"]] == [1.0, None, None, 1.0, None, None, 1.0]
    one = await ask(app, "/runs/a!b/episodes/3")
    assert one.status == 200 and b"question 3" in one.body
    assert b'href="/runs/a%21b/episodes/2"' in one.body and b'href="/runs/a%21b/episodes/4"' in one.body
    assert decode((await ask(app, "/runs/a!b/episodes/3.json")).body).id == "episode-3"
    assert (await ask(app, "/runs/a!b/episodes/3.svg")).body.startswith(b"<svg")
    assert b"<!DOCTYPE html>" in (await ask(app, "/runs/a!b/episodes/3.html")).body
    assert (await ask(app, "/runs/a!b/episodes/3.trace.json")).json["traceEvents"]
    media = {"html": "text/html; charset=utf-8", "svg": "image/svg+xml", "json": "application/json"}
    for kind in ("html", "svg", "json", "trace.json"):
        told = (await ask(app, f"/runs/a!b/episodes/3.{kind}")).headers
        assert told["content-type"] == media[kind.removeprefix("trace.")]
        assert told["content-disposition"] == f'attachment; filename="episode-3.{kind}"'


async def test_lines_go_on_where_a_table_ends(tmp_path: Path) -> None:
    make_run(tmp_path / "c", 3)
    app = pages(tmp_path)
    while not (await ask(app, "/runs/c/lines")).json["all"]:
        pass
    assert [one["number"] for one in (await ask(app, "/runs/c/lines?from=1")).json["lines"]] == [1, 2]
    with RunDirectory.resume(tmp_path / "c") as run:
        run.append(numbered(3))
    assert [one["number"] for one in (await ask(app, "/runs/c/lines?from=3")).json["lines"]] == [3]
    assert (await ask(app, "/runs/c/lines?from=-1")).status == 404


async def test_a_report_is_linked_and_served(tmp_path: Path) -> None:
    make_run(tmp_path / "c", 1)
    (tmp_path / "c" / "report.html").write_text("what it came to")
    app = pages(tmp_path)
    assert b'href="/runs/c/report"' in (await ask(app, "/runs/c")).body
    assert (await ask(app, "/runs/c/report")).body == b"what it came to"


async def test_the_first_and_the_last_have_one_neighbour(tmp_path: Path) -> None:
    make_run(tmp_path / "c", 2)
    app = pages(tmp_path)
    for number, found in ((0, [b"next"]), (1, [b"prev"])):
        body = (await ask(app, f"/runs/c/episodes/{number}")).body
        assert re.findall(rb'rel="(prev|next)"', body) == found


@pytest.mark.parametrize(
    "path",
    [
        "/runs/none",
        "/runs/..",
        "/runs/../../etc",
        "/runs/%2e%2e",
        "/runs/c/report",
        "/runs/c/episodes/7",
        "/runs/c/episodes/-1",
        "/runs/c/episodes/x",
        "/runs/c/episodes/0.exe",
        "/runs/c/episodes/99999999999999999999",
        "/runs/c/episodes/\u0663",
    ],
)
async def test_what_is_not_there_is_one_line(tmp_path: Path, path: str) -> None:
    make_run(tmp_path / "c", 2)
    reply = await ask(pages(tmp_path), path)
    assert reply.status == 404 and reply.body.count(b"\n") <= 1


async def test_every_page_needs_the_token(tmp_path: Path) -> None:
    make_run(tmp_path / "c", 2)
    (tmp_path / "c" / "report.html").write_text("what it came to")
    app = pages(tmp_path, "secret")
    for path in (
        "/",
        "/runs/c",
        "/runs/c/lines",
        "/runs/c/episodes/0",
        "/runs/c/episodes/0.html",
        "/runs/c/report",
    ):
        assert (await ask(app, path)).status == 401
        allowed = await ask(app, path, headers=[("authorization", "Bearer secret")])
        assert allowed.status == 200


async def test_broken_runs_are_told(tmp_path: Path) -> None:
    make_run(tmp_path / "c", 3)
    file = tmp_path / "c" / "episodes.jsonl"
    first, second, third = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second.replace(b"question", b"questiom") + third)
    make_run(tmp_path / "d", 1)
    (tmp_path / "d" / "manifest.json").write_bytes(b"{")
    app = pages(tmp_path)
    assert b"broken" in (await ask(app, "/")).body
    told = (await ask(app, "/runs/c/lines")).json
    assert len(told["lines"]) == 1 and "line 2" in told["broken"]
    assert (await ask(app, "/runs/d")).status == 404


FIRST = "document.querySelectorAll('#episodes tbody tr').length > 0"
TOLD = "document.getElementById('told').textContent"


@needs_chromium
async def test_a_run_in_a_browser(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "large", 1500)
    script = tmp_path / "script.json"
    script.write_text('{"organizer": "<ANSWER>42</ANSWER>", "workers": {}}')
    with Serving("--model", f"scripted:{script}", "--runs", str(tmp_path / "runs")) as server:
        async with browser(tmp_path / "profile") as tab:
            await tab.goto(f"{server.url}/")
            await tab.click("#runs a")
            await tab.until(FIRST)
            await tab.until(f"{TOLD}.startsWith('1,500 of 1,500')")
            await tab.press("/")
            for letter in "question 14":
                await tab.press(letter)
            await tab.until(f"{TOLD}.startsWith('134 of 1,500')")
            await tab.run(
                "document.querySelector('[name=kind]').value = 'right';"
                "document.getElementById('filter').dispatchEvent(new Event('input'))"
            )
            shown = await tab.run(TOLD)
            assert "mean score 1.000" in shown
            await tab.press("Escape")
            await tab.press("j")
            await tab.press("j")
            await tab.press("Enter")
            await tab.until("document.querySelector('article.episode') !== null")
            await tab.click("circle.fork")
            assert not await tab.run("document.getElementById('detail').hidden")
            assert await tab.run("document.querySelector('#forks tr.selected th').textContent") == "worker 1"
            assert await tab.run("document.querySelector('[data-drawing=wall]').checkVisibility()") is False
            await tab.click("[data-base=wall]")
            assert await tab.run("document.querySelector('[data-drawing=wall]').checkVisibility()")
            assert await tab.run("document.querySelector('[data-drawing=ticks]').checkVisibility()") is False
            assert (await tab.pdf()).startswith(b"%PDF")
            here = await tab.run("location.pathname")
            await tab.press("]")
            await tab.until(f"location.pathname !== {json.dumps(here)}")
            await tab.until("document.querySelector('article.episode h1') !== null")
            await tab.press("u")
            await tab.until(FIRST)
            assert tab.errors == []
            assert all(each.startswith(server.url) for each in tab.requests)


@needs_chromium
async def test_asking_in_a_browser(tmp_path: Path) -> None:
    with Serving("--runs", str(tmp_path / "runs"), slow={"script": LONG, "delay": 0.004}) as server:
        async with browser(tmp_path / "profile") as tab:
            await tab.goto(f"{server.url}/")
            await tab.run("document.querySelector('textarea').value = 'What is it?'")
            await tab.click("#ask button[type=submit]")
            await tab.until("document.querySelector('#live > svg desc')?.textContent.includes('3 agents')")
            early = await tab.run("document.querySelector('#live > svg title').textContent")
            await tab.until(f"document.querySelector('#live title').textContent !== {json.dumps(early)}")
            await tab.until("document.querySelector('#live article.episode') !== null")
            await tab.click("#live circle.fork")
            assert not await tab.run("document.getElementById('detail').hidden")
            await tab.press("Escape")
            await tab.until("!document.querySelector('#ask button[type=submit]').disabled")
            await tab.click("#ask button[type=submit]")
            await tab.until("document.querySelector('#live > svg') !== null")
            await tab.click("#stop")
            await tab.until("document.getElementById('asked').textContent === 'stopped'")
            assert tab.errors == []
        until = anyio.current_time() + 5
        while server.ask("/health").json["running"]:
            assert anyio.current_time() < until
            await anyio.sleep(0.05)


@needs_chromium
async def test_hostile_runs_in_a_browser(tmp_path: Path) -> None:
    texts = list(payloads())
    name = "<img src=x onerror='window.pwned=1'>"
    with RunDirectory.create(tmp_path / "runs" / name, "", {"command": texts[0]}) as run:
        for text in texts:
            run.append(poisoned(text))
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"organizer": f"<ANSWER>{texts[1]}</ANSWER>", "workers": {}}))
    with Serving("--model", f"scripted:{script}", "--runs", str(tmp_path / "runs")) as server:
        async with browser(tmp_path / "profile") as tab:
            await tab.goto(f"{server.url}/")
            await tab.run("document.querySelector('textarea').value = '<script>window.pwned=1</script>'")
            await tab.click("#ask button[type=submit]")
            await tab.until("document.querySelector('#live article.episode') !== null")
            assert await tab.run("window.pwned === undefined")
            await tab.goto(server.url + address(name))
            await tab.until(f"{TOLD}.startsWith('{len(texts)} of')")
            assert await tab.run("window.pwned === undefined")
            for number in Random(0).sample(range(len(texts)), 12):
                await tab.goto(f"{server.url}{address(name)}/episodes/{number}")
                assert await tab.run("window.pwned === undefined && document.scripts.length === 1")
            assert tab.errors == []
            assert all(each.startswith(server.url) for each in tab.requests)


def test_addresses_are_quoted() -> None:
    assert address("a/b?#") == f"/runs/{quote('a/b?#', safe='')}"


async def test_pages_of_random_records(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "r", "", {}) as run:
        for seed in range(40):
            run.append(random_episode(Random(seed)))
    app = pages(tmp_path)
    for number in range(40):
        for kind in ("", ".html", ".svg", ".json", ".trace.json"):
            assert (await ask(app, f"/runs/r/episodes/{number}{kind}")).status == 200
