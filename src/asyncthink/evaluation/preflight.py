"""Everything that would go wrong later, before the first call of a model: names, files, packages, room, settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncthink.engines.base import Engine
from asyncthink.engines.models import load_engine
from asyncthink.episodes.record import Trial
from asyncthink.errors import RecordError, UsageError
from asyncthink.evaluation.methods import Preset, preset
from asyncthink.evaluation.problems import Question, drawn, from_file
from asyncthink.evaluation.recipe import DEFAULT_AT_ONCE, DEFAULT_LIMIT, ArmSettings, Recipe
from asyncthink.extras import require
from asyncthink.protocol.prompts import load_prompts
from asyncthink.runtime.organization import PARALLEL_TEMPERATURE, Method, Organization
from asyncthink.runtime.prices import load_price
from asyncthink.tasks import NEEDS, Split, get_task

BYTES_PER_EPISODE = 40_000
"""What an episode of a small model takes on disk; long ones take more."""
SPARE_BYTES = 20_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A method that is ready to run."""

    name: str
    preset: Preset
    organization: Organization
    """Over an engine that is not open yet; arms of one model share it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What will be run, checked as far as it can be without asking a model."""

    recipe: Recipe
    questions: tuple[Question, ...]
    arms: tuple[Arm, ...]
    engines: tuple[Engine, ...]

    @property
    def at_once(self) -> int:
        """Episodes in flight."""
        return self.recipe.at_once or DEFAULT_AT_ONCE

    def trials(self) -> Iterator[tuple[Arm, Question, Trial]]:
        """Yield every cell: methods side by side, so that all run under the same load."""
        for sample in range(self.recipe.samples):
            for question in self.questions:
                for arm in self.arms:
                    yield arm, question, Trial(arm=arm.name, problem=question.key, sample=sample)


def prepare(recipe: Recipe, source: str | None = None) -> Evaluation:
    """Check a recipe and make ready what it asks for.

    Args:
        recipe: a resolved one.
        source: where the problems are read from, in the place of what the recipe says: a resumed run has its own.

    Raises:
        UsageError: something is wrong; the line says what mends it.
        EngineError: a checkpoint cannot be read.
    """
    get_task(recipe.task)
    require("plots", "the report of an evaluation")
    if needed := NEEDS.get(recipe.task):
        require(needed, f"the task {recipe.task}")
    questions = _questions(recipe, source)
    engines: dict[str, Engine] = {}
    arms = [_arm(name, settings, recipe, engines) for name, settings in recipe.methods.items()]
    for arm in arms:
        _check_arm(arm, questions)
    return Evaluation(
        recipe=recipe, questions=tuple(questions), arms=tuple(arms), engines=tuple(engines.values())
    )


def _questions(recipe: Recipe, source: str | None) -> list[Question]:
    if source is not None:
        return from_file(recipe.task, source, None)
    if recipe.problems is not None:
        return from_file(recipe.task, recipe.problems, recipe.limit)
    return drawn(recipe.task, Split(recipe.split), recipe.seed, recipe.limit or DEFAULT_LIMIT)


def _arm(name: str, settings: ArmSettings, recipe: Recipe, engines: dict[str, Engine]) -> Arm:
    """Make an arm; its engine is that of an arm before it with the same model."""
    chosen = preset(settings.method, name)
    key = repr((settings.model, settings.server()))
    try:
        if key not in engines:
            engines[key] = load_engine(settings.model, settings.server())
        engine = engines[key]
        organization = Organization(
            engine,
            method=Method.ASYNCTHINK if chosen.method is Method.PLAN else chosen.method,
            capacity=settings.capacity,
            limits=settings.limits(),
            temperature=_temperature(settings, recipe, engine),
            top_p=settings.top_p,
            prompts=load_prompts(Path(settings.prompts)) if settings.prompts else None,
            price=load_price(Path(settings.prices), settings.model) if settings.prices else None,
            reminders=settings.reminders,
        )
    except UsageError as error:
        raise UsageError(f"methods.{name}: {error}") from error
    return Arm(name=name, preset=chosen, organization=organization)


def _temperature(settings: ArmSettings, recipe: Recipe, engine: Engine) -> float | None:
    """Return the arm's temperature: several samples of a greedy model have to differ."""
    if settings.temperature is None and recipe.samples > 1 and engine.profile.temperature == 0:
        return PARALLEL_TEMPERATURE
    return settings.temperature


def _check_arm(arm: Arm, questions: Sequence[Question]) -> None:
    organization = arm.organization
    if arm.preset.method is Method.PARALLEL and organization.temperature == 0:
        raise UsageError(
            f"methods.{arm.name}: at temperature 0 all parallel traces are the same text: "
            "leave temperature out, or give one above 0"
        )
    for question in questions:
        capacity = organization.capacity_for(question.asked)
        if arm.preset.method is Method.PLAN and capacity < 2:
            raise UsageError(
                f"methods.{arm.name}: a plan of forks needs a capacity of at least 2, not {capacity}"
            )
        if reason := arm.preset.refusal(question.asked):
            raise UsageError(f"methods.{arm.name}, problem {question.key}: {reason}")


def check_room(output: Path, episodes: int) -> None:
    """Make sure that a run has room on its disk.

    Raises:
        RecordError: it has not.
    """
    folder = next(each for each in (output, *output.absolute().parents) if each.exists())
    needed, free = episodes * BYTES_PER_EPISODE + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise RecordError(
            f"{folder} has {free / 1e6:,.0f} MB left, {episodes:,} episodes may need {needed / 1e6:,.0f}: "
            "make room, or choose another --output"
        )
