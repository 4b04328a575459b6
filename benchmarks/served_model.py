"""The embedded model behind vLLM beside the engine of this process: greedy texts, a whole evaluation, steps of RL.

    scripts/third_party vllm FOLDER python benchmarks/served_model.py [--limit N] [--json FILE]

`methods` has what `asyncthink eval` reported of each method, served and here: at temperature 0 both must be the same.
`cached_share` is of input tokens, and too low: vLLM tells it at the end of a reply, and a join cuts replies off.
`prefix_cache` has its own counters. `kl` is between the server that sampled and the trainer, of each step of RL with
new weights in between; with the policy of the step before it would be 1e-5 and more. Exits with 1 where
a text or a policy differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from results import save

from asyncthink.engines.models import folder_of
from asyncthink.episodes.store import RunDirectory

METHODS = ("asyncthink", "random-forks", "oracle-forks", "sequential")
FIGURES = ("all_correct", "score", "valid", "critical_path", "concurrency", "decoded_tokens", "cached_share")
LARGEST_KL = 1e-6
RL = """
start = "hf:{start}"
output = "{run}"
trainer = "trl"
trl.servers = "{url}"
trl.micro_batches = 2
rollout = {{max_critical_path = 360, problems = 2, episodes = 4}}
reward.concurrency = 0.6
update = {{steps = 3, learning_rate = 1e-3, warmup_steps = 1, threads = 1}}
"""


def evaluate(output: Path, limit: int, model: list[str]) -> dict[str, Any]:
    """Evaluate all methods greedily on dev problems; return their figures and the seconds of the command."""
    task = ["--task", "countdown", "--split", "dev", "--limit", str(limit), "--samples", "1"]
    how = ["--methods", ",".join(METHODS), "--temperature", "0", "--max-critical-path", "360"]
    began = time.perf_counter()
    command = ["asyncthink", "eval", *task, *how, "--output", str(output), *model]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    arms = json.loads((output / "report.json").read_text())["summary"]["arms"]
    figures = {
        arm["name"]: {
            name: round(arm["measures"][name]["mean"], 4) for name in FIGURES if name in arm["measures"]
        }
        for arm in arms
    }
    return {"seconds": round(seconds, 1), "methods": figures}


def texts(output: Path) -> dict[tuple[str, str], list[Any]]:
    """Trial -> what each agent that counts wrote and got; one that nobody joined is cut off wherever it stands."""
    found: dict[tuple[str, str], list[Any]] = {}
    for episode in RunDirectory.open(output).episodes():
        assert episode.trial is not None
        counted = [each for each in episode.traces if each.path == "0" or each.joined_at is not None]
        place = (episode.trial.arm, episode.trial.problem)
        found[place] = [(each.path, [one.text for one in each.segments]) for each in counted]
    return found


def prefix_cache(url: str) -> dict[str, float]:
    """vLLM's own counters, in tokens, since it began."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=30) as answer:
        lines = answer.read().decode()
    counts = re.findall(r"^vllm:prefix_cache_(hits|queries)_total\{.*\} (\S+)$", lines, re.MULTILINE)
    return {name: float(value) for name, value in counts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=25, help="dev problems")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    url, run = os.environ["OPENAI_BASE_URL"], Path(os.environ["ASYNCTHINK_RUN"])
    folder, model = folder_of("embedded"), os.environ["ASYNCTHINK_MODEL"]
    served, local = run.with_name("greedy-served"), run.with_name("greedy-local")

    values: dict[str, Any] = {
        "served": evaluate(
            served, options.limit, ["--model", model, "--base-url", url, "--tokenizer", str(folder)]
        ),
        "local": evaluate(local, options.limit, ["--model", f"hf:{folder}"]),
    }
    ours, theirs = texts(local), texts(served)
    same = sum(theirs.get(place) == found for place, found in ours.items())
    values |= {"episodes": len(ours), "equal": same, "prefix_cache": prefix_cache(url)}

    recipe = run.with_suffix(".toml")
    recipe.write_text(RL.format(start=folder, run=run, url=url))
    subprocess.run(["asyncthink", "train", "rl", str(recipe)], check=True)
    kl = [float(json.loads(line)["kl"]) for line in (run / "metrics.jsonl").read_text().splitlines()]

    values["kl"] = kl
    print(json.dumps(values, indent=2))
    save(options.json, values)
    sys.exit(same != len(ours) or len(kl) != 3 or max(kl) > LARGEST_KL)


if __name__ == "__main__":
    main()
