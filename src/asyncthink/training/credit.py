"""Credit of forks: what a fork asks is weighed by what came back of it, not by how its whole episode went.

Not in the paper, where every token of an episode shares its advantage, so that what one fork found is drowned in the
luck of all the others. What it adds to the score is a difference reward (Wolpert and Tumer, "Optimal Payoff Functions
for Members of Collectives", 2001), taken in the order of the joins: the gains of an episode add up to the score of
all that was returned. What was asked by a fork that was never joined gets none, 0, since nobody knows what it brought.
Everything else, that it forks at all among it, keeps the episode's advantage.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean

from asyncthink.engines.detokenize import TokenBytes
from asyncthink.episodes.record import Trace
from asyncthink.training.advantage import Worth
from asyncthink.training.rollout import Rollout
from asyncthink.training.rows import TrainingRow

FEWEST = 4
"""Joined forks of one number in a group whose mean gain is compared with; of fewer, that of all its joined forks."""


def credited(
    group: Sequence[Rollout], rows: Sequence[TrainingRow], worth: Sequence[float], table: TokenBytes
) -> list[Worth]:
    """Return the advantages of a group's rows, with credit for what the organizers' forks asked.

    Args:
        group: the episodes of one problem.
        rows: their rows.
        worth: the advantage of each row's episode.
        table: of the tokenizer that the rows were written with.
    """
    credit = fork_advantages([gains(one) for one in group])
    own = {one.episode.id: (one, each) for one, each in zip(group, credit, strict=True)}
    found: list[Worth] = list(worth)
    for place, (row, shared) in enumerate(zip(rows, worth, strict=True)):
        one, each = own[row.episode]
        if "/" in row.path or one.episode.faults:
            continue
        tokens = [shared] * row.n_trained
        for path, span in queries(row, _forks(one), table).items():
            tokens[span.start : span.stop] = [each.get(path, 0.0)] * len(span)
        found[place] = tokens
    return found


def gains(one: Rollout) -> dict[str, float]:
    """Return what each joined worker's return added to the score of those before it; nothing with a format error."""
    if one.episode.faults:
        return {}
    task, problem = one.asked.task, one.asked.problem
    lines: list[str] = []
    found: dict[str, float] = {}
    before = 0.0
    for trace in sorted(_forks(one), key=lambda trace: trace.joined_at or 0):
        if trace.joined_at is not None:
            lines += (trace.result or "").replace(";", "\n").splitlines()
            now = task.pool(problem, lines).value
            found[trace.path] = now - before
            before = now
    return found


def fork_advantages(gained: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return each joined fork's gain less the mean gain of the group's forks with its number, by path.

    An early fork finds what nobody knew yet, so it is compared with early ones.
    """
    numbered: dict[str, list[float]] = {}
    for each in gained:
        for path, gain in each.items():
            numbered.setdefault(path, []).append(gain)
    everything = [gain for each in numbered.values() for gain in each]
    means = {path: fmean(each if len(each) >= FEWEST else everything) for path, each in numbered.items()}
    return [{path: gain - means[path] for path, gain in each.items()} for each in gained]


def queries(row: TrainingRow, forks: Sequence[Trace], table: TokenBytes) -> dict[str, range]:
    """Return where among an organizer's trained tokens each fork's sub-query stands, its closing tag included."""
    decoded = [token for token, own in zip(row.ids, row.trained, strict=True) if own]
    text = b"".join(table[token] for token in decoded)
    ends = list(accumulate(len(table[token]) for token in decoded))
    found: dict[str, range] = {}
    for trace in forks:
        last = trace.forked_at or 0
        opened = text.rfind(
            f"<FORK-{trace.path.rpartition('/')[2]}".encode(), 0, ends[last - 1] if last else 0
        )
        if opened >= 0:
            found[trace.path] = range(bisect_right(ends, text.index(b">", opened) + 1), last)
    return found


def _forks(one: Rollout) -> list[Trace]:
    """Return the traces of the organizer's own workers."""
    return [trace for trace in one.episode.traces if trace.path.count("/") == 1]
