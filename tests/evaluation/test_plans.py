"""Plans: exact actions of every schedule and order, driven by hand and in real episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from asyncthink.engines.base import Profile, Sampling
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Episode, Outcome, measure, schedule
from asyncthink.evaluation.methods import PRESETS
from asyncthink.evaluation.plans import Order, Schedule, ordered, plan
from asyncthink.protocol.actions import Action, Answer, Fork, Join, Think
from asyncthink.runtime.agent import Stage
from asyncthink.runtime.budget import Limits, Meter
from asyncthink.runtime.organization import Organization
from asyncthink.runtime.organizer import Plan
from asyncthink.tasks import DIVIDERS, Asked, CountdownProblem, Split, get_task
from asyncthink.tasks.base import SubQuery
from asyncthink.tasks.countdown_parts import CountdownDivider, joined_text, search

COUNTDOWN = get_task("countdown")
Returns = Callable[[Fork], "str | None"]


@dataclass
class Pile:
    """A harvest of texts; enough are `wanted`."""

    wanted: int
    texts: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])

    @property
    def done(self) -> bool:
        return len(self.texts) >= self.wanted

    def add(self, part: SubQuery, returned: str | None) -> str:
        self.asked.append(part.query)
        if returned is None:
            return ""
        self.texts.append(returned)
        return f" {returned}!"

    def answer(self) -> str:
        return "+".join(self.texts)


@dataclass
class Letters:
    """Divides a text into its letters; a perfect worker finds what `finds` says of one."""

    wanted: int = 99
    finds: Mapping[str, set[int]] = field(default_factory=dict[str, set[int]])
    piles: list[Pile] = field(default_factory=list[Pile])

    def refusal(self, problem: str) -> str | None:
        del problem

    def parts(self, problem: str) -> list[SubQuery]:
        return [SubQuery(query=letter, prefix=f" {letter}", sentence=f"Do {letter}.") for letter in problem]

    def search(self, part: SubQuery) -> tuple[str, str]:
        return "", part.query

    def perfect(self, problem: str, part: SubQuery) -> frozenset[object]:
        del problem
        return frozenset(self.finds.get(part.query, ()))

    def harvest(self, problem: str) -> Pile:
        del problem
        self.piles.append(Pile(self.wanted))
        return self.piles[-1]


class Untrained(ScriptedEngine):
    profile = Profile(trained=False)


def stage(
    capacity: int,
    seed: int = 0,
    engine: type[ScriptedEngine] = ScriptedEngine,
    max_forks: int | None = None,
) -> Stage:
    return Stage(
        id="x",
        origin=0.0,
        engine=engine({"organizer": "-"}),
        capacity=capacity,
        sampling=Sampling(temperature=0, top_p=1, seed=seed),
        meter=Meter(limits=Limits(max_forks=max_forks)),
        emit=lambda _: None,
        prompts={},
    )


def drive(made: Plan, returns: Returns = lambda fork: fork.query) -> list[Action]:
    """Follow a plan; each join is told what `returns` says of its fork."""
    forks: dict[int, Fork] = {}
    actions: list[Action] = []
    told: str | None = None
    try:
        while True:
            action = made.send(told)
            actions.append(action)
            told = None
            if isinstance(action, Fork):
                forks[action.index] = action
            elif isinstance(action, Join):
                told = returns(forks[action.index])
    except StopIteration:
        return actions


def spelled(actions: Sequence[Action]) -> str:
    """F1 J1 ... A, thoughts left out."""
    named = [one for one in actions if not isinstance(one, Think)]
    return " ".join(type(one).__name__[0] + str(getattr(one, "index", "")) for one in named)


def course(
    kind: str, parts: str, capacity: int, *, wanted: int = 99, returns: Returns = lambda fork: fork.query
) -> str:
    made = plan(Letters(wanted), parts, stage(capacity), Schedule(kind), Order.RANDOM)
    return spelled(drive(made, returns))


@pytest.mark.parametrize(
    ("kind", "capacity", "expected"),
    [
        ("pairs", 4, "F1 J1 F2 J2 F3 J3 F4 J4 F5 J5 A"),
        ("waves", 4, "F1 F2 F3 J1 J2 J3 F4 F5 J4 J5 A"),
        ("busy", 4, "F1 F2 F3 J1 F4 J2 F5 J3 J4 J5 A"),
        ("waves", 3, "F1 F2 J1 J2 F3 F4 J3 J4 F5 J5 A"),
        ("busy", 3, "F1 F2 J1 F3 J2 F4 J3 F5 J4 J5 A"),
        ("waves", 6, "F1 F2 F3 F4 F5 J1 J2 J3 J4 J5 A"),
        ("busy", 9, "F1 F2 F3 F4 F5 J1 J2 J3 J4 J5 A"),
    ],
)
def test_schedules_by_hand(kind: str, capacity: int, expected: str) -> None:
    assert course(kind, "abcde", capacity) == expected


@pytest.mark.parametrize("kind", list(Schedule))
def test_with_one_worker_all_schedules_are_pairs(kind: str) -> None:
    assert course(kind, "abc", 2) == "F1 J1 F2 J2 F3 J3 A"


@pytest.mark.parametrize(
    ("kind", "wanted", "expected"),
    [
        ("pairs", 2, "F1 J1 F2 J2 A"),
        ("waves", 1, "F1 F2 F3 J1 A"),
        ("waves", 3, "F1 F2 F3 J1 J2 J3 A"),
        ("waves", 4, "F1 F2 F3 J1 J2 J3 F4 F5 J4 A"),
        ("busy", 1, "F1 F2 F3 J1 A"),
        ("busy", 2, "F1 F2 F3 J1 F4 J2 A"),
        ("busy", 4, "F1 F2 F3 J1 F4 J2 F5 J3 J4 A"),
        ("pairs", 0, "A"),
        ("waves", 0, "A"),
        ("busy", 0, "A"),
    ],
)
def test_a_plan_that_has_enough_forks_and_joins_no_more(kind: str, wanted: int, expected: str) -> None:
    assert course(kind, "abcde", 4, wanted=wanted) == expected


def test_returns_of_nothing_are_taken_in_and_the_plan_goes_on() -> None:
    def returns(fork: Fork) -> str | None:
        return fork.query if fork.index % 2 == 0 else None

    assert course("pairs", "abcde", 4, wanted=2, returns=returns) == "F1 J1 F2 J2 F3 J3 F4 J4 A"
    assert course("pairs", "abc", 4, wanted=2, returns=returns) == "F1 J1 F2 J2 F3 J3 A"
    assert course("busy", "", 4) == "A"


def test_what_comes_back_belongs_to_the_part_that_was_asked() -> None:
    divider = Letters()
    actions = drive(
        plan(divider, "abcdef", stage(3), Schedule.BUSY, Order.RANDOM), lambda fork: fork.query * 2
    )
    queries = [action.query for action in actions if isinstance(action, Fork)]
    assert sorted(queries) == list("abcdef")
    assert divider.piles[0].asked == queries, "joins are in the order of the forks"
    assert actions[-1] == Answer(text="+".join(query * 2 for query in queries))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (0, "A"),
        (2, "F1 F2 J1 J2 A"),
        (4, "F1 F2 F3 J1 F4 J2 J3 J4 A"),
        (99, "F1 F2 F3 J1 F4 J2 F5 J3 J4 J5 A"),
    ],
)
def test_a_plan_that_may_fork_no_more_answers_with_what_it_has(limit: int, expected: str) -> None:
    made = plan(Letters(), "abcde", stage(4, max_forks=limit), Schedule.BUSY, Order.RANDOM)
    assert spelled(drive(made)) == expected


def test_no_more_workers_than_can_be_numbered() -> None:
    actions = drive(plan(Letters(10**6), "a" * 10_050, stage(3), Schedule.BUSY, Order.RANDOM))
    forks = [action.index for action in actions if isinstance(action, Fork)]
    joins = [action.index for action in actions if isinstance(action, Join)]
    assert forks == joins == list(range(1, 10_000))


def test_what_a_trained_and_an_untrained_model_would_write() -> None:
    trained = drive(plan(Letters(), "a", stage(2), Schedule.PAIRS, Order.RANDOM))
    assert trained == [
        Think(text=" ? a"),
        Fork(index=1, query="a"),
        Think(text="\n"),
        Join(index=1),
        Think(text=" a!\n"),
        Answer(text="a"),
    ]
    untrained = drive(plan(Letters(), "a", stage(2, engine=Untrained), Schedule.PAIRS, Order.RANDOM))
    assert untrained == [
        Fork(index=1, query="Do a."),
        Think(text="\n"),
        Join(index=1),
        Answer(text="Do a."),
    ]


def order(finds: Mapping[str, set[int]], which: Order, seed: int = 0) -> str:
    divider = Letters(finds=finds)
    return "".join(part.query for part in ordered(divider, "".join(finds), which, Random(seed)))


def test_the_oracle_asks_first_for_what_brings_most_that_is_new() -> None:
    assert order({"a": {1}, "b": {1, 2, 3}, "c": {3, 4}, "d": set()}, Order.ORACLE)[:2] == "bc"
    # b has more than c, but nothing that a has not.
    finds = {"a": {1, 2, 3}, "b": {2, 3}, "c": {4}}
    assert {order(finds, Order.ORACLE, seed) for seed in range(20)} == {"acb"}


def test_equal_parts_are_in_a_random_order_of_the_seed() -> None:
    finds = {letter: {1} for letter in "abcdef"}
    for which in Order:
        found = {order(finds, which, seed) for seed in range(20)}
        assert len(found) > 10 and all(sorted(each) == list("abcdef") for each in found)
        assert order(finds, which, 3) == order(finds, which, 3)


def test_the_seed_of_the_sampling_orders_a_plan() -> None:
    def queries(seed: int) -> list[str]:
        actions = drive(plan(Letters(), "abcdef", stage(3, seed), Schedule.BUSY, Order.RANDOM))
        return [action.query for action in actions if isinstance(action, Fork)]

    assert queries(1) == queries(1)
    assert len({tuple(queries(seed)) for seed in range(10)}) > 5


def perfect(fork: Fork) -> str:
    return joined_text(search(fork.query)[1])


def needed(problem: CountdownProblem, which: Order, seed: int) -> tuple[int, float]:
    """Forks until a plan over perfect workers answers, and what that answer scores."""
    actions = drive(plan(CountdownDivider(), problem, stage(2, seed), Schedule.PAIRS, which), perfect)
    answer = actions[-1]
    assert isinstance(answer, Answer)
    return sum(isinstance(one, Fork) for one in actions), COUNTDOWN.check(problem, answer.text).value


def test_over_perfect_workers_the_oracle_needs_fewer_forks_than_chance() -> None:
    ahead, forks = 0, dict.fromkeys(Order, 0.0)
    for index in range(30):
        problem = COUNTDOWN.problem(Split.DEV, 0, index)
        oracle = needed(problem, Order.ORACLE, 0)
        chance = [needed(problem, Order.RANDOM, seed) for seed in range(5)]
        mean = sum(count for count, _ in chance) / len(chance)
        assert oracle[0] <= mean
        # In the end both know all that the language can say of the problem.
        assert {score for _, score in chance} == {oracle[1]} and oracle[1] >= 0.75
        ahead += oracle[0] < mean
        forks[Order.ORACLE] += oracle[0]
        forks[Order.RANDOM] += mean
    assert ahead >= 15 and forks[Order.ORACLE] < 0.75 * forks[Order.RANDOM]


@pytest.mark.parametrize("name", ["countdown", "countdown-paper", "sudoku"])
def test_a_plan_over_perfect_workers_answers_with_all_that_the_language_can_say(name: str) -> None:
    task, divider = get_task(name), DIVIDERS[name]
    for index in range(3):
        problem = task.problem(Split.DEV, 2, index)
        parts = divider.parts(problem)
        returned = {part.query: divider.search(part)[1] for part in parts}
        known = frozenset[object]().union(*(divider.perfect(problem, part) for part in parts))
        expected = 1.0 if name == "sudoku" else min(len(known), problem.wanted) / problem.wanted
        assert expected >= 0.75
        for kind in Schedule:
            made = plan(divider, problem, stage(3, index), kind, Order.RANDOM)
            answer = drive(made, lambda fork, returned=returned: returned[fork.query])[-1]
            assert isinstance(answer, Answer) and task.check(problem, answer.text).value == expected


def test_the_oracle_is_greedy_on_countdown() -> None:
    divider = CountdownDivider()
    for index in range(10):
        problem = COUNTDOWN.problem(Split.DEV, 1, index)
        left = ordered(divider, problem, Order.ORACLE, Random(0))
        assert sorted(part.query + part.before for part in left) == sorted(
            part.query + part.before for part in divider.parts(problem)
        )
        known: set[object] = set()
        while left:
            news = [len(divider.perfect(problem, part) - known) for part in left]
            assert news[0] == max(news)
            known |= divider.perfect(problem, left.pop(0))


# Real episodes on the scripted engine.


def workers(problem: CountdownProblem, rng: Random) -> dict[str, str]:
    """Perfect workers that take longer or shorter, some of them for ever."""
    texts: dict[str, str] = {}
    for part in CountdownDivider().parts(problem):
        found = joined_text(search(part.query)[1])
        returned = f" <RETURN>{found}</RETURN>" if rng.random() < 0.9 else ""
        texts[part.query] = " ".join(["w"] * rng.randint(1, 40)) + returned
    return texts


async def follow(
    method: str, problem: CountdownProblem, script: dict[str, Any], capacity: int = 4, seed: int = 0
) -> Episode:
    asked = Asked(COUNTDOWN, problem)
    async with Organization(ScriptedEngine(script), capacity=capacity) as organization:
        return await PRESETS[method].of(organization, asked).think(asked, seed=seed)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["random-forks", "oracle-forks", "forks-first", "fork-join-pairs"])
async def test_plans_never_ask_for_more_workers_than_there_are(method: str) -> None:
    rng = Random(method)
    most: set[int] = set()
    for index in range(12):
        problem = COUNTDOWN.problem(Split.DEV, 0, index)
        capacity = rng.randint(2, 6)
        script = {"organizer": "-", "workers": workers(problem, rng)}
        episode = await follow(method, problem, script, capacity, seed=index)
        assert (episode.format_errors, schedule(episode).overflows) == ([], ())
        assert episode.method == "plan" and episode.answer is not None
        active = measure(episode).active_per_tick
        assert max(active) <= capacity
        most.add(max(active))
    assert max(most) == 2 if method == "fork-join-pairs" else max(most) >= 4


@pytest.mark.anyio
async def test_an_episode_of_a_plan_answers_with_what_its_workers_found() -> None:
    problem = COUNTDOWN.problem(Split.DEV, 0, 4)
    texts = {
        part.query: f"<RETURN>{joined_text(search(part.query)[1])}</RETURN>"
        for part in CountdownDivider().parts(problem)
    }
    episode = await follow("oracle-forks", problem, {"organizer": "-", "workers": texts})
    assert COUNTDOWN.check(problem, episode.answer or "").value == 1.0
    joined = [trace for trace in episode.traces if trace.joined_at is not None]
    assert len(joined) == needed(problem, Order.ORACLE, 0)[0]
    assert all(trace.outcome is Outcome.RETURNED for trace in joined)
