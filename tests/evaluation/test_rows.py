"""Rows: by hand, and whether the score under a cap that is read off a record is what running under it scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Episode, Outcome, Role, SegmentKind, StopReason, Trace, Trial
from asyncthink.episodes.record import FormatFault, Segment, decode, encode
from asyncthink.evaluation.methods import PRESETS
from asyncthink.evaluation.rows import Row, Step, row_of, worth
from asyncthink.protocol import FormatError
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import Asked, CountdownProblem, get_task
from tests.episodes.episode_worlds import decoded, episode, inserted, organizer, worker

ASKED = Asked(get_task("countdown"), CountdownProblem(numbers=(2, 3, 5, 7), target=28))
PROBLEM = {"numbers": [2, 3, 5, 7], "target": 28, "wanted": 4}
GOOD = ("7*(2+5-3)", "5*(7-2)+3", "(5-3)*2*7")
WRONG = ("2+3+5+7", "2*3*5*7", "7-5-3-2", "2*3*5-(7-5)")
TRIAL = Trial(arm="mine", problem="p7", sample=1)


def lines(*texts: str) -> str:
    return "\n".join(texts)


def tried(one: Episode, answer: str | None, **changes: Any) -> Episode:
    """A hand-made episode as an evaluation's."""
    changes = {"trial": TRIAL, "task": "countdown", "problem": PROBLEM, "answer": answer, **changes}
    return replace(one, **changes)


def parallel(*traces: tuple[int, str | None]) -> Episode:
    """Traces of so many tokens with their answers."""
    made = [
        Trace(
            path="0" if i == 0 else f"0/{i}",
            role=Role.ORGANIZER,
            query="q",
            segments=(decoded(n),) if n else (),
            outcome=Outcome.NO_RESULT if answer is None else Outcome.ANSWERED,
            result=answer,
            forked_at=0 if i else None,
            joined_at=traces[0][0] if i else None,
        )
        for i, (n, answer) in enumerate(traces)
    ]
    answers = [answer for _, answer in traces if answer is not None]
    merged = ASKED.task.merge(answers) if answers else None
    return tried(episode(len(traces), *made, method="parallel"), merged)


def steps(*pairs: tuple[int, float]) -> tuple[Step, ...]:
    return tuple(Step(cost=cost, score=score) for cost, score in pairs)


def pooling(*triples: tuple[int, float, float]) -> tuple[Step, ...]:
    """Steps of parallel thinking: cost, score of the vote, score of all answers together."""
    return tuple(Step(cost=cost, score=score, pooled=pooled) for cost, score, pooled in triples)


def test_the_lines_are_what_they_are_called() -> None:
    scores = [
        [part.correct for part in ASKED.task.check(ASKED.problem, lines(*each)).parts]
        for each in (GOOD, WRONG)
    ]
    assert scores == [[True] * 3, [False] * 4]


def test_a_row_of_asyncthink_by_hand() -> None:
    """The organizer writes 5, joins worker 1 (12 tokens from tick 3 on) at 5 and goes on at 15 with 4 more."""
    one = episode(
        3,
        organizer(5, inserted(2), 4),
        replace(worker("0/1", 12, 3, 5), result="r"),
        worker("0/2", 6, 4, outcome=Outcome.UNJOINED),
    )
    row = row_of(tried(one, lines(GOOD[0], GOOD[1], WRONG[0])), ASKED)
    assert (row.arm, row.problem, row.sample) == ("mine", "p7", 1)
    assert (row.method, row.model, row.capacity) == ("asyncthink", "scripted", 3)
    assert (row.score, row.asked, row.correct, row.answered) == (0.5, 4, 2, True)
    assert (row.pooled, row.pooled_correct) == (None, None)
    assert (row.stop_reason, row.format_errors, row.valid) == ("answer", (), True)
    assert row.metrics.critical_path == 19
    assert row.by_ticks == steps((19, 0.5))
    assert row.by_tokens == steps((9 + 12 + 6, 0.5))
    assert row.by_workers == steps((2, 0.5))
    assert (row.lost_workers, row.failed_workers) == (0, 0)


def test_workers_without_a_return_are_lost_where_somebody_waited_for_them() -> None:
    one = episode(
        4,
        organizer(9),
        worker("0/1", 2, 1, 5, outcome=Outcome.NO_RESULT),
        worker("0/2", 2, 2, 6, outcome=Outcome.ENGINE_ERROR),
        worker("0/3", 2, 3, outcome=Outcome.ENGINE_ERROR),
        replace(worker("0/4", 2, 3, 7), result=""),
    )
    row = row_of(tried(one, GOOD[0]), ASKED)
    assert (row.lost_workers, row.failed_workers) == (2, 2)


def test_without_an_answer_every_step_is_worth_nothing() -> None:
    fault = FormatFault(error=FormatError.NO_ANSWER, path="0", at=7)
    one = tried(episode(2, organizer(7)), None, faults=(fault,), stop_reason=StopReason.BUDGET)
    row = row_of(one, ASKED)
    assert (row.answered, row.score, row.correct, row.stop_reason) == (False, 0.0, 0, "budget")
    assert (row.format_errors, row.valid) == (("no_answer",), False)
    assert row.by_ticks == row.by_tokens == steps((7, 0.0))


def test_a_sequential_row_costs_its_tokens_and_no_worker() -> None:
    row = row_of(tried(episode(1, organizer(11), method="sequential"), GOOD[2]), ASKED)
    assert (row.by_ticks, row.by_tokens, row.by_workers) == (
        steps((11, 0.25)),
        steps((11, 0.25)),
        steps((0, 0.25)),
    )
    assert row.pooled is None


def test_a_parallel_trace_that_ends_later_is_left_out_under_a_smaller_cap() -> None:
    one = parallel((5, lines(GOOD[0], WRONG[0])), (8, lines(GOOD[1], GOOD[2], WRONG[1])), (3, None))
    row = row_of(one, ASKED)
    # The vote over all keeps the first four lines: two of trace 0, then two of trace 1.
    assert row.score == 0.75
    assert (row.pooled, row.pooled_correct) == (0.75, 3)
    assert row.by_ticks == pooling((3, 0.0, 0.0), (5, 0.25, 0.25), (8, 0.75, 0.75))
    # Trace 2 ends with 3 + 3 + 3 tokens decoded, trace 0 before the others had their fifth, trace 1 at the end.
    assert row.by_tokens == pooling((9, 0.0, 0.0), (5 + 4 + 3, 0.25, 0.25), (5 + 8 + 3, 0.75, 0.75))
    assert row.by_workers == pooling((0, 0.25, 0.25), (1, 0.75, 0.75), (2, 0.75, 0.75))


def test_a_later_trace_can_outvote_a_better_one() -> None:
    row = row_of(parallel((2, lines(*GOOD)), (4, lines(*WRONG)), (6, lines(*WRONG))), ASKED)
    assert row.by_ticks == pooling((2, 0.75, 0.75), (4, 0.75, 0.75), (6, 0.0, 0.75))
    assert row.score == 0.0
    assert (row.pooled, row.pooled_correct) == (0.75, 3), "whoever could pick would still pick these"
    assert row.by_workers == pooling((0, 0.75, 0.75), (1, 0.75, 0.75), (2, 0.0, 0.75))


def test_traces_that_end_in_one_tick_share_a_step_of_ticks_but_not_of_tokens() -> None:
    row = row_of(parallel((4, GOOD[0]), (4, GOOD[1]), (4, GOOD[2])), ASKED)
    assert row.by_ticks == pooling((4, 0.75, 0.75))
    assert row.by_tokens == pooling((4 + 3 + 3, 0.25, 0.25), (4 + 4 + 3, 0.5, 0.5), (12, 0.75, 0.75))


def test_a_trace_that_wrote_nothing_stands_at_no_cost() -> None:
    row = row_of(parallel((0, None), (3, GOOD[0]), (0, None)), ASKED)
    assert row.by_ticks == pooling((0, 0.0, 0.0), (3, 0.25, 0.25))
    assert row.by_tokens == pooling((0, 0.0, 0.0), (3, 0.25, 0.25))
    assert row.lost_workers == 1


def test_reasoning_and_dictated_text_cost_what_decoded_text_costs() -> None:
    one = parallel((4, GOOD[0]), (3, GOOD[1]))
    hidden = Segment(kind=SegmentKind.REASONED, text="", n_tokens=5)
    prompt = Segment(kind=SegmentKind.PROMPT, text="q", n_tokens=90)
    second = replace(one.traces[1], segments=(prompt, hidden, *one.traces[1].segments, inserted(7)))
    row = row_of(replace(one, traces=(one.traces[0], second)), ASKED)
    assert row.by_ticks == pooling((4, 0.25, 0.25), (8, 0.5, 0.5))


def test_an_episode_of_no_evaluation_is_refused() -> None:
    with pytest.raises(ValueError, match="of no evaluation"):
        row_of(episode(1, organizer(1)), ASKED)


def test_a_record_that_was_kept_is_judged_as_before() -> None:
    one = parallel((5, GOOD[0]), (8, lines(GOOD[1], GOOD[2])))
    assert row_of(decode(encode(one)), ASKED) == row_of(one, ASKED)


# Read off the record against really running under the cap, on the scripted engine.


def answer(rng: Random) -> str:
    if rng.random() < 0.15:
        return "no answer"
    return f"<ANSWER>{lines(*rng.sample((*GOOD, *WRONG), rng.randint(1, 4)))}</ANSWER>"


def traces_script(rng: Random) -> dict[str, Any]:
    return {"organizer": [" ".join(["w"] * rng.randint(0, 7) + [answer(rng)]) for _ in range(4)]}


def forks_script(rng: Random) -> dict[str, Any]:
    """Forks, joins in any order or none, workers that are queued, and workers that never return."""
    text: list[str] = []
    made, forks, todo = 0, rng.randint(0, 4), list[int]()
    while made < forks or (todo and rng.random() < 0.8):
        choice = rng.random()
        if made < forks and choice < 0.5:
            made += 1
            todo.append(made)
            text.append(f"<FORK-{made}>q{made}</FORK-{made}>")
        elif todo and choice < 0.8:
            text.append(f"<JOIN-{todo.pop(rng.randrange(len(todo)))}>")
        else:
            text += ["t"] * rng.randint(1, 4)
    workers = {
        f"q{i}": " ".join(["w"] * rng.randint(0, 12) + ["<RETURN>r</RETURN>"] * (rng.random() < 0.9))
        for i in range(1, forks + 1)
    }
    return {"organizer": " ".join([*text, answer(rng)]), "workers": workers}


async def think(method: str, script: dict[str, Any], capacity: int, limits: Limits | None = None) -> Episode:
    chosen = PRESETS[method]
    plain = "asyncthink" if chosen.method == "plan" else method
    organization = Organization(ScriptedEngine(script), method=plain, capacity=capacity, limits=limits)
    async with organization:
        return await chosen.of(organization, ASKED).think(ASKED, trial=TRIAL)


async def scored(method: str, script: dict[str, Any], capacity: int, **limits: int) -> float:
    return row_of(await think(method, script, capacity, Limits(**limits)), ASKED).score


def worlds(method: str, count: int) -> Iterator[tuple[dict[str, Any], int]]:
    rng = Random(f"worlds of {method}")
    make = forks_script if method == "asyncthink" else traces_script
    for _ in range(count):
        yield make(rng), rng.randint(2, 4)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["asyncthink", "sequential", "parallel"])
async def test_under_every_cap_on_t_the_record_tells_the_score(method: str) -> None:
    seen: set[float] = set()
    for script, capacity in worlds(method, 12):
        row = row_of(await think(method, script, capacity), ASKED)
        assert row.by_ticks[-1] == Step(cost=row.metrics.critical_path, score=row.score, pooled=row.pooled)
        for cap in range(1, row.metrics.critical_path + 2):
            got = await scored(method, script, capacity, max_critical_path=cap)
            assert got == worth(row.by_ticks, cap), (script, cap)
            seen.add(got)
    assert len(seen) > 2


@pytest.mark.anyio
async def test_the_record_tells_it_of_plans_too() -> None:
    workers = {"*": "w w w w w <RETURN> 2 + 5 ; 7 - 3 ; 3 * 5</RETURN>"}
    for method in ("random-forks", "forks-first", "fork-join-pairs"):
        script = {"organizer": "-", "workers": workers}
        row = row_of(await think(method, script, 3), ASKED)
        assert row.answered and row.metrics.joins > 1
        for cap in range(1, row.metrics.critical_path + 2):
            one = await think(method, script, 3, Limits(max_critical_path=cap))
            assert (one.answer is not None) is (cap >= row.by_ticks[0].cost), (method, cap)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["sequential", "parallel"])
async def test_under_every_cap_on_tokens_the_record_tells_the_score(method: str, anyio_backend: str) -> None:
    """trio goes through the agents of a tick in an order of its own, so there only whole ticks can be compared."""
    for script, capacity in worlds(method, 12):
        one = await think(method, script, capacity)
        row = row_of(one, ASKED)
        assert row.by_tokens[-1] == Step(cost=row.metrics.decoded_tokens, score=row.score, pooled=row.pooled)
        lengths = [
            sum(part.n_tokens for part in trace.segments if part.kind != "prompt") for trace in one.traces
        ]
        whole = {sum(min(n, tick) for n in lengths) for tick in range(1, max(lengths) + 1)}
        caps = whole if anyio_backend == "trio" else range(1, row.metrics.decoded_tokens + 2)
        for cap in caps:
            got = await scored(method, script, capacity, max_tokens=cap)
            assert got == worth(row.by_tokens, cap), (script, cap)


@pytest.mark.anyio
async def test_a_cap_on_tokens_is_exact_for_organizers_that_leave_nobody_at_work() -> None:
    """Who leaves workers at work writes its last token before, between or after theirs of the same tick."""
    exact = 0
    for script, capacity in worlds("asyncthink", 12):
        one = await think("asyncthink", script, capacity)
        row = row_of(one, ASKED)
        left = sum(trace.joined_at is None for trace in one.traces[1:])
        exact += not left
        total = row.metrics.decoded_tokens
        for cap in range(1, total + 2):
            got = await scored("asyncthink", script, capacity, max_tokens=cap)
            if cap < total - left or cap >= total:
                assert got == worth(row.by_tokens, cap), (script, cap)
    assert exact > 3


@pytest.mark.anyio
async def test_fewer_parallel_workers_are_the_first_traces() -> None:
    for script, _ in worlds("parallel", 12):
        row = row_of(await think("parallel", script, 4), ASKED)
        assert row.by_workers[-1] == Step(cost=row.metrics.forks, score=row.score, pooled=row.pooled)
        found = [row_of(await think("parallel", script, n + 1), ASKED).score for n in range(4)]
        assert found == [worth(row.by_workers, n) for n in range(4)]


@pytest.mark.anyio
async def test_so_many_workers_are_enough_for_as_many_forks() -> None:
    for script, capacity in worlds("asyncthink", 12):
        row = row_of(await think("asyncthink", script, capacity), ASKED)
        forks = row.by_workers[0].cost
        assert await scored("asyncthink", script, capacity, max_forks=forks) == worth(row.by_workers, forks)
        assert worth(row.by_workers, forks - 1) == 0


def test_a_row_can_be_written_and_read_again() -> None:
    row = row_of(parallel((5, GOOD[0]), (8, None)), ASKED)
    line = msgspec.json.encode(row)
    assert msgspec.json.decode(line, type=Row) == row
    assert json.loads(line)["by_ticks"] == [
        {"cost": 5, "score": 0.25, "pooled": 0.25},
        {"cost": 8, "score": 0.25, "pooled": 0.25},
    ]
