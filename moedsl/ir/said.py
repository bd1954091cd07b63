"""Which weights of a graph the words about starts are about.

What is said stands in the model or in a recipe (`init = ...`), for all weights below it or for some by name. What is
said further in wins over what is said around it, and in one list what is said later; `all` is what the others leave. A
name is a part of a path (`down`, `sparse`), a recipe's, a kind (`router`, `norm`), or what a weight is (`bias`).

A start is for what is drawn: matrices and tables. Numbers that are the same for all (biases at 0, weights of norms at 1)
keep theirs, unless a name means nothing else: `bias`, `norm`, `last`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, Init, Node, Parameter, Place
from moedsl.ir.ops import Embedding, Norm
from moedsl.ir.storage import join, module_name, path_of
from moedsl.model import terms
from moedsl.model.terms import Term

_PART = re.compile(r"([^.\[\]]+)(?:\[\w*\])?")

Parts = tuple[frozenset[str], ...]  # what each part of a path is called
Said = tuple[int, Init]  # after how many parts of a path it stands


@frozen(eq=False)
class Weight:
    """`module`: the name that it has, or would have if it stood alone; `root`: the node of the model above it."""

    path: str
    module: str
    parameter: Parameter
    parts: Parts
    said: tuple[Said, ...]
    root: Node

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one expert."""
        return self.parameter.shape[int(self.parameter.bank) :]

    @property
    def fans(self) -> tuple[int, int] | None:
        """Of how many numbers one result is made; of how many one number is part."""
        if self.parameter.fans is not None or len(self.shape) < 2:
            return self.parameter.fans
        return self.shape[-1], self.shape[-2]

    @property
    def drawn(self) -> bool:
        return self.parameter.init == "normal"

    @property
    def is_bias(self) -> bool:
        return self.parameter.name.split("_")[-1] == "bias"

    def is_called(self, name: str, after: int) -> bool:
        return name == "all" or any(name in part for part in self.parts[after:])


def of_model(graph: Graph) -> Init | None:
    said = graph.model.setting("init") if graph.model is not None else None
    return None if said is None or isinstance(said, terms.Word) else Init(said)


def everything_said(graph: Graph) -> list[Init]:
    whole = of_model(graph)
    nodes = (node for unit in graph.units for node in unit.nodes)
    inner = dict.fromkeys(init for node in nodes for init in node.inits)
    return [*([whole] if whole else []), *inner]


def by_name(init: Init) -> list[tuple[str, Term]]:
    """`all` first: it is what the others leave."""
    items = init.said.items if isinstance(init.said, terms.Items) else (("all", init.said),)
    return sorted(((name or "all", term) for name, term in items), key=lambda one: one[0] != "all")


# --- weights and their names ------------------------------------------------------------------------


def weights_of(graph: Graph) -> Iterator[Weight]:
    whole = of_model(graph)
    names = _names(graph)
    seen: set[str] = set()
    for place in graph.places():
        around = (*(((0, whole),) if whole else ()), *_around(place))
        here = _depth(place)
        for node in place.unit.nodes:
            own = node.op.parameters()
            said = (*around, *((here, init) for init in node.inits))
            for parameter in own:
                module = join(place.module, module_name(node, parameter))
                if not parameter.buffer and module not in seen:
                    seen.add(module)
                    path = join(place.path, path_of(node, parameter, len(own)))
                    parts = _called(path, parameter, names)
                    yield Weight(path, module, parameter, parts, said, _top(place, node))


def _depth(place: Place) -> int:
    return len(_PART.findall(place.path))


def _around(place: Place) -> tuple[Said, ...]:
    """What is said by all bodies around the unit that stands here, outermost first."""
    if place.parent is None or place.node is None:
        return ()
    here = _depth(place.parent)
    return (*_around(place.parent), *((here, init) for init in place.node.inits))


def _top(place: Place, node: Node) -> Node:
    if place.parent is None or place.node is None:
        return node
    return _top(place.parent, place.node)


def _names(graph: Graph) -> dict[str, frozenset[str]]:
    """What stands at a path: its kind, and the name of its recipe."""
    found: dict[str, frozenset[str]] = {}
    for place in graph.places():
        found[place.path] = frozenset({place.unit.kind, place.unit.name})
        for node in place.unit.nodes:
            if isinstance(node.op, Norm | Embedding):
                kind = "norm" if isinstance(node.op, Norm) else "embedding"
                found[join(place.path, node.path or node.place)] = frozenset({kind})
    return found


def _called(path: str, parameter: Parameter, names: dict[str, frozenset[str]]) -> Parts:
    matches = _PART.finditer(path)
    parts = [names.get(path[: match.end()], frozenset()) | {match[1]} for match in matches]
    kind = parameter.name.split("_")[-1] or "weight"
    return (*parts[:-1], parts[-1] | {kind})


# --- which start is whose -----------------------------------------------------------------------------


def chosen(
    graph: Graph, weights: list[Weight]
) -> tuple[dict[Weight, list[Term]], list[tuple[str, Term]]]:
    """For each weight what is said about it, in the order in which it holds; and what is said about none."""
    bodies: dict[tuple[Init, int, str], list[Weight]] = {}
    for weight in weights:
        for after, init in weight.said:
            bodies.setdefault((init, after, _prefix(weight.path, after)), []).append(weight)
    meant: dict[tuple[Weight, Init], list[Term]] = {}
    idle = {(n, t.span): (n, t) for init in everything_said(graph) for n, t in by_name(init)}
    for (init, after, _), inside in bodies.items():
        for name, term in by_name(init):
            for weight in _meant([each for each in inside if each.is_called(name, after)]):
                meant.setdefault((weight, init), []).append(term)
                idle.pop((name, term.span), None)
    found = {w: [t for _, init in w.said for t in meant.get((w, init), ())] for w in weights}
    return found, list(idle.values())


def _prefix(path: str, parts: int) -> str:
    return ".".join(match[0] for match in list(_PART.finditer(path))[:parts])


def _meant(hit: list[Weight]) -> list[Weight]:
    """Of what a name covers, what is drawn; else what is no bias; else all."""
    drawn = [each for each in hit if each.drawn]
    return drawn or [each for each in hit if not each.is_bias] or hit
