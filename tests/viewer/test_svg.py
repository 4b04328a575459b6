"""Drawings of random records: well-formed, complete, inert; the strong line is the critical path."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from asyncthink.episodes import Episode, Outcome, measure
from asyncthink.viewer.marks import CRITICAL, MEANINGS, PALETTE, short
from asyncthink.viewer.svg import MOST_MARKS, draw, legend
from asyncthink.viewer.timeline import Activity, Base, Lane, Piece, Span, Timeline, timeline
from tests.episodes.episode_worlds import episode, organizer, random_episode, worker

GOLDEN = Path(__file__).parent / "golden_timeline.svg"
NS = "{http://www.w3.org/2000/svg}"
HOSTILE = '</title></svg><script>alert("1")</script>]]>&#0;\x1b[2J\x00\u202e\ud800\ufffe'
BY_HAND = episode(
    3,
    organizer(62),
    worker("0/1", 37, 15, 38),
    worker("0/2", 19, 23, 49),
    worker("0/3", 9, 33, 46),
    worker("0/4", 9, 43, outcome=Outcome.UNJOINED),
)
"""T = 76: the organizer waits 14 ticks for worker 1; worker 3 queues until worker 2 is done."""


def randomly(count: int) -> Iterator[Episode]:
    return map(random_episode, map(Random, range(count)))


def parse(drawing: str) -> Element:
    """Read a drawing, and see that nothing in it acts, links, or reaches beyond it."""
    root = ElementTree.fromstring(drawing)
    assert {one.tag.removeprefix(NS) for one in root.iter()} <= {
        *("svg", "title", "desc", "g", "path", "rect", "circle", "text")
    }
    assert not any(name.startswith("on") or "href" in name for one in root.iter() for name in one.attrib)
    assert not any({"id", "class", "style"} & set(one.attrib) for one in root.iter() if one is not root)
    return root


def texts(root: Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{NS}text")]


def hovers(root: Element) -> list[str]:
    return [one.text or "" for group in root.iter(f"{NS}g") for one in group.findall(f"{NS}title")]


def strokes(root: Element) -> list[Element]:
    """Return the critical path's pieces."""
    groups = [one for one in root.iter(f"{NS}g") if one.get("data-activity") == CRITICAL]
    assert len(groups) <= 1
    return [one for group in groups for one in group]


def numbers(path: str | None) -> list[tuple[str, list[float]]]:
    """Return a path's commands."""
    found = re.findall(r"([A-Za-z])([^A-Za-z]*)", path or "")
    return [(command, [float(number) for number in rest.split()]) for command, rest in found]


def lane_middles(view: Timeline, root: Element) -> dict[str, float]:
    """Map paths to the middle of their lanes, for drawings that show every lane."""
    bands = next(one.get("d") for one in root.findall(f"{NS}path") if one.get("fill-opacity") == "0.04")
    first = numbers(bands)
    top, height = first[0][1][1], first[2][1][0]
    return {lane.path: top + (row + 0.5) * height for row, lane in enumerate(view.lanes)}


def test_golden() -> None:
    drawn = draw(timeline(BY_HAND), title="By hand", labels={"0/1": "2, 3, 5 to 4"})
    assert drawn == GOLDEN.read_text(encoding="utf-8").rstrip("\n")


def test_the_text_alternative_tells_the_episode() -> None:
    root = parse(draw(timeline(BY_HAND)))
    assert root.get("role") == "img"
    assert root.findtext(f"{NS}title") == "Timeline of an episode of 76 ticks"
    assert root.findtext(f"{NS}desc") == (
        "The critical path T is 76 ticks: organizer 15, worker 1 37, organizer 24. "
        "5 agents: organizer, worker 1, worker 2, worker 3, worker 4. "
        "Waits at joins, in ticks: organizer 14 for worker 1. "
        "9 ticks decoded for results that were never joined."
    )


def test_spans_are_told_under_the_pointer() -> None:
    told = hovers(parse(draw(timeline(BY_HAND), labels={"0/3": "3, 5 < 7"})))
    assert "organizer, waiting for worker 1, ticks 39-52" in told
    assert "worker 3, queued, ticks 34-42: 3, 5 < 7" in told
    assert "worker 4, never joined, ticks 58-66" in told
    assert len(told) == sum(len(lane.spans) for lane in timeline(BY_HAND).lanes) == 10


def test_random_drawings_have_every_span_and_the_whole_path() -> None:
    several = 0
    for one in randomly(300):
        view = timeline(one)
        root = parse(draw(view, title=one.query, labels={lane.path: HOSTILE for lane in view.lanes}))
        drawn = [
            (str(group.get("data-activity")), group.get("data-start"), group.get("data-end"))
            for group in root.findall(f"{NS}g")
            if group.get("data-start")
        ]
        if len(view.lanes) <= 40:
            spans = [span for lane in view.lanes for span in lane.spans]
            assert drawn == [(span.activity.value, str(span.start), str(span.end)) for span in spans]
        tick = 0
        for stroke in strokes(root):
            assert int(str(stroke.get("data-start"))) == tick
            tick = int(str(stroke.get("data-end")))
        assert tick == measure(one).critical_path
        several += len(strokes(root)) > 3
    assert several > 50


@pytest.mark.parametrize("width", [320, 960])
def test_the_line_as_drawn_is_whole_and_lies_in_its_lanes(width: int) -> None:
    for one in randomly(300):
        view = timeline(one)
        if not view.total or len(view.lanes) > 40:
            continue
        root = parse(draw(view, width=width))
        middle = lane_middles(view, root)
        left = numbers(strokes(root)[0].get("d"))[0][1][0]
        right = width - 22
        x, y, length = left, middle["0"], 0.0
        for stroke in strokes(root):
            commands = numbers(stroke.get("d"))
            assert commands[0] == ("M", pytest.approx([x, y], abs=0.02))
            y = commands[1][1][0] if commands[1][0] == "V" else y
            assert y == pytest.approx(middle[str(stroke.get("data-path"))], abs=0.02)
            end = commands[-1][1][0]
            assert commands[-1][0] == "H" and (end > x or [name for name, _ in commands] == ["M", "V", "H"])
            length, x = length + end - x, end
        assert y == pytest.approx(middle["0"], abs=0.02), "it ends where it began"
        assert length * view.length / (right - left) == pytest.approx(view.total, abs=0.02)


def test_every_fork_and_join_has_an_arrow_or_the_strong_line() -> None:
    root = parse(draw(timeline(BY_HAND)))
    thin = next(one for one in root.findall(f"{NS}path") if one.get("stroke-opacity") == "0.5")
    moves = pairwise(numbers(thin.get("d")))
    uprights = [(at[1], to[0]) for (move, at), (up, to) in moves if (move, up) == ("M", "V")]
    assert sum(end > start for start, end in uprights) == 3, "forks of 2, 3 and 4 go down"
    assert sum(end < start for start, end in uprights) == 2, "joins of 2 and 3 go up"
    assert [name for name, _ in numbers(strokes(root)[1].get("d"))] == ["M", "V", "H"]


def test_a_path_that_begins_and_ends_below_the_organizer_is_led_from_and_to_it() -> None:
    view = timeline(episode(2, organizer(3), worker("0/1", 9, 0, 3)))
    assert [(piece.path, piece.start, piece.end) for piece in view.critical] == [("0/1", 0, 9)]
    root = parse(draw(view))
    assert [(one.get("data-start"), one.get("data-end")) for one in strokes(root)] == [("0", "9"), ("9", "9")]
    assert [[name for name, _ in numbers(one.get("d"))] for one in strokes(root)] == [["M", "V", "H"]] * 2
    assert not any(one.get("stroke-opacity") == "0.5" for one in root.findall(f"{NS}path")), "no thin arrow"


def test_waits_are_written_where_there_is_room() -> None:
    view = timeline(BY_HAND)
    assert "waits 14" in texts(parse(draw(view)))
    narrow = texts(parse(draw(view, width=376)))
    assert "14" in narrow and "waits 14" not in narrow
    tiny = timeline(episode(2, organizer(900), worker("0/1", 12, 2, 12)))
    assert tiny.joins[0].waited == 2
    assert texts(parse(draw(tiny))) == [
        *("0", "100", "200", "300", "400", "500", "600", "700", "800", "900", "ticks"),
        *("organizer", "worker 1", "T = 902 ticks"),
    ]


def test_no_wait_is_written_into_a_lane_that_is_too_low() -> None:
    shorts = [worker(f"0/{n}", 1, 0) for n in range(2, 36)]
    view = timeline(episode(99, organizer(4), worker("0/1", 500, 1, 2), *shorts))
    assert view.joins[0].waited == 499
    assert not any("499" in text for text in texts(parse(draw(view))))


def test_a_wait_is_told_with_the_worker_that_caused_it() -> None:
    view = timeline(episode(3, organizer(9), worker("0/1", 8, 1, 5), worker("0/2", 3, 2, 5)))
    assert [(join.source, join.tick, join.waited) for join in view.joins] == [("0/1", 9, 4), ("0/2", 9, 0)]
    assert "organizer, waiting for worker 1, ticks 6-9" in hovers(parse(draw(view)))


def test_rings_name_the_worker_and_tell_what_happened() -> None:
    """Forked at 1, joined at 3, waited for until 6."""
    drawn = draw(timeline(episode(2, organizer(4), worker("0/1", 5, 1, 3))), buttons=True)
    rings = [one for one in ElementTree.fromstring(drawn).iter(f"{NS}circle") if one.get("role")]
    assert [(one.get("class"), one.get("data-path"), one.get("aria-label")) for one in rings] == [
        ("fork", "0/1", "organizer forks worker 1, at 1 tick"),
        ("join", "0/1", "organizer joins worker 1 after 3 ticks, at 6 ticks"),
    ]


@pytest.mark.parametrize(
    ("time", "told"),
    [(0, "0 s"), (7, "7 µs"), (1_500, "1.5 ms"), (1_250_000, "1.25 s"), (2_000_000_000, "2,000 s")],
)
def test_wall_times_have_a_unit(time: int, told: str) -> None:
    assert short(time, Base.WALL) == told


def test_spans_of_wall_time_are_told_from_their_start() -> None:
    told = hovers(parse(draw(timeline(episode(1, organizer(4)), Base.WALL))))
    assert told == ["organizer, decoding, 0 s to 1 s"]


def test_in_words_twelve_are_named() -> None:
    view = timeline(episode(99, organizer(20), *(worker(f"0/{n}", 1, n) for n in range(1, 14))))
    told = parse(draw(view)).findtext(f"{NS}desc") or ""
    assert "14 agents: organizer, worker 1," in told and "worker 11 and 2 more. " in told


def test_one_tick_and_none() -> None:
    one = parse(draw(timeline(episode(4, organizer(1)))))
    assert texts(one) == ["0", "1", "ticks", "organizer", "T = 1 tick"]
    assert [(each.get("data-start"), each.get("data-end")) for each in strokes(one)] == [("0", "1")]
    none = parse(draw(timeline(episode(4, organizer(0)))))
    assert texts(none) == ["0", "ticks", "organizer", "T = 0 ticks"]
    assert strokes(none) == []
    nobody = Timeline(total=0, length=0, lanes=(), forks=(), joins=(), critical=())
    assert texts(parse(draw(nobody))) == ["0", "ticks", "T = 0 ticks"]


def test_hostile_text_stays_inert_and_short() -> None:
    view = timeline(BY_HAND)
    everywhere = {lane.path: HOSTILE + "x" * 10_000_000 for lane in view.lanes}
    begin = time.perf_counter()
    drawn = draw(view, title=HOSTILE * 100_000, names=everywhere, labels=everywhere)
    assert time.perf_counter() - begin < 0.5
    root = parse(drawn)
    assert "<script" not in drawn and len(drawn) < 20_000
    assert not set(map(chr, range(32))) & set(drawn) - {"\n"}
    assert not {"\u202e", "\ud800", "\ufffe"} & set(drawn)
    assert all(len(text) <= 160 for text in texts(root))
    assert all(len(text) <= 220 for text in hovers(root))
    assert any('</title></svg><script>alert("1")</script>]]>' in text for text in hovers(root))


def test_a_hostile_path_of_a_record_is_text() -> None:
    path = '0/"><script>\x07' + "9" * 100_000
    span = Span(activity=Activity.DECODING, start=0, end=2)
    piece = Piece(path=path, start=0, end=2)
    lanes = (Lane(path=path, spans=(span,)),)
    drawn = draw(Timeline(total=2, length=2, lanes=lanes, forks=(), joins=(), critical=(piece,)))
    assert strokes(parse(drawn))[0].get("data-path", "").startswith('0/"><script>\ufffd999')
    assert len(drawn) < 5_000


@pytest.mark.parametrize("crowd", [40, 41, 100])
def test_beyond_forty_lanes_some_are_left_out_but_none_of_the_critical_path(crowd: int) -> None:
    shorts = [worker(f"0/{n}", 1, n, n + 5) for n in range(1, crowd - 1)]
    view = timeline(
        episode(9, organizer(crowd + 50), *shorts, worker(f"0/{crowd - 1}", 400, crowd, crowd + 6))
    )
    written = texts(parse(draw(view)))
    assert len(view.lanes) == crowd
    named = [text for text in written if text.startswith(("organizer", "worker"))]
    if crowd == 40:
        assert len(named) == 40 and not any("more" in text for text in written)
    else:
        assert named == ["organizer", *(f"worker {n}" for n in range(1, 38)), f"worker {crowd - 1}"]
        assert f"and {crowd - 39} more agents" in written


def test_two_thousand_workers_are_drawn_at_once() -> None:
    workers = [worker(f"0/{n}", 7 + n % 40, n * 10, n * 10 + 15) for n in range(1, 2001)]
    view = timeline(episode(9, organizer(30_000), *workers))
    critical = {piece.path for piece in view.critical}
    assert len(critical) > 500
    begin = time.perf_counter()
    drawn = draw(view)
    assert time.perf_counter() - begin < 1
    pooled, *named = sorted(strokes(parse(drawn)), key=lambda stroke: "data-path" in stroke.attrib)
    assert 0 < len(named) <= MOST_MARKS
    assert {stroke.get("data-path") for stroke in named} <= critical
    assert "data-path" not in pooled.attrib and pooled.get("d", "").count("M") > 300


def test_it_is_the_same_drawing_each_time_and_shrinks_with_the_page() -> None:
    view = timeline(BY_HAND)
    assert draw(view) == draw(view)
    root = parse(draw(view, width=700))
    assert (root.get("width"), root.get("style")) == ("700", "max-width:100%;height:auto")
    assert root.get("viewBox") == f"0 0 700 {root.get('height')}"
    assert parse(draw(view, width=1)).get("width") == "320"


@pytest.mark.parametrize("width", [120, 376, 960])
def test_the_legend_names_every_mark(width: int) -> None:
    root = parse(legend(width=width))
    assert texts(root) == list(MEANINGS.values())
    assert root.findtext(f"{NS}desc") == ", ".join(MEANINGS.values())
    height = float(str(root.get("height")))
    assert all(float(str(text.get("y"))) < height for text in root.iter(f"{NS}text"))
    assert set(MEANINGS) == set(PALETTE) == {CRITICAL, *Activity}


def test_colours_stand_out_on_light_and_dark_and_in_grey() -> None:
    for colour in PALETTE.values():
        assert _contrast(_luminance(colour), 1.0) >= 3
        assert _contrast(_luminance(colour), _luminance("#11151c")) >= 3
    half = "#" + "".join(f"{(int(PALETTE['decoding'][i : i + 2], 16) + 255) // 2:02x}" for i in (1, 3, 5))
    assert _contrast(_luminance(PALETTE[CRITICAL]), _luminance(half)) >= 2.5


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)
