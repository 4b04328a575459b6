"""Copy a trained checkpoint into the package, and its training's last line into docs/results.

python scripts/ship_checkpoint.py runs/rl
"""

import json
import shutil
import sys
from pathlib import Path

FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "organizer.jinja",
    "worker.jinja",
    "asyncthink.json",
)
LIMIT = 10_000_000
ROOT = Path(__file__).parent.parent


def main() -> None:
    """Copy the files of a checkpoint, and nothing else."""
    run = Path(sys.argv[1])
    source = run / "checkpoint"
    target = ROOT / "src" / "asyncthink" / "embedded"
    size = sum((source / name).stat().st_size for name in FILES)
    if size > LIMIT:
        sys.exit(f"{source} has {size:,} bytes; at most {LIMIT:,} are shipped")
    target.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    print(f"{target}: {size:,} bytes")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    result = {
        "run": run.name,
        "steps": last["step"],
        "minutes": round(last["seconds"] / 60, 1),
        "bytes": size,
    }
    (ROOT / "docs" / "results" / "embedded_training.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
