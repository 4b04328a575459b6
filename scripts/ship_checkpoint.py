"""Copy a trained checkpoint into the package, and its training's last line into docs/results.

python scripts/ship_checkpoint.py runs/rl-credit --temperature 0.4
python scripts/ship_checkpoint.py runs/base embedded-base
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from asyncthink.engines.lexicon import PROFILE
from asyncthink.engines.models import SHIPPED

FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "organizer.jinja",
    "worker.jinja",
    PROFILE,
)
LIMIT = 10_000_000
RESULT = Path(__file__).parent.parent / "docs" / "results" / "embedded_training.json"


def main() -> None:
    """Copy the files of a checkpoint, and nothing else."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("name", nargs="?", default="embedded", choices=SHIPPED)
    parser.add_argument("--temperature", type=float, help="what it is sampled at unless told otherwise")
    given = parser.parse_args()
    run, name = given.run, given.name
    source, target = run / "checkpoint", SHIPPED[name]
    size = sum((source / file).stat().st_size for file in FILES)
    if size > LIMIT:
        sys.exit(f"{source} has {size:,} bytes; at most {LIMIT:,} are shipped")
    target.mkdir(exist_ok=True)
    for file in FILES:
        shutil.copyfile(source / file, target / file)
    if given.temperature is not None:
        profile = json.loads((target / PROFILE).read_text()) | {"temperature": given.temperature}
        (target / PROFILE).write_text(json.dumps(profile, indent=2) + "\n")
    print(f"{target}: {size:,} bytes")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    results = json.loads(RESULT.read_text())
    results["models"][name] = {
        "run": run.name,
        "steps": last["step"],
        **({"tokens": last["tokens"]} if "tokens" in last else {}),
        "minutes": round(last["seconds"] / 60, 1),
        "bytes": size,
    }
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
