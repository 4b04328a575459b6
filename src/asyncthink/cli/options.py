"""What all commands share: options that are also environment variables, and one way to fail."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, ParamSpec, TypeAlias, TypeVar

import typer

from asyncthink.errors import AsyncThinkError

INTERRUPTED = 130
FAILED_OUTPUT = 1
P = ParamSpec("P")
R = TypeVar("R")


def option(name: str, text: str, **settings: Any) -> Any:
    """Return an option; `--max-tokens` is also set by ASYNCTHINK_MAX_TOKENS."""
    variable = "ASYNCTHINK_" + name.partition("/")[0].lstrip("-").upper().replace("-", "_")
    return typer.Option(name, envvar=variable, show_envvar=False, help=text, **settings)


MODEL = "embedded, embedded-sft, embedded-base, hf:FOLDER, openai:NAME, scripted:FILE, or pair:ORGANIZER,WORKER of two."
BaseUrl: TypeAlias = Annotated[
    str | None,
    option(
        "--base-url",
        "openai: the server's address, up to /v1; several with commas. [default: OPENAI_BASE_URL]",
    ),
]
Api: TypeAlias = Annotated[str | None, option("--api", "openai: chat, completions, or auto.")]
Tokenizer: TypeAlias = Annotated[
    str | None,
    option("--tokenizer", "openai: folder of the served checkpoint; the server is sent token ids."),
]
Continuation: TypeAlias = Annotated[
    str | None,
    option(
        "--continuation", "openai: how chat goes on from the model's text: auto, flags, plain, mark or turns."
    ),
]
MaxConcurrency: TypeAlias = Annotated[
    int | None, option("--max-concurrency", "openai: requests at a time to each server. [default: 256]")
]
MaxTokens: TypeAlias = Annotated[int | None, option("--max-tokens", "Decoded tokens, all agents.")]
MaxCriticalPath: TypeAlias = Annotated[int | None, option("--max-critical-path", "Cap on T.")]
MaxOrganizerTokens: TypeAlias = Annotated[
    int | None, option("--max-organizer-tokens", "Decoded tokens of the organizer, or of each trace.")
]
MaxWorkerTokens: TypeAlias = Annotated[
    int | None, option("--max-worker-tokens", "Decoded tokens of each worker.")
]
MaxForks: TypeAlias = Annotated[int | None, option("--max-forks", "Workers that are started in an episode.")]
Deadline: TypeAlias = Annotated[float | None, option("--deadline", "Wall seconds of an episode.")]
MaxCost: TypeAlias = Annotated[
    float | None, option("--max-cost", "What an episode's requests may cost; needs --prices.")
]
Prices: TypeAlias = Annotated[str | None, option("--prices", "Price table (TOML): see docs/servers.md.")]
PromptsFile: TypeAlias = Annotated[
    str | None, option("--prompts", "Prompts (TOML) for untrained models: see `asyncthink prompts`.")
]
Reminders: TypeAlias = Annotated[
    bool | None,
    option("--reminders/--no-reminders", "Ask once for a forgotten last tag. [default: untrained models]"),
]


def fail(message: str, status: int) -> NoReturn:
    """End the command with one line on standard error."""
    line = " ".join(message.split())
    sys.stderr.write(f"asyncthink: {line}\n")
    raise typer.Exit(status)


def _leave_pipe() -> NoReturn:
    """Whoever read the output has seen enough: end quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors raised on purpose, and an interruption, into one line and an exit status."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except AsyncThinkError as error:
            fail(str(error), error.exit_status)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses it again gets no traceback
            fail("interrupted", INTERRUPTED)
        except BrokenPipeError:
            _leave_pipe()
        except OSError as error:  # such as a full disk behind standard output
            fail(f"{error.filename or 'output'}: {error.strerror or error}", FAILED_OUTPUT)

    return guarded
