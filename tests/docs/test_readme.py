"""The README stays true: its code runs, its files exist, its figures are those of the result files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_code_runs(code: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def result(name: str) -> Any:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def share(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def mean(found: dict[str, float], digits: int) -> str:
    return f"{found['mean']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def figures() -> list[str]:
    """Return every figure of the section "Measured" as the result files have it."""
    dev, clock, scale = result("embedded_dev"), result("wall_clock"), result("scale")
    summary, last = dev["summary"], scale["rows"][-1]
    training = result("embedded_training")
    return [
        f"{dev['problems']} problems",
        *(share(summary[name]) for name in ("format_errors", "at_least_1", "at_least_4")),
        *(mean(summary[name], 0) for name in ("critical_path", "total_tokens")),
        mean(summary["concurrency"], 3),
        mean(summary["wall_seconds"], 1),
        f"{training['tokens'] / 1e6:.1f} million tokens, {training['minutes']:.0f} minutes",
        f"{result('local_engine')['ratio']:.2f}x",
        "{:.3f}x, {:.3f}x and {:.3f}x".format(*(row["worst"] for row in clock["rows"])),
        f"{last['episodes']:,} episodes: {last['cpu_seconds']:.1f} s CPU, {last['peak_mib']:.0f} MiB",
        f"{result('startup')['ratio']:.1f}x",
        " and ".join(
            f"{row['our_share']:.2f}x" for row in result("openai_client")["rows"] if row["api"] == "chat"
        ),
    ]


def test_figures_are_those_of_the_result_files() -> None:
    measured = README.split("## Measured")[1].split("## Read on")[0]
    for figure in figures():
        assert figure in measured, figure


def test_every_result_names_its_command() -> None:
    for path in (ROOT / "docs" / "results").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["command"], path
