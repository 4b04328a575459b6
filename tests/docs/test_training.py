"""docs/training.md quotes only what result files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from asyncthink.episodes import measure
from asyncthink.training.reward import RewardRecipe, reward_of
from tests.training.rl_cases import EXAMPLE, scripted

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
SPEED = TEXT.split("## How fast")[1].split("## With TRL")[0]


def report(name: str) -> dict[str, dict[str, Any]]:
    """Return what a report of the test split measured, by arm."""
    found = json.loads((ROOT / "docs" / "results" / name / "report.json").read_text(encoding="utf-8"))
    return {arm["name"]: arm["measures"] for arm in found["summary"]["arms"]}


def estimate(found: dict[str, float], scale: int, digits: int, unit: str = "") -> str:
    mean, low, high = (f"{scale * found[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean}{unit} [{low}, {high}]"


def test_what_each_training_has_on_the_test_split() -> None:
    learned, seeds, credit = (report(name) for name in ("learned", "learned-seeds", "learned-credit"))
    for start, measures in (
        ("main | yes | no", learned["asyncthink"]),
        ("main-2 | yes | no", seeds["asyncthink-seed-2"]),
        ("main-3 | yes | no", seeds["asyncthink-seed-3"]),
        ("no-concurrency | no | no", credit["no-concurrency"]),
        ("credit | yes | yes", learned["fork-credit"]),
        ("credit-alone | no | yes", credit["credit-alone"]),
        ("credit-alone-2 | no | yes", credit["credit-alone-2"]),
    ):
        right = estimate(measures["all_correct"], 100, 1, " %")
        line = f"| {start} | {right} | {estimate(measures['critical_path'], 1, 0)} |"
        assert line in TEXT, line


def test_what_fine_tuning_on_two_shapes_leaves_to_learn() -> None:
    arms = report("learned-shapes")
    seen = json.loads((ROOT / "docs" / "results" / "shapes.json").read_text(encoding="utf-8"))["arms"]
    for start, arm in (
        ("random structures | none", "no-rl"),
        ("random structures | main-2", "asyncthink-seed-2"),
        ("two shapes | none", "shapes-no-rl"),
        ("two shapes | shapes", "shapes"),
    ):
        found = arms[arm]
        right = estimate(found["all_correct"], 100, 1, " %")
        busy = f"{found['concurrency']['mean']:.3f}"
        kinds = " | ".join(f"{100 * seen[arm][kind]:.1f} %" for kind in ("interleaved", "waves", "pairs"))
        line = f"| {start} | {right} | {estimate(found['critical_path'], 1, 0)} | {busy} | {kinds} |"
        assert line in TEXT, line


def sides(name: str) -> dict[str, dict[str, Any]]:
    found = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return {each["side"]: each for each in found["sides"]}


def test_speed_beside_trl_is_that_of_the_result_files() -> None:
    tuned, update, rollout = (
        {name: each["ours_to_this"] for name, each in sides(file).items()}
        for file in ("sft_trl", "owpo_update", "owpo_rollout")
    )
    for cells in (
        f"our batches | {tuned['trl-batches']:.2f}x | {tuned['trl-batches-bf16']:.2f}x",
        f"its packing | {tuned['trl-packed']:.2f}x",
        f"its token budget | {update['trl']:.2f}x | {update['trl-bf16']:.2f}x",
        f"as its budget | {update['trl-wide']:.2f}x | {update['trl-wide-bf16']:.2f}x",
        f"its episodes from | {rollout['rollout-vllm']:.2f}x",
    ):
        assert cells in SPEED, cells


def test_the_reward_of_ones_own_is_one() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    page: dict[str, Any] = {"__name__": "page"}
    exec(code, page)
    episode = scripted("<FORK-1>7*6</FORK-1> <JOIN-1> <ANSWER>1+2</ANSWER>", {"7*6": "<RETURN>42</RETURN>"})
    metrics = measure(episode)
    given = episode, EXAMPLE, metrics, RewardRecipe()
    assert metrics.critical_path > 0
    assert page["hasty"](*given).total == reward_of(*given).total - metrics.critical_path / 1000


def test_what_bfloat16_costs_without_hardware_for_it() -> None:
    tuned, update = (
        each["ours"]["tokens_per_second"] / each["ours-bf16"]["tokens_per_second"]
        for each in (sides("sft_trl"), sides("owpo_update"))
    )
    assert f"it takes {tuned:.2f} times\nas long in fine-tuning and {update:.2f} times in the update" in SPEED


def test_the_engine_beside_a_server_that_is_warm() -> None:
    rounds = [
        sides("owpo_rollout")[name]["tokens_per_second_rounds"][1]
        for name in ("rollout-ours", "rollout-vllm")
    ]
    assert f"in the second alone the engine has {rounds[0] / rounds[1]:.1f}x" in SPEED
