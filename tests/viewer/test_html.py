"""The page of one episode: the drawn path is T, texts do nothing, and nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from random import Random

import pytest

from asyncthink.episodes import Episode, Segment, SegmentKind, measure
from asyncthink.tasks import Part, Score
from asyncthink.viewer.html import article, page
from asyncthink.viewer.svg import MOST_MARKS, draw
from asyncthink.viewer.timeline import Base, timeline
from asyncthink.viewer.words import judged, right
from tests.episodes.episode_worlds import decoded, episode, inserted, organizer, random_episode, worker

PIECE = re.compile(r'data-path="[^"]*" data-start="(\d+)" data-end="(\d+)"/?>')
STROKES = re.compile(r'<g [^>]*data-activity="critical">(.*?)</g>', re.S)


def drawn_length(svg: str) -> int:
    """Return the length of the critical path that a drawing shows."""
    return sum(int(b) - int(a) for group in STROKES.findall(svg) for a, b in PIECE.findall(group))


def test_the_drawn_critical_path_is_as_long_as_the_measured_one() -> None:
    for one in map(random_episode, map(Random, range(10_000))):
        assert drawn_length(draw(timeline(one), buttons=True)) == measure(one).critical_path


class Elements(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(text)
    return parser.found


def test_a_page_needs_nothing_and_names_its_one_script() -> None:
    text = page(episode(3, organizer(6, 2), worker("0/1", 5, 2, 4), worker("0/2", 3, 3)))
    found = elements(text)
    assert [tag for tag, _ in found].count("script") == 1
    for tag, attributes in found:
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert (attributes["href"] or "").startswith(("#", "data:,")), (tag, attributes)
    policy = next(each["content"] for tag, each in found if tag == "meta" and "http-equiv" in each)
    assert policy is not None and "default-src 'none'" in policy and "connect-src" not in policy
    assert "base-uri 'none'" in policy and "form-action 'none'" in policy


def test_both_time_bases_and_every_agent_are_there() -> None:
    text = article(episode(3, organizer(6, 2), worker("0/1", 5, 2, 4), worker("0/2", 3, 3)))
    assert [base for base in Base if f'data-drawing="{base.value}"' in text] == list(Base)
    assert all(f'id="agent-{name}"' in text for name in ("0", "0-1", "0-2"))
    assert "never joined" in text


def test_figures_and_accounts_by_hand() -> None:
    """As in test_explain.py, and a third worker that wastes its one token."""
    workers = (worker("0/1", 10, 2, 6), worker("0/2", 4, 4, 7), worker("0/3", 1, 8))
    text = article(episode(3, organizer(9), *workers))
    tiles = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert (tiles["critical path T"], tiles["forks, joins"]) == ("15 ticks", "3, 2")
    assert (tiles["tokens of all agents"], tiles["never joined"]) == ("24", "1 token")
    rows = re.findall(r'<tr data-path.*?</tr>|<tr><th scope="row">.*?</tr>', text)
    assert [re.findall("<td>(.*?)</td>", row) for row in rows] == [
        ["–", "10", "6", "10", "19", "–"],
        ["–", "4", "0", "15", "19", "–"],
        ["–", "1", "–", "15", "15", "–"],
    ]


def test_forks_and_joins_are_marked_in_the_text_and_insertions_told_from_it() -> None:
    def written(text: str) -> Segment:
        return Segment(kind=SegmentKind.DECODED, text=text, n_tokens=1)

    parts = (written("a<FORK-1>q</FORK-1>b<JOIN-1>"), inserted(3), written("c<FORK-2>r</FORK-2>d"))
    text = article(episode(3, organizer(*parts), worker("0/1", 1, 1, 1), worker("0/2", 1, 2)))
    assert re.findall('<mark data-path="(.*?)".*? class="(.*?)".*?>(.*?)</mark>', text) == [
        ("0/1", "fork", "&lt;FORK-1&gt;q&lt;/FORK-1&gt;"),
        ("0/1", "join", "&lt;JOIN-1&gt;"),
        ("0/2", "fork", "&lt;FORK-2&gt;r&lt;/FORK-2&gt;"),
    ]
    assert re.findall('<span class="([^"]*)" title="[^"]*">(.*?)</span>', text) == [("inserted", "iii")]


@pytest.mark.parametrize(
    ("value", "of", "told"),
    [(1.0, 1, "right"), (0.0, 1, "wrong"), (0.5, 1, "score 0.50"), (0.25, 4, "1 of 4 right")],
)
def test_scores_in_words(value: float, of: int, told: str) -> None:
    assert right(Score(value=value, of=of)) == told


def test_what_is_judged_is_marked_right_or_wrong() -> None:
    parts = (Part(text="1", correct=True, reason=""), Part(text="2", correct=False, reason="no"))
    told = judged(episode(1, organizer(1)), Score(value=0.5, of=2, parts=parts))
    assert re.findall('class="(right|wrong)">(.)</span> <code>(.)</code>', told) == [
        ("right", "✓", "1"),
        ("wrong", "✗", "2"),
    ]


def wide() -> Episode:
    """A thousand agents with two thousand characters each."""
    workers = [worker(f"0/{n}", 2000, n, n + 1) for n in range(1, 1000)]
    return episode(1000, organizer(decoded(2000)), *workers)


def long() -> Episode:
    """Fifteen hundred workers, each joined before the next is forked: the critical path runs through them all."""
    workers = [worker(f"0/{n}", 5, 3 * n - 2, 3 * n) for n in range(1, 1501)]
    return episode(4, organizer(*([3] * 1500)), *workers)


@pytest.mark.parametrize("made", [wide, long])
def test_a_page_stays_below_a_megabyte(made: Callable[[], Episode]) -> None:
    assert len(page(made()).encode()) <= 1_000_000


def test_what_is_too_short_to_point_at_is_drawn_all_the_same() -> None:
    """Past `MOST_MARKS` stretches the longest are elements of their own; the others share one shape for each kind."""
    n = MOST_MARKS
    parts = [worker(f"0/{k}", 5, 3 * k - 2, 3 * k) for k in range(1, n + 1)]
    parts.append(worker(f"0/{n + 1}", 100, 3 * n + 1, 3 * n + 3))
    one = episode(4, organizer(*([3] * (n + 1))), *parts)
    drawn = draw(timeline(one), buttons=True)
    critical = STROKES.findall(drawn)[0]
    # Each worker's five ticks, and the organizer's one or two before each fork, are shorter than the last one's hundred.
    end = measure(one).critical_path
    assert PIECE.findall(critical) == [(str(end - 100), str(end))]
    pooled = re.findall(r'<path d="([^"]*)"/>', critical)
    assert len(pooled) == 1 and pooled[0].count("M") > 100
    assert drawn.count('class="fork"') + drawn.count('class="join"') <= n
