"""Simulated servers, worked by hand: seconds, queues, replicas, and what growing pools cannot shorten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from asyncthink import Episode, Organization, measure
from asyncthink.cli.main import app
from asyncthink.engines.simulated import Costs, SimulatedEngine
from asyncthink.errors import UsageError
from asyncthink.evaluation.simulation import Point, SimulationRecipe, Workload, jumping, simulate
from asyncthink.settings import load

ALONE = Costs(steps=((1, 1.0),))
ONE_FORK: dict[str, Any] = {
    "organizer": "<FORK-1>q</FORK-1> <JOIN-1> <ANSWER>x</ANSWER>",
    "workers": {"q": "w w w <RETURN>r</RETURN>"},
}
TWO_FORKS: dict[str, Any] = {
    "organizer": "<FORK-1>a</FORK-1> <FORK-2>b</FORK-2> <JOIN-1> <JOIN-2> <ANSWER>x</ANSWER>",
    "workers": {"*": "w " * 40 + "<RETURN>r</RETURN>"},
}


def played(script: dict[str, Any], costs: Costs, capacity: int = 3) -> tuple[Episode, SimulatedEngine]:
    async def play() -> tuple[Episode, SimulatedEngine]:
        engine = SimulatedEngine(script, costs)
        async with Organization(engine, capacity=capacity) as organization:
            return await organization.think("a b"), engine

    return jumping(play)


def seconds(script: dict[str, Any], costs: Costs, capacity: int = 3) -> float:
    return played(script, costs, capacity)[0].wall_seconds


def test_an_episode_worked_by_hand() -> None:
    costs = replace(ALONE, message=10.0, prefill=0.1)
    episode, engine = played(ONE_FORK, costs)
    # The organizer's 2 tokens are there at 10.2, its fork is written at 13.2, its join at 14.2. The worker's one
    # token is there at 23.3, its six are written at 29.3; the two inserted ones are there at 39.5, and three follow.
    assert episode.wall_seconds == pytest.approx(42.5, abs=1e-6)
    assert engine.prefilled == 2 + 1 + 2
    assert engine.decoded == 4 + 6 + 3
    assert episode.answer == "x" and measure(episode).critical_path == 3 + 6 + 3


def test_sequences_share_a_step() -> None:
    # 3 tokens alone; 3 beside worker 1; a join beside both; 39 of both, until worker 1 is done; the other join beside
    # worker 2; 2 more of that alone, and the answer's 3.
    def worked(two: float, three: float) -> float:
        return 3 + 3 * two + three + 39 * two + two + 2 + 3

    for two, three in ((1.0, 1.0), (1.5, 2.0), (2.0, 4.0)):
        found = seconds(TWO_FORKS, Costs(steps=((1, 1.0), (2, two), (3, three))))
        assert found == pytest.approx(worked(two, three), abs=1e-6)


def test_whoever_finds_no_slot_waits() -> None:
    one_slot = Costs(steps=((1, 1.0),), slots=1)
    tokens = sum(
        segment.n_tokens
        for trace in played(TWO_FORKS, ALONE)[0].traces
        for segment in trace.segments
        if segment.kind == "decoded"
    )
    assert seconds(TWO_FORKS, one_slot) == pytest.approx(tokens, abs=1e-6), "one token at a time, whoever's"


def test_replicas_do_not_share_a_step() -> None:
    slow_together = Costs(steps=((1, 1.0), (2, 10.0), (3, 20.0)))
    assert seconds(TWO_FORKS, replace(slow_together, replicas=3)) == pytest.approx(
        seconds(TWO_FORKS, ALONE), abs=1e-6
    )


def test_handing_on_many_words_at_a_time_changes_no_second(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = SimulationRecipe(
        costs=Costs(
            steps=((1, 0.02), (8, 0.03), (64, 0.2)), prefill=1e-3, message=0.05, slots=24, replicas=2
        ),
        workload=Workload(parts=40, part_tokens=60),
        workers=(0, 3, 8, 40),
    )
    many = simulate(recipe)
    monkeypatch.setattr("asyncthink.engines.simulated.MOST_WORDS", 1)
    for one, other in zip(simulate(recipe), many, strict=True):
        assert one.seconds == pytest.approx(other.seconds, rel=1e-5)
        assert (one.critical_path, one.decoded_tokens) == (other.critical_path, other.decoded_tokens)


def test_a_cancelled_agent_leaves_its_replica() -> None:
    async def play() -> tuple[float, list[int]]:
        engine = SimulatedEngine(TWO_FORKS, ALONE)
        async with Organization(engine, capacity=3) as organization:
            with anyio.move_on_after(20.0):
                await organization.think("a b")
            left = [replica.agents for replica in engine.replicas]
            began = anyio.current_time()
            await organization.think("a b")
            return anyio.current_time() - began, left

    again, left = jumping(play)
    assert left == [0]
    assert again == pytest.approx(seconds(TWO_FORKS, ALONE), abs=1.0), "nobody else is decoded for"


@pytest.mark.parametrize(("size", "expected"), [(1, 1.0), (2, 1.0), (3, 1.5), (4, 2.0), (8, 6.0), (10, 8.0)])
def test_a_step_between_measured_ones(size: int, expected: float) -> None:
    assert Costs(steps=((2, 1.0), (4, 2.0), (8, 6.0))).step(size) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [(), ((2, 1.0), (1, 1.0)), ((1, 2.0), (2, 1.0))])
def test_steps_that_make_no_curve(steps: Sequence[tuple[int, float]]) -> None:
    with pytest.raises(UsageError, match="costs: "):
        simulate(SimulationRecipe(costs=Costs(steps=tuple(steps)), workers=(0,)))


def points(**work: Any) -> dict[int, Point]:
    recipe = SimulationRecipe(costs=ALONE, workload=Workload(**work), workers=(0, 1, 2, 4, 8, 16, 64))
    return {point.workers: point for point in simulate(recipe)}


def test_what_the_organizer_writes_is_what_no_pool_shortens() -> None:
    found = points(parts=64, part_tokens=100, query_tokens=10, spread=0.0, answer_tokens=8)
    alone, handing_out = 64 * 100 + 10, 64 * (12 + 1) + 10
    assert found[0].critical_path == alone and found[0].concurrency == 1.0
    for workers, point in found.items():
        if workers:
            assert point.organizer_tokens == handing_out
            assert max(handing_out, 64 * 112 / workers) <= point.critical_path <= alone + 64 * 25
            assert point.seconds == pytest.approx(point.critical_path, rel=1e-6), "a second a tick"
    assert found[64].critical_path <= handing_out + 112, "only the last ones are waited for"
    paths = [found[workers].critical_path for workers in (1, 2, 4, 8, 16)]
    assert paths == sorted(paths, reverse=True)


def test_weak_scaling_has_parts_for_every_worker() -> None:
    found = points(parts_each=3)
    assert [point.parts for point in found.values()] == [3, 3, 6, 12, 24, 48, 192]


def test_lengths_have_the_mean_and_the_spread_asked_for() -> None:
    lengths = Workload(parts=4000, part_tokens=200, spread=0.5).lengths(0)
    mean = sum(lengths) / len(lengths)
    assert mean == pytest.approx(200, rel=0.01)
    variance = sum((length - mean) ** 2 for length in lengths) / len(lengths)
    assert variance**0.5 / mean == pytest.approx(0.533, rel=0.03), "sqrt(exp(0.25) - 1)"
    assert lengths == Workload(parts=4000, part_tokens=200, spread=0.5).lengths(7)


def test_more_parts_than_forks_can_be_numbered() -> None:
    with pytest.raises(UsageError, match="16,384 parts cannot be numbered: 9,999 at most"):
        simulate(SimulationRecipe(costs=ALONE, workload=Workload(), workers=(1, 4096)))


def test_the_packaged_recipe_is_read() -> None:
    recipe, _ = load("recipes/scale.toml", SimulationRecipe)
    assert recipe.workers[0] == 0 and recipe.workers[-1] == 4096


SMALL = ["simulate", "recipes/scale.toml", "--set", "workers=[0, 2, 8]", "--set", "workload.parts=8"]


def test_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*SMALL, "--output", str(tmp_path / "scale")])
    assert done.exit_code == 0, done.output
    assert "speed-up" in done.stdout and "8 workers: T = " in done.stderr
    written = json.loads((tmp_path / "scale" / "scaling.json").read_text())["pools"]
    assert [each["workers"] for each in written] == [0, 2, 8]
    assert "| 8 " in (tmp_path / "scale" / "scaling.md").read_text()
    svg = (tmp_path / "scale" / "scaling.svg").read_text()
    assert "Critical path" in svg and "mathdefault" not in svg
    again, _ = load(str(tmp_path / "scale" / "config.toml"), SimulationRecipe)
    assert again.workers == (0, 2, 8)


def test_no_pool_at_all_is_one_line() -> None:
    done = CliRunner().invoke(app, ["simulate", "recipes/scale.toml", "--set", "workers=[]"])
    assert done.exit_code == 2 and "workers" in done.stderr and "Traceback" not in done.output


def test_ctrl_c_in_any_task_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Costs, "step", pressed)
    with pytest.raises(KeyboardInterrupt):
        simulate(SimulationRecipe(costs=ALONE, workload=Workload(parts=4), workers=(2,)))


def test_the_command_as_json() -> None:
    done = CliRunner().invoke(app, [*SMALL, "--json"])
    assert [json.loads(line)["workers"] for line in done.stdout.splitlines()] == [0, 2, 8]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("workload.part_token=3", "part_tokens"),
        ("workers=[-1]", "workers"),
        ("costs.steps=[[1, 0.0]]", "> 0"),
        ("costs.slots=0", ">= 1"),
        ("workload.parts=10000", "<= 9999"),
    ],
)
def test_a_wrong_key_is_named(change: str, told: str) -> None:
    done = CliRunner().invoke(app, [*SMALL, "--set", change])
    assert done.exit_code == 2 and told in done.stderr and done.stderr.count("\n") == 1
