"""Thoughts on a terminal: `LiveTimeline` while one goes on, `render_episode` once it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from asyncthink.episodes.metrics import Metrics
from asyncthink.episodes.record import Episode, Outcome, StopReason, Trace
from asyncthink.tasks.base import Score
from asyncthink.viewer.canvas import CRITICAL, QUIET, WASTED, draw, legend
from asyncthink.viewer.live import LiveTimeline
from asyncthink.viewer.names import agent_name, choose
from asyncthink.viewer.sanitize import head
from asyncthink.viewer.timeline import Timeline, timeline

__all__ = ["LiveTimeline", "render_episode"]

_MOST_AGENTS = 40
_MOST_PIECES = 9
_ANSWER_LINES = 20
_GOOD, _BAD = "green", "red"


def render_episode(episode: Episode, score: Score | None, metrics: Metrics) -> RenderableType:
    """Return a finished thought to be printed: the timeline, the workers, the answer and what it cost.

    Args:
        episode: the record.
        score: the task's judgement of the answer; None for a free question.
        metrics: `measure(episode)`.
    """
    return _EpisodeView(episode, score, metrics)


@dataclass(slots=True)
class _EpisodeView:
    """Lays itself out for the console that it is printed on."""

    episode: Episode
    score: Score | None
    metrics: Metrics
    width: int = 80
    ascii_only: bool = False
    view: Timeline = field(init=False)
    names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.view = timeline(self.episode)
        self.names = {one.path: agent_name(one.path, self.episode.method) for one in self.episode.traces}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.width, self.ascii_only = options.max_width, options.ascii_only
        shown = choose(
            [self.episode.traces[0].path, *(piece.path for piece in self.view.critical), *self.names],
            _MOST_AGENTS,
        )
        yield from self._heading()
        yield from draw(self.view, self.names, self.width, shown=shown, ascii_only=self.ascii_only)
        yield legend(self.view, ascii_only=self.ascii_only)
        yield Text()
        if len(self.names) > 1:
            yield self._workers([one for one in self.episode.traces if one.path in shown])
            if len(shown) < len(self.names):
                yield Text(f"and {len(self.names) - len(shown)} more agents", QUIET)
            yield Text()
        yield from self._answer()
        yield Text()
        yield self._summary()

    def _head(self, text: str, width: int) -> str:
        return head(text, max(1, width), ascii_only=self.ascii_only)

    def _heading(self) -> Iterator[Text]:
        episode = self.episode
        yield Text(self._head(episode.query, 3 * self.width), "bold")
        told = f"{episode.method}, model {episode.model}, capacity {episode.capacity}, seed {episode.seed}"
        yield Text(self._head(told, self.width), QUIET)
        yield Text()

    def _workers(self, traces: list[Trace]) -> Table:
        parallel = self.episode.method == "parallel"
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=QUIET)
        table.add_column("trace" if parallel else "worker", no_wrap=True)
        if not parallel:
            table.add_column("asked", no_wrap=True)
        table.add_column("answer" if parallel else "returned", no_wrap=True)
        table.add_column("ticks", justify="right", no_wrap=True)
        table.add_column("waited", justify="right", no_wrap=True)
        critical = {piece.path for piece in self.view.critical}
        waited = {arrow.source: arrow.waited for arrow in self.view.joins}
        ticks = {lane.path: lane.ticks for lane in self.view.lanes}
        asked_width, returned_width = self._widths(traces)
        for one in traces if parallel else traces[1:]:
            cells = [Text(self.names[one.path][:14], CRITICAL if one.path in critical else "")]
            if not parallel:
                cells.append(Text(self._head(one.query, asked_width)))
            cells.append(self._returned(one, returned_width))
            wait = f"{waited[one.path]:,}" if one.path in waited else "-"
            table.add_row(*cells, Text(f"{ticks[one.path]:,}"), Text(wait))
        return table

    def _widths(self, traces: list[Trace]) -> tuple[int, int]:
        """Share the line between what was asked and what was returned."""
        free = max(20, self.width - 25 - min(14, max(len(self.names[one.path]) for one in traces)))
        if self.episode.method == "parallel":
            return 0, free
        asked = max(cell_len(self._head(one.query, free)) for one in traces[1:])
        returned = max(self._returned(one, free).cell_len for one in traces[1:])
        return max(min(asked, free // 2), free - returned), max(min(returned, free // 2), free - asked)

    def _returned(self, one: Trace, width: int) -> Text:
        if one.result is not None:
            return Text(self._head(one.result, width))
        reason = one.outcome.replace("_", " ") if one.outcome is not Outcome.UNJOINED else "never joined"
        return Text(self._head(f"({reason}: {one.cause})" if one.cause else f"({reason})", width), WASTED)

    def _answer(self) -> Iterator[RenderableType]:
        title = Text("Answer", "bold")
        if self.score is not None and self.score.reason:
            good = self.score.value >= 1
            title.append("  ").append(self._head(self.score.reason, self.width - 8), _GOOD if good else _BAD)
        yield title
        parts = self.score.parts if self.score is not None else ()
        if self.episode.answer is None:
            yield Text("  none", _BAD)
        elif parts:
            yield self._judged()
        else:
            lines = [line for line in self.episode.answer[:10_000].splitlines() if line.strip()]
            for line in lines[:_ANSWER_LINES]:
                yield Text("  " + self._head(line, 3 * self.width))
            if len(lines) > _ANSWER_LINES:
                yield Text(f"  and {len(lines) - _ANSWER_LINES} more lines", QUIET)

    def _judged(self) -> Table:
        right, wrong = ("+", "x") if self.ascii_only else ("✓", "✗")
        table = Table.grid(padding=(0, 2, 0, 0))
        for part in self.score.parts if self.score is not None else ():
            mark = Text(f"  {right}", _GOOD) if part.correct else Text(f"  {wrong}", _BAD)
            text = Text(self._head(part.text, self.width // 2), no_wrap=True)
            table.add_row(mark, text, Text(self._head(part.reason, 2 * self.width), QUIET))
        return table

    def _summary(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style=QUIET, no_wrap=True)
        table.add_column()
        for name, value in self._figures():
            table.add_row(name, value)
        return table

    def _figures(self) -> Iterator[tuple[str, Text]]:
        episode, cost = self.episode, self.metrics
        path = Text(f"{cost.critical_path:,} ticks", CRITICAL)
        yield "critical path", path.append(self._pieces(), QUIET)
        busy = cost.concurrency * episode.capacity
        share = f"eta/c {100 * cost.concurrency:.1f} %"
        yield "concurrency", Text(f"{share}: {busy:.2f} of {episode.capacity} agents at work on average")
        wasted = f", {cost.wasted_tokens:,} of them wasted" if cost.wasted_tokens else ", none wasted"
        estimated = "" if cost.exact else " (estimated)"
        yield "tokens", Text(f"{cost.decoded_tokens:,} decoded{wasted}{estimated}")
        if cost.requests:
            repeated = f", {cost.retries:,} of them retried" if cost.retries else ""
            paid = "" if cost.cost is None else f", cost {cost.cost:.6g}"
            yield "requests", Text(f"{cost.requests:,}{repeated}{paid}")
        yield "one after another", Text(_saving(cost))
        counts = Counter(episode.format_errors).items()
        errors = ", ".join(name if n == 1 else f"{name} ({n} times)" for name, n in counts)
        yield "format errors", Text(errors or "none", _BAD if errors else "")
        answered = episode.stop_reason is StopReason.ANSWER
        cause = f": {episode.cause}" if episode.cause else ""
        stop = self._head(episode.stop_reason.replace("_", " ") + cause, 3 * self.width)
        yield "stopped by", Text(stop, "" if answered else _BAD)
        yield "wall time", Text(f"{episode.wall_seconds:.2f} s")

    def _pieces(self) -> str:
        pieces = [f"{self.names[one.path]} {one.end - one.start:,}" for one in self.view.critical]
        if len(pieces) > _MOST_PIECES:
            hidden = len(pieces) - _MOST_PIECES + 1
            pieces[_MOST_PIECES // 2 : _MOST_PIECES // 2 + hidden] = [f"{hidden} more"]
        return " = " + " + ".join(pieces) if len(pieces) > 1 else ""


def _saving(cost: Metrics) -> str:
    """Say what one agent alone would have needed for the same work."""
    alone = cost.sequential_tokens
    if not alone:
        return "0 ticks"
    saving = 100 * (1 - cost.critical_path / alone)
    return f"{alone:,} ticks: {abs(saving):.1f} % {'saved' if saving >= 0 else 'lost'} by organising"
