"""Minimum vertex cover: the optimum against a full search, splits, sentences, and hostile answers."""

from __future__ import annotations

import hashlib
import random
import time
from itertools import combinations
from string import ascii_uppercase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink.errors import UsageError
from asyncthink.tasks import Split, VertexCover, VertexCoverProblem, get_task, judge, recognise
from asyncthink.tasks.vertex_cover import fewest, split_of

TASK = VertexCover()
SQUARE = VertexCoverProblem(
    vertices=("A", "B", "C", "D"), edges=(("A", "B"), ("B", "C"), ("C", "D"), ("D", "A"), ("A", "C"))
)
"""A square with one diagonal: A and C alone cover it."""


def problems(most: int = 9) -> st.SearchStrategy[VertexCoverProblem]:
    def graph(count: int, data: random.Random) -> VertexCoverProblem:
        vertices = tuple(data.sample(ascii_uppercase, count))
        pairs = list(combinations(vertices, 2))
        return VertexCoverProblem(
            vertices=vertices, edges=tuple(data.sample(pairs, data.randint(1, len(pairs))))
        )

    return st.builds(graph, st.integers(2, most), st.randoms(use_true_random=False))


def covers(problem: VertexCoverProblem, chosen: tuple[str, ...]) -> bool:
    return all(one in chosen or other in chosen for one, other in problem.edges)


def smallest(problem: VertexCoverProblem) -> int:
    """The optimum by looking at all sets of vertices, the small ones first."""
    sizes = range(len(problem.vertices) + 1)
    return next(n for n in sizes if any(covers(problem, c) for c in combinations(problem.vertices, n)))


def complete(size: int) -> VertexCoverProblem:
    vertices = tuple(ascii_uppercase[:size])
    return VertexCoverProblem(vertices=vertices, edges=tuple(combinations(vertices, 2)))


@given(problems(8))
def test_the_optimum_is_that_of_a_full_search(problem: VertexCoverProblem) -> None:
    assert fewest(problem) == smallest(problem)
    for size in range(fewest(problem) + 2):
        for chosen in combinations(problem.vertices, size):
            right = covers(problem, chosen) and size == smallest(problem)
            assert TASK.check(problem, " ".join(chosen)).value == right


def test_optima_worked_out_by_hand() -> None:
    """Complete graphs, cycles, stars, and the Petersen graph."""
    assert [fewest(complete(size)) for size in (2, 3, 9, 16)] == [1, 2, 8, 15]
    names = ascii_uppercase
    for size, cover in ((3, 2), (6, 3), (7, 4), (16, 8)):
        cycle = tuple((names[i], names[(i + 1) % size]) for i in range(size))
        assert fewest(VertexCoverProblem(vertices=tuple(names[:size]), edges=cycle)) == cover
    star = tuple(("A", name) for name in names[1:16])
    assert fewest(VertexCoverProblem(vertices=tuple(names[:16]), edges=star)) == 1
    outer = [(i, (i + 1) % 5) for i in range(5)]
    inner = [(5 + i, 5 + (i + 2) % 5) for i in range(5)]
    petersen = [*outer, *inner, *((i, i + 5) for i in range(5))]
    edges = tuple((names[i], names[j]) for i, j in petersen)
    assert fewest(VertexCoverProblem(vertices=tuple(names[:10]), edges=edges)) == 6


def test_split_is_the_hash_of_the_edges() -> None:
    assert split_of(SQUARE.edges) is split_of([("C", "B"), ("A", "B"), ("C", "A"), ("C", "D"), ("A", "D")])
    for edges, text in (
        ([("A", "B")], "A-B"),
        ([("C", "B"), ("B", "A")], "A-B,B-C"),
        ([("D", "A"), ("B", "C"), ("A", "C")], "A-C,A-D,B-C"),
    ):
        bucket = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % 10
        assert split_of(edges) is {0: Split.TEST, 1: Split.DEV}.get(bucket, Split.TRAIN)


def connected(problem: VertexCoverProblem) -> bool:
    reached = {problem.vertices[0]}
    for _ in problem.vertices:
        reached |= {name for edge in problem.edges if reached & set(edge) for name in edge}
    return reached == set(problem.vertices)


@pytest.mark.parametrize("split", list(Split))
def test_graphs_are_reproducible_alone_and_connected(split: Split) -> None:
    drawn = [TASK.problem(split, 3, index) for index in range(200)]
    assert drawn[7] == TASK.problem(split, 3, 7)
    assert len(set(drawn)) > 195
    assert {len(problem.vertices) for problem in drawn} == {6, 7, 8, 9}
    for problem in drawn:
        assert split_of(problem.edges) is split
        assert connected(problem)
        assert len(problem.vertices) <= len(problem.edges) <= 2 * len(problem.vertices)
        assert list(problem.edges) == sorted(map(tuple, map(sorted, problem.edges)))
    assert TASK.available(split) is None


def test_a_problem_that_was_drawn_stays_the_same() -> None:
    assert TASK.prompt(TASK.problem(Split.DEV, 0, 0)) == (
        "Find a minimum vertex cover of the graph with vertices A, B, C, D, E, F, G "
        "and edges A-C, A-E, A-F, A-G, B-C, B-D, C-E, C-F, F-G."
    )


@given(problems(16))
def test_sentence_and_values_are_read_back(problem: VertexCoverProblem) -> None:
    assert TASK.parse(TASK.prompt(problem)) == problem
    assert (
        TASK.read({"vertices": list(problem.vertices), "edges": [list(e) for e in problem.edges]}) == problem
    )


def test_the_largest_graph_is_read_and_judged_at_once() -> None:
    problem = complete(16)
    assert TASK.parse(TASK.prompt(problem)) == problem
    fewest.cache_clear()
    began = time.process_time()
    assert TASK.check(problem, ", ".join(problem.vertices[:15])).value == 1
    assert time.process_time() - began < 0.05


@pytest.mark.parametrize(
    "sentence",
    [
        "Find a minimum vertex cover of the graph with vertices A, B, C, D and edges A-B, B-C, C-D, D-A, A-C.",
        "find the Minimum vertex cover of the graph\nwith vertices a b c d and edges a-b b-c c-d d-a a-c",
        "Find a minimum vertex cover of the graph with vertices A,B,C and D, and edges A - B,B-C,C-D, D-A, and A-C .",
    ],
)
def test_people_write_the_sentence_in_several_ways(sentence: str) -> None:
    known = recognise(sentence)
    assert known is not None and (known.task, known.problem) == (get_task("vertex_cover"), SQUARE)


@pytest.mark.parametrize(
    ("vertices", "edges", "told"),
    [
        ("A, B", "A-A", "itself"),
        ("A, B", "A-B, B-A", "twice"),
        ("A, B", "A-B, A-B", "twice"),
        ("A, B", "A-C", "no vertex"),
        ("A, B, A", "A-B", "same name"),
        ("A", "A-B", "2 to 16"),
        (", ".join(ascii_uppercase[:17]), "A-B", "2 to 16"),
    ],
)
def test_graphs_that_make_no_sense_are_an_error(vertices: str, edges: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        recognise(f"Find a minimum vertex cover of the graph with vertices {vertices} and edges {edges}.")
    assert "\n" not in str(caught.value)


NONSENSE: list[dict[str, Any]] = [
    {},
    {"vertices": ["A", "B"]},
    {"vertices": ["A", "B"], "edge": [["A", "B"]]},
    {"vertices": ["A", "B"], "edges": []},
    {"vertices": "AB", "edges": [["A", "B"]]},
    {"vertices": ["A", "B"], "edges": ["AB"]},
    {"vertices": ["A", "B"], "edges": [["A"]]},
    {"vertices": ["A", "B"], "edges": [["A", "B", "B"]]},
    {"vertices": ["A", "B"], "edges": [["A", ["B"]]]},
    {"vertices": ["A", 2], "edges": [["A", 2]]},
    {"vertices": ["A", "BB"], "edges": [["A", "BB"]]},
    {"vertices": ["A", "b"], "edges": [["A", "b"]]},
    {"vertices": ["A", "Ä"], "edges": [["A", "Ä"]]},
    {"vertices": ["A", ""], "edges": [["A", ""]]},
    {"vertices": None, "edges": None},
]


@pytest.mark.parametrize("values", NONSENSE)
def test_values_that_make_no_sense_are_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TASK.read(values)


@pytest.mark.parametrize("answer", ["A, C", "C A", "{A, C}", "[C,A]", "(A\nC)", " A,\tC. ", "A,C,"])
def test_a_list_in_any_order_and_brackets(answer: str) -> None:
    assert TASK.check(SQUARE, answer).value == 1
    assert judge("vertex_cover", {"vertices": SQUARE.vertices, "edges": SQUARE.edges}, answer).value == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("A, B", "the edge C-D is not covered"),
        ("A", "the edge B-C is not covered"),
        ("A, B, C", "it takes 3 vertices where 2 are enough"),
        ("A, C, A", "A is named twice"),
        ("A, C, E", "'E' is no vertex"),
        ("a, c", "'a' is no vertex"),
        ("AC", "'AC' is no vertex"),
        ("{A, C", "'{A' is no vertex"),
        ("{A, C]", "'{A' is no vertex"),
        ("A and C", "'and' is no vertex"),
        ("", "no vertex"),
        ("{}", "no vertex"),
        ("A, C" + " " * 1000, "too long"),
    ],
)
def test_the_first_fault_is_told(answer: str, told: str) -> None:
    score = TASK.check(SQUARE, answer)
    assert score.value == 0
    assert told in score.reason


def test_merge_counts_sets_and_not_spellings() -> None:
    assert TASK.merge(["B, D", "B, D", "C, A", "{A, C}", "A C"]) == "A, C"
    assert TASK.merge(["I think so", "I think so", "A C"]) == "I think so"


def test_pool_takes_the_best() -> None:
    assert TASK.pool(SQUARE, ["A", "A, C", "A, B, C"]).value == 1


def hostile_answers() -> list[str]:
    shapes = [
        "9**9**8",
        "__import__('os').system('true')",
        "{" * 10_000_000,
        "{" * 400 + "A, C" + "}" * 400,
        "A," * 5_000_000,
        "A" * 10_000_000,
        "," * 1000,
        " " * 10_000_000,
        "A, C\x00",
        "A, C\ud800",
        "Α, С",  # Greek and Cyrillic
        "Ａ, Ｃ",
        "\u202eA, C",
        "<ANSWER>A, C</ANSWER>",
        "A, C</ANSWER>",
        "A, C; B",
        "A-C",
    ]
    rng = random.Random(1)
    alphabet = "ABDE ,{}[]().\n"
    while len(shapes) < 200:
        shapes.append("".join(rng.choice(alphabet) for _ in range(rng.choice([5, 40, 1000]))))
    return shapes


def test_hostile_answers_cost_little_and_earn_nothing() -> None:
    slowest = 0.0
    for answer in hostile_answers():
        began = time.process_time()
        score = TASK.check(SQUARE, answer)
        slowest = max(slowest, time.process_time() - began)
        assert score.value == 0, answer[:80]
        assert score.reason.isprintable() and len(score.reason) < 250
        TASK.merge([answer, "A, C"])
    assert slowest < 0.05


@given(
    st.text()
    | st.text("ABCD,{}[]. \n-")
    | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
)
def test_no_text_raises(text: str) -> None:
    assert TASK.check(SQUARE, text).value in (0, 1)
    assert TASK.merge([text, text]) == TASK.merge([TASK.merge([text])])
    assert TASK.parse(text) is None


@given(st.text("ABab-, nd.", max_size=60), st.text("ABab-, nd.", max_size=60))
def test_a_sentence_is_read_or_refused_in_one_line(vertices: str, edges: str) -> None:
    try:
        problem = TASK.parse(
            f"Find a minimum vertex cover of the graph with vertices {vertices} and edges {edges}"
        )
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert problem is None or TASK.parse(TASK.prompt(problem)) == problem


def test_long_sentences_cost_little() -> None:
    head = "Find a minimum vertex cover of the graph with vertices "
    began = time.process_time()
    for tail in (
        "A, " * 640,
        "A and " * 320,
        "A " * 960,
        "A and edges " + "A-B " * 450,
        "A" + " ," * 900,
        " " * 10**7,
    ):
        assert TASK.parse(head + tail + "!") is None
    assert time.process_time() - began < 0.1
