"""The page of one episode: the drawn path is T, texts do nothing, and nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from random import Random

import pytest

from asyncthink.episodes import Episode, measure
from asyncthink.viewer.html import article, page
from asyncthink.viewer.svg import MOST_MARKS, draw
from asyncthink.viewer.timeline import Base, timeline
from tests.episodes.episode_worlds import decoded, episode, organizer, random_episode, worker

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


def test_both_time_bases_and_every_agent_are_there() -> None:
    text = article(episode(3, organizer(6, 2), worker("0/1", 5, 2, 4), worker("0/2", 3, 3)))
    assert [base for base in Base if f'data-drawing="{base.value}"' in text] == list(Base)
    assert all(f'id="agent-{name}"' in text for name in ("0", "0-1", "0-2"))
    assert "never joined" in text


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
