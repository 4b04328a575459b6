"""docs/servers.md and the README's part about servers: commands run, options and links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fault_server.control import FaultServer
from typer.testing import CliRunner

from asyncthink.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "servers.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUERY = "Is 2027 prime? Prove it two ways."
SCRIPT = {
    "organizer": "<FORK-1>Try the primes up to 43.</FORK-1> Meanwhile Fermat. <JOIN-1> <ANSWER>It is.</ANSWER>",
    "workers": {"*": "none divides it <RETURN>prime</RETURN>"},
}
COMMANDS = sorted(
    set(re.findall(r"^    (asyncthink (?:think|doctor) .*openai:NAME.*)$", README + PAGE, re.MULTILINE))
)


@pytest.mark.parametrize("command", [each for each in COMMANDS if '"..."' not in each])
def test_a_command_runs(command: str) -> None:
    """As it stands there, with a server's own address and model in it."""
    with FaultServer() as server:
        server.configure({"script": SCRIPT, "query": QUERY})
        told = command.replace("openai:NAME", "openai:scripted").replace(
            "http://127.0.0.1:8000/v1", server.url
        )
        arguments = [
            sys.executable,
            "-c",
            "from asyncthink.cli.main import run; run()",
            *shlex.split(told)[1:],
        ]
        environment = os.environ | {"OPENAI_API_KEY": "sk-1"}
        result = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment)
    doctor = "doctor" in command
    assert result.returncode in ((0, 3, 4) if doctor else (0,)), result.stderr
    assert ("what follows" if doctor else "It is.") in result.stdout


def test_there_are_such_commands() -> None:
    assert len(COMMANDS) >= 3


def test_every_option_exists() -> None:
    helps = "".join(
        CliRunner().invoke(app, [name, "--help"]).stdout for name in ("think", "doctor", "prompts")
    )
    theirs = {"--reasoning-parser", "--reasoning-format"}
    found = set(re.findall(r"(?<![-|])(--[a-z][a-z-]+)", PAGE.split("## Serving")[0])) - theirs
    assert len(found) > 8
    for option in found:
        assert option in helps, option


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
