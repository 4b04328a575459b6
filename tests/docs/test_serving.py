"""docs/serving.md: options and names exist, links lead somewhere, its example runs against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from docs.test_tour import NAME, resolve
from server.serving_worlds import Serving
from typer.testing import CliRunner

from asyncthink.cli.main import app
from asyncthink.server.parameters import IGNORED, REFUSED, ChatParameters, Extension

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_every_option_exists() -> None:
    told = CliRunner().invoke(app, ["serve", "--help"], terminal_width=200).stdout
    found = set(re.findall(r"(?<![-|])(--[a-z][a-z-]+)", PAGE.split("## Clients")[0]))
    assert len(found) > 18
    for option in found:
        assert option in told, option


def test_every_parameter_is_told() -> None:
    asked = PAGE.split("## What is asked")[1].split("## What comes back")[0]
    for name in (*ChatParameters.__struct_fields__, *Extension.__struct_fields__, *IGNORED):
        assert f"`{name}" in asked or name in ("model", "messages"), name
    assert {"n", "tools", "response_format", "logprobs", "audio", "reasoning_effort"} <= set(REFUSED)


def test_every_name_exists() -> None:
    names = [name for name in NAME.findall(PAGE) if name.count(".") > 1]  # the others are keys of JSON
    assert len(names) > 4
    for name in names:
        resolve(name)


def test_the_example_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    with Serving("--model", "embedded") as server:
        there = code.replace("http://127.0.0.1:8000", server.url)
        assert there != code
        result = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "<FORK-1>" in result.stdout and "<ANSWER>" in result.stdout
    score, ticks = result.stdout.rsplit("\n", 2)[-2].split()
    assert float(score) > 0 and int(ticks) > 50


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
