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


def lines(arm: dict[str, Any]) -> list[str]:
    """Return a method's line of the table; parallel thinking has one for its vote and one for its pool."""
    found = arm["measures"]
    ways = {"": ""} if arm["method"] != "parallel" else {" (vote)": "", " (pooled)": "pooled_"}
    return [
        " | ".join(
            (
                f"| {arm['name']}{way}",
                share(found[f"{prefix}all_correct"]),
                mean(found[f"{prefix}score"], 3),
                mean(found["critical_path"], 0),
                mean(found["decoded_tokens"], 0),
                f"{mean(found['wall_seconds'], 1)} |",
            )
        )
        for way, prefix in ways.items()
    ]


def gained(found: dict[str, Any], second: str, measure: str, scale: int = 1, unit: str = "") -> str:
    """Return by how much a report's first method is above another one."""
    (one,) = (
        each["difference"]
        for each in found["comparisons"]
        if (each["second"], each["measure"]) == (second, measure)
    )
    mean, low, high = (scale * one[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f}{unit} [{low:+.1f}, {high:+.1f}]"


def figures() -> list[str]:
    """Return every figure of the section "Measured" as the result files have it."""
    clock, scale = result("wall_clock"), result("scale")
    stages = result("embedded_training")["models"]
    last, growth = scale["rows"][-1], result("growth")["growth"]
    compared, credit, seeds, shapes = (
        result(f"{name}/report")["summary"]
        for name in ("learned", "learned-credit", "learned-seeds", "learned-shapes")
    )
    seen = result("shapes")["arms"]
    peers = [row["our_share"] for row in result("peers")["rows"] if row["workers"] == 64]
    return [
        f"{compared['problems']} test problems",
        *(line for arm in compared["arms"] for line in lines(arm)),
        *(
            share(arm["measures"]["all_correct"])
            for found in (seeds, credit, shapes)
            for arm in found["arms"]
        ),
        f"({gained(shapes, 'asyncthink-seed-2', 'all_correct', 100, ' points')} beside",
        f"{100 * seen['shapes']['waves']:.1f} % of its episodes",
        f"which {100 * seen['asyncthink-seed-2']['interleaved']:.1f} % of",
        *(
            f"({each}"
            for each in (
                f"{gained(compared, 'parallel', 'all_correct', 100, ' points')} by",
                f"T {gained(credit, 'no-concurrency', 'critical_path')} ticks)",
                f"{gained(credit, 'no-concurrency', 'all_correct', 100, ' points')})",
            )
        ),
        f"difference of {gained(compared, 'asyncthink', 'all_correct', 100, ' points')}",
        f"{growth['scripted']['cpu_ms']:.2f}x",
        *(
            " and ".join(f"{row[name]:.2f}x" for row in peers)
            for name in ("langgraph", "openai-agents", "pydantic-ai", "langgraph-bare")
        ),
        *(
            f"{stages[name]['tokens'] / 1e6:.0f} million tokens, {stages[name]['minutes']:.0f} minutes"
            for name in ("embedded-base", "embedded-sft")
        ),
        f"{stages['embedded']['steps']} steps, {stages['embedded']['minutes']:.0f} minutes",
        f"{result('local_engine')['ratio']:.2f}x",
        "{:.3f}x, {:.3f}x and {:.3f}x".format(*(row["worst"] for row in clock["rows"])),
        f"{last['episodes']:,} episodes: {last['cpu_seconds']:.1f} s CPU, {last['peak_mib']:.0f} MiB",
        f"{result('startup')['ratio']:.1f}x",
        " and ".join(
            f"{row['our_share']:.2f}x" for row in result("openai_client")["rows"] if row["api"] == "chat"
        ),
        "; ".join(
            f"{row['all_seconds']:.1f} s, {row['ratio_all']:.1f}x" for row in result("view_open")["rows"]
        ),
        f"{result('server_load')['p99_over_idle']:.2f}x",
    ]


def test_figures_are_those_of_the_result_files() -> None:
    measured = README.split("## Measured")[1].split("## Read on")[0]
    for figure in figures():
        assert figure in measured, figure


def test_every_result_names_its_command() -> None:
    for path in (ROOT / "docs" / "results").rglob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["command"], path
