"""Copy a trained checkpoint into the package: python scripts/ship_checkpoint.py runs/embedded/checkpoint."""

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


def main() -> None:
    """Copy the files of a checkpoint, and nothing else."""
    source = Path(sys.argv[1])
    target = Path(__file__).parent.parent / "src" / "asyncthink" / "embedded"
    size = sum((source / name).stat().st_size for name in FILES)
    if size > LIMIT:
        sys.exit(f"{source} has {size:,} bytes; at most {LIMIT:,} are shipped")
    target.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    print(f"{target}: {size:,} bytes")


if __name__ == "__main__":
    main()
