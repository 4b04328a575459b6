"""Scripted thoughts with the critical path, eta/c and format errors that were worked out by hand.

A token of the scripted engine is a word or a tag with the white space before it.
"""

from __future__ import annotations

FORK1, FORK2, FORK3 = ("<FORK-1>a</FORK-1>", "<FORK-2>b</FORK-2>", "<FORK-3>c</FORK-3>")
DONE = "<ANSWER>x</ANSWER>"


def work(tokens: int, text: str = "r") -> str:
    """Return a worker's text of so many tokens, 3 of them its return."""
    return " ".join(["w"] * (tokens - 3)) + f" <RETURN>{text}</RETURN>"


CASES: list[tuple[str, str, dict[str, str], int, int, int, list[str]]] = [
    # Fork ends at 3, worker 4..13, join arrives at 4, answer 14..16; a_t = 1*4 + 10 workers + 3.
    ("fork then join at once", f"{FORK1} <JOIN-1> {DONE}", {"a": work(10)}, 2, 16, 17, []),
    # The join (tick 11) comes when the worker (4..8) is long done: no wait.
    ("late join", f"{FORK1} 1 2 3 4 5 6 7 <JOIN-1> {DONE}", {"a": work(5)}, 2, 14, 19, []),
    # Never joined: neither T nor eta count it.
    ("unjoined fork", f"{FORK1} 1 2 {DONE}", {"a": work(4)}, 2, 8, 8, []),
    # Fork 2 ends at 6 and finds worker 1 (4..13) in the only slot: it runs in 14..18, joined from 7 on.
    ("queued worker", f"{FORK1} {FORK2} <JOIN-2> {DONE}", {"a": work(10), "b": work(5)}, 2, 21, 15, ["po"]),
    # Worker 1 is 4..6, fork 2 ends at 6: the slot is free at that very tick, no overflow.
    (
        "slot free just in time",
        f"{FORK1} {FORK2} <JOIN-2> {DONE}",
        {"a": work(3), "b": work(3)},
        2,
        12,
        13,
        [],
    ),
    # Joins in the other order: worker 1 is 4..23, worker 2 is 7..9; join 2 at 7 waits to 9, join 1 to 23.
    (
        "interleaved",
        f"{FORK1} {FORK2} <JOIN-2> <JOIN-1> {DONE}",
        {"a": work(20), "b": work(3)},
        3,
        26,
        8 + 20 + 3 + 3,
        [],
    ),
    ("sequential by choice", f"1 2 3 4 {DONE}", {}, 4, 7, 7, []),
    ("duplicate fork", f"{FORK1} {FORK1} <JOIN-1> {DONE}", {"a": work(3)}, 2, 10, 13, ["df"]),
    ("unknown join", f"1 <JOIN-3> {DONE}", {}, 2, 5, 5, ["uj"]),
    ("duplicate join", f"{FORK1} <JOIN-1> <JOIN-1> {DONE}", {"a": work(3)}, 2, 10, 11, ["dj"]),
    ("no answer", "1 2 3", {}, 2, 3, 3, ["na"]),
    ("malformed tag", f"1 <FORK-x> 2 {DONE}", {}, 2, 6, 6, ["mt"]),
    ("return in organizer text", f"<RETURN> 2 {DONE}", {}, 2, 5, 5, ["mt"]),
    ("nested fork", f"<FORK-1>a <FORK-2>b</FORK-2> <JOIN-2> {DONE}", {"b": work(3)}, 2, 11, 12, ["mt"]),
]
NAMES = {
    "po": "pool_overflow",
    "df": "duplicate_fork",
    "uj": "unknown_join",
    "dj": "duplicate_join",
    "na": "no_answer",
    "mt": "malformed_tag",
}
