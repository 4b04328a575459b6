"""Training rows: the mask is proven by decoding what is trained, on sampled episodes and on every kind of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from functools import cache
from itertools import groupby, pairwise

import anyio
import pytest
from msgspec.structs import replace

from asyncthink.engines.lexicon import load_lexicon
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import EMBEDDED
from asyncthink.episodes import Episode, Outcome, Role, Segment, SegmentKind, Trace, measure
from asyncthink.errors import UsageError
from asyncthink.protocol.actions import Action, Answer, Fork, Join, Think
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import Asked
from asyncthink.training.rollout import Rollout
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.vocabulary import build_tokenizer

from .rl_cases import EXAMPLE, all_rollouts, draw, scripted, write_noise

SPECIAL = {"<pad>", "<bos>", "<eos>"}


def spelled(ids: Iterable[int], names: dict[int, str]) -> str:
    """Decode by the vocabulary's names alone."""
    found = b""
    for token in ids:
        name = names[token]
        if name.startswith("<0x"):
            found += bytes.fromhex(name[3:5])
        elif name not in SPECIAL:
            found += name.encode()
    return found.decode("utf-8", errors="replace")


@cache
def names(model: str) -> dict[int, str]:
    """Return the names of a model's tokens; the chain and the noise have the project's tokenizer."""
    tokenizer = load_lexicon(EMBEDDED).tokenizer if model == "embedded" else build_tokenizer()
    return {token: name for name, token in tokenizer.get_vocab().items()}


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> list[Rollout]:
    """Episodes of random weights: stray bytes, which no text can be encoded back to."""
    engine = LocalEngine(write_noise(tmp_path_factory.mktemp("noise")), device="cpu", threads=1, lanes=1)
    groups = anyio.run(lambda: draw(engine, capacity=2, limits=Limits(max_critical_path=80)))
    return [one for group in groups for one in group]


def stretches(row: TrainingRow, model: str) -> list[tuple[bool, str]]:
    """Decode a row's ids piece by piece, each trained throughout or not at all."""
    pairs = zip(row.ids, row.trained, strict=True)
    return [
        (own, spelled([token for token, _ in group], names(model)))
        for own, group in groupby(pairs, lambda pair: pair[1])
    ]


def told(trace: Trace) -> list[tuple[bool, str]]:
    """Return a trace's text piece by piece, each decoded by its model throughout or not at all, up to the last such."""
    pieces = [(one.kind is SegmentKind.DECODED, one.text) for one in trace.segments if one.n_tokens]
    found = [
        (own, "".join(text for _, text in group)) for own, group in groupby(pieces, lambda piece: piece[0])
    ]
    return found if found[-1][0] else found[:-1]


def counted(episode: Episode) -> list[Trace]:
    """Return the traces that are learned from."""
    return [one for one in episode.traces if one.path == "0" or one.joined_at is not None]


def test_decoding_what_is_trained_gives_what_the_model_wrote(noise: list[Rollout]) -> None:
    kinds: set[tuple[Role, bool]] = set()
    for one in [*all_rollouts(), *noise]:
        found = rows(one.episode)
        assert [row.path for row in found] == [trace.path for trace in counted(one.episode)]
        for row, trace in zip(found, counted(one.episode), strict=True):
            kinds.add((row.role, any(each.kind is SegmentKind.INSERTED for each in trace.segments)))
            assert (row.episode, row.role) == (one.episode.id, trace.role)
            assert stretches(row, one.episode.model) == told(trace)
            assert not row.trained[0], "a prompt comes first"
    assert kinds == {(Role.ORGANIZER, False), (Role.ORGANIZER, True), (Role.WORKER, False)}
    assert any(
        "\N{REPLACEMENT CHARACTER}" in text for one in noise for _, text in told(one.episode.traces[0])
    )


def test_what_others_wrote_is_in_the_context_and_never_trained() -> None:
    """What a worker returned and the tag that closes the join; the organizer's own half of it is trained."""
    joins = 0
    for one in all_rollouts():
        if one.episode.method != "asyncthink":
            continue
        (_, prompt), *pieces = stretches(rows(one.episode)[0], one.episode.model)
        assert prompt.startswith(one.episode.query)
        inserted = [(before, text) for (_, before), (own, text) in pairwise(pieces) if not own]
        assert all(before.endswith(f"<{text.rpartition('</')[2]}") for before, text in inserted)
        if (last := one.episode.traces[0].segments[-1]).kind is SegmentKind.INSERTED:
            inserted.append((pieces[-1][1], last.text))  # it ends the trace, and so is in no row
        joined = [trace for trace in one.episode.traces if trace.joined_at is not None]
        expected = [f"{trace.result or '(no result)'}</JOIN-{trace.path[2:]}>" for trace in joined]
        assert Counter(text for _, text in inserted if not text.startswith("</")) == Counter(expected)
        vain = [name for name in one.episode.format_errors if name in ("unknown_join", "duplicate_join")]
        assert len(inserted) == len(joined) + len(vain)
        joins += len(joined)
    assert joins > 20


def test_log_probabilities_stand_where_their_tokens_do() -> None:
    for one in all_rollouts():
        for row, trace in zip(rows(one.episode), counted(one.episode), strict=True):
            expected: list[float] = []
            for segment in trace.segments:
                own = segment.logprobs if segment.kind is SegmentKind.DECODED else None
                expected += own or [0.0] * segment.n_tokens
            whole = [token for part in trace.segments for token in part.token_ids or ()]
            end = len(row.ids)
            assert (list(row.logprobs), list(row.ids)) == (expected[:end], whole[:end])
            assert row.trained[-1] and not any(expected[end:]), "nothing that was decoded is behind it"
            assert row.n_trained == sum(row.trained)


def test_workers_that_were_never_joined_give_no_row() -> None:
    """Some were still at work, others had returned in vain; what counts in T is what is trained."""
    outcomes: set[Outcome] = set()
    for one in all_rollouts():
        outcomes |= {trace.outcome for trace in one.episode.traces[1:] if trace.joined_at is None}
        trained = sum(row.n_trained for row in rows(one.episode))
        assert trained == measure(one.episode).sequential_tokens
        assert all(trace.outcome is not Outcome.UNJOINED for trace in counted(one.episode))
    assert outcomes >= {Outcome.UNJOINED, Outcome.RETURNED}


def part(kind: SegmentKind, n: int, first: int, **changes: object) -> Segment:
    ids = tuple(range(first, first + n))
    logprobs = (-0.5,) * n if kind in (SegmentKind.DECODED, SegmentKind.REASONED) else None
    whole = Segment(kind=kind, text="x" * n, n_tokens=n, token_ids=ids, logprobs=logprobs)
    return replace(whole, **changes)


def with_parts(*parts: Segment, episode: Episode | None = None) -> Episode:
    """Return an episode of one trace."""
    episode = episode or scripted("1 <ANSWER>2</ANSWER>")
    return replace(episode, traces=(replace(episode.traces[0], segments=parts),))


def test_of_all_kinds_only_decoded_text_is_trained() -> None:
    kinds = [
        SegmentKind.PROMPT,
        SegmentKind.DECODED,
        SegmentKind.DICTATED,
        SegmentKind.DECODED,
        SegmentKind.INSERTED,
        SegmentKind.REASONED,
        SegmentKind.DECODED,
    ]
    assert set(kinds) == set(SegmentKind), "a new kind needs a decision"
    (row,) = rows(with_parts(*(part(kind, 2, 10 * place) for place, kind in enumerate(kinds, 1))))
    assert row.ids == (10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71)
    assert [token for token, own in zip(row.ids, row.trained, strict=True) if own] == [20, 21, 40, 41, 70, 71]
    assert [p != 0 for p in row.logprobs] == list(row.trained)


def test_a_row_ends_where_the_model_wrote_last() -> None:
    """What was inserted there may go past the model's context, as a join's return does that ends the episode."""
    kinds = [SegmentKind.PROMPT, SegmentKind.DECODED, SegmentKind.INSERTED, SegmentKind.DICTATED]
    (row,) = rows(with_parts(*(part(kind, 2, 10 * place) for place, kind in enumerate(kinds, 1))))
    assert (row.ids, row.trained, row.logprobs) == (
        (10, 11, 20, 21),
        (False, False, True, True),
        (0.0, 0.0, -0.5, -0.5),
    )


def test_a_trace_of_which_the_model_wrote_nothing_gives_no_row() -> None:
    prompt, dictated = part(SegmentKind.PROMPT, 3, 1), part(SegmentKind.DICTATED, 3, 9)
    assert rows(with_parts(prompt, dictated)) == []
    assert rows(with_parts()) == []


def test_what_a_plan_dictated_is_not_trained_and_its_workers_are() -> None:
    def plan(_known: object, _stage: object) -> Generator[Action, str | None, None]:
        yield Think(text=" ?")
        yield Fork(index=1, query=" 5 7 > 2")
        yield Join(index=1)
        yield Answer(text=" none")

    async def run(asked: Asked) -> Episode:
        engine = LocalEngine(EMBEDDED, name="embedded", device="cpu", threads=1, lanes=1)
        limits = Limits(max_worker_tokens=20)
        async with Organization(engine, method="plan", plan=plan, temperature=1.0, limits=limits) as planned:
            return await planned.think(asked)

    episode = anyio.run(run, EXAMPLE)
    assert [one.kind for one in episode.traces[0].segments].count(SegmentKind.DICTATED) >= 1
    (row,) = rows(episode)
    assert row.path == "0/1" and stretches(row, "embedded") == told(episode.traces[1])


def refused(episode: Episode, *named: str) -> None:
    with pytest.raises(UsageError) as caught:
        rows(episode)
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in named), message


def test_an_engine_that_tells_no_ids_is_refused_in_one_line() -> None:
    episode = scripted("1 <FORK-1>a</FORK-1> <JOIN-1> <ANSWER>2</ANSWER>", {"a": "<RETURN>3</RETURN>"})
    refused(episode, episode.id, "token ids", "local checkpoint")


def test_an_engine_that_tells_no_log_probabilities_is_refused_in_one_line() -> None:
    prompt = part(SegmentKind.PROMPT, 3, 1)
    refused(with_parts(prompt, part(SegmentKind.DECODED, 2, 9, logprobs=None)), "0", "log-probabilities")


def test_reasoning_of_which_only_the_length_is_known_is_refused() -> None:
    """It stands in the context that the next tokens were drawn from, which is then not known."""
    hidden = part(SegmentKind.REASONED, 5, 1, token_ids=None, logprobs=None)
    refused(with_parts(part(SegmentKind.PROMPT, 3, 1), hidden, part(SegmentKind.DECODED, 2, 9)), "token ids")
