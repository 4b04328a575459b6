"""One episode as a page: the drawing in both time bases, each fork's account, who asked whom, and all the texts.

    page(episode)            a whole document that opens from the file system
    article(episode)         the same as a piece of another page, without its script

Every table and text is there without the script (`episode.js`), which selects, dims and switches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from asyncthink.episodes.metrics import Metrics, measure
from asyncthink.episodes.record import Episode, SegmentKind, Trace
from asyncthink.tasks.base import Score
from asyncthink.viewer.acts import Act, acts
from asyncthink.viewer.explain import Explanation, ForkAccount, explain
from asyncthink.viewer.index import score_of
from asyncthink.viewer.marks import Markup, describe, tag
from asyncthink.viewer.names import agent_name
from asyncthink.viewer.page import part, whole
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.svg import draw, legend
from asyncthink.viewer.timeline import Base, timeline
from asyncthink.viewer.words import LONG_TEXT, NOTHING, judged, right, stretch, stretches, visible

MOST_AGENTS = 200
"""Agents whose accounts and texts are shown."""
MOST_CHARS = 200_000
"""Characters of all texts together, so that a page stays below a megabyte."""
_CELLS = 80
"""Of a sub-query or a return in a table."""
_WALL_NOTE = (
    "The record knows when each agent got its slot and ended. In between, an agent's tokens are drawn as if they had come "
    "evenly."
)


def page(episode: Episode) -> str:
    """Return one episode as a document that needs nothing else."""
    title = head(episode.query, 200) or "An episode"
    return whole(title, [article(episode)], script=part("episode.js"))


def article(episode: Episode) -> Markup:
    """Return one episode as a piece of a page."""
    told, metrics, score = explain(episode), measure(episode), score_of(episode)
    names = {trace.path: agent_name(trace.path, episode.method) for trace in episode.traces}
    pieces = [
        *_head(episode, score),
        _figures(episode, metrics, score),
        *_drawings(episode, names),
        *_forks(episode, told, names),
        *_chart(episode, names),
        *_answer(episode, score),
        *_texts(episode, names),
        tag("aside", tag("div", ""), id="detail", hidden="", tabindex="-1", aria_live="polite"),
    ]
    return tag("article", *pieces, **{"class": "episode", "id": "episode"})


def _head(episode: Episode, score: Score | None) -> Iterator[Markup]:
    yield tag("h1", head(episode.query, LONG_TEXT) or "(an empty question)")
    told = [
        f"{episode.method}, model {head(episode.model, 80)}, capacity {episode.capacity:,}, seed {episode.seed}",
        f"episode {head(episode.id, 80)}",
    ]
    if episode.trial is not None:
        one = episode.trial
        told.append(f"{head(one.arm, 60)}, problem {head(one.problem, 40)}, sample {one.sample}")
    yield tag("p", " · ".join(told), **{"class": "lead"})


def _figures(episode: Episode, metrics: Metrics, score: Score | None) -> Markup:
    ended = episode.stop_reason.value + (f": {head(episode.cause, 200)}" if episode.cause else "")
    facts = {
        "score": right(score) if score else NOTHING,
        "critical path T": f"{metrics.critical_path:,} ticks",
        "eta/c": f"{100 * metrics.concurrency:.1f} % at c = {episode.capacity:,}",
        "tokens of all agents": f"{metrics.decoded_tokens:,}",
        "never joined": f"{metrics.wasted_tokens:,} token{'s' * (metrics.wasted_tokens != 1)}",
        "forks, joins": f"{metrics.forks:,}, {metrics.joins:,}",
        "wall time": f"{metrics.wall_seconds:.2f} s",
        "format errors": ", ".join(episode.format_errors[:12]) or "none",
        "ended by": ended,
    }
    if metrics.cost is not None:
        facts["cost"] = f"{metrics.cost:.6g}"
    tiles = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items())
    return tag("dl", *tiles, **{"class": "tiles"})


def _drawings(episode: Episode, names: Mapping[str, str]) -> Iterator[Markup]:
    labels = {trace.path: trace.query for trace in episode.traces[1:]}
    bases = {"ticks": "token time", "wall": "wall time"}
    switches = [
        tag("button", told, type="button", data_base=base, aria_pressed=str(base == "ticks").lower())
        for base, told in bases.items()
    ]
    yield tag("h2", "Timeline")
    yield tag("p", *switches, **{"class": "switch", "role": "group", "aria-label": "time base"})
    for base in Base:
        line = timeline(episode, base)
        drawn = Markup(draw(line, names=names, labels=labels, buttons=True))
        # Without the script both are shown, one below the other.
        note = [tag("p", _WALL_NOTE, **{"class": "note"})] if base is Base.WALL else []
        words = tag("details", tag("summary", "in words"), tag("p", describe(line, names)))
        yield tag(
            "div",
            tag("div", drawn, tabindex="0", **{"class": "wide drawing"}),
            *note,
            words,
            data_drawing=base.value,
        )
    yield tag("div", Markup(legend(width=480)), **{"class": "legend"})


def _forks(episode: Episode, told: Explanation, names: Mapping[str, str]) -> Iterator[Markup]:
    if not told.forks:
        return
    columns = (
        "worker",
        "asked",
        "returned",
        "tag tokens",
        "worked",
        "waited",
        "T without",
        "T if alone",
        "used",
    )
    results = {trace.path: trace.result for trace in episode.traces}
    rows = [_account(one, results.get(one.path), names) for one in told.forks[:MOST_AGENTS]]
    heads = [
        tag(
            "th",
            name,
            scope="col",
            **({"class": "words"} if i < 3 else {"data-unit": "ticks"} if 3 < i < 8 else {}),
        )
        for i, name in enumerate(columns)
    ]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), id="forks")
    yield tag("h2", "Forks")
    yield tag("div", table, tabindex="0", **{"class": "wide"})
    left = len(told.forks) - len(rows)
    if left > 0:
        yield tag("p", f"and {left:,} more")
    yield tag(
        "p",
        "Ticks. Tag tokens: what the organizer wrote to fork and join. Waited: for how long it stood still at the join. T "
        f"without: had the worker cost no time; T is {told.total:,}. T if alone: had the organizer done the work itself where "
        "it joined it. Used: share of the returned runs of three words that stand in the answer.",
        **{"class": "note"},
    )
    if told.by_capacity:
        listed = ", ".join(f"{total:,} with {size:,}" for size, total in told.by_capacity)
        yield tag(
            "p",
            f"The same texts with another number of agents: T = {listed}; more agents change nothing.",
            id="agents",
        )


def _account(one: ForkAccount, result: str | None, names: Mapping[str, str]) -> Markup:
    link = tag("a", names[one.path], href=f"#{_anchor('agent', one.path)}")
    figures = (one.written, one.worked, one.waited if one.joined else None, one.without, one.alone)
    shown = [NOTHING if each is None else f"{each:,}" for each in figures]
    used = NOTHING if one.used is None else f"{100 * one.used:.0f} %"
    ended = head(result, _CELLS) if result is not None else one.outcome.value
    shortened = [head(text, _CELLS) for text in (one.query, ended)]
    words = [tag("td", tag("code", text), title=text, **{"class": "words"}) for text in shortened]
    cells = [tag("td", text) for text in (*shown, used)]
    return tag("tr", tag("th", link, scope="row"), *words, *cells, data_path=head(one.path, 64), tabindex="0")


def _chart(episode: Episode, names: Mapping[str, str]) -> Iterator[Markup]:
    """Draw who asked whom, where that is more than one organizer and its workers."""
    if not any(trace.path.count("/") > 1 for trace in episode.traces):
        return
    below: dict[str, list[Trace]] = {}
    for trace in episode.traces[:MOST_AGENTS]:
        below.setdefault(trace.path.rpartition("/")[0], []).append(trace)

    def branch(trace: Trace) -> Markup:
        link = tag("a", names[trace.path], href=f"#{_anchor('agent', trace.path)}")
        told = tag("span", f" {head(trace.query, _CELLS)} · {trace.outcome.value}", **{"class": "note"})
        children = [branch(child) for child in below.get(trace.path, ())]
        return tag("li", link, told, *([tag("ul", *children)] if children else []))

    yield tag("h2", "Organization")
    yield tag("ul", branch(episode.traces[0]), **{"class": "tree"})


def _answer(episode: Episode, score: Score | None) -> Iterator[Markup]:
    yield tag("h2", "Answer")
    yield judged(episode, score)


def _texts(episode: Episode, names: Mapping[str, str]) -> Iterator[Markup]:
    room = MOST_CHARS
    yield tag("h2", "What the agents wrote")
    kinds = {segment.kind for trace in episode.traces for segment in trace.segments}
    dictated = ", what a plan dictated in a model's place a brown one" * (SegmentKind.DICTATED in kinds)
    yield tag("p", f"What the runtime inserted has a blue ground{dictated}.", **{"class": "note"})
    for trace in episode.traces[:MOST_AGENTS]:
        text = list(_text(trace, room, names))
        room -= sum(map(len, text))
        asked = tag("p", tag("code", head(trace.query, LONG_TEXT)), **{"class": "question"})
        cause = [tag("p", head(trace.cause, LONG_TEXT), **{"class": "loud"})] if trace.cause else []
        title = tag("h3", names[trace.path], tag("span", f" · {trace.outcome.value}", **{"class": "note"}))
        body = tag("pre", "", *text, dir="auto")
        where = {"id": _anchor("agent", trace.path), "data-path": head(trace.path, 64)}
        yield tag("section", title, asked, *cause, body, **{"class": "agent"}, **where)
    if (left := len(episode.traces) - MOST_AGENTS) > 0:
        yield tag("p", f"and {left:,} more agents")


def _text(trace: Trace, room: int, names: Mapping[str, str]) -> Iterator[Markup | str]:
    """Yield an agent's text, its forks and joins as marks that name the worker."""
    marks = [act for act in acts(trace) if act.path in names]
    seen = 0
    for kind, text in stretches(trace, room):
        if kind is not None:
            yield stretch(kind, text)
            continue
        yield from _marked(text, seen, marks)
        seen += len(text)


def _marked(text: str, offset: int, marks: Sequence[Act]) -> Iterator[Markup | str]:
    """Yield decoded text that begins at an offset, with the marks that begin in it."""
    done = 0
    for act in marks:
        begin, end = act.begin - offset, min(act.end - offset, len(text))
        if not 0 <= begin < end:
            continue
        yield visible(text[done:begin])
        what = {"class": "fork" if act.fork else "join", "role": "button"}
        yield tag("mark", visible(text[begin:end]), data_path=head(act.path, 64), tabindex="0", **what)
        done = end
    yield visible(text[done:])


def _anchor(kind: str, path: str) -> str:
    return f"{kind}-{path.replace('/', '-')}"
