"""What tests import: the fault server as a process of their own, and the list of its faults.

with FaultServer() as server:
    server.configure({"script": {"organizer": "<ANSWER>42</ANSWER>"}})
    ... server.url ...
    assert server.stats()["mismatches"] == []
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, Self

FOLDER = Path(__file__).parent
FAULTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "faults.json").read_text(encoding="utf-8"))
"""Name -> {"about", "then", "steps"}; `then` is retried, fatal or ignored."""


class FaultServer:
    """A server process; its address is known once the block is entered."""

    def __init__(self, certfile: Path | str | None = None, keyfile: Path | str | None = None) -> None:
        self._certfile, self._keyfile = certfile, keyfile
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http{'s' if self._certfile else ''}://127.0.0.1:{self.port}/v1"

    def configure(self, config: dict[str, Any]) -> None:
        """Replace the whole configuration and begin new statistics.

        Raises:
            ValueError: the server does not take it.
        """
        self._ask("POST", "/_config", json.dumps(config).encode())

    def stats(self) -> dict[str, Any]:
        """Return the statistics since the last `configure`."""
        return self._ask("GET", "/_stats")

    def kill(self) -> None:
        """End the process at once, whatever it is doing; the block may then be left as always."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "fault_server.server", "--until-eof"]
        if self._certfile:
            command += ["--certfile", str(self._certfile), "--keyfile", str(self._keyfile)]
        paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise RuntimeError("the fault server did not start; its error is above")
        self.port = json.loads(line)["port"]
        return self

    def __exit__(self, *exc_info: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        connection = self._connection()
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"]["message"])
        return answer

    def _connection(self) -> HTTPConnection:
        if not self._certfile:
            return HTTPConnection("127.0.0.1", self.port, timeout=30)
        context = ssl.create_default_context(cafile=str(self._certfile))
        context.check_hostname = False
        return HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
