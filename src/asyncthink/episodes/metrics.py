"""What an episode cost and how well it was organised: a pure function of the record.

Marks: [P] the paper says so, [I] inferred from the paper, [D] our decision. A tick is one decoded token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from asyncthink.episodes import clock
from asyncthink.episodes.agents import Agent, agents
from asyncthink.episodes.clock import Schedule
from asyncthink.episodes.record import WRITTEN, Episode, SegmentKind, Value


class JoinWait(Value, frozen=True, kw_only=True):
    """What one join cost."""

    path: str
    """The worker's."""
    waited: int
    """Ticks for which its organizer stood still."""


class Metrics(Value, frozen=True, kw_only=True):
    """All of an episode's measures."""

    critical_path: int
    """T, ticks: the organizer's tokens and its waits, on the virtual clock [P]."""
    critical_path_with_inserted: int
    """Ticks: T if each inserted token cost one too [D: the second figure]."""
    concurrency: float
    """eta/c, where eta is the mean of `active_per_tick` [P]. Exactly 1/c for a sequential episode; at most 1
    without sub-organizers (each brings a pool of its own); at least 1/c without `pool_overflow`.
    0.0 where T = 0 [D]."""
    active_per_tick: tuple[int, ...]
    """a_1 ... a_T: agents at work, the organizer included [I], workers never joined excluded [D]."""
    span: int
    """Ticks of the longest chain of work that waits for work: T if every fork found a slot at once [D]."""
    lower_bound: int
    """Ticks: no schedule of the same texts on c agents is shorter, whatever is forked and joined when: the larger of
    work / c and the longest single text. Where sub-organizers bring pools of their own, more than c agents work,
    and T may be below it [D]."""
    decoded_tokens: int
    """Tokens written by all agents, tags, hidden reasoning and what a plan dictated included, overrun
    excluded [P]."""
    wasted_tokens: int
    """Of these, the tokens of workers that were never joined, or joined only by such a worker [D]."""
    sequential_tokens: int
    """decoded_tokens - wasted_tokens: what one agent alone would have decoded for the same work [D]."""
    inserted_tokens: int
    """Tokens that the runtime put in: returned texts and closing tags [I: they cost no tick]."""
    prompt_tokens: int
    """Tokens of all agents' prompts [D]."""
    overrun_tokens: int
    """Tokens decoded past a cut and dropped; in no other figure [D]."""
    forks: int
    """Traces below the organizer: workers, refused ones included, or parallel traces [D]."""
    joins: int
    """Workers that were joined [D]."""
    waits: tuple[JoinWait, ...]
    """Every join on the clock, in the order of arrival: which of them cost the time [D]."""
    wall_seconds: float
    """Seconds from the episode's start to its end, on the machine that ran it [D]."""
    exact: bool
    """False where any token count is an engine's estimate [D]."""
    requests: int = 0
    """Requests to a server, retries included [D]."""
    retries: int = 0
    """Of these, the ones that repeated a failed one [D]."""
    input_tokens: int = 0
    """Tokens sent to a server, the prefix of every resumed request included [D]."""
    cached_tokens: int = 0
    """Of these, tokens that the server had in its cache [D]."""
    cost: float | None = None
    """In the price table's currency; None without a table [D]."""


def measure(episode: Episode) -> Metrics:
    """Measure one episode."""
    everyone = agents(episode.traces)
    plan = clock.arrange(everyone, episode.capacity)
    active = tuple(plan.active())
    longest = [one.own for one in everyone if plan.turns[one.path].counted and plan.turns[one.path].spans]
    segments = [(trace.path, one) for trace in episode.traces for one in trace.segments]
    decoded = [(path, one.n_tokens) for path, one in segments if one.kind in WRITTEN]
    usages = [trace.usage for trace in episode.traces if trace.usage is not None]
    costs = [usage.cost for usage in usages if usage.cost is not None]
    written = sum(n for _, n in decoded)
    kept = sum(n for path, n in decoded if plan.turns[path].counted)
    return Metrics(
        critical_path=plan.total,
        critical_path_with_inserted=clock.schedule(episode, with_inserted=True).total,
        concurrency=sum(active) / (plan.total * episode.capacity) if plan.total else 0.0,
        active_per_tick=active,
        span=_span(everyone, plan),
        lower_bound=max([-(-sum(active) // episode.capacity), *longest]),
        decoded_tokens=written,
        wasted_tokens=written - kept,
        sequential_tokens=kept,
        inserted_tokens=sum(one.n_tokens for _, one in segments if one.kind is SegmentKind.INSERTED),
        prompt_tokens=sum(one.n_tokens for _, one in segments if one.kind is SegmentKind.PROMPT),
        overrun_tokens=sum(trace.overrun_tokens for trace in episode.traces),
        forks=max(0, len(episode.traces) - 1),
        joins=sum(trace.joined_at is not None for trace in episode.traces),
        waits=tuple(JoinWait(path=join.path, waited=join.waited) for join in plan.joins),
        wall_seconds=episode.wall_seconds,
        exact=all(one.exact for _, one in segments),
        requests=sum(usage.requests for usage in usages),
        retries=sum(usage.retries for usage in usages),
        input_tokens=sum(usage.input_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        cost=sum(costs) if costs else None,
    )


def _span(everyone: Sequence[Agent], plan: Schedule) -> int:
    """Return T as if there were a slot for each worker that ever got one."""
    began = [
        one if plan.turns[one.path].start is not None else replace(one, refused=True) for one in everyone
    ]
    return clock.arrange(began, len(everyone) + 1).total
