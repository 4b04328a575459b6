"""Two models in one organization: each speaks in its own role, on one clock."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from engines.engine_worlds import begin, write_checkpoint

from asyncthink.engines.base import Engine
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import EMBEDDED, load_engine
from asyncthink.engines.pair import PairEngine
from asyncthink.episodes.record import Episode
from asyncthink.errors import UsageError
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization

QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."


async def think(engine: Engine) -> list[Episode]:
    limits = Limits(max_critical_path=150)
    async with Organization(engine, temperature=1.0, limits=limits) as organization:
        return [await organization.think(QUERY, seed=seed) for seed in range(3)]


def texts(episode: Episode) -> dict[str, str]:
    return {trace.path: "".join(one.text for one in trace.segments) for trace in episode.traces}


def test_a_model_paired_with_itself_is_that_model() -> None:
    alone = anyio.run(think, LocalEngine(EMBEDDED, lanes=1))
    paired = anyio.run(think, PairEngine(LocalEngine(EMBEDDED, lanes=1), LocalEngine(EMBEDDED, lanes=1)))
    assert [texts(one) for one in paired] == [texts(one) for one in alone]
    assert sum(len(one.traces) for one in alone) > 6


def test_each_speaks_in_its_role(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "noise")
    alone = anyio.run(think, LocalEngine(EMBEDDED, lanes=1))
    noise = LocalEngine(tmp_path / "noise", lanes=1)
    mixed = anyio.run(think, PairEngine(LocalEngine(EMBEDDED, lanes=1), noise))
    for one, other in zip(mixed, alone, strict=True):
        first, expected = texts(one), texts(other)
        joined = min((trace.joined_at or 1000) for trace in one.traces)
        own = next(s for s in one.traces[0].segments if s.kind == "decoded").text
        assert expected["0"].find(own[:20]) >= 0 or joined == 0, "the organizer is the first model"
        worker = next(path for path in expected if path != "0")
        assert first[worker] != expected[worker] and first[worker].startswith("Solve"), (
            "and it works as noise"
        )


def test_it_is_named_and_found_by_its_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other")
    engine = load_engine(f"pair:embedded,hf:{tmp_path / 'other'}")
    assert isinstance(engine, PairEngine)
    assert engine.name == f"pair:embedded,hf:{tmp_path / 'other'}"
    assert (engine.organizer.folder, engine.worker.folder) == (EMBEDDED, tmp_path / "other")


@pytest.mark.parametrize("name", ["pair:embedded,embedded,embedded", "pair:embedded,nobody:x", "pair:"])
def test_a_wrong_name_is_one_line(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_engine(name)
    assert "\n" not in str(caught.value)


def test_both_are_closed_when_one_cannot_be_used(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other")
    first, second = LocalEngine(EMBEDDED, lanes=1), LocalEngine(tmp_path / "other", lanes=2)

    async def enter() -> None:
        async with PairEngine(first, second):
            pass

    with pytest.raises(UsageError, match="lanes"):
        anyio.run(enter)
    with pytest.raises(UsageError, match="not open"):
        begin(first)
