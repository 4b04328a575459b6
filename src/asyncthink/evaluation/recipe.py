"""What an evaluation is asked to do: a TOML file, or the same keys as options.

    task = "countdown"
    samples = 4
    max_critical_path = 600       # settings here hold for every method

    [methods.asyncthink]

    [methods.sequential-1k]       # a name of its own; what it is based on stands in `method`
    method = "sequential"
    max_organizer_tokens = 1024

    [methods.workers]             # a list is a sweep: one arm for each value
    method = "asyncthink"
    max_worker_tokens = [64, 128, 256]

Resolving it pushes every setting down into its arms; the run directory holds that form, which is a recipe again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, cast

from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.evaluation.methods import preset
from asyncthink.runtime.budget import Limits
from asyncthink.settings import check_keys, convert
from asyncthink.tasks import Split


@dataclass(frozen=True, kw_only=True)
class Settings(Limits):
    """What one arm is run with, its budgets included; at the top of a recipe, what every arm is run with that says
    nothing else. All methods stand under one `max_critical_path` where the claim is about latency.
    """

    model: str = "embedded"
    base_url: str | None = None
    api: str | None = None
    tokenizer: str | None = None
    continuation: str | None = None
    max_concurrency: int | None = None
    capacity: int | None = None
    """c; None: the model's, else the task's, else 4."""
    temperature: float | None = None
    """None: what the model declares; where that is greedy and a problem has several samples, they are sampled
    at `PARALLEL_TEMPERATURE`, every method alike."""
    top_p: float = 1.0
    prices: str | None = None
    """File of a price table."""
    prompts: str | None = None
    """File of prompts for models that were not trained on the protocol."""
    reminders: bool | None = None

    def limits(self) -> Limits:
        """Return the budgets alone."""
        return Limits(**{each.name: getattr(self, each.name) for each in fields(Limits)})

    def server(self) -> dict[str, Any]:
        """Return what `load_engine` is told of a server."""
        names = ("base_url", "api", "tokenizer", "continuation", "max_concurrency")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ArmSettings(Settings):
    """One arm: a method and its settings."""

    method: str = ""
    """What it is based on, one of `asyncthink.evaluation.methods.PRESETS`; empty: its own name is one."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole evaluation."""

    task: str
    split: str = "dev"
    seed: int = 0
    """Of the problems that are drawn, and of sampling."""
    limit: int | None = None
    """How many problems; None: 100 where the task draws them, else all there are."""
    problems: str | None = None
    """A file of problems, JSON lines, or hf:NAME for a data set; None: the task's own."""
    samples: int = 1
    """How often each problem is tried by each method."""
    at_once: int | None = None
    """Episodes in flight; None: 64."""
    methods: dict[str, ArmSettings] = field(default_factory=dict[str, ArmSettings])

    def plain(self) -> dict[str, Any]:
        """Return the recipe as it is written to a file."""
        return asdict(self)


DEFAULT_LIMIT, DEFAULT_AT_ONCE = 100, 64
USUAL = ("asyncthink", "sequential", "parallel")
"""Methods of a recipe that names none."""
MOST = 100_000
"""Problems, samples of each, or episodes in flight: more is a slip of the keyboard."""
_SHARED = {each.name for each in fields(Settings)}
_OWN = {each.name for each in fields(Recipe)}
_FILES = {"tokenizer", "prices", "prompts", "problems"}
_SWEPT = _SHARED - {"base_url"}


def resolve(raw: Mapping[str, Any], path: str) -> Recipe:
    """Make a recipe of what was read, every sweep spelled out and every setting in its arm.

    Raises:
        UsageError: a key is missing or makes no sense.
        UnknownNameError: a key, split or method is not known.
    """
    for name in raw:
        if name not in _SHARED and name not in _OWN:
            raise UnknownNameError("recipe key", name, _SHARED | _OWN)
    shared = {name: value for name, value in raw.items() if name in _SHARED}
    own = {name: value for name, value in raw.items() if name in _OWN}
    arms: dict[str, ArmSettings] = {}
    if "task" not in own:
        raise UsageError(f"{path}: there is no task: --task countdown, or another of `asyncthink tasks`")
    methods: Any = own.get("methods", {name: {} for name in USUAL})
    if not isinstance(methods, Mapping):
        raise UsageError(f"{path}: methods are tables, as in [methods.sequential]")
    for name, settings in cast("Mapping[str, Any]", methods).items():
        if not isinstance(settings, Mapping):
            raise UsageError(f"{path}: methods.{name} is a table, as in [methods.{name}]")
        whole = {**shared, **cast("Mapping[str, Any]", settings)}
        check_keys(whole, ArmSettings, f"methods.{name}.")
        whole["method"] = preset(str(whole.get("method") or name), name).name
        for each, chosen in _swept(name, whole):
            if each in arms:
                raise UsageError(f"{path}: two arms are called {each!r}: give one another name")
            arms[each] = convert(_absolute(chosen), ArmSettings, f"{path}, methods.{each}")
    recipe = replace(convert({**_absolute(own), "methods": {}}, Recipe, path), methods=arms)
    _check(recipe, path)
    return recipe


def _swept(name: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield one arm for each combination of the values that were given as lists."""
    lists: dict[str, Sequence[Any]] = {
        key: cast("list[Any]", value)
        for key, value in settings.items()
        if key in _SWEPT and isinstance(value, list)
    }
    for key, values in lists.items():
        if not values or any(one == other for one, other in combinations(values, 2)):
            raise UsageError(f"methods.{name}.{key} is a sweep: a list of different values")
    for values in product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        yield " ".join([name, *(f"{key}={value}" for key, value in chosen.items())]), {**settings, **chosen}


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Spell out files and folders from the root, so that a run can be resumed from anywhere."""
    found = dict(settings)
    for name in _FILES & found.keys():
        if found[name] and isinstance(found[name], str) and not found[name].startswith("hf:"):
            found[name] = str(Path(found[name]).absolute())
    if isinstance(model := found.get("model"), str):
        kind, _, rest = model.partition(":")
        found["model"] = (
            f"pair:{','.join(map(_absolute_model, rest.split(',')))}"
            if kind == "pair"
            else _absolute_model(model)
        )
    return found


def _absolute_model(model: str) -> str:
    kind, _, place = model.partition(":")
    with suppress(OSError):  # what cannot be looked up is told when the model is loaded
        if kind in ("hf", "scripted") and place and Path(place).exists():
            return f"{kind}:{Path(place).absolute()}"
    return model


def _check(recipe: Recipe, path: str) -> None:
    if recipe.split not in list(Split):
        raise UnknownNameError("split", recipe.split, list(Split))
    if not recipe.methods:
        raise UsageError(f"{path}: there is no method: --methods asyncthink,sequential,parallel")
    for name in ("samples", "limit", "at_once"):
        value = getattr(recipe, name)
        if value is not None and not 1 <= value <= MOST:
            raise UsageError(f"{name} must be at least 1 and at most {MOST}, not {value}")
    for name, arm in recipe.methods.items():
        if recipe.samples > 1 and arm.temperature == 0:
            raise UsageError(
                f"methods.{name}: at temperature 0 all {recipe.samples} samples are the same text: "
                "--samples 1, or a --temperature above 0"
            )
