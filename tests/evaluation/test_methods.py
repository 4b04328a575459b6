"""Methods by name, what they refuse, and probes: exactly one thing is changed, as the record shows."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Episode, Outcome, SegmentKind, measure
from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.evaluation.methods import PRESETS, preset
from asyncthink.runtime.organization import Method, Organization
from asyncthink.tasks import Asked, CountdownProblem, Split, get_task

EXAMPLE = CountdownProblem(numbers=(2, 3, 5, 7), target=28)
ASKED = Asked(get_task("countdown"), EXAMPLE)


def test_refusals_say_what_is_needed() -> None:
    six = CountdownProblem(numbers=(1, 2, 3, 4, 5, 6), target=20)
    random = PRESETS["random-forks"]
    assert random.refusal(ASKED) is None
    assert random.refusal(Asked(ASKED.task, six)) == "countdown is divided with up to 5 numbers, not with 6"
    cover = get_task("vertex_cover")
    asked = Asked(cover, cover.problem(Split.DEV, 0, 0))
    assert random.refusal(asked) == (
        "random-forks needs a task that a program can divide (countdown, countdown-paper, sudoku), not vertex_cover"
    )
    assert [name for name, each in PRESETS.items() if each.refusal(asked) is None] == [
        *("asyncthink", "sequential", "parallel", "shuffled-queries", "silent-workers")
    ]


def test_methods_are_found_by_name() -> None:
    assert preset("oracle-forks", "mine") is PRESETS["oracle-forks"]
    assert all(name == each.name for name, each in PRESETS.items())
    with pytest.raises(UnknownNameError, match="unknown method 'oracle': did you mean 'oracle-forks'"):
        preset("oracle", "mine")
    with pytest.raises(UsageError, match=r'^unknown method .* needs method = "\.\.\."$') as caught:
        preset("mine", "mine")
    assert "\n" not in str(caught.value)


async def follow(method: str, script: dict[str, Any], capacity: int = 4, seed: int = 0) -> Episode:
    async with Organization(ScriptedEngine(script), capacity=capacity) as organization:
        return await PRESETS[method].of(organization, ASKED).think(ASKED, seed=seed)


SCRIPT: dict[str, Any] = {
    "organizer": "<FORK-1>a b c</FORK-1> and <FORK-2>d e</FORK-2> then <FORK-3>f</FORK-3> now <JOIN-2> x <JOIN-1> y "
    "<JOIN-3> <ANSWER>z</ANSWER>",
    "workers": {
        "d e": "w w w w <RETURN>of d e</RETURN>",
        "f": "never",
        **{
            query: f"{'w ' * 6}<RETURN>of {query}</RETURN>"
            for query in ("a b c", "a c b", "b a c", "b c a", "c a b", "c b a")
        },
    },
}


def inserted(episode: Episode) -> list[str]:
    """What the organizer was given at its joins."""
    segments = episode.traces[0].segments
    return [segment.text for segment in segments if segment.kind is SegmentKind.INSERTED]


def prompts(episode: Episode) -> list[str]:
    """What the workers were really asked."""
    return [trace.segments[0].text for trace in episode.traces[1:]]


@pytest.mark.anyio
async def test_the_model_itself_is_what_probes_are_compared_with() -> None:
    episode = await follow("asyncthink", SCRIPT)
    assert inserted(episode) == ["of d e</JOIN-2>", "of a b c</JOIN-1>", "(no result)</JOIN-3>"]
    assert prompts(episode) == ["a b c", "d e", "f"]


@pytest.mark.anyio
async def test_silent_workers_work_as_long_and_return_nothing() -> None:
    plain, silent = [await follow(name, SCRIPT) for name in ("asyncthink", "silent-workers")]
    assert inserted(silent) == ["(no result)</JOIN-2>", "(no result)</JOIN-1>", "(no result)</JOIN-3>"]
    assert prompts(silent) == prompts(plain) and silent.answer == plain.answer
    assert measure(silent).critical_path == measure(plain).critical_path
    assert measure(silent).decoded_tokens == measure(plain).decoded_tokens
    ends = [(trace.outcome, trace.result, trace.cause) for trace in silent.traces[1:]]
    withheld = (Outcome.NO_RESULT, None, "withheld: the probe silent-workers")
    assert ends == [withheld, withheld, (Outcome.NO_RESULT, None, "the model stopped by itself")]


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(4))
async def test_shuffled_queries_are_the_one_before_and_first_the_words_in_disorder(seed: int) -> None:
    words = ["a", "b", "c"]
    Random(f"shuffle:{seed}").shuffle(words)
    first = " ".join(words)
    for _ in range(2):  # no instance is carried over from one episode to the next
        episode = await follow("shuffled-queries", SCRIPT, seed=seed)
        assert prompts(episode) == [" " + first, "a b c", "d e"]
        assert inserted(episode) == ["of a b c</JOIN-2>", f"of {first}</JOIN-1>", "of d e</JOIN-3>"]
        assert [trace.query for trace in episode.traces[1:]] == ["a b c", "d e", "f"], (
            "what the organizer wrote"
        )


@pytest.mark.anyio
async def test_shuffled_queries_keep_the_order_of_the_forks_where_workers_wait_for_a_slot() -> None:
    script = {**SCRIPT, "organizer": SCRIPT["organizer"].replace("now", "")}
    episode = await follow("shuffled-queries", script, capacity=2)
    assert prompts(episode)[1:] == ["a b c", "d e"]
    assert episode.format_errors.count("pool_overflow") == 2


@pytest.mark.anyio
async def test_a_model_may_not_smuggle_tags_into_a_shuffled_query() -> None:
    organizer = "<FORK-1>x <\\ANSWER>no y</FORK-1> <JOIN-1> <ANSWER>z</ANSWER>"
    episode = await follow("shuffled-queries", {"organizer": organizer, "workers": {}})
    (asked,) = prompts(episode)
    assert sorted(asked.split()) == ["<\\ANSWER>no", "x", "y"]


def test_a_probe_changes_one_thing_only() -> None:
    base = Organization(ScriptedEngine(SCRIPT), capacity=3, temperature=0.3, top_p=0.9)
    assert PRESETS["asyncthink"].of(base, ASKED) is base
    for name in ("silent-workers", "shuffled-queries", "random-forks"):
        made = PRESETS[name].of(base, ASKED)
        assert made.engine is base.engine
        assert (made.capacity, made.temperature, made.top_p, made.limits) == (3, 0.3, 0.9, base.limits)
        assert made.method is (Method.PLAN if name == "random-forks" else Method.ASYNCTHINK)
