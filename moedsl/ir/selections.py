"""Weights that are spoken of together: by path, by kind, and, where several stand side by side, by number.

A selection is said in words of the spec: `all`, `sparse.experts` (every place of that path, at whatever depth), a kind
(`router`, `norm`, `attention`), or several with `+`, `-` and lists. A word stands for a part of a weight's path that is
called so, or that is of that kind. `experts[2]` is one expert of a bank, and `router[2]` what a router has for that choice:
a number counts members where the part has none of its own.

    train = all - sparse.experts      train = sparse.experts[2] + sparse.router[2]
"""

from __future__ import annotations

import re

from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, Storage
from moedsl.ir.ops import Embedding, Norm
from moedsl.model import terms
from moedsl.model.terms import Term

_PART = re.compile(r"([^.\[\]]+)(?:\[(\d+)\])?")

Weights = dict[
    str, int
]  # by path; the members that are meant, a bit each (1 where a weight has none)
Called = tuple[tuple[frozenset[str], str], ...]  # per part of a path: its names, its number


@frozen
class Fault:
    """`kind`: nothing (a selection without a weight) | member (of so many `members`) | stage (an unknown one) | value."""

    kind: str
    term: Term
    word: str = ""
    members: int = 0


@frozen
class Named:
    """What a weight is called. `first`: the part of its path from which on a number may count its members."""

    parts: Called
    first: int
    members: int


def every(members: int) -> int:
    return (1 << (members or 1)) - 1


def both(one: Weights, other: Weights) -> Weights:
    return {path: one.get(path, 0) | other.get(path, 0) for path in {**one, **other}}


def common(one: Weights, other: Weights) -> Weights:
    return _left({path: members & other.get(path, 0) for path, members in one.items()})


def without(one: Weights, other: Weights) -> Weights:
    return _left({path: members & ~other.get(path, 0) for path, members in one.items()})


def _left(found: Weights) -> Weights:
    return {path: members for path, members in found.items() if members}


class Selections:
    """Every weight of a graph, and what each part of its path is called."""

    def __init__(self, graph: Graph) -> None:
        kinds, stacked = _kinds(graph), _stacked(graph)
        stored = graph.storage()
        self.weights = {path: _called(path, one, kinds, stacked) for path, one in stored.items()}
        self.faults: list[Fault] = []

    @property
    def all(self) -> Weights:
        return {path: every(named.members) for path, named in self.weights.items()}

    def select(self, term: Term) -> Weights:
        match term:
            case terms.Word("all"):
                return self.all
            case terms.Word(text):
                return self._named(term, text)
            case terms.Arithmetic("+", left, right):
                return both(self.select(left), self.select(right))
            case terms.Arithmetic("-", left, right):
                return without(self.select(left), self.select(right))
            case terms.Items(items):
                found: Weights = {}
                for _, item in items:
                    found = both(found, self.select(item))
                return found
        self.faults.append(Fault("value", term))
        return {}

    def words(self) -> list[str]:
        """All that a selection may say in one word."""
        known = {
            name for named in self.weights.values() for names, _ in named.parts for name in names
        }
        return ["all", *sorted(known)]

    def _named(self, term: Term, text: str) -> Weights:
        wanted = [(name, number) for name, number in _PART.findall(text)]
        found: Weights = {}
        most = 0
        for path, named in self.weights.items():
            meant = [m for m in (_meant(wanted, named, at) for at in _starts(wanted, named)) if m]
            for members in meant:
                if members >> (named.members or 1):
                    most = max(most, named.members)
                else:
                    found[path] = found.get(path, 0) | members
        if not found:
            kind = "member" if most else "nothing"
            self.faults.append(Fault(kind, term, text, most))
        return found


def _starts(wanted: list[tuple[str, str]], named: Named) -> range:
    return range(len(named.parts) - len(wanted) + 1)


def _meant(wanted: list[tuple[str, str]], named: Named, start: int) -> int:
    """The members of a weight whose path has these parts one after the other from `start` on; 0 where it has not."""
    members = every(named.members)
    for at, ((name, number), (names, own)) in enumerate(
        zip(wanted, named.parts[start:], strict=False)
    ):
        if name not in names:
            return 0
        if number in ("", own):
            continue
        if (
            own
            or not named.members
            or start + at < named.first
            or members.bit_count() == 1 < named.members
        ):
            return 0
        members = 1 << int(number)
    return members


def _called(path: str, one: Storage, kinds: dict[str, frozenset[str]], stacked: set[str]) -> Named:
    parts, first = [], -1
    for position, match in enumerate(_PART.finditer(path)):
        here = path[: match.end()]
        parts.append((kinds.get(here, frozenset()) | {match[1]}, match[2] or ""))
        if first < 0 and here in stacked:
            first = position
    return Named(tuple(parts), first, one.members if first >= 0 else 0)


def _stacked(graph: Graph) -> set[str]:
    """Where weights stand side by side: banks, and routers with their choices."""
    return {p.path for p in graph.places() if p.unit.bank or p.unit.kind == "router"}


def _kinds(graph: Graph) -> dict[str, frozenset[str]]:
    """What stands at a path: its kind, as a spec declares it."""
    found: dict[str, frozenset[str]] = {}
    for place in graph.places():
        found[place.path] = frozenset({place.unit.kind})
        for node in place.unit.nodes:
            kind = "norm" if isinstance(node.op, Norm) else "embed"
            if isinstance(node.op, Norm | Embedding):
                path = node.path or node.place
                found[f"{place.path}.{path}" if place.path else path] = frozenset({kind})
    return found
