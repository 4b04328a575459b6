"""The whole line on the model that ships with the package: nothing is scripted here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ticks import simulate
from transformers import LlamaForCausalLM

from asyncthink import Episode, Organization, load_engine
from asyncthink.engines.local import LocalEngine, LocalSession
from asyncthink.engines.models import EMBEDDED
from asyncthink.episodes import SegmentKind
from asyncthink.tasks import recognise

pytestmark = pytest.mark.anyio
QUERY = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."


class Watched(LocalEngine):
    """Remembers the sessions it opened."""

    def __init__(self) -> None:
        super().__init__(EMBEDDED, name="embedded")
        self.sessions: dict[str, LocalSession] = {}

    def open(self, *args: Any, **kwargs: Any) -> LocalSession:
        session = self.sessions[kwargs["path"]] = super().open(*args, **kwargs)
        return session


async def think(engine: LocalEngine, **settings: Any) -> Episode:
    async with Organization(engine, **settings) as organization:
        return await organization.think(QUERY, seed=3)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_the_record_is_what_the_engine_saw(temperature: float) -> None:
    """Token for token, and its log-probabilities are those of transformers on the whole context."""
    engine = Watched()
    episode = await think(engine, temperature=temperature)
    assert len(episode.traces) > 2
    loader: Any = LlamaForCausalLM
    model = loader.from_pretrained(EMBEDDED)
    for trace in episode.traces:
        ids = [token for segment in trace.segments for token in segment.token_ids or ()]
        assert tuple(ids) == engine.sessions[trace.path].ids
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        place = 0
        for segment in trace.segments:
            if segment.kind is SegmentKind.DECODED:
                assert segment.token_ids is not None and segment.logprobs is not None
                expected = logprobs[torch.arange(place - 1, place - 1 + segment.n_tokens), segment.token_ids]
                torch.testing.assert_close(torch.tensor(segment.logprobs), expected, atol=1e-4, rtol=0)
                if temperature == 0:
                    greedy = logprobs[place - 1 : place - 1 + segment.n_tokens].max(-1).values
                    torch.testing.assert_close(expected, greedy, atol=1e-4, rtol=0)
            place += segment.n_tokens


async def test_a_thought_forks_joins_and_answers() -> None:
    episode = await think(LocalEngine(EMBEDDED, name="embedded"))
    known = recognise(episode.query)
    assert known is not None and episode.answer is not None
    assert episode.capacity == 4
    assert any(trace.joined_at is not None and trace.result for trace in episode.traces)
    assert episode.format_errors == []
    assert known.task.check(known.problem, episode.answer).value > 0
    assert simulate(episode).total > 0


async def test_the_same_seed_gives_the_same_thought() -> None:
    one, other = [await think(LocalEngine(EMBEDDED), temperature=0.7) for _ in range(2)]
    assert [trace.segments for trace in one.traces] == [trace.segments for trace in other.traces]


async def test_an_answer_holds_only_what_was_found_or_returned() -> None:
    """Organizer and workers are both needed: most of the right lines contain a returned expression."""
    episode = await think(load_engine("embedded"))  # pyright: ignore[reportArgumentType]
    assert episode.answer is not None
    returned = [each.strip() for trace in episode.traces[1:] for each in (trace.result or "").split(";")]
    lines = [line for line in episode.answer.splitlines() if line.strip()]
    assert lines
    for line in lines:
        assert any(each and each != "none" and each in line for each in returned), line
