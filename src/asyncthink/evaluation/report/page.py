"""A report as one HTML page that needs nothing else. Figures stand inline, so that their text can be found and read aloud."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from asyncthink.evaluation.report.cells import Table, html, markdown, markdown_text
from asyncthink.evaluation.report.figures import Picture
from asyncthink.evaluation.report.findings import Caveat
from asyncthink.viewer.marks import Markup, tag
from asyncthink.viewer.page import whole
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.svg import legend
from asyncthink.viewer.words import visible

LONGEST_CONFIG = 20_000
"""Characters of the configuration that are shown; the file has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a report says, whatever it is written as."""

    title: str
    question: str
    methods: Mapping[str, str]
    """What each arm is called -> what it does."""
    findings: Sequence[str]
    caveats: Sequence[Caveat]
    tables: Sequence[Table]
    """The main one first."""
    pictures: Sequence[Picture]
    samples: Sequence[Markup]
    """Articles, one an episode."""
    command: str
    """Makes the same again."""
    config: str
    facts: Mapping[str, str]
    """Versions and the like."""


def page(content: Content) -> str:
    """Return the report as an HTML page."""
    title = head(content.title, 200)
    return whole(title, _body(content, title), images=True)


@dataclass(frozen=True, slots=True)
class _Section:
    """What a link leads to."""

    name: str
    title: str
    body: Sequence[Markup]


def _body(content: Content, title: str) -> Iterator[Markup]:
    sections = list(_sections(content))
    yield tag("h1", title)
    yield tag("p", content.question, **{"class": "lead"})
    yield tag("ul", "", *(tag("li", one) for one in content.findings))
    links = ((tag("a", one.title.partition(":")[0].lower(), href=f"#{one.name}"), "\n") for one in sections)
    yield tag("nav", *(each for link in links for each in link))
    for one in sections:
        yield tag("section", tag("h2", one.title), *one.body, id=one.name)


def _sections(content: Content) -> Iterator[_Section]:
    shown = [_Section(one.name, one.title, [html(one)]) for one in content.tables]
    yield _Section("caveats", "What to keep in mind", list(_caveats(content.caveats)))
    for main in content.tables[:1]:
        yield _Section(main.name, main.title, [html(main), _described(content.methods)])
    if content.pictures:
        cards = tag("div", *map(_card, content.pictures), **{"class": "pictures"})
        yield _Section("figures", "Figures", [cards])
    yield from shown[1:]
    if content.samples:
        yield _Section("episodes", "Episodes", list(_episodes(content.samples)))
    yield _Section("made", "How it was made", list(_made(content)))


def _caveats(caveats: Sequence[Caveat]) -> Iterator[Markup]:
    for loud in (one for one in caveats if one.loud):
        yield tag("p", loud.text, **{"class": "loud"})
    yield tag("ul", "", *(tag("li", one.text) for one in caveats if not one.loud))


def _card(picture: Picture) -> Markup:
    caption = tag("figcaption", tag("b", f"{picture.title}. "), picture.note)
    return tag("figure", tag("div", inlined(picture)), caption, id=f"figure-{picture.name}")


def _episodes(samples: Sequence[Markup]) -> Iterator[Markup]:
    how = (
        "Chosen by a fixed rule, not by hand: methods in turn, each time another score. Time runs from left to right. "
        "In the texts, what the runtime inserted has a blue ground, what a plan dictated a brown one."
    )
    yield tag("p", how, **{"class": "note"})
    yield tag("div", Markup(legend(width=480)))
    yield from samples


def _made(content: Content) -> Iterator[Markup]:
    yield tag("p", "The same again:")
    yield tag("pre", visible(content.command))
    yield _described(content.facts)
    yield tag("details", tag("summary", "config.toml"), tag("pre", _config(content.config)))


def _described(facts: Mapping[str, str]) -> Markup:
    pairs = ((tag("dt", head(name, 60)), tag("dd", head(value, 1000))) for name, value in facts.items())
    return tag("dl", "", *(each for pair in pairs for each in pair))


def _config(config: str) -> str:
    cut = "" if len(config) <= LONGEST_CONFIG else "\n… (cut: the file has all)"
    return visible(config[:LONGEST_CONFIG]) + cut


_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LINK = "{http://www.w3.org/1999/xlink}href"


def inlined(picture: Picture) -> Markup:
    """Return a figure as an element of a page: its ids are told from those of other figures, nothing is global."""
    root = ElementTree.fromstring(picture.svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for one in root.iter():
        one.tag = one.tag.rpartition("}")[2]
        one.attrib.update({name: _own(name, value, picture.name) for name, value in one.attrib.items()})
        if _LINK in one.attrib:
            one.attrib["href"] = one.attrib.pop(_LINK)
    _describe(root, picture)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _own(name: str, value: str, whose: str) -> str:
    if name == "id":
        return f"{whose}-{value}"
    if name == _LINK:
        return f"#{whose}-{value.removeprefix('#')}"
    return _REFERENCE.sub(rf"url(#{whose}-\1)", value)


def _describe(root: Element, picture: Picture) -> None:
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    root.set("role", "img")
    root.set("aria-label", f"{picture.title}. {picture.note}")


def as_markdown(content: Content) -> str:
    """Return the report as Markdown, with figures as files beside it and without its episodes."""
    calm = [one.text for one in content.caveats if not one.loud]
    parts = [f"# {markdown_text(content.title)}\n", f"{markdown_text(content.question)}\n"]
    parts += [_listed(content.findings), "## What to keep in mind\n"]
    parts += [f"**{markdown_text(one.text)}**\n" for one in content.caveats if one.loud]
    parts.append(_listed(calm))
    parts += [markdown(shown) for shown in content.tables[:1]]
    parts.append(_listed(f"{name}: {about}" for name, about in content.methods.items()))
    parts += [
        f"![{one.title}](figures/{one.name}.svg)\n\n{markdown_text(one.note)}\n" for one in content.pictures
    ]
    parts += [markdown(shown) for shown in content.tables[1:]]
    parts += ["## How it was made\n", _indented(content.command)]
    parts.append(_listed(f"{name}: {value}" for name, value in content.facts.items()))
    parts.append(_indented(_config(content.config)))
    return "\n".join(part for part in parts if part)


def _listed(texts: Iterable[str]) -> str:
    return "".join(f"* {markdown_text(text)}\n" for text in texts)


def _indented(text: str) -> str:
    """Return text as a block of code that nothing in it can end."""
    return "".join(f"    {line}\n" for line in visible(text).split("\n"))
