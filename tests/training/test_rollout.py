"""Rollouts: really served as the virtual clock says, repeated bit for bit, and never one that an engine failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from msgspec.structs import replace

from asyncthink.engines.base import Sampling
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.local import LocalEngine, LocalSession
from asyncthink.engines.shelves import SHELF, Context, Shelves
from asyncthink.episodes import Episode, Outcome
from asyncthink.episodes.clock import schedule
from asyncthink.errors import EngineError
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import get_task
from asyncthink.tasks.base import Split
from asyncthink.training.loss import LossRecipe
from asyncthink.training.optimizers import Optimizers
from asyncthink.training.problems import Problems
from asyncthink.training.rl_recipe import UpdateRecipe
from asyncthink.training.rollout import REDRAWS, Rollout, Sampler
from asyncthink.training.rows import rows
from asyncthink.training.update import Updater

from .rl_cases import Recorder, World, chain_world, draw, embedded_world, tiny_config, write_chain

CAP = Limits(max_critical_path=30)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain(tmp_path_factory.mktemp("chain"))


def engine_of(chain: Path, lanes: int = 1) -> LocalEngine:
    return LocalEngine(chain, name="chain", device="cpu", threads=1, lanes=lanes)


def texts(episode: Episode) -> list[Any]:
    """Return everything an episode holds but its wall times."""
    traces = [replace(trace, wall_start=None, wall_end=None) for trace in episode.traces]
    return [replace(episode, traces=tuple(traces), wall_seconds=0.0)]


def all_texts(groups: Sequence[Sequence[Rollout]]) -> list[Any]:
    return [[texts(one.episode) for one in group] for group in groups]


# Real order and the virtual clock


WORLDS: dict[str, Callable[[], World]] = {
    "embedded, 2 agents": lambda: embedded_world(2),
    "embedded, 3 agents": lambda: embedded_world(3),
    "embedded, 4 agents": lambda: embedded_world(4),
    "parallel": lambda: embedded_world(2, "parallel"),
    "chain, 2 agents": lambda: chain_world(2),
    "chain, 3 agents": lambda: chain_world(3),
    "chain, 4 agents": lambda: chain_world(4),
    "chain, 2 agents, 2 lanes": lambda: chain_world(2, lanes=2),
}


@pytest.mark.parametrize("name", WORLDS)
def test_every_token_is_decoded_in_the_tick_that_the_clock_says(name: str) -> None:
    """Start, end and every wait of every agent, queued and idle ones included."""
    world = WORLDS[name]()
    seen: Counter[str] = Counter()
    for one in world.rollouts:
        episode = one.episode
        plan = schedule(episode)
        origin = world.ticks[episode.id, "0"][0] - 1
        for trace in episode.traces:
            turn = plan.turns[trace.path]
            expected = [tick for a, b in turn.spans for tick in range(a + 1, b + 1)]
            served = [tick - origin for tick in world.ticks.get((episode.id, trace.path), [])]
            assert served == expected, (episode.id, trace.path)
            seen["queued"] += trace.path in plan.overflows and turn.start is not None
            seen["unjoined"] += not turn.counted
        seen["waited"] += sum(join.waited > 0 for join in plan.joins)
    if name != "parallel":
        assert seen["waited"] > 0
    if name.startswith("chain, 2"):
        assert min(seen["queued"], seen["unjoined"]) > 0, seen


def test_that_clock_is_not_the_order_of_the_decoded_tokens_alone() -> None:
    """The worlds above hold episodes in which organizer and workers stand still in turn."""
    plans = [schedule(one.episode) for name in WORLDS for one in WORLDS[name]().rollouts]
    assert sum(len(plan.turns["0"].spans) > 2 for plan in plans) > 5
    assert max(max(plan.active(), default=0) for plan in plans) >= 3


# Which problems


def test_problems_are_used_once_each_in_their_order(chain: Path) -> None:
    task = get_task("countdown")

    async def run() -> None:
        async with Organization(engine_of(chain), temperature=1.0, limits=CAP) as organization:
            sampler = Sampler(organization, Problems(task, 9), seed=9, problems=3, episodes=2)
            for step in (0, 1, 5):
                groups = await sampler.draw(step)
                assert [len(group) for group in groups] == [2, 2, 2]
                for place, group in enumerate(groups):
                    number = 3 * step + place
                    problem = task.problem(Split.TRAIN, 9, number)
                    for sample, one in enumerate(group):
                        assert one.asked.problem == problem and one.asked.task is task
                        assert task.read(one.episode.problem or {}) == problem
                        trial = one.episode.trial
                        assert trial and (trial.problem, trial.sample) == (str(number), sample)
                        assert one.episode.query == task.prompt(problem)
                        assert one.episode.id == f"{number:08}-{sample:04}-0"

    anyio.run(run)


def test_a_step_is_a_function_of_seed_and_number(chain: Path) -> None:
    async def both(steps: list[int], seed: int) -> list[Any]:
        async with Organization(engine_of(chain), temperature=1.0, limits=CAP) as organization:
            sampler = Sampler(
                organization, Problems(get_task("countdown"), seed), seed=seed, problems=2, episodes=3
            )
            return [all_texts(await sampler.draw(step)) for step in steps]

    first, second = anyio.run(both, [0, 1], 4)
    (alone,) = anyio.run(both, [1], 4)
    assert alone == second and first != second
    (other,) = anyio.run(both, [1], 5)
    assert other != second
    seeds = [one[0].seed for group in [*first, *second, *other] for one in group]
    assert len(set(seeds)) == len(seeds)


def test_episodes_of_one_problem_differ(chain: Path) -> None:
    for world in (chain_world(3), embedded_world(3)):
        by_problem: dict[str, set[str]] = {}
        for one in world.rollouts:
            decoded = repr([trace.segments for trace in one.episode.traces])
            by_problem.setdefault(one.episode.query, set()).add(decoded)
        assert all(len(found) > 1 for found in by_problem.values())


# Bit for bit


class Slow(Recorder):
    """Takes its time to open a session, as a busy machine does: nothing else may depend on that."""

    def open(self, *args: Any, **kwargs: Any) -> LocalSession:
        time.sleep(0.002)
        return super().open(*args, **kwargs)


@pytest.mark.parametrize("lanes", [1, 2])
def test_who_is_served_together_does_not_depend_on_the_machine(chain: Path, lanes: int) -> None:
    """Batches of other sizes give other last bits, so that a resumed run would end with other weights."""
    quick, slow = Recorder(chain, lanes=lanes), Slow(chain, lanes=lanes)

    async def run(engine: Recorder) -> list[Any]:
        return all_texts(await draw(engine, problems=4, episodes=4, capacity=3, limits=CAP))

    one, other = anyio.run(run, quick), anyio.run(run, slow)
    assert quick.sizes == slow.sizes
    assert one == other
    for sizes in quick.sizes:
        assert sizes[:2] == [1, 16 // lanes], "the first goes ahead; then all of the lane are there"


def test_a_step_does_not_depend_on_the_one_before(chain: Path) -> None:
    """More contexts than a shelf holds: the same slots in the same ticks, and the same to the last bit."""

    async def run(steps: list[int]) -> tuple[Any, list[list[int]]]:
        engine = Recorder(chain)
        found: Any = None
        async with Organization(engine, temperature=1.0, capacity=4, limits=CAP) as organization:
            sampler = Sampler(
                organization, Problems(get_task("countdown"), 2), seed=2, problems=5, episodes=8
            )
            for step in steps:
                engine.slots.clear()
                found = all_texts(await sampler.draw(step))
        return found, engine.slots

    (alone, slots), (later, slots_later) = anyio.run(run, [1]), anyio.run(run, [0, 1])
    assert max(map(max, slots)) >= SHELF
    assert slots == slots_later
    assert alone == later


def serve(shelves: Shelves) -> list[list[int | None]]:
    """Serve long and short contexts for some ticks, so that they are put in order; return their slots."""
    contexts = [Context(order=("e", f"{place:02}"), ids=[]) for place in range(SHELF + 8)]
    found: list[list[int | None]] = []
    for tick in range(1, 4):
        lengths = [(50 if place % 2 else 1) * tick for place in range(len(contexts))]
        shelves.reclaim()
        shelves.seat(list(zip(contexts, lengths, strict=True)))
        for context, length in zip(contexts, lengths, strict=True):
            context.cached = length
        found.append([context.slot for context in contexts])
    for context in contexts:
        shelves.release(context)
    return found


def test_who_comes_next_is_seated_as_if_nobody_had_been_there() -> None:
    shelves = Shelves(tiny_config(10), torch.device("cpu"))
    first = serve(shelves)
    assert first[0] != first[1], "put in order"
    assert serve(shelves) == first == serve(shelves)


# Failures of the engine


@dataclass
class Failures:
    """When an engine fails: at which token of which agent, in which attempts."""

    path: str
    token: int
    """0: when its session is opened."""
    attempts: int
    """Of each episode that is hit: so many fail."""
    samples: frozenset[int]
    seen: Counter[str] = field(default_factory=Counter[str])

    def due(self, episode: str, path: str, token: int) -> bool:
        _, sample, attempt = map(int, episode.split("-"))
        if (path, token) == (self.path, self.token) and sample in self.samples and attempt < self.attempts:
            self.seen[episode] += 1
            return True
        return False


class FailingSession(LocalSession):
    """Fails in place of a token."""

    failures: Failures
    decoded = 0

    async def next(self, sampling: Sampling) -> tuple[int, float]:
        self.decoded += 1
        if self.failures.due(*self.context.order, self.decoded):
            raise EngineError("the cable is loose")
        return await super().next(sampling)


class Failing(LocalEngine):
    """Fails at chosen moments."""

    def __init__(self, folder: Path, failures: Failures) -> None:
        super().__init__(folder, name="chain", device="cpu", threads=1, lanes=1)
        self.failures = failures

    def open(self, *args: Any, **kwargs: Any) -> LocalSession:
        if self.failures.due(kwargs["episode"], kwargs["path"], 0):
            raise EngineError("the cable is loose")
        session = super().open(*args, **kwargs)
        session.__class__ = FailingSession
        assert isinstance(session, FailingSession)
        session.failures = self.failures
        return session


def ids_of(episode: Episode) -> list[list[tuple[int, ...] | None]]:
    return [[part.token_ids for part in trace.segments] for trace in episode.traces]


FAILURES = [
    Failures(path="0", token=0, attempts=1, samples=frozenset({1})),
    Failures(path="0", token=1, attempts=1, samples=frozenset({0, 1, 2, 3})),
    Failures(path="0", token=3, attempts=2, samples=frozenset({2})),
    Failures(path="0/1", token=0, attempts=3, samples=frozenset({0, 1, 2, 3})),
    Failures(path="0/1", token=2, attempts=1, samples=frozenset({0, 3})),
    Failures(path="0", token=1, attempts=REDRAWS, samples=frozenset({3})),
]


@pytest.mark.parametrize("failures", FAILURES, ids=str)
def test_what_an_engine_failed_is_drawn_again(chain: Path, failures: Failures) -> None:
    failures.seen.clear()
    done: list[None] = []

    async def run(engine: LocalEngine) -> list[list[Rollout]]:
        async with Organization(engine, temperature=1.0, capacity=3, limits=CAP) as organization:
            sampler = Sampler(
                organization, Problems(get_task("countdown"), 1), seed=1, problems=2, episodes=4
            )
            return await sampler.draw(0, lambda: done.append(None))

    calm = anyio.run(run, engine_of(chain))
    assert len(done) == 8
    groups = anyio.run(run, Failing(chain, failures))
    assert len(done) == 16, "an episode is counted once it is there"
    assert failures.seen and set(failures.seen.values()) == {1}
    redrawn: list[bool] = []
    for problem, group in enumerate(groups):
        for sample, one in enumerate(group):
            failed = [name for name in failures.seen if name.startswith(f"{problem:08}-{sample:04}-")]
            assert one.episode.id == f"{problem:08}-{sample:04}-{len(failed)}"
            assert one.episode.trial and one.episode.trial.sample == sample + 4 * len(failed)
            assert one.asked == calm[problem][sample].asked
            assert all(trace.outcome is not Outcome.ENGINE_ERROR for trace in one.episode.traces)
            assert one.episode.stop_reason.value != "engine_error"
            same = ids_of(one.episode) == ids_of(calm[problem][sample].episode)
            assert same or failed, "who was not hit is the same"
            redrawn.append(not same)
    assert any(redrawn), "who is drawn again has other chances"


def test_an_engine_that_fails_again_and_again_ends_the_step_with_one_line(chain: Path) -> None:
    failures = Failures(path="0", token=2, attempts=REDRAWS + 1, samples=frozenset({1}))
    with pytest.raises(EngineError) as caught:
        anyio.run(lambda: draw(Failing(chain, failures), limits=CAP))
    message = str(caught.value)
    assert type(caught.value) is EngineError and "\n" not in message
    assert "cable is loose" in message and f"{REDRAWS + 1} times" in message
    assert max(name.rpartition("-")[2] for name in failures.seen) == str(REDRAWS)


def test_a_worker_s_failure_spoils_the_episode_although_it_went_on(chain: Path) -> None:
    """The organizer was told `(no result)` for what was no result of its worker."""
    failures = Failures(path="0/1", token=1, attempts=REDRAWS + 1, samples=frozenset({0, 1}))
    with pytest.raises(EngineError, match="cable is loose"):
        anyio.run(lambda: draw(Failing(chain, failures), limits=CAP))


def test_a_full_context_is_a_budget_and_no_failure(tmp_path: Path) -> None:
    """It would come again: such an episode is kept, and its format error is what the policy learns from."""
    folder = write_chain(tmp_path / "chain", max_position_embeddings=48)
    groups = anyio.run(lambda: draw(engine_of(folder), problems=2, episodes=8))
    outcomes = Counter(trace.outcome for group in groups for one in group for trace in one.episode.traces)
    assert outcomes[Outcome.BUDGET] > 0 and outcomes[Outcome.ENGINE_ERROR] == 0
    assert {one.episode.id.rpartition("-")[2] for group in groups for one in group} == {"0"}
    longest = [
        sum(each.n_tokens for each in trace.segments)
        for group in groups
        for one in group
        for trace in one.episode.traces
    ]
    assert max(longest) > 48, "what a join brought went past the context"
    checkpoint = load_checkpoint(folder)
    own = [row for group in groups for one in group for row in rows(one.episode)]
    assert max(len(row.ids) for row in own) <= 48
    logprobs = Updater(
        checkpoint.model,
        Optimizers(
            checkpoint.model,
            optimizer="adamw",
            learning_rate=0.1,
            embedding_learning_rate=0.1,
            weight_decay=0,
        ),
        LossRecipe(),
        UpdateRecipe(),
    ).old_logprobs(own)
    assert sum(len(each) for each in logprobs) == sum(row.n_trained for row in own), (
        "and is trained all the same"
    )
