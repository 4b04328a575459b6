"""docs/scaling.md quotes only what `benchmarks/estimate.py` wrote, and that is what the script and the recipes give now."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "docs" / "results" / "scaling_estimate.json"
SECTION = (
    (ROOT / "docs" / "scaling.md")
    .read_text(encoding="utf-8")
    .split("experiment takes")[1]
    .split("## A cl")[0]
)


def line(row: dict[str, Any]) -> str:
    """Return a run's line of the table."""
    sampled = f"{row['sampled_tokens'] / 1e6:.0f} million" if "sampled_tokens" in row else ""
    cells = (
        row["run"],
        f"{row['tokens']['decoded']:,.0f}" if sampled else "",
        sampled,
        f"{row['trained_tokens'] / 1e6:.0f} million",
        f"{row['hours']:.1f}",
        f"{row['gpu_hours']:.1f}",
        f"${row['cost']:.0f}",
    )
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def test_figures_are_those_of_the_result_file() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assumed, (_, countdown, math) = result["assumptions"], result["rows"]
    held = countdown["memory"]
    figures = [
        *map(line, result["rows"]),
        f"{assumed['sampling_speed']:,} tokens a second sampled and {assumed['training_speed']:,} trained",
        f"{assumed['handover_seconds']} s a step",
        f"{assumed['prompt_tokens']} tokens a\n  prompt and {assumed['inserted_tokens']} a join",
        f"${assumed['price']:g} a GPU hour",
        f"{held['total_gb']:.0f} GB (countdown) or {math['memory']['total_gb']:.0f} GB (mathematics)",
        f"weights {held['weights_gb']:.0f}, gradients {held['gradients_gb']:.0f}, AdamW's moments {held['adam_gb']:.0f}",
        f"bfloat16 copy {held['bfloat16_copy_gb']:.0f}",
        f"{countdown['micro_batch_tokens']:,.0f} or {math['micro_batch_tokens']:,.0f} tokens",
        f"weights of {held['served_weights_gb']:.0f} GB, and {held['kv_bytes_a_token']:,} bytes",
        f"{held['kv_all_at_once_gb']:.0f} GB or {math['memory']['kv_all_at_once_gb']:.0f} GB",
        f"weights and moments, {held['weights_gb'] + held['adam_gb']:.0f} GB",
    ]
    for figure in figures:
        assert figure in SECTION, figure


def test_the_script_gives_the_result_file_and_reads_what_was_measured(tmp_path: Path) -> None:
    def rows(*options: str) -> list[dict[str, Any]]:
        made = tmp_path / "made.json"
        script = [sys.executable, str(ROOT / "benchmarks" / "estimate.py"), *options, "--json", str(made)]
        subprocess.run(script, check=True, capture_output=True, cwd=ROOT)
        return json.loads(made.read_text())["rows"]

    assert rows() == json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    report = ROOT / "docs" / "results" / "learned" / "report.json"
    measured = json.loads(report.read_text())["summary"]["arms"][0]["measures"]["decoded_tokens"]["mean"]
    (_, countdown, _) = rows("--measured", str(report))
    assert countdown["tokens"]["decoded"] == measured
    assert countdown["sampled_tokens"] == measured * countdown["episodes"]
