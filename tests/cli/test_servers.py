"""The command line against a server of the OpenAI interface, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest
from fault_server.control import FaultServer

from asyncthink.episodes.store import RunDirectory

KEY = "sk-0b7e2d6c55"
QUERY = "Is 2027 prime? Prove it two ways."
SCRIPT = {
    "organizer": "<FORK-1>Try the primes up to 43.</FORK-1> Meanwhile Fermat. <JOIN-1> <ANSWER>It is prime.</ANSWER>",
    "workers": {"*": "none divides it <RETURN>prime</RETURN>"},
}


@pytest.fixture(scope="module")
def server() -> Generator[FaultServer]:
    with FaultServer() as process:
        process.configure({"script": SCRIPT, "query": QUERY, "key": KEY})
        yield process


def run(
    *arguments: str, key: str | None = KEY, base_url: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment |= {"OPENAI_API_KEY": key} if key else {}
    environment |= {"OPENAI_BASE_URL": base_url} if base_url else {}
    command = [sys.executable, "-c", "from asyncthink.cli.main import run; run()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_a_question_is_thought_through(server: FaultServer, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[scripted]\ninput = 0\noutput = 1_000_000\n")
    arguments = ["--json", "--output", str(tmp_path / "run"), "--prices", str(prices), "--max-cost", "28"]
    result = run("think", QUERY, "--model", "openai:scripted", "--base-url", server.url, *arguments)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["answer"], told["stop_reason"], told["format_errors"]) == ("It is prime.", "answer", [])
    assert (told["metrics"]["forks"], told["metrics"]["requests"]) == (1, 3)
    assert 17 <= told["metrics"]["cost"] <= 28
    assert re.fullmatch(r"asyncthink: [89][0-9]% of max_cost is spent: [0-9]+ of 28\n", result.stderr)
    assert result.stderr.count("\n") == 1
    (episode,) = RunDirectory.open(tmp_path / "run").episodes()
    assert episode.answer == "It is prime."
    kept = "".join(path.read_text() for path in (tmp_path / "run").iterdir() if path.is_file())
    assert KEY not in kept + result.stdout + result.stderr
    assert server.url in kept


@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_the_baselines_think_alone(server: FaultServer, method: str) -> None:
    server.configure(
        {"script": {"organizer": "Fermat says <ANSWER>yes</ANSWER>"}, "query": QUERY, "key": KEY}
    )
    result = run("think", QUERY, "--model", "openai:scripted", "--method", method, base_url=server.url)
    server.configure({"script": SCRIPT, "query": QUERY, "key": KEY})
    assert result.returncode == 0, result.stderr
    assert "yes" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "key", "status", "said"),
    [
        (["--model", "openai:scripted"], None, 2, "needs a key: export OPENAI_API_KEY=..., or --base-url"),
        (["--model", "openai:", "--base-url", "URL"], KEY, 2, "needs the model's name"),
        (["--model", "openai:scripte", "--base-url", "URL"], KEY, 2, "did you mean 'scripted'?"),
        (["--model", "openai:scripted", "--base-url", "URL"], "sk-wrong", 4, "check OPENAI_API_KEY"),
        (
            ["--model", "openai:m", "--base-url", "http://127.0.0.1:9/v1"],
            None,
            4,
            "connection refused: is the",
        ),
        (
            ["--model", "embedded", "--base-url", "URL"],
            None,
            2,
            "base_url only make sense with --model openai:",
        ),
        (["--model", "openai:m", "--base-url", "URL", "--max-cost", "1"], KEY, 2, "--prices FILE"),
        (["--model", "openai:m", "--base-url", "URL", "--prices", "/none"], KEY, 2, "/none: No such file"),
        (["--model", "openai:m", "--base-url", "URL", "--prompts", "/none"], KEY, 2, "/none: No such file"),
        (
            ["--model", "openai:m", "--base-url", "URL", "--tokenizer", "/none"],
            KEY,
            4,
            "no checkpoint folder",
        ),
    ],
)
def test_bad_input_is_one_line(
    server: FaultServer, arguments: list[str], key: str | None, status: int, said: str
) -> None:
    given = [server.url if each == "URL" else each for each in arguments]
    result = run("think", "Why?", *given, key=key)
    assert (result.returncode, result.stdout) == (status, "")
    assert said in result.stderr
    assert result.stderr.startswith("asyncthink: ") and result.stderr.count("\n") == 1


def test_doctor_says_what_a_server_can_do(server: FaultServer) -> None:
    result = run("doctor", "--model", "openai:scripted", base_url=server.url)
    assert "yes   routes: /chat/completions, /completions" in result.stdout
    assert "what follows: agents decode through /chat/completions" in result.stdout
    assert result.returncode in (0, 4)  # the script knows doctor's question no answer
    broken = run("doctor", "--model", "openai:none", base_url=server.url)
    assert broken.returncode == 2
    assert "FAIL  model openai:none: unknown model" in broken.stdout


def test_prompts_are_printed_to_be_copied(tmp_path: Path) -> None:
    texts = tomllib.loads(run("prompts").stdout)
    assert set(texts) == {"organizer", "worker", "alone", "missing_answer", "missing_return"}
    copy = tmp_path / "mine.toml"
    copy.write_text('worker = "Be brief: $returned"')
    assert run("prompts", "worker", "--prompts", str(copy)).stdout == "Be brief: <RETURN>result</RETURN>\n"
    assert "6 workers" in run("prompts", "organizer", "--capacity", "7").stdout
    assert run("prompts", "judge").returncode == 2
