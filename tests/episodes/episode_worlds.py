"""Episodes to test with: written by hand, drawn at random, and told as events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from random import Random

from asyncthink.episodes import (
    Began,
    Ended,
    Episode,
    Event,
    Faulted,
    Finished,
    Joined,
    Opened,
    Outcome,
    Role,
    Segment,
    SegmentKind,
    Started,
    StopReason,
    Text,
    Trace,
)
from asyncthink.protocol import FormatError


def decoded(n: int) -> Segment:
    ids = tuple(range(n)) or None
    ends = tuple(range(1, n + 1))
    logprobs = (-0.5,) * n or None
    return Segment(
        kind=SegmentKind.DECODED, text="x" * n, n_tokens=n, token_ids=ids, logprobs=logprobs, ends=ends
    )


def inserted(n: int) -> Segment:
    return Segment(kind=SegmentKind.INSERTED, text="i" * n, n_tokens=n)


def organizer(*parts: int | Segment) -> Trace:
    """The root; a number stands for so many decoded tokens."""
    segments = tuple(decoded(part) if isinstance(part, int) else part for part in parts)
    return Trace(path="0", role=Role.ORGANIZER, query="q", segments=segments, outcome=Outcome.ANSWERED)


def worker(
    path: str,
    n: int,
    forked_at: int,
    joined_at: int | None = None,
    *,
    outcome: Outcome = Outcome.RETURNED,
    ticks: int | None = None,
) -> Trace:
    return Trace(
        path=path,
        role=Role.WORKER,
        query=f"q{path}",
        segments=(decoded(n),) if n else (),
        outcome=outcome,
        forked_at=forked_at,
        joined_at=joined_at,
        ticks=ticks,
    )


def episode(capacity: int, *traces: Trace, method: str = "asyncthink") -> Episode:
    return Episode(
        id="e",
        query="q",
        method=method,
        model="scripted",
        capacity=capacity,
        seed=0,
        traces=traces,
        answer="a",
        stop_reason=StopReason.ANSWER,
        wall_seconds=1.0,
    )


def random_episode(rng: Random, *, orderly: bool = False) -> Episode:
    """Queues, idle, unended, refused and empty workers, sub-organizers, tools, insertions.

    orderly: every worker ends, and only those that decode nothing report ticks.
    """
    capacity = rng.randint(1 + orderly, 4)
    outcomes = [Outcome.RETURNED, Outcome.NO_RESULT, Outcome.BUDGET]
    outcomes += [] if orderly else [Outcome.UNJOINED, Outcome.CANCELLED]
    return episode(capacity, *_traces(rng, "0", None, outcomes, depth=0))


def _traces(
    rng: Random, path: str, fork: tuple[int, int | None] | None, outcomes: list[Outcome], depth: int
) -> Iterator[Trace]:
    if fork and Outcome.UNJOINED in outcomes and rng.random() < 0.1:
        yield Trace(
            path=path,
            role=Role.WORKER,
            query=path,
            segments=(),
            outcome=Outcome.REFUSED,
            forked_at=fork[0],
            joined_at=fork[1],
        )
        return
    pieces = [rng.choice((0, 1, 1, 2, 5, 9)) for _ in range(rng.randint(1, 3))]
    segments: list[Segment] = []
    for piece in pieces:
        segments += [decoded(piece)] if piece else []
        if rng.random() < 0.4:
            segments.append(inserted(rng.randint(0, 4)))
    total = sum(pieces)
    tool = fork and rng.random() < 0.2 and not (total and Outcome.UNJOINED not in outcomes)
    yield Trace(
        path=path,
        role=Role.WORKER if fork else Role.ORGANIZER,
        query=path,
        segments=tuple(segments),
        outcome=rng.choice(outcomes) if fork else Outcome.ANSWERED,
        forked_at=fork[0] if fork else None,
        joined_at=fork[1] if fork else None,
        ticks=rng.randint(0, 9) if tool else None,
    )
    if (depth and rng.random() < 0.7) or depth == 3:
        return
    forks = sorted(rng.randint(0, total) for _ in range(rng.randint(0, 5 - depth)))
    for i, at in enumerate(forks, 1):
        joined = rng.randint(at, total) if rng.random() < 0.7 else None
        yield from _traces(rng, f"{path}/{i}", (at, joined), outcomes, depth + 1)


def events_of(episode: Episode, rng: Random) -> Iterator[Event]:
    """Tell an episode token by token: its agents interleaved at random, children after their forks."""
    yield Started(
        id=episode.id,
        task=episode.task,
        problem=episode.problem,
        query=episode.query,
        method=episode.method,
        model=episode.model,
        capacity=episode.capacity,
        seed=episode.seed,
    )
    scripts = {trace.path: deque(_script(trace, episode.traces)) for trace in episode.traces}
    open_paths = [episode.traces[0].path]
    yield _opened(episode.traces[0])
    while any(scripts[path] for path in open_paths):
        event = scripts[rng.choice([path for path in open_paths if scripts[path]])].popleft()
        if isinstance(event, Opened):
            open_paths.append(event.path)
        yield event
    for fault in episode.faults:
        if fault.error is not FormatError.POOL_OVERFLOW:
            yield Faulted(fault=fault)
    yield Finished(
        answer=episode.answer,
        stop_reason=episode.stop_reason,
        cause=episode.cause,
        wall_seconds=episode.wall_seconds,
    )


def _opened(trace: Trace) -> Opened:
    return Opened(path=trace.path, role=trace.role, query=trace.query, to=trace.to, forked_at=trace.forked_at)


def _script(trace: Trace, traces: Iterable[Trace]) -> Iterator[Event]:
    children = [one for one in traces if one.path.rpartition("/")[0] == trace.path]
    due: deque[tuple[int, Event]] = deque()
    for child in children:
        due.append((child.forked_at or 0, _opened(child)))
        if child.joined_at is not None:
            due.append((child.joined_at, Joined(path=child.path, joined_at=child.joined_at)))
    due = deque(sorted(due, key=lambda pair: pair[0]))
    if trace.wall_start is not None:
        yield Began(path=trace.path, wall=trace.wall_start)
    tokens = 0
    for segment in trace.segments:
        for text in _texts(trace.path, segment):
            if segment.kind is SegmentKind.DECODED:
                while due and due[0][0] <= tokens:
                    yield due.popleft()[1]
                tokens += text.n_tokens
            yield text
    yield from (event for _, event in due)
    yield Ended(
        path=trace.path,
        outcome=trace.outcome,
        result=trace.result,
        cause=trace.cause,
        wall=trace.wall_end or 0.0,
        ticks=trace.ticks,
        overrun_tokens=trace.overrun_tokens,
    )


def _texts(path: str, segment: Segment) -> Iterator[Text]:
    """One token an event for decoded segments, else the whole segment at once."""
    if segment.kind is not SegmentKind.DECODED or segment.ends is None:
        yield Text(path=path, kind=segment.kind, text=segment.text, n_tokens=segment.n_tokens)
        return
    begin = 0
    for i, end in enumerate(segment.ends):
        yield Text(
            path=path,
            kind=segment.kind,
            text=segment.text[begin:end],
            n_tokens=1,
            token_ids=segment.token_ids and segment.token_ids[i : i + 1],
            logprobs=segment.logprobs and segment.logprobs[i : i + 1],
        )
        begin = end
