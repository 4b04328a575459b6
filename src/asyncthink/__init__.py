"""Language models that organise their own thinking: fork, go on, join, answer.

    episode = await think("Using the numbers 3, 4, 6, 8, find 4 different expressions that equal 24.")
    print(episode.answer, measure(episode).critical_path)

The names are imported when they are first used, so that `asyncthink --help` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncthink.engines.models import load_engine
    from asyncthink.episodes.metrics import Metrics, measure
    from asyncthink.episodes.record import Episode
    from asyncthink.runtime.budget import Limits
    from asyncthink.runtime.organization import Organization
    from asyncthink.runtime.think import think, think_sync

__version__ = "0.1.0"
__all__ = ["Episode", "Limits", "Metrics", "Organization", "load_engine", "measure", "think", "think_sync"]

_HOMES = {
    "Episode": "episodes.record",
    "Limits": "runtime.budget",
    "Metrics": "episodes.metrics",
    "Organization": "runtime.organization",
    "load_engine": "engines.models",
    "measure": "episodes.metrics",
    "think": "runtime.think",
    "think_sync": "runtime.think",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asyncthink' has no attribute {name!r}")
    return getattr(import_module(f"asyncthink.{_HOMES[name]}"), name)
