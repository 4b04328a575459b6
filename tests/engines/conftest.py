from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `engine_worlds` is shared by this folder's tests

from engine_worlds import SCRIPT, write_checkpoint

from asyncthink.engines.base import Engine
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.scripted import ScriptedEngine


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(path)
    return path


EngineFactory = Callable[[], Engine]


@pytest.fixture(params=["local", "scripted"])
def engine_factory(request: pytest.FixtureRequest, folder: Path) -> EngineFactory:
    """Every engine there is: a new one adds a parameter here, not tests."""
    factories: dict[str, EngineFactory] = {
        "local": lambda: LocalEngine(folder),
        "scripted": lambda: ScriptedEngine(SCRIPT),
    }
    return factories[request.param]
