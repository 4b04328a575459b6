"""What a model's thoughts look like: the share of an evaluation's episodes of each shape, by arm.

    python benchmarks/shapes.py RUN [--json FILE]

Pairs: each fork is joined before the next. Waves: forks, then all their joins, and again. Interleaved: a fork behind
a join while others are still at work, which is what keeps workers busy. None: no fork. A worker that was never
joined counts as at work to the end.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from results import save

from asyncthink.episodes import RunDirectory
from asyncthink.episodes.record import Episode, Trace

SHAPES = ("interleaved", "waves", "pairs", "none")


def shape(traces: Iterable[Trace]) -> str:
    """Return the shape of the organizer's own forks and joins."""
    moves = sorted(
        (at, step)
        for trace in traces
        if trace.path.count("/") == 1
        for at, step in ((trace.forked_at, 1), (trace.joined_at, -1))
        if at is not None
    )
    at_work = most = 0
    joining = interleaved = False
    for _, step in moves:
        interleaved |= step > 0 and joining
        at_work += step
        most = max(most, at_work)
        joining = step < 0 and at_work > 0
    return "none" if not moves else "interleaved" if interleaved else "waves" if most > 1 else "pairs"


def of_arm(episode: Episode) -> str:
    """Return the arm that an episode is of."""
    return episode.trial.arm if episode.trial is not None else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of an evaluation")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    counted: dict[str, Counter[str]] = {}
    for episode in RunDirectory.open(options.run).episodes():
        counted.setdefault(of_arm(episode), Counter())[shape(episode.traces)] += 1
    arms: dict[str, dict[str, float]] = {}
    for arm, found in sorted(counted.items()):
        arms[arm] = {"episodes": found.total(), **{each: found[each] / found.total() for each in SHAPES}}
        told = "  ".join(f"{each} {100 * arms[arm][each]:.1f} %" for each in SHAPES)
        print(f"{arm}, {found.total():,} episodes:  {told}")
    save(options.json, {"arms": arms})


if __name__ == "__main__":
    main()
