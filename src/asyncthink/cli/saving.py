"""Where a command's episodes are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncthink.episodes.record import Episode
from asyncthink.episodes.store import RunDirectory
from asyncthink.errors import UsageError


@contextmanager
def open_run(path: str, settings: Mapping[str, Any]) -> Generator[Callable[[Episode], None]]:
    """Begin a run directory, or go on with one of the same settings; yield what appends to it.

    Raises:
        RecordError: it cannot be written, or holds a run of other settings.
    """
    if not path:
        raise UsageError("--output needs a folder")
    config = "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in settings.items()
        if value is not None
    )
    if _holds_run(Path(path)):
        run = RunDirectory.resume(path, config)
    else:
        run = RunDirectory.create(path, config, {})
    with run:
        yield run.append


def _holds_run(path: Path) -> bool:
    try:
        return (path / "manifest.json").exists()
    except OSError as error:
        raise UsageError(f"--output: {error.strerror}") from error
