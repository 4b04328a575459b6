"""Where a command's episodes are kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncthink.episodes import files
from asyncthink.episodes.record import Episode
from asyncthink.episodes.store import RunDirectory
from asyncthink.errors import UsageError
from asyncthink.settings import dump


@contextmanager
def open_run(path: str, settings: Mapping[str, Any]) -> Generator[Callable[[Episode], None]]:
    """Begin a run directory, or go on with one of the same settings; yield what appends to it.

    Raises:
        RecordError: it cannot be written, or holds a run of other settings.
    """
    if not path:
        raise UsageError("--output needs a folder")
    config = dump(settings)
    with files.told(Path(path)):
        begun = (Path(path) / "manifest.json").exists()
    run = RunDirectory.resume(path, config) if begun else RunDirectory.create(path, config, {})
    with run:
        yield run.append
