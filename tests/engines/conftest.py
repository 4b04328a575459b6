from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `engine_worlds` is shared by this folder's tests

from engine_worlds import SCRIPT, THIRD_PARTY, write_checkpoint
from fault_server.control import FaultServer
from generating import OverLocal
from remote_worlds import FAST

from asyncthink.engines.base import Engine
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.openai import OpenAIEngine
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.engines.simulated import Costs, SimulatedEngine


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


@pytest.fixture(scope="session")
def server() -> Generator[FaultServer]:
    """A server of the OpenAI interface, in a process of its own."""
    with FaultServer() as process:
        yield process


EngineFactory = Callable[[], Engine]
REMOTE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai-turns": ({}, {}),
    "openai-flags": ({"owned_by": "vllm"}, {}),
    "openai-text": ({}, {"api": "completions"}),
    "openai-ids": ({"prompt_tail": "\n", "worker_mark": "Solve"}, {}),
}
"""Each way to speak with a server: configuration of the server, arguments of the engine."""


@pytest.fixture(
    params=[
        "local",
        "generated",
        "scripted",
        "simulated",
        *REMOTE,
        *(["third-party"] if THIRD_PARTY in os.environ else []),
    ]
)
def engine_factory(request: pytest.FixtureRequest, folder: Path, anyio_backend: Any) -> EngineFactory:
    """Every engine there is: a new one adds a parameter here, not tests."""
    factories: dict[str, EngineFactory] = {
        "local": lambda: LocalEngine(folder),
        "generated": lambda: OverLocal(folder, 1400),
        "scripted": lambda: ScriptedEngine(SCRIPT),
        "simulated": lambda: SimulatedEngine(SCRIPT, Costs(steps=((1, 1e-4),))),
    }
    name = request.param
    if name in factories:
        return factories[name]
    if anyio_backend == "trio":
        pytest.skip("its HTTP client needs asyncio")
    if name == "third-party":
        return partial(OpenAIEngine, **json.loads(os.environ[THIRD_PARTY]))
    server: FaultServer = request.getfixturevalue("server")
    config, arguments = REMOTE[name]
    if name == "openai-ids":
        config = config | {"tokenizer": str(folder / "tokenizer.json")}
        arguments = arguments | {"tokenizer": folder}
    server.configure({"script": {"organizer": SCRIPT["workers"]["*"], **SCRIPT}, "query": "3 + 4", **config})
    return partial(OpenAIEngine, "scripted", base_url=server.url, retries=FAST, **arguments)
