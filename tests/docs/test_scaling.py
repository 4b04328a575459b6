"""docs/scaling.md quotes only what result files hold, and those are what scripts and recipes give now."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncthink.evaluation.simulation import SimulationRecipe
from asyncthink.settings import load

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
RESULT = RESULTS / "scaling_estimate.json"
TEXT = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
SECTION = TEXT.split("experiment takes")[1].split("## A cl")[0]


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("capacity", [2, 4, 8, 16, 32])
def test_larger_pools_are_those_of_the_report(capacity: int) -> None:
    arms = {arm["name"]: arm["measures"] for arm in read("learned-capacity/report.json")["summary"]["arms"]}

    def cell(arm: str) -> str:
        means = [
            arms[f"{arm} capacity={capacity}"][name]["mean"]
            for name in ("all_correct", "critical_path", "decoded_tokens")
        ]
        return f"{100 * means[0]:.1f} %, {means[1]:.0f}, {means[2]:,.0f}"

    assert f"| {capacity} | {cell('after')} | {cell('random-forks')} | {cell('parallel')} |" in TEXT


@pytest.mark.parametrize(
    ("config", "costs"),
    [
        ("recipes/scale.toml", "token_costs.json"),
        (str(RESULTS / "scaling-vllm/config.toml"), "token_costs_vllm.json"),
    ],
)
def test_the_simulated_costs_are_the_measured_ones(config: str, costs: str) -> None:
    recipe, measured = load(config, SimulationRecipe)[0].costs, read(costs)["costs"]
    assert [(size, step) for size, step in recipe.steps] == [
        (n, round(step, 4)) for n, step in measured["steps"]
    ]
    assert recipe.prefill == pytest.approx(measured["prefill"], abs=1e-6)
    assert recipe.message == pytest.approx(measured["message"], abs=5e-5)


def test_what_vllm_takes_beside_the_local_engine() -> None:
    ours, theirs = (
        dict(read(name)["costs"]["steps"]) for name in ("token_costs.json", "token_costs_vllm.json")
    )
    mine, served = (
        {pool["workers"]: pool["seconds"] for pool in read(f"{name}/scaling.json")["pools"]}
        for name in ("scaling", "scaling-vllm")
    )
    assert (
        f"takes {theirs[1] / ours[1]:.1f}\ntimes as long for a token of one sequence and {theirs[64] / ours[64]:.1f} times"
        in TEXT
    )
    assert (
        f"question {served[0] / mine[0]:.2f} times as long alone and {served[64] / mine[64]:.2f} times with 64 workers"
        in TEXT
    )


def test_what_was_seen_of_vllm() -> None:
    text, found = (ROOT / "docs" / "servers.md").read_text(encoding="utf-8"), read("vllm.json")
    cache = found["prefix_cache"]
    assert (
        f"in {found['equal']} of {found['episodes']} episodes of four methods" in text
        and len(found["local"]["methods"]) == 4
    )
    assert f"{100 * cache['hits'] / cache['queries']:.0f} % of\nthe tokens that vLLM was sent" in text
