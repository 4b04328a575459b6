"""Minimum vertex cover: the fewest vertices of a small graph that hold at least one end of every edge.

Drawn graphs are connected, with 6 to 9 vertices. Each belongs to one split by a hash of its edges, so that no
graph of dev or test is seen in training; the same graph under other names is another one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from random import Random
from string import ascii_uppercase
from typing import Any, TypeAlias, cast

from asyncthink.errors import UsageError
from asyncthink.tasks.base import OneAnswer, Score, Split, columns, majority, split_of_text

Edge: TypeAlias = tuple[str, str]

SIZES = range(6, 10)
"""How many vertices a drawn graph has; it has as many edges to twice as many."""
MAX_VERTICES = 16
MAX_ANSWER_CHARS = 1000
"""A longer answer is refused; a list of all vertices of the largest graph is a fraction of it."""
MAX_SENTENCE_CHARS = 2000
SHOWN_CHARS = 20


def _is_name(text: str) -> bool:
    return len(text) == 1 and text in ascii_uppercase


@dataclass(frozen=True, kw_only=True, slots=True)
class VertexCoverProblem:
    """Cover all edges with as few vertices as possible."""

    vertices: tuple[str, ...]
    """Capital letters."""
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.vertices) <= MAX_VERTICES:
            raise UsageError(f"vertex_cover takes 2 to {MAX_VERTICES} vertices, not {len(self.vertices)}")
        if not all(map(_is_name, self.vertices)):
            raise UsageError("vertices are named by single capital letters, as in A, B, C")
        if len(set(self.vertices)) != len(self.vertices):
            raise UsageError("two vertices have the same name; name each once")
        if not self.edges:
            raise UsageError("the graph has no edge to cover; give at least one, as in A-B")
        seen: set[Edge] = set()
        for one, other in self.edges:
            if one not in self.vertices or other not in self.vertices:
                raise UsageError("an edge has an end that is no vertex of the graph; list all vertices")
            if one == other:
                raise UsageError(f"the edge {one}-{other} joins a vertex to itself; leave it out")
            if (one, other) in seen:
                raise UsageError(f"the edge {one}-{other} is there twice; give each once")
            seen |= {(one, other), (other, one)}


def split_of(edges: Sequence[Edge]) -> Split:
    """Return the split of a graph, by the text of its edges in order, as in `A-B,A-C,B-D`."""
    return split_of_text(",".join(sorted("-".join(sorted(edge)) for edge in edges)))


@lru_cache(maxsize=1024)
def fewest(problem: VertexCoverProblem) -> int:
    """Return the size of a minimum vertex cover."""
    neighbours: dict[str, set[str]] = {name: set() for name in problem.vertices}
    for one, other in problem.edges:
        neighbours[one].add(other)
        neighbours[other].add(one)
    return _fewest(neighbours)


def _fewest(neighbours: Mapping[str, set[str]]) -> int:
    """Branch on a vertex with the most edges: it is in the cover, or all its neighbours are."""
    vertex = max(neighbours, key=lambda name: len(neighbours[name]), default="")
    if not vertex or not neighbours[vertex]:
        return 0
    taken = neighbours[vertex]
    with_it = 1 + _fewest(_removed(neighbours, {vertex}))
    if len(taken) == 1:
        return with_it
    return min(with_it, len(taken) + _fewest(_removed(neighbours, taken)))


def _removed(neighbours: Mapping[str, set[str]], gone: set[str]) -> dict[str, set[str]]:
    return {name: others - gone for name, others in neighbours.items() if name not in gone}


_AND = "(?: ?, ?| ?,? and | )"
_SENTENCE = re.compile(
    rf"Find (?:a|the) minimum vertex cover of the graph with vertices (?P<vertices>[A-Z](?:{_AND}[A-Z])*)"
    rf" ?,? and edges? (?P<edges>[A-Z] ?- ?[A-Z](?:{_AND}[A-Z] ?- ?[A-Z])*) ?\.?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class VertexCover(OneAnswer[VertexCoverProblem]):
    """The task."""

    name: str = "vertex_cover"
    capacity: int = 4

    def available(self, split: Split) -> None:
        """Return None: as many problems as are asked for."""

    def problem(self, split: Split, seed: int, index: int) -> VertexCoverProblem:
        """Make one connected graph of the split."""
        random = Random(f"vertex_cover:{split}:{seed}:{index}")
        while True:
            vertices = tuple(ascii_uppercase[: random.choice(SIZES)])
            edges = _connected(random, vertices)
            if split_of(edges) is split:
                return VertexCoverProblem(vertices=vertices, edges=edges)

    def splits(self, problem: VertexCoverProblem) -> Collection[Split]:
        """Return that of its edges."""
        return (split_of(problem.edges),)

    def read(self, values: Mapping[str, Any]) -> VertexCoverProblem:
        """Make a problem from `{"vertices": ["A", "B", "C"], "edges": [["A", "B"], ["B", "C"]]}`."""
        columns(values, ["vertices", "edges"])
        edges: list[Edge] = []
        for edge in _listed(values["edges"], 'edges are a list of pairs, as in [["A", "B"], ["B", "C"]]'):
            ends = _names(edge, 'an edge is a pair of vertices, as in ["A", "B"]')
            if len(ends) != 2:
                raise UsageError(f'an edge has 2 ends, as in ["A", "B"], not {len(ends)}')
            edges.append((ends[0], ends[1]))
        vertices = _names(values["vertices"], 'vertices are a list of names, as in ["A", "B", "C"]')
        return VertexCoverProblem(vertices=vertices, edges=tuple(edges))

    def prompt(self, problem: VertexCoverProblem) -> str:
        """Return the problem as a sentence; `parse` reads it back."""
        vertices, edges = ", ".join(problem.vertices), ", ".join(map("-".join, problem.edges))
        plural = "edges" if len(problem.edges) > 1 else "edge"
        return f"Find a minimum vertex cover of the graph with vertices {vertices} and {plural} {edges}."

    def parse(self, sentence: str) -> VertexCoverProblem | None:
        """Read the sentence; raises UsageError where it states no simple graph."""
        if len(sentence) > MAX_SENTENCE_CHARS:
            return None
        found = _SENTENCE.fullmatch(" ".join(sentence.split()))
        if found is None:
            return None
        edges = re.findall(r"\b([A-Z]) ?- ?([A-Z])\b", found["edges"].upper())
        return VertexCoverProblem(
            vertices=tuple(re.findall(r"\b[A-Z]\b", found["vertices"].upper())),
            edges=tuple((one, other) for one, other in edges),
        )

    def check(self, problem: VertexCoverProblem, answer: str) -> Score:
        """Score 1 for a cover of the fewest vertices, else 0 with the first fault."""
        names = read_cover(answer)
        fault = names if isinstance(names, str) else _fault(problem, names)
        return Score(
            value=0.0 if fault else 1.0, reason=fault or "it covers all edges with the fewest vertices"
        )

    def merge(self, answers: Sequence[str]) -> str:
        """Return the cover that most traces gave, in whatever order."""
        return majority([spelled(answer) for answer in answers])


def _connected(random: Random, vertices: Sequence[str]) -> tuple[Edge, ...]:
    """Draw a tree over the vertices, then more edges."""
    order = random.sample(vertices, len(vertices))
    tree = {frozenset((name, random.choice(order[:place]))) for place, name in enumerate(order) if place}
    others = [edge for edge in combinations(vertices, 2) if frozenset(edge) not in tree]
    more = random.sample(others, random.randint(len(vertices), 2 * len(vertices)) - len(tree))
    return tuple(edge for edge in combinations(vertices, 2) if frozenset(edge) in tree or edge in more)


def _listed(value: Any, hint: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise UsageError(hint)
    return cast("Sequence[Any]", value)


def _names(value: Any, hint: str) -> tuple[str, ...]:
    names = tuple(_listed(value, hint))
    if not all(isinstance(name, str) for name in names):
        raise UsageError(hint)
    return names


_BRACKETS = {"{": "}", "[": "]", "(": ")"}


def read_cover(answer: str) -> tuple[str, ...] | str:
    """Return the names that an answer lists, or why it lists none.

    An answer is a list of names with commas or blanks between them, in a pair of braces or brackets or in
    none, perhaps with a full stop.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return "the answer is too long"
    text = answer.strip().removesuffix(".")
    if text and _BRACKETS.get(text[0]) == text[-1]:
        text = text[1:-1]
    names = tuple(name for name in re.split(r"[,\s]+", text) if name)
    return names or "it names no vertex"


def _fault(problem: VertexCoverProblem, names: Sequence[str]) -> str | None:
    """Return the first reason why the named vertices are no minimum cover, or None."""
    for place, name in enumerate(names):
        if name not in problem.vertices:
            return f"{name[:SHOWN_CHARS]!r} is no vertex of the graph"
        if name in names[:place]:
            return f"{name} is named twice"
    for one, other in problem.edges:
        if one not in names and other not in names:
            return f"the edge {one}-{other} is not covered"
    if len(names) > fewest(problem):
        return f"it takes {len(names)} vertices where {fewest(problem)} are enough"
    return None


def spelled(answer: str) -> str:
    """Return a list of vertices in order, as in `A, C`, so that equal covers are equal; other text as is."""
    names = read_cover(answer)
    if isinstance(names, str) or not all(map(_is_name, names)):
        return answer
    return ", ".join(sorted(names))
