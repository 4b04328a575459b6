"""Rows of public data sets, by the `datasets` package: `hf:NAME`, `hf:NAME:SPLIT`, and the same for a local folder.

A folder holds parquet or JSON-lines files; a file whose name begins with a split's name belongs to that split.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from asyncthink import extras
from asyncthink.errors import UsageError

PREFIX = "hf:"
SHOWN_CHARS = 200


def load_hub(name: str) -> list[dict[str, Any]]:
    """Return the rows of one split of a data set, column -> value; SPLIT may be left out where there is only one.

    Args:
        name: `hf:NAME` or `hf:NAME:SPLIT`; NAME is one of the hub's, such as `owner/data`, or a folder.

    Raises:
        MissingExtraError: `datasets` is not installed.
        UsageError: there is no such data set or split, it cannot be read, or it is not here and there is no network.
    """
    place, _, split = name.removeprefix(PREFIX).partition(":")
    if not name.startswith(PREFIX) or not place:
        raise UsageError(f"a data set is named as in hf:owner/data:test or hf:FOLDER, not {name!r}")
    extras.require("hub", name)
    # By name, so that this file can be checked where the extra is not installed.
    datasets = import_module("datasets")
    failures = (OSError, ValueError, datasets.exceptions.DatasetsError)
    try:
        with _no_bars(datasets):
            found = datasets.load_dataset(place)
    except failures as error:
        raise UsageError(_told(place, error)) from error
    splits = sorted(map(str, found))
    if not split and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        said = f"no split {split!r}" if split else "several splits"
        also = " or ".join(f"{PREFIX}{place}:{each}" for each in splits)
        raise UsageError(f"{place} has {said}: ask for {also}")
    rows: list[dict[str, Any]] = found[split].to_list()
    return rows


def _told(place: str, error: Exception) -> str:
    """Return one line on why a data set could not be had."""
    cause = " ".join(str(error.__cause__ or error).split())[:SHOWN_CHARS]
    if isinstance(error, ConnectionError):
        mend = "check the name and the network, or give a folder with its parquet files as hf:FOLDER"
    else:
        mend = "check the name, or give a folder with its parquet or JSON-lines files as hf:FOLDER"
    return f"the data set {place!r} cannot be read ({cause}): {mend}"


@contextmanager
def _no_bars(datasets: Any) -> Generator[None]:
    """Keep progress bars out of the terminal, and leave the setting as it was."""
    shown: bool = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
