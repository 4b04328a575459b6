"""CPU and memory of a fork with its join: this runtime beside LangGraph, OpenAI Agents and Pydantic AI.

    python benchmarks/peers.py [--venv FOLDER] [--workers 4 64] [--rounds 3] [--json FILE]

Everyone plays the same: an organizer names W sub-queries, W workers answer at once, the organizer goes on
with what they returned, and answers. Models are fakes in the same process that return the same whole texts
without delay, so that what is left is the runtime. The peers get an environment of their own, which is made
where it is missing (benchmarks/peers-requirements.txt); their tracing is off. A side runs in a process of
its own, the sides take turns, and the medians count. Imports are told apart, and warm-up is left out.

With ours the organizer is called again at every join: 2 W + 1 calls an episode. The peers are measured
twice: with as many calls ("each": the organizer is called again with each worker's result), and with W + 2,
the least that they can do ("together": once more, with all results). Where a peer documents two forms
(LangGraph `Send` and tasks; Pydantic AI with `asyncio.gather` and with tools), the cheaper one counts.
LangGraph's nodes call a LangChain chat model, as in its documentation; `langgraph-bare` calls a plain
function instead, with no message, no model and no agent: the floor of what an executor of tasks costs.
`ours-tokens` is for information: the scripted engine, which plays token by token and in lockstep.

Memory is what Python allocated at most in one episode, over its workers; peak MiB is the whole process.
Aim: ours costs at most a tenth of each peer's CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from peers_worker import SIDES
from results import save

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "peers-requirements.txt"
VENV = HERE.parent / "runs" / "peers"
QUIET = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}
FORMS = {
    "langgraph": ("langgraph-send", "langgraph-tasks"),
    "langgraph-bare": ("langgraph-send-bare", "langgraph-tasks-bare"),
    "openai-agents": ("openai-agents",),
    "pydantic-ai": ("pydantic-ai", "pydantic-ai-tools"),
}
"""Peer -> the sides that play it; the cheapest counts."""
Runs = dict[str, list[Any]]
"""Side -> what each of its processes found."""


def peers_python(folder: Path) -> Path:
    """Return the peers' Python; make its environment where it is missing or was made for other versions."""
    python, made_for = folder / "bin" / "python", folder / REQUIREMENTS.name
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if not made_for.exists() or made_for.read_text(encoding="utf-8") != wanted:
        print(f"making {folder}", flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
        made_for.write_text(wanted, encoding="utf-8")
    return python


def in_turns(python: Path, workers: Sequence[int], seconds: float, rounds: int) -> Runs:
    """Let the sides take turns, each in a process of its own, so that other work on the machine slows all."""
    runs: Runs = {side: [] for side in SIDES}
    options = ["--workers", *map(str, workers), "--seconds", str(seconds)]
    for number in range(rounds):
        for side, found in runs.items():
            executable = sys.executable if side.startswith("ours") else python
            command = [executable, HERE / "peers_worker.py", side, *options]
            environment = {**os.environ, **QUIET}
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
            if ran.returncode:
                sys.exit(ran.returncode)  # it has said why
            found.append(json.loads(ran.stdout))
        print(f"round {number + 1} of {rounds}", flush=True)
    return runs


def costs(runs: Runs, side: str, workers: int, together: bool) -> list[Any]:
    """Return what one kind of fan-out cost a side in each round; empty where it does not play that kind."""
    rows = (row for run in runs[side] for row in run["rows"])
    return [row for row in rows if (row["workers"], row["together"]) == (workers, together)]


def summary(runs: Runs, workers: int, together: bool) -> dict[str, Any]:
    """Return the medians of one kind of fan-out, and which part of each peer's cost ours is."""
    found = {side: costs(runs, side, workers, together and not side.startswith("ours")) for side in runs}
    found = {side: rows for side, rows in found.items() if rows}
    ms = {side: round(median(row["ms"] for row in rows), 4) for side, rows in found.items()}
    best = {peer: min(set(forms) & set(ms), key=ms.__getitem__) for peer, forms in FORMS.items()}
    pairs = {peer: list(zip(found["ours"], found[side], strict=True)) for peer, side in best.items()}
    kib = {side: median(row["kib"] for row in rows) for side, rows in found.items()}
    return {
        "workers": workers,
        "joins": "together" if together else "each",
        "model_calls": {side: rows[0]["model_calls"] for side, rows in found.items()},
        "episodes": {side: [row["episodes"] for row in rows] for side, rows in found.items()},
        "cpu_ms_per_fork_join": ms,
        "kib_per_fork_join": kib,
        "our_share": {peer: round(ms["ours"] / ms[side], 3) for peer, side in best.items()},
        "our_share_per_round": {
            peer: [round(us["ms"] / them["ms"], 3) for us, them in both] for peer, both in pairs.items()
        },
        "our_memory_share": {peer: round(kib["ours"] / kib[side], 3) for peer, side in best.items()},
    }


def processes(runs: Runs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what importing a side costs, and how large its process became."""
    for side, found in runs.items():
        names = ("python_mib", "import_cpu_seconds", "imported_mib", "peak_mib")
        medians = {name: round(median(run[name] for run in found), 3) for name in names}
        yield side, {"version": found[0]["version"], **medians}


def show(row: dict[str, Any]) -> None:
    print(f"{row['workers']} workers, joined {row['joins']}")
    for side, ms in row["cpu_ms_per_fork_join"].items():
        calls, kib = row["model_calls"][side] or "-", row["kib_per_fork_join"][side]
        print(f"    {side:<22} {ms:>8.3f} ms CPU {kib:>8.1f} KiB a fork-join  (model calls: {calls})")
    print("    ours over theirs:", ", ".join(f"{peer} {one}" for peer, one in row["our_share"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--venv", type=Path, default=VENV, help="the peers' environment (default: runs/peers)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--seconds", type=float, default=0.4, help="CPU time of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args()
    runs = in_turns(peers_python(args.venv), args.workers, args.seconds, args.rounds)
    rows = [summary(runs, workers, together) for workers in args.workers for together in (True, False)]
    for row in rows:
        show(row)
    sides = dict(processes(runs))
    for side, found in sides.items():
        print(f"{side:<22} {found}")
    save(args.json, {"rounds": args.rounds, "seconds": args.seconds, "rows": rows, "processes": sides})


if __name__ == "__main__":
    main()
