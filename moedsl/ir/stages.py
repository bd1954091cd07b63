"""Training phases worked out over the weights of a graph: who trains in which, at what rate.

A selection is said in words of the spec: `all`, `sparse.experts` (every place of that path, at whatever depth), a kind
(`router`, `norm`, `attention`), or several with `+`, `-` and lists. A word stands for a part of a weight's path that is
called so, or that is of that kind.

    train = all - sparse.experts      rate = [router = 0.1]
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moedsl.frozen import frozen
from moedsl.ir.graph import Graph
from moedsl.ir.ops import Embedding, Norm
from moedsl.model import terms
from moedsl.model.terms import Stage, Term

_PART = re.compile(r"([^.\[\]]+)(?:\[(\d+)\])?")

Weights = frozenset[str]


@frozen
class Group:
    """Weights that train at one rate, a factor on the base rate. `name`: the word that the spec gives the rate to."""

    name: str
    rate: float
    weights: Weights


@frozen
class Phase:
    """One stage: `after` is the stage whose weights it starts from, "" where it starts anew."""

    stage: Stage
    after: str
    groups: tuple[Group, ...]

    @property
    def trained(self) -> Weights:
        return frozenset().union(*(group.weights for group in self.groups))


@frozen
class Fault:
    """`kind`: nothing (a selection without a weight) | stage (an unknown one) | value."""

    kind: str
    term: Term
    word: str = ""


class Selections:
    """Every weight of a graph, and what each part of its path is called."""

    def __init__(self, graph: Graph) -> None:
        kinds = _kinds(graph)
        self.weights = {path: _called(path, kinds) for path in graph.storage()}
        self.faults: list[Fault] = []

    def select(self, term: Term) -> Weights:
        match term:
            case terms.Word("all"):
                return frozenset(self.weights)
            case terms.Word(text):
                found = self._named(text)
                if not found:
                    self.faults.append(Fault("nothing", term, text))
                return found
            case terms.Arithmetic("+", left, right):
                return self.select(left) | self.select(right)
            case terms.Arithmetic("-", left, right):
                return self.select(left) - self.select(right)
            case terms.Items(items):
                return frozenset().union(*(self.select(item) for _, item in items))
        self.faults.append(Fault("value", term))
        return frozenset()

    def words(self) -> list[str]:
        """All that a selection may say in one word."""
        known = {name for parts in self.weights.values() for names, _ in parts for name in names}
        return ["all", *sorted(known)]

    def _named(self, text: str) -> Weights:
        wanted = [(name, number) for name, number in _PART.findall(text)]
        return frozenset(path for path, parts in self.weights.items() if _within(wanted, parts))


Called = tuple[tuple[frozenset[str], str], ...]  # per part of a path: its names, its number


def _within(wanted: list[tuple[str, str]], parts: Called) -> bool:
    """Does the path have these parts one after the other?"""
    return any(
        all(
            name in names and number in ("", own)
            for (name, number), (names, own) in zip(wanted, parts[start:], strict=False)
        )
        for start in range(len(parts) - len(wanted) + 1)
    )


def _called(path: str, kinds: dict[str, frozenset[str]]) -> Called:
    parts = []
    for match in _PART.finditer(path):
        here = kinds.get(path[: match.end()], frozenset())
        parts.append((here | {match[1]}, match[2] or ""))
    return tuple(parts)


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


# --- the stages of a model -------------------------------------------------------------------------


def phases(graph: Graph) -> tuple[list[Phase], list[Fault]]:
    """The stages in the order of the spec, and what is wrong with them."""
    stages = graph.model.stages if graph.model is not None else ()
    if not stages:
        return [], []
    selections = Selections(graph)
    known: list[str] = []
    found = []
    for stage in stages:
        found.append(_phase(stage, selections, known))
        known.append(stage.name)
    return found, selections.faults


def _phase(stage: Stage, selections: Selections, known: list[str]) -> Phase:
    said = dict(stage.settings)
    after = said.get("init")
    if after is not None and not (isinstance(after, terms.Word) and after.text in known):
        selections.faults.append(Fault("stage", after, getattr(after, "text", "")))
    train = selections.select(said["train"]) if "train" in said else frozenset(selections.weights)
    groups, rest = [], train
    for name, rate, term in _rates(said.get("rate"), selections):
        mine = rest & selections.select(term)
        groups.append(Group(name, rate, mine))
        rest -= mine
    groups.append(Group("", 1.0, rest))
    name = after.text if isinstance(after, terms.Word) else ""
    return Phase(stage, name, tuple(group for group in groups if group.weights))


def _rates(term: Term | None, selections: Selections) -> Iterator[tuple[str, float, Term]]:
    """`[router = 0.1, norm = 2]`: a factor on the base rate for each."""
    if term is None:
        return
    items = term.items if isinstance(term, terms.Items) else ((None, term),)
    for name, rate in items:
        if name is None or not isinstance(rate, terms.Number) or rate.value < 0:
            selections.faults.append(Fault("value", rate))
        else:
            yield name, float(rate.value), terms.Word(name, rate.span)


def joins_apart(graph: Graph) -> bool:
    """Does one parameter of the module hold weights that a stage treats differently?"""
    found, _ = phases(graph)
    modules = {path: one.module for path, one in graph.storage().items()}
    for phase in found:
        group_of = {path: group.name for group in phase.groups for path in group.weights}
        seen: dict[str, str | None] = {}
        for path, module in modules.items():
            if seen.setdefault(module, group_of.get(path)) != group_of.get(path):
                return True
    return False
