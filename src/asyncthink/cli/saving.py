"""Where a command's episodes are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asyncthink.episodes.record import Episode
from asyncthink.episodes.store import RunDirectory


def open_run(path: str, settings: Mapping[str, Any]) -> Callable[[Episode], None]:
    """Begin a run directory, or go on with one of the same settings; return what appends to it.

    Raises:
        RecordError: it cannot be written, or holds a run of other settings.
    """
    config = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items() if value is not None)
    if (Path(path) / "manifest.json").exists():
        return RunDirectory.resume(path, config).append
    return RunDirectory.create(path, config, {}).append
