"""Settings in TOML: files of typed sections, read strictly and written so that they can be read back.

An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from asyncthink.errors import UnknownNameError, UsageError

T = TypeVar("T")


def find_recipe(path: str) -> str:
    """Return the text of a recipe file; `recipes/NAME` or NAME that is no file is one of the package's.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    try:
        if Path(path).is_file():
            return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    known = packaged_recipes()
    name = path.removeprefix("recipes/")
    if name not in known:
        raise UnknownNameError("recipe", path, [f"recipes/{known_name}" for known_name in known])
    return known[name]


def packaged_recipes() -> dict[str, str]:
    """Return the recipes that come with the package: file name -> text."""
    folder = resources.files("asyncthink") / "recipes"
    found = sorted((each.name, each) for each in folder.iterdir() if each.name.endswith(".toml"))
    return {name: each.read_text(encoding="utf-8") for name, each in found}


def parse(text: str, path: str) -> dict[str, Any]:
    """Read TOML; an error names the file.

    Raises:
        UsageError: it is none.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits is a ValueError of its own
        raise UsageError(f"{path} is no TOML: {error}") from error


def convert(raw: Mapping[str, Any], shape: type[T], path: str, hidden: Collection[str] = ()) -> T:
    """Make a dataclass of sections from what was read; fields that are `hidden` are no keys.

    Raises:
        UsageError: a key is missing, of the wrong type or out of range.
        UnknownNameError: a key is not known.
    """
    check_keys(raw, shape, hidden=hidden)
    try:
        return msgspec.convert(raw, shape, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from error


def load(
    path: str, shape: type[T], changes: Sequence[str] = (), hidden: Collection[str] = ()
) -> tuple[T, str]:
    """Read a recipe file, or one of the package's, with some keys changed; return it and its text as TOML.

    Raises:
        UsageError: no such file, or a key is missing, unknown, of the wrong type or out of range.
    """
    text = find_recipe(path)
    raw = parse(text, path)
    if changes:
        raw = changed(raw, changes)
        text = dump(raw)
    return convert(raw, shape, path, hidden=hidden), text


def check_keys(raw: Mapping[str, Any], shape: type, prefix: str = "", hidden: Collection[str] = ()) -> None:
    """Raise for a key that `shape` does not have; msgspec skips those of a dataclass."""
    known = {name: kind for name, kind in get_type_hints(shape).items() if name not in hidden}
    for key, value in raw.items():
        if key not in known:
            raise UnknownNameError("recipe key", prefix + key, [prefix + name for name in known])
        kinds = get_args(known[key])
        sections = [cast("type", kind) for kind in (known[key], *kinds) if is_dataclass(kind)]
        if sections and isinstance(value, list):
            for place, each in enumerate(cast("list[Any]", value), 1):
                if isinstance(each, dict):
                    check_keys(cast("dict[str, Any]", each), sections[0], f"{prefix}{key}[{place}].")
        if not sections or not isinstance(value, dict):
            continue
        named = cast("dict[str, Any]", value)
        if get_origin(known[key]) is not dict:
            check_keys(named, sections[0], f"{prefix}{key}.")
            continue
        for name, section in named.items():
            if isinstance(section, dict):
                check_keys(cast("dict[str, Any]", section), sections[0], f"{prefix}{key}.{name}.")


def changed(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return a copy with some keys set, each written as `section.key=value`.

    Args:
        values: what was read.
        changes: the value is TOML, or else the text as it is: `seed=2`, `output=runs/second`.

    Raises:
        UsageError: one is no assignment, or goes through a key that is no section.
    """
    made = copy.deepcopy(dict(values))
    for change in changes:
        name, equals, value = change.partition("=")
        *sections, key = name.strip().split(".")
        if not equals or not all([*sections, key]):
            raise UsageError(f"{change!r} sets nothing: write it as key=value or section.key=value")
        place = made
        for section in sections:
            inner: Any = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{change!r}: {section} is no section")
            place = cast("dict[str, Any]", inner)
        place[key] = _value(value.strip())
    return made


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, KeyError, RecursionError):
        return text


def dump(values: Mapping[str, Any], prefix: str = "") -> str:
    """Return values as TOML: None is left out, a mapping becomes a table behind the plain values, a list of mappings
    several of one name.

    Raises:
        UsageError: a text cannot be written as UTF-8.
    """
    plain = [(key, value) for key, value in values.items() if not _tables(value)]
    lines = [f"{_key(key)} = {_spelled(value)}\n" for key, value in plain if value is not None]
    for key, value in values.items():
        name = prefix + _key(key)
        for table in _tables(value):
            head = f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"
            lines.append(f"\n{head}\n" + dump(table, f"{name}."))
    return "".join(lines)


def _tables(value: Any) -> list[Mapping[str, Any]]:
    """Return the tables that a value is made of; none for a plain one."""
    if isinstance(value, Mapping):
        return [cast("Mapping[str, Any]", value)]
    if (
        isinstance(value, list)
        and value
        and all(isinstance(each, Mapping) for each in cast("list[Any]", value))
    ):
        return cast("list[Mapping[str, Any]]", value)
    return []


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else _spelled(name)


def _spelled(value: Any) -> str:
    """Return a plain value as in JSON, but for the few that TOML spells otherwise."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, cast('Sequence[Any]', value)))}]"
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{value!r} is no text that a file can hold: it is not UTF-8") from error
    return text
