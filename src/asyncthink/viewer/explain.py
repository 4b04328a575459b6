"""What each fork cost and what it was good for: computed from the record, nothing guessed.

The counterfactuals keep every text as it was written and change who worked when: a worker that is taken away costs no
wait, a worker whose work the organizer does itself costs its ticks where it was joined.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from asyncthink.episodes import clock
from asyncthink.episodes.agents import Agent, agents
from asyncthink.episodes.record import Episode, Outcome, Trace, Value
from asyncthink.viewer.acts import acts, n_tokens

RUN = 3
"""Words in a row that count as taken over."""
MOST_WORDS = 20_000
"""Words of a text that are compared."""
MOST_FORKS = 200
"""Forks whose counterfactuals are computed: each takes the clock twice over all agents."""
_WORD = re.compile(r"\w+|[^\w\s]")


class ForkAccount(Value, frozen=True, kw_only=True):
    """One fork. Times are ticks."""

    path: str
    """The worker's."""
    query: str
    outcome: Outcome
    written: int | None
    """Tokens that the organizer spent on the fork's tag and its join's; None where the record does not tell."""
    worked: int
    """Ticks of the worker's own work; those of its own workers are theirs."""
    waited: int
    """For which the organizer stood still at its join."""
    joined: bool
    used: float | None
    """Share of what it returned that stands in the answer: of its runs of three words. None: nothing was returned, or
    there is no answer."""
    without: int | None
    """T if the worker had cost no time at all: T less this is what waiting for it cost in the end. None past `MOST_FORKS`."""
    alone: int | None
    """T if the organizer had done the work itself where it joined it; its own T where it never did. None past `MOST_FORKS`."""


class Explanation(Value, frozen=True, kw_only=True):
    """A whole episode, explained."""

    total: int
    """T, ticks."""
    forks: tuple[ForkAccount, ...]
    by_capacity: tuple[tuple[int, int], ...]
    """(capacity, T) if the same texts had been written with that many agents: from 2 on, up to where more
    change nothing."""


def explain(episode: Episode) -> Explanation:
    """Account for each fork of an episode."""
    everyone = agents(episode.traces)
    plan = clock.arrange(everyone, episode.capacity)
    waited = {wait.path: wait.waited for wait in plan.joins}
    written = _written(episode)
    runs = _runs(episode.answer or "")
    accounts: list[ForkAccount] = []
    for number, (one, trace) in enumerate(zip(everyone[1:], episode.traces[1:], strict=True)):
        looked = number < MOST_FORKS
        accounts.append(
            ForkAccount(
                path=one.path,
                query=trace.query,
                outcome=trace.outcome,
                written=written.get(one.path),
                worked=one.own,
                waited=waited.get(one.path, 0),
                joined=trace.joined_at is not None,
                used=_used(trace, runs) if episode.answer is not None else None,
                without=_total(everyone, episode.capacity, one, alone=False) if looked else None,
                alone=_total(everyone, episode.capacity, one, alone=True) if looked else None,
            )
        )
    return Explanation(
        total=plan.total, forks=tuple(accounts), by_capacity=_by_capacity(everyone, episode.capacity)
    )


def _total(everyone: Sequence[Agent], capacity: int, gone: Agent, *, alone: bool) -> int:
    """Return T without one worker and all below it, its work done by its organizer or by nobody."""
    below = f"{gone.path}/"
    rest: list[Agent] = []
    for one in everyone:
        if one is gone:
            rest.append(replace(one, refused=True, own=0, inserts=[]))
        elif one.path == gone.parent and alone and gone.joined_at is not None:
            rest.append(
                replace(one, inserts=[*one.inserts, (gone.joined_at, _length(everyone, capacity, gone))])
            )
        elif not one.path.startswith(below):
            rest.append(one)
    return clock.arrange(rest, capacity).total


def _length(everyone: Sequence[Agent], capacity: int, root: Agent) -> int:
    """Return a worker's own T, its own workers' included."""
    below = [one for one in everyone if one is root or one.path.startswith(f"{root.path}/")]
    return root.own if len(below) == 1 else clock.arrange(below, capacity).total


def _by_capacity(everyone: Sequence[Agent], capacity: int) -> tuple[tuple[int, int], ...]:
    """Double the pool until nothing changes, the episode's own capacity among them."""
    if len(everyone) < 2:
        return ()
    best = clock.arrange(everyone, len(everyone) + 1).total
    found: dict[int, int] = {}
    size = 2
    while best not in found.values():
        found[size] = clock.arrange(everyone, size).total
        size *= 2
    if capacity > 1:
        found[capacity] = clock.arrange(everyone, capacity).total
    enough = min(size for size, total in found.items() if total == best)
    return tuple(sorted((size, total) for size, total in found.items() if size <= max(enough, capacity)))


def _written(episode: Episode) -> dict[str, int]:
    """Map each worker to the tokens of its fork and join tags, where the record tells."""
    found: dict[str, int] = {}
    parents = {trace.path.rpartition("/")[0] for trace in episode.traces[1:]}
    for trace in episode.traces:
        if trace.path in parents:
            found.update(n_tokens(trace, acts(trace)) or {})
    return found


def _used(trace: Trace, runs: set[tuple[str, ...]]) -> float | None:
    returned = _runs(trace.result or "")
    return len(returned & runs) / len(returned) if returned else None


def _runs(text: str) -> set[tuple[str, ...]]:
    """Return the runs of three words and signs in a text; of a shorter one the whole."""
    words = _WORD.findall(text.lower()[: 20 * MOST_WORDS])[:MOST_WORDS]
    if not words:
        return set()
    return {tuple(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))}
