"""The child process in which math-verify decides whether two values are equal; `math_pool` starts it as a script.

It speaks one JSON object a line over its pipes: first `{"ready": true}`, then for each
`{"gold", "answer", "seconds"}` one `{"right", "reason"}`. It imports nothing of this package, so that it starts fast.

math-verify rewrites a value with regular expressions, parses it with a grammar (ANTLR, by
latex2sympy2_extended) into a sympy expression that is left unevaluated, and compares by evaluating both,
numerically and then by simplification. Only its LaTeX extraction is used: its extraction of plain text ends in
sympy's parse_expr, which is `eval`. So a value cannot name a Python object: `__import__('os')` is a symbol or a
syntax error. What it can do is ask for work. 9^{9^9}, (10^8)!, sums of 10^9 terms, identity matrices of 20,000
rows and brackets nested 900 deep keep sympy or the parser busy for minutes or fill the memory, and nothing
inside of Python can be relied on to stop that: an alarm waits for the end of a long multiplication. So this
process may be killed at any moment: by the pool at the limit, by its own alarm (which no Python code handles) a
second later when the pool is gone. Its memory is limited. Should an expression find a way to run code after
all, the process can start no program, open no connection and write no file, and its environment holds no keys.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

Compare = Callable[[str, str], tuple[bool, str]]

MEMORY = 512 * 2**20
"""Bytes of address space; sympy with math-verify takes 65 MB, and 80 MB after hundreds of large values."""
LOOK = 2.0
"""Seconds between looks whether the parent is still there."""
ROUNDING = 10
"""Digits after the point to which a decimal must agree with an exact value: math-verify's own 6 would take
1.414214 for the root of 2."""
REFUSED = (
    *("os.exec", "os.fork", "os.kill", "os.link", "os.posix_spawn", "os.remove", "os.rename", "os.spawn"),
    *("os.symlink", "os.system", "os.truncate", "pty.", "shutil.", "socket.", "subprocess.", "ctypes."),
)
"""Audit events, by how they begin, that checking mathematics never causes."""


def load() -> Compare:
    """Import math-verify and return what compares a gold answer with another, in that order."""
    logging.disable()
    from math_verify import (  # pyright: ignore[reportMissingTypeStubs]
        LatexExtractionConfig,
        parse,
        verify,
    )

    latex = [LatexExtractionConfig()]

    def read(value: str) -> Any:
        # A time-out of 0 is none: math-verify's own would take the alarm of this process.
        found = cast("list[Any]", parse(f"${value}$", latex, parsing_timeout=0, raise_on_error=True))
        return next((each for each in found if not isinstance(each, str)), None)

    def compare(gold: str, answer: str) -> tuple[bool, str]:
        expected, value = read(gold), read(answer)
        if expected is None:
            return False, "the gold answer cannot be read as mathematics"
        if value is None:
            return False, "it cannot be read as mathematics"
        right: bool = verify(expected, value, float_rounding=ROUNDING, timeout_seconds=0, raise_on_error=True)
        return right, ""

    # The first comparison imports and builds what all later ones need.
    compare(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}")
    return compare


def judge(compare: Compare, gold: str, answer: str) -> tuple[bool, str]:
    """Compare; whatever goes wrong is a reason."""
    try:
        return compare(gold, answer)
    except MemoryError:
        return False, f"it takes more than {MEMORY >> 20} MB to compare"
    except RecursionError:
        return False, "it is nested too deeply"
    except Exception:
        return False, "it cannot be read as mathematics"


def confine() -> None:
    """Give up everything that a comparison does not need; there is no way back."""
    sys.dont_write_bytecode = True
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with suppress(OSError, ValueError):  # not every system has all of them
            resource.setrlimit(what, (most, most))
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(REFUSED):
        raise PermissionError(f"{event} is refused here")


def requests(parent: int) -> Iterator[dict[str, Any]]:
    """Yield what is asked until the pipe is closed or the parent is gone."""
    waiting = b""
    # A process that the parent forked may hold the pipe open after the parent's death, so its id is looked at too.
    while os.getppid() == parent:
        if not select.select([0], [], [], LOOK)[0]:
            continue
        read = os.read(0, 65536)
        if not read:
            return
        *lines, waiting = (waiting + read).split(b"\n")
        for line in lines:
            yield json.loads(line)


def main(parent: int) -> None:
    """Answer requests until there is nobody left to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w")
    # What a library prints must not be taken for a reply.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(**values: Any) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    try:
        compare = load()
    except Exception as error:
        tell(ready=False, reason=f"{type(error).__name__}: {error}")
        return
    confine()
    with suppress(BrokenPipeError):
        tell(ready=True)
        for request in requests(parent):
            signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1)
            right, reason = judge(compare, request["gold"], request["answer"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            tell(right=right, reason=reason)


if __name__ == "__main__":
    main(int(sys.argv[1]))
