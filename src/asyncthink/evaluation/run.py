"""From a recipe to episodes on disk: bounded fan-out over problems x methods x samples, resumed where it stopped.

A trial is done once its episode is on disk. What an engine's failure ended is not: it is counted, and tried again
when the run is resumed. A resumed run has the same trials with the same seeds, so it ends as it would have.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from anyio import to_thread

from asyncthink.engines.base import Engine
from asyncthink.episodes.events import Event
from asyncthink.episodes.record import Episode, StopReason, Trial
from asyncthink.episodes.store import RunDirectory, is_empty
from asyncthink.errors import EngineError, RecordError
from asyncthink.evaluation.preflight import Arm, Evaluation, check_room, organize, prepare
from asyncthink.evaluation.problems import Question, stored
from asyncthink.evaluation.recipe import DEFAULT_AT_ONCE, Recipe, resolve
from asyncthink.evaluation.rows import Row, row_of
from asyncthink.runtime.fanout import each
from asyncthink.runtime.organization import Organization
from asyncthink.settings import dump, parse

PROBLEMS = "problems.jsonl"
MAX_FAILURES = 20
"""Episodes that an engine may fail before a run stops by itself."""
Cell: TypeAlias = tuple[Arm, Question, Trial]


class Watcher:
    """Told how a run goes on; does nothing by itself."""

    def begin(self, evaluation: Evaluation, done: int) -> None:
        """The run begins, with so many trials done before."""

    def event(self, trial: Trial, event: Event) -> None:
        """Something happens in an episode."""

    def row(self, row: Row) -> None:
        """An episode is on disk."""

    def failed(self, trial: Trial, cause: str) -> None:
        """An engine failed; the trial is left for later."""


class Run:
    """An evaluation and its run directory, open for writing; best made by `begin` or `resume`.

    Args:
        evaluation: what is to be run.
        directory: where its episodes are.
        organizations: who tries the problems; None: made ready here if something is left to be tried.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        directory: RunDirectory,
        organizations: Mapping[str, Organization] | None = None,
    ) -> None:
        self.evaluation, self.directory = evaluation, directory
        self.failures: list[str] = []
        """Causes of the episodes that an engine failed."""
        known = {trial for _, _, trial in evaluation.trials()}
        self.done: set[Trial] = set()
        for episode in directory.episodes():
            if episode.trial in known and episode.trial not in self.done:
                self.done.add(episode.trial)
            else:
                directory.warnings.append(
                    f"episode {episode.id} is none of this run's, or there twice: left out"
                )
        if organizations is None and self.left:
            organizations = organize(evaluation)
        self.organizations = organizations or {}

    @property
    def left(self) -> list[Cell]:
        """The trials that are not done."""
        return [cell for cell in self.evaluation.trials() if cell[2] not in self.done]

    async def go_on(self, watcher: Watcher) -> None:
        """Try everything that is left.

        Raises:
            EngineError: an engine cannot be opened, or fails too often.
            RecordError: an episode cannot be kept; the others are.
        """
        watcher.begin(self.evaluation, len(self.done))
        cells = self.left
        if not cells:
            return
        async with AsyncExitStack() as held:
            engines: set[Engine] = set()
            for organization in self.organizations.values():
                if organization.engine not in engines:
                    engines.add(organization.engine)
                    await held.enter_async_context(organization)
            await each(cells, lambda cell: self._try(cell, watcher), self.evaluation.at_once)

    async def _try(self, cell: Cell, watcher: Watcher) -> None:
        arm, question, trial = cell
        organization = arm.preset.of(self.organizations[arm.name], question.asked)
        episode = await organization.think(
            question.asked,
            seed=seed_of(self.evaluation.recipe.seed, trial),
            listen=lambda event: watcher.event(trial, event),
            trial=trial,
        )
        if episode.stop_reason is StopReason.ENGINE_ERROR:
            self._fail(trial, episode.cause or "the engine failed", watcher)
            return
        row = await to_thread.run_sync(self._keep, episode, question)
        self.done.add(trial)
        watcher.row(row)

    def _keep(self, episode: Episode, question: Question) -> Row:
        self.directory.append(episode)
        return row_of(episode, question.asked)

    def _fail(self, trial: Trial, cause: str, watcher: Watcher) -> None:
        self.failures.append(cause)
        watcher.failed(trial, cause)
        if len(self.failures) >= MAX_FAILURES:
            raise EngineError(f"{len(self.failures)} episodes failed, the last with: {cause}")


def seed_of(seed: int, trial: Trial) -> int:
    """Return the seed of a trial's sampling: the same for all methods, another for each problem and sample."""
    text = f"{seed}:{trial.problem}:{trial.sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


@contextmanager
def begin(recipe: Recipe, output: Path, command: str | None = None) -> Generator[Run]:
    """Begin a run, or go on with the one that is there, if it was made with the same recipe; `at_once` may differ.

    Args:
        recipe: a resolved one.
        output: the run's folder.
        command: what was typed, for the manifest and the report.

    Raises:
        UsageError: the recipe cannot be run.
        RecordError: the folder cannot be written, is being written, or holds something else.
    """
    config = dump(recipe.plain())
    if (output / "manifest.json").exists() and not is_empty(output):
        with _resumed(output, config, recipe.at_once or DEFAULT_AT_ONCE) as run:
            yield run
        return
    evaluation = prepare(recipe)
    organizations = organize(evaluation)
    check_room(output, evaluation.size)
    problems = stored(evaluation.questions)
    manifest: dict[str, Any] = {
        "kind": "evaluation",
        "command": command or f"asyncthink eval {shlex.quote(str(output / 'config.toml'))}",
        "arms": {name: _settled(each, evaluation.questions) for name, each in organizations.items()},
        "at_once": evaluation.at_once,
        "problems": len(evaluation.questions),
        "problems_sha256": _digest(problems),
        "config_sha256": _digest(config.encode()),
    }
    with RunDirectory.create(output, config, manifest, {PROBLEMS: problems}) as directory:
        yield Run(evaluation, directory, organizations)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _settled(organization: Organization, questions: Sequence[Question]) -> dict[str, Any]:
    """Return what a recipe may leave to the model."""
    return {
        "model": organization.engine.name,
        "capacity": sorted({organization.capacity_for(each.asked) for each in questions}),
        "temperature": organization.used_temperature,
    }


@contextmanager
def resume(path: Path, at_once: int | None = None) -> Generator[Run]:
    """Go on with a run, with nothing but its folder.

    Args:
        path: the run's folder.
        at_once: episodes in flight from now on; None: as it began.

    Raises:
        RecordError: there is none, or it cannot be read.
    """
    config = path / "config.toml"
    if (path / "manifest.json").exists() or not config.exists():
        with _resumed(path, None, at_once) as run:
            yield run
        return
    # It was killed before it was a run: what it was asked to do is known, and nothing was done.
    with begin(recipe_of(config.read_text(encoding="utf-8"), config, at_once), path) as run:
        yield run


@contextmanager
def _resumed(path: Path, config: str | None, at_once: int | None) -> Generator[Run]:
    with RunDirectory.resume(path, config, free=("at_once",)) as directory:
        if directory.manifest.get("kind") != "evaluation":
            raise RecordError(f"{path} is no evaluation: another command made it")
        file = path / PROBLEMS
        for beside, name in ((file, "problems_sha256"), (path / "config.toml", "config_sha256")):
            if not beside.exists() or _digest(beside.read_bytes()) != directory.manifest.get(name):
                raise RecordError(
                    f"{beside} is not what the run began with: bring it back, or begin another run"
                )
        recipe = recipe_of(directory.config, path / "config.toml", at_once)
        yield Run(prepare(recipe, str(file)), directory)


def recipe_of(text: str, path: Path, at_once: int | None = None) -> Recipe:
    """Read the recipe of a run directory, with so many episodes in flight, where that is said."""
    load = {} if at_once is None else {"at_once": at_once}
    return resolve({**parse(text, str(path)), **load}, str(path))
