"""A report in words: what was found in a few sentences, and what to keep in mind before one believes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from asyncthink.evaluation.recipe import DEFAULT_AT_ONCE, Recipe
from asyncthink.evaluation.report.cells import counted, difference, estimates
from asyncthink.evaluation.report.lines import arm_labels, lines
from asyncthink.evaluation.report.tables import missing
from asyncthink.evaluation.statistics import Difference, Estimate
from asyncthink.evaluation.summary import Comparison, Match, Summary
from asyncthink.runtime.organization import Method
from asyncthink.tasks import Split
from asyncthink.viewer.sanitize import head

MOST_ARMS = 8
"""Arms that the sentences speak of; the tables have all."""
FEW_PROBLEMS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Caveat:
    """Something to keep in mind."""

    text: str
    loud: bool = False
    """It makes figures wrong or worthless, so nobody may overlook it."""


def question(summary: Summary) -> str:
    """Return the question that an evaluation answers."""
    what = "gets all answers right" if summary.asked > 1 else "is right"
    return f"Which method {what} how often on {summary.task}, how long is its critical path, and what does it spend?"


def title(task: str, names: Sequence[str]) -> str:
    """Return what a report is called."""
    shown = ", ".join(names[:MOST_ARMS])
    left = len(names) - MOST_ARMS
    return f"{task}: {shown}" + (f" and {left:,} more" if left > 0 else "")


def findings(summary: Summary) -> list[str]:
    """Return what was found, one sentence each, about the first arm beside the others."""
    names = arm_labels(summary)
    if not summary.arms:
        return ["There is no episode, so nothing was found."]
    found = [_alone(summary, names)]
    pairs: dict[str, dict[str, Comparison]] = {}
    for one in summary.comparisons:
        pairs.setdefault(one.second, {})[one.measure] = one
    for second, measures in list(pairs.items())[:MOST_ARMS]:
        found.append(_beside(summary, names.get(second, second), measures))
    if left := len(pairs) - MOST_ARMS:
        found += [f"{counted(left, 'more method')}: see the paired differences."] if left > 0 else []
    match = _claim(summary)
    return [*found, _matched(summary, names, match)] if match and len(summary.arms) > 1 else found


def _percent(found: Estimate | None) -> str:
    cell = estimates([found], percent=True)[0]
    return f"{cell.text} %{' ' + cell.interval if cell.interval else ''}"


def _alone(summary: Summary, names: Mapping[str, str]) -> str:
    arm = summary.arms[0]
    spent = [estimates([arm.measures.get(name)])[0].whole for name in ("critical_path", "decoded_tokens")]
    right = "has all answers right" if summary.asked > 1 else "is right"
    return (
        f"{names[arm.name]} {right} in {_percent(arm.measures.get('all_correct'))} of its episodes, with a critical path "
        f"of {spent[0]} ticks and {spent[1]} tokens of all agents."
    )


def _beside(summary: Summary, second: str, measures: Mapping[str, Comparison]) -> str:
    """Return one sentence on the first arm against another one."""
    right = "completely right" if summary.asked > 1 else "right"
    said = [
        f"{words.format(_word(one.difference, more, less), right)} ({_figures(one, summary.resamples)}{unit})"
        for name, words, more, less, unit in (
            ("all_correct", "{} often {}", "more", "less", " points"),
            ("critical_path", "its critical path {}", "longer", "shorter", " ticks"),
            ("decoded_tokens", "{} tokens", "more", "fewer", ""),
        )
        if (one := measures.get(name)) is not None
    ]
    return f"Against {second}: {', '.join(said)}."


def _figures(one: Comparison, resamples: int) -> str:
    cell = difference(one.difference, resamples, percent=one.measure == "all_correct")
    return cell.whole.partition(" p ")[0]


def _word(found: Difference, more: str, less: str) -> str:
    if not found.clear or found.problems < 2:
        return f"not clearly {more} or {less}"
    return more if found.mean > 0 else less


def _claim(summary: Summary) -> Match | None:
    """Return the match at the first arm's own median T."""
    on_latency = [match for match in summary.matches if match.budget_of == "critical_path"]
    own = [match for match in on_latency if match.arm == summary.arms[0].name]
    return next(iter(own or on_latency), None)


def _matched(summary: Summary, names: Mapping[str, str], match: Match) -> str:
    rows = lines(summary)
    shares = [f"{row.label} {_percent(match.all_correct.get(row.name))}" for row in rows[:MOST_ARMS]]
    right = "all answers right" if summary.asked > 1 else "the right answer"
    if left := len(rows) - len(shares):
        shares += [f"and {left} more in the table of matched latency"] if left > 0 else []
    return (
        f"Under one cap on T for all, {match.budget:,} ticks (the median of {names.get(match.arm, match.arm)}), this share "
        f"of episodes has {right} in time: {', '.join(shares)}."
    )


_ALONE = (Method.SEQUENTIAL, Method.PARALLEL)
_SPLITS = {
    Split.DEV: "The problems are of the dev split: figures to work with, not final ones.",
    Split.TEST: "The problems are of the test split: these are final figures, and nothing may be tuned on them.",
    Split.TRAIN: "The problems are of the train split: a trained model may have seen them, so they say little about others.",
}


def caveats(summary: Summary, recipe: Recipe, warnings: Sequence[str], estimated: int) -> Iterator[Caveat]:
    """Yield what to keep in mind.

    Args:
        summary: what was found.
        recipe: what was asked for.
        warnings: of the run directory, about episodes that were left out.
        estimated: episodes whose token counts are an engine's estimate.
    """
    if lost := missing(summary):
        yield Caveat(text=lost, loud=True)
    for warning in warnings:
        yield Caveat(text=head(warning, 300), loud=True)
    if failed := _failed(summary):
        yield Caveat(text=failed, loud=True)
    if summary.problems < FEW_PROBLEMS:
        yield Caveat(
            text=f"With only {counted(summary.problems, 'problem')}, intervals are too narrow and p-values too small: "
            "this run shows that things work, not which method is better.",
            loud=True,
        )
    own = recipe.problems is not None
    yield Caveat(
        text=f"The problems are somebody's own: {head(recipe.problems or '', 120)}."
        if own
        else _SPLITS[Split(recipe.split)]
    )
    yield Caveat(text=_how_sure(summary))
    if len(summary.arms) > 1:
        yield Caveat(
            text="Budgets are read off finished episodes: nobody was told of them, and a method that knows its "
            "budget might use it better."
        )
    yield Caveat(
        text="Wall times are those of one machine or server under the load of this run, with up to "
        f"{counted(recipe.at_once or DEFAULT_AT_ONCE, 'episode')} at a time: compare them within it only."
    )
    if borrowed := _borrowed(summary):
        yield Caveat(text=borrowed)
    if estimated:
        yield Caveat(text=f"Token counts of {counted(estimated, 'episode')} are an engine's estimates.")


def _failed(summary: Summary) -> str:
    """Return where an engine failed a part of episodes that count all the same."""
    names = arm_labels(summary)
    means = [
        (names[arm.name], arm.measures["failed_workers"].mean)
        for arm in summary.arms
        if "failed_workers" in arm.measures
    ]
    some = [f"{name} {mean:.2g}" for name, mean in means if mean]
    return (
        f"Workers and traces that the engine failed, which count as lost, an episode: {', '.join(some)}."
        if some
        else ""
    )


def _borrowed(summary: Summary) -> str:
    """Return which arms think alone with the weights that another one organises with."""
    organisers = {arm.model for arm in summary.arms if arm.method not in _ALONE}
    names = arm_labels(summary)
    alone = [names[arm.name] for arm in summary.arms if arm.method in _ALONE and arm.model in organisers]
    return (
        f"{' and '.join(alone)}: the same weights as of a method that organises. If they were trained to organise, as "
        "the embedded model's were, a fair baseline is a model that was trained for as long to think alone."
        if alone
        else ""
    )


def _how_sure(summary: Summary) -> str:
    episodes = sum(arm.episodes for arm in summary.arms)
    return (
        f"{counted(episodes, 'episode')}: {counted(summary.problems, 'problem')}, each tried "
        f"{counted(summary.samples, 'time')} by each method. Intervals hold 95 % of {summary.resamples:,} resamples of "
        "whole problems, because the samples of one problem are not independent. Where all problems gave the same, as "
        "with 0 % or 100 %, there is no interval; that is not certainty."
    )
