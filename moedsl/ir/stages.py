"""Training phases worked out over the weights of a graph: who trains in which, at what rate.

train = all - sparse.experts      rate = [router = 0.1]
"""

from __future__ import annotations

from collections.abc import Iterator

from moedsl.frozen import frozen
from moedsl.ir.graph import Graph
from moedsl.ir.native import fills
from moedsl.ir.one_way import growth, is_native
from moedsl.ir.selections import Fault, Selections, Weights, both, common, every, without
from moedsl.model import terms
from moedsl.model.terms import Stage, Term


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
        found: Weights = {}
        for group in self.groups:
            found = both(found, group.weights)
        return found


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
    train = selections.select(said["train"]) if "train" in said else selections.all
    groups, rest = [], train
    for name, rate, term in _rates(said.get("rate"), selections):
        mine = common(rest, selections.select(term))
        groups.append(Group(name, rate, mine))
        rest = without(rest, mine)
    groups.append(Group("", 1.0, rest))
    name = after.text if isinstance(after, terms.Word) else ""
    return Phase(stage, name, tuple(group for group in groups if group.weights))


def _rates(term: Term | None, selections: Selections) -> Iterator[tuple[str, float, Term]]:
    """`[router = 0.1, 2 * experts[3]]`: a factor on the base rate for each."""
    if term is None:
        return
    items = term.items if isinstance(term, terms.Items) else ((None, term),)
    for name, rate in items:
        match rate:
            case terms.Arithmetic("*", terms.Number(value), terms.Word(text) as places):
                if value >= 0 and name is None:
                    yield text, float(value), places
                    continue
            case terms.Number(value) if name is not None and value >= 0:
                yield name, float(value), terms.Word(name, rate.span)
                continue
        selections.faults.append(Fault("value", rate))


def made_up(graph: Graph) -> Weights:
    """The weights that no earlier model of this spec has trained: all, unless it only grows."""
    found = Selections(graph).all
    for checkpoint in graph.model.checkpoints if graph.model is not None else ():
        if not is_native(checkpoint):
            continue
        grown, _ = fills(checkpoint, graph)
        new: Weights = {}
        for filled in grown:
            old = growth(filled.step).members if filled.step.construct == "grow" else 0
            new |= {path: every(one.members) & ~every(old) for path, one in filled.weights.items()}
        found = common(found, new)
    return found


def joins_apart(graph: Graph) -> bool:
    """Does one parameter of the module hold weights that a stage treats differently, or that start in different ways?"""
    found, _ = phases(graph)
    treated = [[group.weights for group in phase.groups] for phase in found]
    for checkpoint in graph.model.checkpoints if graph.model is not None else ():
        if is_native(checkpoint):
            treated.append([dict.fromkeys(one.weights, 1) for one in fills(checkpoint, graph)[0]])
    modules = {path: one.module for path, one in graph.storage().items()} if treated else {}
    for groups in treated:
        seen: dict[str, list[int]] = {}
        for path, module in modules.items():
            own = [weights.get(path, 0) for weights in groups]
            if seen.setdefault(module, own) != own:
                return True
    return False
