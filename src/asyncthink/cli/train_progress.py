"""How far a training is: live bars and figures where somebody watches a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import fmean

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from asyncthink.cli.notes import told_to
from asyncthink.cli.options import INTERRUPTED, fail
from asyncthink.errors import AsyncThinkError
from asyncthink.training.report.write import write_report
from asyncthink.training.sft import Progress as SFTStep
from asyncthink.training.step import StepMetrics, Watcher
from asyncthink.training.tracking import Tracker

AVERAGED = 10
"""Steps that the second row of figures is the mean of."""
PACED = 50
"""Steps that the time left is estimated from."""
WIDE = 80
"""Columns of a terminal from which on figures stand side by side."""
PLAIN_SECONDS = 30.0
"""Seconds between plain lines of fine-tuning, whose steps are short."""
RL_REPORT, SFT_REPORT = 10, 100
"""Steps between reports."""
RL_FIGURES: Mapping[str, tuple[Callable[[StepMetrics], float], str]] = {
    "reward": (lambda step: step.reward, "{:.3f}"),
    "accuracy": (lambda step: step.accuracy, "{:.1%}"),
    "eta/c": (lambda step: step.concurrency, "{:.1%}"),
    "critical path": (lambda step: step.critical_path, "{:,.1f}"),
    "forks": (lambda step: step.forks, "{:.2f}"),
    "format errors": (lambda step: 1 - step.valid, "{:.1%}"),
    "KL": (lambda step: step.kl, "{:.1e}"),
    "tokens/s": (lambda step: step.tokens_per_second, "{:,.0f}"),
}
SFT_FIGURES: Mapping[str, tuple[Callable[[SFTStep], float], str]] = {
    "loss": (lambda step: step.loss, "{:.3f}"),
    "accuracy": (lambda step: step.accuracy, "{:.1%}"),
    "tokens/s": (lambda step: step.tokens_per_second, "{:,.0f}"),
}
"""What is shown of a step: its name, how it is read, how it is written."""


class Pace:
    """How long the rest takes, as fast as the last steps were.

    Args:
        total: what is to be done.
        now: the clock.
    """

    def __init__(self, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self.total, self._now = total, now
        self._seen: deque[tuple[int, float]] = deque(maxlen=PACED + 1)

    def add(self, done: int) -> None:
        """So much is done now."""
        self._seen.append((done, self._now()))

    def left(self) -> str:
        """Return the time left as `1:02:33 left`; empty before anybody can tell."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return ""
        (first, begin), (last, end) = self._seen[0], self._seen[-1]
        seconds = (end - begin) / (last - first) * max(0, self.total - last)
        return f"{timedelta(seconds=round(seconds))} left"


class Display:
    """Bars, and below them figures of the last step and their means; a rich renderable.

    Args:
        console: where.
        names: of the figures.
        formats: of the figures, as for `str.format`.
    """

    def __init__(self, console: Console, names: Sequence[str], formats: Sequence[str]) -> None:
        self.console, self._names, self._formats = console, names, formats
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}")
        self.bars = Progress(*columns, console=console)
        self._label = ""
        self._steps: deque[Sequence[float]] = deque(maxlen=AVERAGED)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.bars
        if self._steps:
            yield self._figures(options.max_width >= WIDE)

    def _figures(self, wide: bool) -> Table:
        """Return the figures below their names, or beside them where there is little room."""
        rows = [[self._label, *self._written(self._steps[-1])]]
        if len(self._steps) > 1:
            means = [fmean(column) for column in zip(*self._steps, strict=True)]
            rows.append([f"mean of {len(self._steps)}", *self._written(means)])
        heads = ["", *(name.replace(" ", "\n") if wide else name for name in self._names)]
        if not wide:
            heads, *rows = map(list, zip(heads, *rows, strict=True))
        grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for place, head in enumerate(heads):
            grid.add_column(head, justify="right" if place else "left", vertical="bottom")
        for row in rows:
            grid.add_row(*row)
        return grid

    def _written(self, values: Sequence[float]) -> list[str]:
        return [form.format(value) for form, value in zip(self._formats, values, strict=True)]

    def add(self, label: str, values: Sequence[float]) -> None:
        """Show the figures of one more step."""
        self._label = label
        self._steps.append(values)

    def line(self, far: str, left: str) -> str:
        """Return the last step as one plain line: how far it is, its figures, how long the rest takes."""
        written = zip(self._names, self._written(self._steps[-1]), strict=True)
        return "  ".join([far, *(f"{name} {value}" for name, value in written), left]).rstrip()

    def tell(self, line: str) -> None:
        """Print a line, above the bars where there are any."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Reports:
    """Writes the report of a run now and then; that it cannot be written is told once and stops nothing.

    Args:
        run: the run directory.
        every: steps between reports.
        tell: takes a line.
    """

    def __init__(self, run: str, every: int, tell: Callable[[str], None]) -> None:
        self.run, self._every, self._tell = Path(run), every, tell
        self._unreported = 0
        self._failed = False

    def step(self) -> None:
        """One more step is done."""
        self._unreported += 1
        if self._unreported >= self._every:
            self.write()

    def rest(self) -> None:
        """Write the report if there is a step that it does not have."""
        if self._unreported:
            self.write()

    def write(self) -> None:
        """Write the report."""
        self._unreported = 0
        try:
            write_report([self.run], self.run)
        except AsyncThinkError as error:
            if not self._failed:
                self._tell(f"no report: {error}")
            self._failed = True


class RLProgress(Watcher):
    """Shows a reinforcement learning: a bar over its steps, and one over the episodes of a step.

    Args:
        console: where.
        run: the run directory.
        now: the clock.
        tracker: takes the steps too.
    """

    def __init__(
        self,
        console: Console,
        run: str,
        now: Callable[[], float] = time.monotonic,
        tracker: Tracker | None = None,
    ) -> None:
        self.display = Display(console, list(RL_FIGURES), [form for _, form in RL_FIGURES.values()])
        self.reports = Reports(run, RL_REPORT, self.display.tell)
        self._run, self._now, self._tracker = run, now, tracker
        self._pace = Pace(0, now)
        self._drawn, self._episodes = 0, 0
        bars = self.display.bars
        self._step_bar = bars.add_task("steps", total=None, shown="loading the model")
        self._episode_bar = bars.add_task("episodes", total=None, shown="", visible=False)

    def begin(self, steps: int, done: int, episodes: int) -> None:
        """Show what is to be done."""
        self._pace, self._episodes = Pace(steps, self._now), episodes
        self._pace.add(done)
        bars = self.display.bars
        bars.update(self._step_bar, total=steps, completed=done, shown=f"{done:,}/{steps:,}")
        bars.update(self._episode_bar, total=episodes, visible=True)
        self._show_episodes()
        if not self.display.console.is_terminal:
            going_on = f", {done:,} of them done" if done else ""
            self.display.tell(f"{self._run}: {steps:,} steps of {episodes:,} episodes{going_on}")

    def episode(self) -> None:
        """Move the bar of episodes; at its end the model learns."""
        self._drawn += 1
        self._show_episodes()

    def _show_episodes(self) -> None:
        learning = "  learning" if self._drawn == self._episodes else ""
        shown = f"{self._drawn:,}/{self._episodes:,}{learning}"
        self.display.bars.update(self._episode_bar, completed=self._drawn, shown=shown)

    def step(self, metrics: StepMetrics) -> None:
        """Move the bar of steps, and show the step's figures."""
        self._pace.add(metrics.step)
        left, done = self._pace.left(), f"{metrics.step:,}/{metrics.steps:,}"
        self.display.bars.update(self._step_bar, completed=metrics.step, shown=f"{done}  {left}")
        self._drawn = 0
        self._show_episodes()
        self.display.add(f"step {metrics.step:,}", [read(metrics) for read, _ in RL_FIGURES.values()])
        if not self.display.console.is_terminal:
            self.display.tell(self.display.line(f"step {done}", left))
        if self._tracker is not None:
            self._tracker.log(metrics)
        self.reports.step()

    def end(self) -> None:
        """Report what is not reported yet."""
        if self._tracker is not None:
            self._tracker.close()
        self.reports.rest()


class SFTProgress:
    """Shows a fine-tuning: a bar over its tokens.

    Args:
        console: where.
        run: the run directory.
        total: tokens to see.
        now: the clock.
        tracker: takes the steps too.
    """

    def __init__(
        self,
        console: Console,
        run: str,
        total: int,
        now: Callable[[], float] = time.monotonic,
        tracker: Tracker | None = None,
    ) -> None:
        self.display = Display(console, list(SFT_FIGURES), [form for _, form in SFT_FIGURES.values()])
        self.reports = Reports(run, SFT_REPORT, self.display.tell)
        self._now, self._pace, self._tracker = now, Pace(total, now), tracker
        self._tokens = self.display.bars.add_task("tokens", total=total, shown="making the first traces")
        self._told = now()
        self._untold = ""
        if not console.is_terminal:
            self.display.tell(f"{run}: {total:,} tokens")

    def __call__(self, step: SFTStep) -> None:
        """One more step is done."""
        self._pace.add(step.tokens)
        left = self._pace.left()
        far = f"{min(1.0, step.tokens / step.total_tokens):.1%}"  # the last batch may go beyond it
        self.display.bars.update(self._tokens, completed=step.tokens, shown=f"{far}  {left}")
        self.display.add(f"step {step.step:,}", [read(step) for read, _ in SFT_FIGURES.values()])
        self._untold = self.display.line(f"step {step.step:,}  {far}", left)
        if self._now() - self._told >= PLAIN_SECONDS:
            self._tell()
        if self._tracker is not None:
            self._tracker.log(step)
        self.reports.step()

    def _tell(self) -> None:
        if self._untold and not self.display.console.is_terminal:
            self.display.tell(self._untold)
        self._told, self._untold = self._now(), ""

    def end(self) -> None:
        """Tell and report what is not told and reported yet."""
        self._tell()
        if self._tracker is not None:
            self._tracker.close()
        self.reports.rest()


def tracker_of(kind: str | None, run: str, settings: str) -> Tracker | None:
    """Return the tracker that the user asked for."""
    return None if kind is None else Tracker(kind, Path(run), settings)


@contextmanager
def shown(progress: RLProgress | SFTProgress) -> Generator[None]:
    """Show a training while the block runs; end with its report, and say of an interruption how to go on."""
    display = progress.display
    try:
        with told_to(display.tell):
            if display.console.is_terminal:
                with Live(display, console=display.console, refresh_per_second=4):
                    yield
            else:
                yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses it again gets no traceback
        progress.end()
        fail("interrupted; the same command goes on", INTERRUPTED)
    except BaseException:
        progress.end()
        raise
    progress.reports.write()
    progress.end()
