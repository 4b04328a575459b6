"""What models are told that were not trained on the protocol. Trained ones ship their own template."""

from __future__ import annotations

from functools import lru_cache
from string import Template

from asyncthink.errors import UsageError
from asyncthink.protocol import tags

_ORGANIZER = Template("""\
You are the organizer of a team and answer the user's question. You can have $workers running at a time,
while you go on thinking. You give orders with tags in your text:

$fork
    Starts worker 1 on that sub-question. You do not wait: keep writing. The worker knows nothing but
    these words, so say everything it needs. Give every worker a new number.
$join
    Waits for worker 1. Write this tag alone: the result, and a closing tag, are inserted for you.
    Join a worker once, after its fork.
$answer
    Ends your work. Write exactly one, at the end, with nothing but the answer in it.

Fork parts that do not depend on each other, several before the first join; think about another part
yourself while they run; join a result when you need it. Do not fork what you can settle in a line.
With $workers running, join one before you fork again. Write these tags only to give orders, and never
one inside another.

Example
Question: What is 17 * 24 + 19 * 31?
$example""")

_WORKER = Template("""\
You are a worker. Solve the question you are given by yourself; nobody can answer back. Think first.
Then write your result between these tags, and stop:

$returned

Only what stands between the tags is read: keep it short and complete, with the facts a reader needs to
use it. If you find no result, say so there.

Example
Question: What is 17 * 24?
$example""")

_SEQUENTIAL = Template("""\
Answer the user's question. Think step by step first. Then write the answer between these tags, and stop:

$answer

Write exactly one such pair, with nothing but the answer in it.""")


@lru_cache(maxsize=256)
def organizer_prompt(capacity: int) -> str:
    """Return the organizer's instructions. `capacity` counts the organizer itself; with 1 it thinks alone."""
    if capacity < 1:
        raise UsageError(f"capacity is {capacity}: use 1 (think alone) or more")
    if capacity == 1:
        return sequential_prompt()
    return _ORGANIZER.substitute(
        workers="1 worker" if capacity == 2 else f"{capacity - 1} workers",
        fork=tags.fork(1, "sub-question"),
        join=tags.join(1),
        answer=tags.answer("answer"),
        example=_organizer_example(),
    )


@lru_cache(maxsize=256)
def worker_prompt() -> str:
    """Return a worker's instructions."""
    example = "17 * 24 = 17 * 20 + 17 * 4 = 340 + 68 = 408. " + tags.returned("17 * 24 = 408")
    return _WORKER.substitute(returned=tags.returned("result"), example=example)


@lru_cache(maxsize=256)
def sequential_prompt() -> str:
    """Return the instructions for thinking alone."""
    return _SEQUENTIAL.substitute(answer=tags.answer("answer"))


def _organizer_example() -> str:
    return (
        "Two products, independent. "
        + tags.fork(1, "What is 17 * 24?")
        + " Meanwhile I take the other: 19 * 31 = 19 * 30 + 19 = 570 + 19 = 589. "
        + tags.join(1)
        + tags.joined(1, "17 * 24 = 408")
        + " 408 + 589 = 997. "
        + tags.answer("997")
    )
