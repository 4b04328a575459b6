"""What a run was asked to do: read, compared, and kept free of secrets, for `store.py`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from tomllib import TOMLDecodeError, loads
from typing import Any, cast

from asyncthink.episodes.files import one_line
from asyncthink.errors import RecordError

_SECRET = re.compile(
    r"(api_?key|password|passwd|secret|credentials?|(access|auth|bearer|hf)_?token)$", re.IGNORECASE
)


def toml(text: str, what: str) -> dict[str, Any]:
    """Read TOML; an error names `what` it was."""
    try:
        return loads(text)
    except TOMLDecodeError as error:
        raise RecordError(f"{what} is no TOML: {one_line(error)}") from error


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return dotted names -> leaves."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        named = cast("Mapping[Any, Any]", value)
        items = [(f"{name}.{key}" if name else str(key), one) for key, one in named.items()]
    elif isinstance(value, list):
        items = [(f"{name}[{i}]", one) for i, one in enumerate(cast("list[Any]", value))]
    return {k: v for inner, one in items for k, v in flat(one, inner).items()} if items else {name: value}


def refuse_changes(path: Path, before: str, after: str, free: Collection[str] = ()) -> None:
    """Raise a `RecordError` that names each key whose value is not the same; `free` ones may differ."""
    old, new = flat(toml(before, f"{path / 'config.toml'}")), flat(toml(after, "the configuration"))
    missing = object()
    changed = sorted(
        k
        for k in (old.keys() | new.keys()) - set(free)
        if repr(old.get(k, missing)) != repr(new.get(k, missing))
    )
    if changed:
        raise RecordError(
            f"{path} was made with another configuration, changed: {', '.join(changed)}: "
            "resume it with its own, or name another folder"
        )


def refuse_secrets(values: Mapping[str, Any]) -> None:
    """Raise a `RecordError` where a key with a value is called like a secret."""
    secret = sorted(name for name, value in flat(values).items() if value and _SECRET.search(name))
    if secret:
        raise RecordError(f"a run never stores secrets: take {', '.join(secret)} out and use the environment")
