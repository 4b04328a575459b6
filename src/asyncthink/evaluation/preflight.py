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
    """A method as it was configured."""

    name: str
    preset: Preset
    settings: ArmSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What is to be run; no model is needed to know it."""

    recipe: Recipe
    questions: tuple[Question, ...]
    arms: tuple[Arm, ...]

    @property
    def at_once(self) -> int:
        """Episodes in flight."""
        return self.recipe.at_once or DEFAULT_AT_ONCE

    @property
    def size(self) -> int:
        """How many trials there are."""
        return self.recipe.samples * len(self.questions) * len(self.arms)

    def trials(self) -> Iterator[tuple[Arm, Question, Trial]]:
        """Yield every cell: methods side by side, so that all run under the same load."""
        for sample in range(self.recipe.samples):
            for question in self.questions:
                for arm in self.arms:
                    yield arm, question, Trial(arm=arm.name, problem=question.key, sample=sample)


def prepare(recipe: Recipe, source: str | None = None) -> Evaluation:
    """Find what a recipe asks for.

    Args:
        recipe: a resolved one.
        source: where the problems are read from, in the place of what the recipe says: a resumed run has its own.

    Raises:
        UsageError: something is wrong; the line says what mends it.
    """
    get_task(recipe.task)
    require("plots", "the report of an evaluation")
    if needed := NEEDS.get(recipe.task):
        require(needed, f"the task {recipe.task}")
    return Evaluation(
        recipe=recipe,
        questions=tuple(_questions(recipe, source)),
        arms=tuple(
            Arm(name=name, preset=preset(settings.method, name), settings=settings)
            for name, settings in recipe.methods.items()
        ),
    )


def organize(evaluation: Evaluation) -> dict[str, Organization]:
    """Make ready who tries the problems, and check all that can be checked without asking a model.

    Returns:
        Arm -> its organization. Its engine is not open yet; arms of one model share it.

    Raises:
        UsageError: something is wrong; the line says what mends it.
        EngineError: a checkpoint cannot be read.
    """
    engines: dict[str, Engine] = {}
    found: dict[str, Organization] = {}
    for arm in evaluation.arms:
        found[arm.name] = _organization(arm, evaluation.recipe, engines)
    for arm in evaluation.arms:
        _check(arm, found[arm.name], evaluation.questions)
    return found


def _questions(recipe: Recipe, source: str | None) -> list[Question]:
    if source is not None:
        return from_file(recipe.task, source, None)
    if recipe.problems is not None:
        return from_file(recipe.task, recipe.problems, recipe.limit)
    return drawn(recipe.task, Split(recipe.split), recipe.seed, recipe.limit or DEFAULT_LIMIT)


def _organization(arm: Arm, recipe: Recipe, engines: dict[str, Engine]) -> Organization:
    """Make an arm's organization; its engine is that of an arm before it with the same model."""
    settings, method = arm.settings, arm.preset.method
    key = repr((settings.model, settings.server()))
    try:
        if key not in engines:
            engines[key] = load_engine(settings.model, settings.server())
        return Organization(
            engines[key],
            method=Method.ASYNCTHINK if method is Method.PLAN else method,
            capacity=settings.capacity,
            limits=settings.limits(),
            temperature=_temperature(settings, recipe, engines[key]),
            top_p=settings.top_p,
            prompts=load_prompts(Path(settings.prompts)) if settings.prompts else None,
            price=load_price(Path(settings.prices), settings.model) if settings.prices else None,
            reminders=settings.reminders,
        )
    except UsageError as error:
        raise UsageError(f"methods.{arm.name}: {error}") from error


def _temperature(settings: ArmSettings, recipe: Recipe, engine: Engine) -> float | None:
    """Return the arm's temperature: several samples of a greedy model have to differ."""
    if settings.temperature is None and recipe.samples > 1 and engine.profile.temperature == 0:
        return PARALLEL_TEMPERATURE
    return settings.temperature


def _check(arm: Arm, organization: Organization, questions: Sequence[Question]) -> None:
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
