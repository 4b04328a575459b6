"""Result files: every figure in the documents comes from one of these, with the command that made it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def save(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write values with the command, the machine and the versions; do nothing without a path."""
    if path is None:
        return
    result = {
        "command": " ".join([*filter(None, [os.environ.get("UNDER")]), "python", *sys.argv]),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: found for name in ("asyncthink", "anyio", "torch") if (found := _version(name))},
        **values,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
