"""Doubtful answers are judged in processes of their own: bounded, killed, replaced, and never more than that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncthink import extras
from asyncthink.errors import MissingExtraError
from asyncthink.tasks import math_pool
from asyncthink.tasks.contest_math import ContestMath, MathProblem
from asyncthink.tasks.math_pool import MathPool, Verdict

TASK = ContestMath()


HANGS = "9^{9^{9}}"


@pytest.fixture(name="pool", scope="module")
def one_process() -> Iterator[MathPool]:
    pool = MathPool(1)
    yield pool
    pool.close()


def alive(pid: int) -> bool:
    """Return whether a process runs: one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(pids: list[int], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def works(pool: MathPool) -> bool:
    return pool.compare("\\sqrt{2}", "\\frac{2}{\\sqrt{2}}", 30).right


@pytest.mark.parametrize("hostile", [HANGS, "\\sin(" * 60 + "x" + ")" * 60])
def test_what_takes_for_ever_is_killed_at_its_limit(pool: MathPool, hostile: str) -> None:
    assert works(pool)
    (pid,) = pool.pids()
    started = time.monotonic()
    assert pool.compare("27", hostile, 0.3) == Verdict(
        right=False, reason="comparing it takes longer than 0.3 s"
    )
    assert 0.3 <= time.monotonic() - started < 2
    assert not alive(pid) and pool.pids() == []
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "hostile",
    [
        "\\operatorname{zeros}(20000,20000)",
        "9" * 1900,
        "1e999999999",
        "\\operatorname{exit}(3)",
        "\\text{__import__('os')._exit(3)}",
        "$}{\\)\x00\ud800\n",
        "=" * 1000,
        "x" * 100_000,
    ],
)
def test_hostile_values_are_wrong_and_the_next_comparison_works(pool: MathPool, hostile: str) -> None:
    assert not pool.compare("27", hostile, 0.5).right
    assert works(pool)


def test_the_task_has_the_limit_too_and_remembers_what_ran_into_it() -> None:
    task, problem = ContestMath(seconds=0.3), MathProblem(question="?", answer="27")
    score = task.check(problem, f"\\boxed{{{HANGS}}}")
    assert score.value == 0
    assert score.reason == f"{HANGS}: comparing it takes longer than 0.3 s"
    started = time.monotonic()
    assert task.check(problem, HANGS) == score
    assert time.monotonic() - started < 0.2


@pytest.mark.parametrize(
    "value", ["__import__('os').system('touch FILE')", "\\text{__import__('os').system('touch FILE')}"]
)
def test_an_answer_is_never_run(pool: MathPool, value: str, tmp_path: Path) -> None:
    file = tmp_path / "made"
    for each in (value, f"$({value})$", f"1+{value}", f"\\operatorname{{{value}}}(1)", f"x_{{{value}}}"):
        assert not pool.compare("27", each.replace("FILE", str(file)), 2).right
    assert not file.exists()


def test_a_process_that_was_killed_from_outside_is_replaced(pool: MathPool) -> None:
    assert works(pool)
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGKILL)
    assert works(pool)
    assert pool.pids() != [pid] and not alive(pid)


def test_processes_are_replaced_after_so_many_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_pool, "CHECKS", 2)
    pool = MathPool(1)
    assert works(pool)
    (first,) = pool.pids()
    assert works(pool)
    assert pool.pids() == [] and not alive(first)
    pool.close()


def test_threads_share_the_processes() -> None:
    pool = MathPool(2)
    pairs = [(f"{n}\\sqrt{{2}}", f"\\frac{{{2 * n}}}{{\\sqrt{{2}}}}", n % 3 > 0) for n in range(2, 14)]

    def judge(pair: tuple[str, str, bool]) -> bool:
        gold, answer, good = pair
        return pool.compare(gold, answer if good else answer + "+1", 30).right is good

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(judge, pairs))
    assert 1 <= len(pool.pids()) <= 2
    pool.close()
    assert pool.pids() == []


def stub(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> MathPool:
    """Return a pool whose processes run `text`."""
    path.write_text("import json, os, sys, time\n" + text)
    monkeypatch.setattr(math_pool, "WORKER", path)
    return MathPool(1)


def test_a_process_that_dies_over_a_value_is_asked_twice_and_then_it_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    text = f"print('{{\"ready\": true}}', flush=True)\nopen({str(log)!r}, 'a').write(input()[:8])\n"
    pool = stub(monkeypatch, tmp_path / "w.py", text)
    assert pool.compare("1", "2") == Verdict(right=False, reason="the process that compared it died")
    assert len(log.read_text()) == 16


def test_a_process_does_not_see_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    text = (
        "print('{\"ready\": true}', flush=True)\ninput()\n"
        "print(json.dumps({'right': False, 'reason': ' '.join(os.environ)}), flush=True)\ninput()"
    )
    pool = stub(monkeypatch, tmp_path / "w.py", text)
    names = pool.compare("1", "2").reason.split()
    pool.close()
    assert "PATH" in names and "OPENAI_API_KEY" not in names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("print(json.dumps({'ready': False, 'reason': 'ImportError: no antlr'}))", "(ImportError: no antlr)"),
        ("sys.exit(1)", "(it ended)"),
        ("time.sleep(60)", "(no sign of life for 0.5 s)"),
    ],
)
def test_a_process_that_does_not_start_is_told(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_pool, "START_SECONDS", 0.5)
    with pytest.raises(MissingExtraError) as caught:
        stub(monkeypatch, tmp_path / "w.py", text).compare("1", "2")
    assert str(caught.value) == f"math-verify does not start {told}: pip install math-verify"


def test_a_missing_package_is_told_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(extra: str) -> list[str]:
        return list(extras.EXTRAS[extra])

    monkeypatch.setattr(extras, "missing", missing)
    with pytest.raises(
        MissingExtraError, match=r"^comparing mathematics needs math_verify: pip install math-verify$"
    ):
        MathPool(1).compare("\\sqrt{3}", "3^{1/2}")
    problem = MathProblem(question="?", answer="27")
    assert TASK.check(problem, "27.0").value == 1


ALONE = """
import runpy, sys
worker = runpy.run_path({worker!r})
compare = worker["load"]()
print(compare("1", "2"), compare("0.5", "\\\\frac12"), compare("1", "9)"))
print(sorted({{"torch", "transformers", "asyncthink"}} & set(sys.modules)))
worker["confine"]()
import os, resource, socket, subprocess
for attempt in (
    lambda: os.system("true"),
    lambda: subprocess.Popen(["true"]),
    lambda: open({file!r}, "w"),
    lambda: os.open({file!r}, os.O_CREAT),
    lambda: os.remove({worker!r}),
    lambda: socket.socket().connect(("127.0.0.1", 9)),
):
    try:
        print("done", attempt())
    except PermissionError as error:
        print("refused")
print(resource.getrlimit(resource.RLIMIT_AS)[0] == worker["MEMORY"])
print(worker["judge"](lambda gold, answer: bytearray(2**31), "1", "2"))
"""


def test_a_worker_imports_little_and_can_do_nothing_but_compare(tmp_path: Path) -> None:
    script = ALONE.format(worker=str(math_pool.WORKER), file=str(tmp_path / "made"))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    compared, modules, *refused, limited, memory = run.stdout.splitlines()
    assert compared == "(False, '') (True, '') (False, 'it cannot be read as mathematics')"
    assert modules == "[]"
    assert refused == ["refused"] * 6
    assert limited == "True"
    assert memory == "(False, 'it takes more than 512 MB to compare')"
    assert not (tmp_path / "made").exists()


FORK = """
import os, sys
from pathlib import Path
from asyncthink.tasks import math_pool
math_pool.WORKER = Path(sys.argv[1])
before = math_pool.compare("1", "a").reason
if os.fork() == 0:
    print(math_pool.compare("1", "b").reason != before)
    sys.exit()
os.wait()
print(math_pool.compare("1", "c").reason == before)
"""


def test_a_fork_of_the_parent_gets_processes_of_its_own(tmp_path: Path) -> None:
    worker = tmp_path / "w.py"
    worker.write_text(
        "import json, os, sys\nprint('{\"ready\": true}', flush=True)\n"
        "for _ in sys.stdin:\n    print(json.dumps({'right': True, 'reason': str(os.getpid())}), flush=True)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", FORK, str(worker)], capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("True\nTrue\n", "")


PARENT = """
from threading import Thread
from asyncthink.tasks.math_pool import MathPool
pool = MathPool({idle} + 1)
threads = [Thread(target=pool.compare, args=("1", str(n), 30)) for n in range({idle} + 1)]
[each.start() for each in threads]
[each.join() for each in threads]
print(*pool.pids(), flush=True)
try:
    pool.compare("1", {hangs!r}, {seconds})
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(("end", "idle", "seconds"), [(signal.SIGKILL, 1, 0.5), (signal.SIGINT, 0, 60)])
def test_no_process_outlives_its_parent(end: signal.Signals, idle: int, seconds: float) -> None:
    """The script comes by standard input, so its __main__ is no file, as in a REPL; one of its processes hangs."""
    parent = subprocess.Popen(
        [sys.executable, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with parent:
        assert parent.stdin and parent.stdout and parent.stderr
        parent.stdin.write(PARENT.format(idle=idle, hangs=HANGS, seconds=seconds))
        parent.stdin.close()
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert children and all(map(alive, children))
        time.sleep(0.2)  # so that it is in the middle of a comparison
        os.killpg(parent.pid, end)
        assert parent.wait(10) == (-signal.SIGKILL if end is signal.SIGKILL else 0)
        assert wait_for_end(children, 8) == []
        assert parent.stderr.read() == ""
        assert parent.stdout.read() == ("" if end is signal.SIGKILL else "stopped\n")
