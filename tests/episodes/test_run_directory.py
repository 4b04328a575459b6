"""Run directories: what is on disk after a kill, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import msgspec
import pytest

import asyncthink
from asyncthink.episodes import Episode, RunDirectory, encode
from asyncthink.errors import RecordError

from .episode_worlds import episode, organizer, worker

CONFIG = 'model = "embedded"\nseed = 1\n\n[sampling]\ntemperature = 1.0\nstops = ["a", "b"]\n'
SOURCE = str(Path(asyncthink.__file__).parents[1])


def numbered(i: int, n: int = 5) -> Episode:
    return msgspec.structs.replace(episode(2, organizer(n), worker("0/1", 3, 1, 4)), id=str(i))


def ids(run: RunDirectory) -> list[str]:
    return [one.id for one in run.episodes()]


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)


def one_line(error: RecordError) -> bool:
    return "\n" not in str(error)


def test_a_run_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "first"
    with RunDirectory.create(path, CONFIG, {"seeds": [1]}) as run:
        run.append(numbered(0))
        assert ids(RunDirectory.open(path)) == ["0"]
        run.append(numbered(1))
    again = RunDirectory.open(path)
    assert list(again.episodes()) == [numbered(0), numbered(1)]
    assert (again.config, again.warnings) == (CONFIG, [])
    assert again.manifest == run.manifest == json.loads((path / "manifest.json").read_text())
    assert set(again.manifest) == {"asyncthink", "python", "created", "seeds"}
    assert sorted(file.name for file in path.iterdir()) == ["config.toml", "episodes.jsonl", "manifest.json"]


def test_resuming_goes_on_behind_the_last_episode(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        run.append(numbered(0))
    with RunDirectory.resume(tmp_path) as run:
        run.append(numbered(1))
    with RunDirectory.resume(tmp_path, CONFIG + "# the same values\n") as run:
        run.append(numbered(2))
    assert ids(run) == ["0", "1", "2"]


@pytest.mark.parametrize("cut", [1, 30, -1])
def test_a_torn_last_line_is_dropped_and_told(tmp_path: Path, cut: int) -> None:
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        run.append(numbered(0))
        run.append(numbered(1))
    whole = (tmp_path / "episodes.jsonl").read_bytes()
    torn = encode(numbered(2, 50_000))[:cut]
    (tmp_path / "episodes.jsonl").write_bytes(whole + torn)
    warning = f"{tmp_path / 'episodes.jsonl'}: a torn last line ({len(torn)} bytes) was dropped"
    reader = RunDirectory.open(tmp_path)
    assert ids(reader) == ids(reader) == ["0", "1"]
    assert reader.warnings == [warning]
    with RunDirectory.resume(tmp_path) as run:
        assert run.warnings == [warning]
        assert (tmp_path / "episodes.jsonl").read_bytes() == whole
        run.append(numbered(2))
    assert ids(run) == ["0", "1", "2"]


def test_a_first_line_may_be_the_torn_one(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG, {}).close()
    (tmp_path / "episodes.jsonl").write_bytes(b'{"schema"')
    with RunDirectory.resume(tmp_path) as run:
        assert (ids(run), len(run.warnings)) == ([], 1)


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"schema":9}', b"\xff\xfe", b"[" * 100_000, b"\0" * 64])
def test_any_other_broken_line_is_refused_by_its_number(tmp_path: Path, broken: bytes) -> None:
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        run.append(numbered(0))
    with (tmp_path / "episodes.jsonl").open("ab") as file:
        file.write(broken + b"\n" + encode(numbered(2)) + b"\n")
    with pytest.raises(RecordError, match=r"episodes\.jsonl line 2: ") as caught:
        ids(RunDirectory.open(tmp_path))
    assert one_line(caught.value)


def test_kill_nine_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    code = """
import sys
from asyncthink.episodes import RunDirectory, decode
run = RunDirectory.resume(sys.argv[1])
template = decode(sys.argv[2])
import msgspec
for i in range(len(list(run.episodes())), 10**9):
    run.append(msgspec.structs.replace(template, id=str(i)))
    print(i, flush=True)
"""
    RunDirectory.create(tmp_path, CONFIG, {}).close()
    reported = -1
    for _ in range(3):
        process = python(code, str(tmp_path), encode(numbered(0, 2_000)).decode())
        assert process.stdout is not None
        for _ in range(20):
            reported = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split("\n")[:-1])])
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        stored = ids(RunDirectory.open(tmp_path))
        assert stored == [str(i) for i in range(len(stored))]
        assert len(stored) in (reported + 1, reported + 2)
    assert reported >= 59


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    code = """
import sys
from asyncthink.episodes import RunDirectory
run = RunDirectory.resume(sys.argv[1])
print("mine", flush=True)
sys.stdin.read()
"""
    RunDirectory.create(tmp_path, CONFIG, {}).close()
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"mine\n"
        with pytest.raises(RecordError, match="is being written by another process") as caught:
            RunDirectory.resume(tmp_path)
        assert one_line(caught.value)
        assert ids(RunDirectory.open(tmp_path)) == []
        first.kill()
    RunDirectory.resume(tmp_path).close()


def test_a_changed_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG, {}).close()
    changed = 'model = "embedded"\nextra = true\n[sampling]\ntemperature = 0.5\nstops = ["a", "c"]\n'
    with pytest.raises(
        RecordError, match=r"changed: extra, sampling\.stops\[1\], sampling\.temperature, seed:"
    ):
        RunDirectory.resume(tmp_path, changed)
    RunDirectory.resume(tmp_path, CONFIG).close()


def test_a_folder_is_used_once(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG, {}).close()
    other = CONFIG.replace("embedded", "other")
    with RunDirectory.create(tmp_path, other, {"kind": "second"}) as run:  # nothing was done in the first
        assert RunDirectory.open(tmp_path).config == other
        run.append(numbered(0))
    with pytest.raises(RecordError, match="already holds a run: resume it"):
        RunDirectory.create(tmp_path, other, {})
    assert ids(RunDirectory.open(tmp_path)) == ["0"]


def test_a_creation_cut_short_can_be_repeated(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG, {}).close()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(RecordError, match="holds no run"):
        RunDirectory.resume(tmp_path)
    with pytest.raises(RecordError, match="belongs to something else"):
        RunDirectory.create(tmp_path, "seed = 2", {})
    RunDirectory.create(tmp_path, CONFIG, {}).close()


@pytest.mark.parametrize("name", ["api_key", "OPENAI_API_KEY", "password", "hf_token"])
def test_secrets_are_never_stored(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match=f"take engine.{name} out"):
        RunDirectory.create(tmp_path / "a", f'[engine]\n{name} = "s"', {})
    with pytest.raises(RecordError, match=f"take {name} out"):
        RunDirectory.create(tmp_path / "b", "", {name: "s"})
    assert list(tmp_path.iterdir()) == []
    RunDirectory.create(tmp_path / "c", f'max_tokens = 5\n{name} = ""', {"pad_token": "<pad>"}).close()


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(RecordError, match=str(path)) as caught:
            RunDirectory.create(path, CONFIG, {})
        assert one_line(caught.value)
    with pytest.raises(RecordError, match="the configuration is no TOML: "):
        RunDirectory.create(tmp_path / "run", "a = ", {})
    with pytest.raises(RecordError, match="the manifest is no JSON: "):
        RunDirectory.create(tmp_path / "run", "", {"a": object()})
    with pytest.raises(RecordError, match="holds no run"):
        RunDirectory.open(tmp_path / "nowhere")


def test_only_a_writer_appends(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, {})
    run.close()
    run.close()
    for closed in (run, RunDirectory.open(tmp_path)):
        with pytest.raises(RecordError, match="not open for writing"):
            closed.append(numbered(0))


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        for change in ({"answer": "\ud800"}, {"wall_seconds": float("nan")}, {"problem": {"a": object()}}):
            with pytest.raises(RecordError, match="episode '0' cannot be stored: "):
                run.append(msgspec.structs.replace(numbered(0), **change))
    assert (tmp_path / "episodes.jsonl").read_bytes() == b""


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        run.append(numbered(0))
        whole = (tmp_path / "episodes.jsonl").read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, hard))
        try:
            with pytest.raises(RecordError, match="File too large"):
                run.append(numbered(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "episodes.jsonl").read_bytes() == whole
        run.append(numbered(1))
    assert ids(run) == ["0", "1"]


@pytest.mark.parametrize("seed", range(4))
def test_whichever_bit_of_the_last_line_flips_at_most_that_record_is_lost(tmp_path: Path, seed: int) -> None:
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        for i in range(3):
            run.append(numbered(i))
    file = tmp_path / "episodes.jsonl"
    whole = file.read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    random = Random(seed)
    for _ in range(200):
        place, bit = random.randrange(begin, len(whole)), 1 << random.randrange(8)
        changed = bytearray(whole)
        changed[place] ^= bit
        file.write_bytes(bytes(changed))
        reader = RunDirectory.open(tmp_path)
        assert ids(reader) == ["0", "1"] and len(reader.warnings) == 1, (place, bit)
        with RunDirectory.resume(tmp_path) as run:
            assert len(run.warnings) == 1 and "last line" in run.warnings[0]
            run.append(numbered(2))
        assert list(RunDirectory.open(tmp_path).episodes()) == [numbered(i) for i in range(3)]


def test_a_changed_line_before_the_last_is_refused(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        for i in range(4):
            run.append(numbered(i))
    file = tmp_path / "episodes.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"seed":0', b'"seed":7')
    file.write_bytes(b"".join(lines))
    with pytest.raises(RecordError, match="line 2: it was cut short or changed after it was written"):
        ids(RunDirectory.open(tmp_path))


def test_lines_of_earlier_versions_have_no_checksum(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, CONFIG, {}) as run:
        run.append(numbered(0))
    file = tmp_path / "episodes.jsonl"
    assert file.read_bytes().startswith(b'{"crc":"')
    json.loads(file.read_bytes())
    file.write_bytes(encode(numbered(0)) + b"\n")
    assert ids(RunDirectory.open(tmp_path)) == ["0"]
