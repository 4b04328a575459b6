"""Engines by name: `embedded` and its earlier stages, `hf:FOLDER`, `openai:MODEL`, `scripted:FILE`, `pair:ORGANIZER,WORKER`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncthink.engines.base import Engine
from asyncthink.errors import UnknownNameError, UsageError
from asyncthink.extras import require

EMBEDDED = Path(__file__).parent.parent / "embedded"
"""The checkpoint folder that ships with the package."""
SHIPPED = {
    "embedded": EMBEDDED,
    "embedded-base": EMBEDDED / "base",
    "embedded-sft": EMBEDDED / "sft",
}
"""What learned to organise, what it was before, and what it was once it knew the format: starts of trainings."""
FORMS = (*SHIPPED, "hf:FOLDER", "openai:MODEL", "scripted:FILE", "pair:ORGANIZER,WORKER")


def load_engine(name: str, server: Mapping[str, Any] | None = None) -> Engine:
    """Return the engine that a model name stands for; nothing is loaded before it is opened.

    Args:
        name: one of the forms above.
        server: for `openai:` models, arguments of `OpenAIEngine` such as base_url; None values count as not given.

    Raises:
        UnknownNameError: the name has none of the known forms.
        MissingExtraError: its packages are not installed.
        UsageError: its file cannot be read.
    """
    kind, colon, rest = name.partition(":")
    given = {key: value for key, value in (server or {}).items() if value is not None}
    if kind == "openai" and colon:
        from asyncthink.engines.openai import OpenAIEngine

        return OpenAIEngine(rest, **given)
    if given:
        raise UsageError(f"{', '.join(given)} only make sense with --model openai:MODEL, not with {name!r}")
    if kind == "scripted" and colon:
        from asyncthink.engines.scripted import ScriptedEngine

        return ScriptedEngine(Path(rest))
    names = rest.split(",") if kind == "pair" and colon else [name]
    folders = [folder_of(each) for each in names]
    require("local", f"the model {name!r}")
    from asyncthink.engines.local import LocalEngine
    from asyncthink.engines.pair import PairEngine

    engines = [LocalEngine(folder, name=each) for folder, each in zip(folders, names, strict=True)]
    if len(engines) == 1:
        return engines[0]
    if len(engines) > 2:
        raise UsageError(f"a pair is of two models, as in pair:embedded,hf:FOLDER, not {name!r}")
    return PairEngine(*engines, name=name)


def folder_of(name: str) -> Path:
    """Return the checkpoint folder that `hf:FOLDER` or a name in `SHIPPED` stands for.

    Raises:
        UnknownNameError: the name has none of the known forms.
        UsageError: the folder has no name.
    """
    kind, colon, rest = name.partition(":")
    if name in SHIPPED:
        return SHIPPED[name]
    if kind != "hf" or not colon:
        raise UnknownNameError("model", name, FORMS)
    if not rest:
        raise UsageError("hf: needs a folder, as in hf:checkpoints/mine")
    return Path(rest)
