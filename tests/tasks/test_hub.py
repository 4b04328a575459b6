"""Rows of data sets from a local folder; the hub itself is never asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncthink import extras
from asyncthink.errors import MissingExtraError, UsageError
from asyncthink.tasks.hub import load_hub

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs the package datasets: pip install datasets"
)
ROWS = [
    {"ID": "2024-I-1", "Problem": "What is $1+1$?", "Answer": 2},
    {"ID": "x", "Problem": "Q", "Answer": 25},
]

SCRIPT = """
import json, sys
from asyncthink.errors import UsageError
from asyncthink.tasks.hub import load_hub
for name in sys.argv[1:]:
    try:
        print(json.dumps(load_hub(name)))
    except UsageError as error:
        print(json.dumps(str(error)))
"""

PARQUET = """
import json, sys
import pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(json.loads(sys.argv[1])), sys.argv[2])
"""


def load(home: Path, *names: str) -> list[Any]:
    """Load in a process of its own: `datasets` reads its settings once, when it is imported."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "home")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "%|" not in result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@needs_datasets
def test_folders_are_read_and_what_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    lines, splits, table, broken = (tmp_path / name for name in ("lines", "splits", "table", "broken"))
    write(lines / "data.jsonl", ROWS)
    write(splits / "train.jsonl", ROWS[:1])
    write(splits / "test.jsonl", ROWS[1:])
    table.mkdir()
    (tmp_path / "empty").mkdir()
    write_table = [sys.executable, "-c", PARQUET, json.dumps(ROWS), str(table / "data.parquet")]
    subprocess.run(write_table, check=True)
    broken.mkdir()
    (broken / "data.jsonl").write_text("no JSON\n")
    got = load(
        tmp_path,
        f"hf:{lines}",
        f"hf:{table}",
        f"hf:{table}:train",
        f"hf:{splits}:test",
        f"hf:{splits}",
        f"hf:{splits}:dev",
        "hf:nobody/nothing",
        f"hf:{tmp_path / 'empty'}",
        f"hf:{broken}",
        "hf:no such name",
    )
    assert got[:4] == [ROWS, ROWS, ROWS, ROWS[1:]]
    ask = f"ask for hf:{splits}:test or hf:{splits}:train"
    assert got[4] == f"{splits} has several splits: {ask}"
    assert got[5] == f"{splits} has no split 'dev': {ask}"
    assert "'nobody/nothing' cannot be read" in got[6] and "check the name and the network" in got[6]
    assert all("cannot be read" in each and "hf:FOLDER" in each and "\n" not in each for each in got[6:])


@pytest.mark.parametrize("name", ["", "hf:", "owner/data", "hf::test"])
def test_other_names_are_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="as in hf:owner/data:test or hf:FOLDER"):
        load_hub(name)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(extra: str) -> list[str]:
        return list(extras.EXTRAS[extra])

    monkeypatch.setattr(extras, "missing", missing)
    with pytest.raises(MissingExtraError, match=r"^hf:owner/data needs datasets: pip install datasets$"):
        load_hub("hf:owner/data")
