"""The built wheel holds all that a user needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_runs_in_another_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 30_000_000, "three checkpoints of less than 10 MB each"
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import asyncthink, sys; from asyncthink.cli.main import run; sys.stderr.write(asyncthink.__file__); run()"
    arguments = ["think", "--task", "countdown", "--numbers", "2,3,5,7", "--target", "28", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert str(site) in result.stderr
    assert json.loads(result.stdout)["score"] > 0
    recipe = "from asyncthink.training.recipe import load_recipe; load_recipe('recipes/embedded-sft.toml')"
    subprocess.run(
        [sys.executable, "-c", recipe], cwd=elsewhere, env={**os.environ, "PYTHONPATH": str(site)}, check=True
    )
