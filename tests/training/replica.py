"""A server of a checkpoint that tests can kill and start again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

GUARD = 60.0
"""Seconds in which a server must have started."""


class Replica:
    """A server process of the checkpoint."""

    def __init__(self, folder: Path, checkpoint: Path, delay: float = 0.0, *options: str) -> None:
        self._ready = folder / "port"
        self._command = [sys.executable, str(Path(__file__).with_name("model_server.py"))]
        self._command += [str(checkpoint), str(self._ready), "--delay", str(delay), *options]
        folder.mkdir()
        self._process = subprocess.Popen(self._command)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        until = time.monotonic() + GUARD
        while not self._ready.exists():
            assert time.monotonic() < until and self._process.poll() is None
            time.sleep(0.05)
        return int(self._ready.read_text())

    def seen(self) -> dict[str, Any]:
        opener = build_opener(ProxyHandler({}))
        with opener.open(self.url.removesuffix("/v1") + "/seen", timeout=GUARD) as reply:
            return json.load(reply)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def again(self) -> None:
        """Start it again at the same address, with the weights it began with."""
        port = self.port
        self._ready.unlink()
        self._process = subprocess.Popen([*self._command, "--port", str(port)])
        assert self.port == port
