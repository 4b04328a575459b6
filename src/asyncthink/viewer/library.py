"""The pages around an episode's: which runs there are, and the table of a run's episodes. Addresses come from the caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asyncthink.episodes.record import Episode
from asyncthink.viewer.html import article
from asyncthink.viewer.marks import Markup, tag
from asyncthink.viewer.page import part, whole
from asyncthink.viewer.sanitize import head

_KINDS = {
    "all": "all",
    "right": "all right",
    "partly": "partly right",
    "wrong": "all wrong",
    "unanswered": "without an answer",
    "errors": "with format errors",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """A run in the list."""

    name: str
    """Clean."""
    address: str
    created: str
    """As the manifest has it; clean."""
    about: str
    """What made it, clean; empty where nothing says so."""


def runs_page(shelves: Sequence[Shelf]) -> str:
    """Return the list of runs."""
    return whole("asyncthink", [tag("h1", "asyncthink"), *_runs(shelves)])


def asking_page(models: Sequence[str], shelves: Sequence[Shelf], example: str) -> str:
    """Return a page that asks a question, shows how its organization grows, and lists the runs.

    Args:
        models: what may be asked, the usual one first.
        shelves: the runs.
        example: a question to begin with.
    """
    options = [tag("option", name, value=name) for name in models]
    controls = [
        tag("label", "model ", tag("select", *options, name="model")),
        tag(
            "label",
            "agents ",
            tag("input", type="number", name="capacity", min="1", max="99", placeholder="usual"),
        ),
        tag("button", "think", type="submit"),
        tag("button", "stop", type="button", id="stop", hidden=""),
    ]
    question = tag("textarea", example, name="question", rows="3", required="", aria_label="question")
    asked = tag("span", "", id="asked", role="status")
    form = tag("form", question, tag("p", *controls, asked, **{"class": "bar"}), id="ask")
    body = [tag("h1", "asyncthink"), form, tag("div", "", id="live", **{"class": "wide"}), *_runs(shelves)]
    return whole("asyncthink", body, script=part("episode.js") + part("ask.js"), requests=True)


def _runs(shelves: Sequence[Shelf]) -> Iterator[Markup]:
    rows = [
        tag(
            "tr",
            tag("th", tag("a", one.name, href=one.address), scope="row", **{"class": "words"}),
            tag("td", one.about, title=one.about, **{"class": "words"}),
            tag("td", one.created),
        )
        for one in shelves
    ]
    titles = [tag("th", title, scope="col", **{"class": "words"}) for title in ("run", "made by", "created")]
    if rows:
        yield tag("h2", "Runs")
        table = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *rows), id="runs")
        yield tag("div", table, tabindex="0", **{"class": "wide"})


def run_page(name: str, address: str, *, report: str | None, up: str | None) -> str:
    """Return the page of a run, which asks for its lines at `address`/lines.

    Args:
        name: of the run, clean.
        address: without a slash at its end.
        report: address of its report; None: it has none.
        up: address of the list of runs; None: there is none.
    """
    links = [tag("a", "all runs", href=up, rel="up")] if up else []
    links += [tag("a", "report", href=report)] if report else []
    options = [tag("option", told, value=kind) for kind, told in _KINDS.items()]
    search = tag(
        "form",
        tag("input", type="search", name="words", placeholder="words  /", aria_label="words that must occur"),
        tag("select", tag("option", "all arms", value=""), name="arm", aria_label="arm"),
        tag("select", *options, name="kind", aria_label="kind of episode"),
        tag("span", "", id="told", role="status"),
        id="filter",
        **{"class": "bar"},
    )
    table = tag("table", tag("thead", ""), tag("tbody", ""), id="episodes", data_home=address)
    body = [
        *([tag("nav", *links)] if links else []),
        tag("h1", name),
        search,
        tag("p", "", id="broken", role="alert", **{"class": "loud"}),
        tag("div", table, tabindex="0", **{"class": "wide"}),
        tag("p", tag("button", "show more", type="button", id="more", hidden=""), **{"class": "bar"}),
        _keys(("/", "words to look for"), ("j k", "down, up"), ("Enter", "open")),
        tag("noscript", tag("p", "The table needs JavaScript; `asyncthink view RUN --html FILE` does not.")),
    ]
    return whole(head(name, 200), body, script=part("run.js"), requests=True)


def episode_page(episode: Episode, *, number: int, count: int, address: str) -> str:
    """Return an episode's page within its run.

    Args:
        episode: the record.
        number: its place in the run.
        count: how many the run has.
        address: of the run.
    """
    links = [tag("a", "run", href=address, rel="up")]
    if number:
        links.append(tag("a", "previous", href=f"{address}/episodes/{number - 1}", rel="prev"))
    if number + 1 < count:
        links.append(tag("a", "next", href=f"{address}/episodes/{number + 1}", rel="next"))
    for kind, told in (
        ("svg", "SVG"),
        ("html", "one file"),
        ("json", "record"),
        ("trace.json", "Perfetto trace"),
    ):
        links.append(tag("a", told, href=f"{address}/episodes/{number}.{kind}", download=""))
    title = head(episode.query, 200) or "An episode"
    order = {"data-home": address, "data-number": str(number)}
    keys = (
        ("n p", "next, previous fork"),
        ("k", "what its organizer knew"),
        ("b", "time base"),
        ("[ ]", "previous, next episode"),
        ("u", "up"),
    )
    return whole(
        title, [tag("nav", *links, **order), article(episode), _keys(*keys)], script=part("episode.js")
    )


def _keys(*keys: tuple[str, str]) -> Markup:
    """Return a line that names the keys that a page takes."""
    told = [each for names, what in keys for each in (*map(_key, names.split()), f"{what} ")]
    return tag("p", *told, **{"class": "note keys"})


def _key(name: str) -> Markup:
    return tag("kbd", name)
