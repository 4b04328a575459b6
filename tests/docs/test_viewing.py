"""docs/viewing.md: options, names and pictures exist, and its keys are the script's."""

from __future__ import annotations

import re
from pathlib import Path

from docs.test_tour import NAME, resolve
from typer.testing import CliRunner

from asyncthink.cli.main import app
from asyncthink.viewer.page import part

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "viewing.md").read_text(encoding="utf-8")


def test_every_option_exists() -> None:
    told = CliRunner().invoke(app, ["view", "--help"], terminal_width=200).stdout
    found = set(re.findall(r"(?<![-|])(--[a-z][a-z-]+)", PAGE))
    assert found >= {"--html", "--svg", "--chrome-trace", "--episode", "--base"}
    for option in found:
        assert option in told, option


def test_every_name_and_picture_exists() -> None:
    names = NAME.findall(PAGE)
    assert len(names) > 4
    for name in names:
        resolve(name)
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert link.startswith("https://") or (ROOT / "docs" / link).exists(), link


def test_every_key_is_one_of_a_script() -> None:
    scripts = part("episode.js") + part("run.js")
    keys = set(re.findall(r"`([^`]{1,5})`", PAGE.split("## By keyboard")[1].split("From Python")[0]))
    assert len(keys) == 11
    for key in keys:
        spelled = "Escape" if key == "Esc" else str(key)
        assert re.search(rf'(^|\s)("{re.escape(spelled)}"|{re.escape(spelled)}): ', scripts), key
