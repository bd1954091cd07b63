"""How every weight of a graph starts: what is said about it, applied to its shape.

A change alone (`down = by_depth`) is one of the start that the weight has so far. Fans are those of one matrix of the
spec: of each expert by itself, and of `gate` and `up` apart, however weights are kept.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

from moedsl.frozen import frozen, record
from moedsl.ir.graph import Graph, Node
from moedsl.ir.ops_base import number
from moedsl.ir.said import Weight, chosen, everything_said, weights_of
from moedsl.model import terms
from moedsl.model.terms import Term, stages_of


@frozen
class Start:
    """`module`: the name that the weight has, or would have if it stood alone. `form`: constant | normal | truncated |
    uniform | orthogonal | eye; `amount`: its size, as code; `value`: as a number."""

    module: str
    form: str
    amount: str
    value: float
    cut: float = 2.0
    alike: bool = False
    equal_rows: bool = False
    flat: bool = False  # a matrix that is kept with more axes

    @property
    def draws(self) -> bool:
        return self.form not in ("constant", "eye")


@frozen
class Fault:
    """`kind`: nothing (a name without a weight) | matrix | bank | fan | branches: what the weight lacks."""

    kind: str
    term: Term
    word: str
    path: str = ""


@record
class Starts:
    """`of`: every weight's start by path; `faults`: what cannot be; `names` that could be said. Empty where nothing is
    said."""

    of: dict[str, Start] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def starts(graph: Graph) -> Starts:
    """Of a graph that is not rewritten yet."""
    found = Starts()
    if not everything_said(graph):
        return found
    weights = list(weights_of(graph))
    found.names = {name for each in weights for part in each.parts for name in part}
    said, idle = chosen(graph, weights)
    found.faults = [Fault("nothing", term, name) for name, term in idle]
    branches = _branches(graph)
    for weight in weights:
        start = _standard(weight)
        for stage in (stage for term in said[weight] for stage in stages_of(term)):
            start = _applied(stage, start, weight, branches, found.faults)
        found.of[weight.path] = start
    return found


# --- what a start is of one weight -----------------------------------------------------------------------


def _standard(weight: Weight) -> Start:
    parameter = weight.parameter
    value = {"zeros": 0.0, "ones": 1.0}.get(parameter.init, parameter.value)
    form = "normal" if weight.drawn else "constant"
    flat = parameter.fans is not None and len(weight.shape) > 2
    return Start(weight.module, form, number(value), value, flat=flat)


def _applied(
    term: Term, start: Start, weight: Weight, branches: dict[Any, int], faults: list[Fault]
) -> Start:
    from moedsl.constructs.registry import construct_of

    if isinstance(term, terms.Word):
        return _standard(weight)
    assert isinstance(term, terms.Recipe)
    construct: Any = construct_of(term)
    lacks = _lacks(construct, weight, branches)
    if lacks:
        faults.append(Fault(lacks, term, term.name, weight.path))
        return start
    if construct.draws:
        start = replace(_standard(weight), form="normal", cut=2.0)
    match construct.name:
        case "zeros":
            return replace(start, form="constant", amount="0", value=0.0)
        case "fill":
            return _sized(start, "constant", float(construct.level))
        case "eye" | "orthogonal" as form:
            return _sized(start, form, float(construct.gain))
        case "normal" | "truncated" | "uniform" as form:
            return _drawn(construct, form, start, weight)
        case "alike":
            return replace(start, alike=True)
        case "equal_rows":
            return replace(start, equal_rows=start.draws)
        case "by_depth":
            return _by_depth(construct, start, weight, branches)
    return start


def _sized(start: Start, form: str, value: float) -> Start:
    form = form if value else "constant"  # of no size: zeros
    return replace(start, form=form, amount=number(value), value=value)


def _lacks(construct: Any, weight: Weight, branches: dict[Any, int]) -> str:
    """What the weight would need for it."""
    if construct.wants == "bank" and not weight.parameter.bank:
        return "bank"
    if construct.wants == "matrix" and len(weight.shape) < 2:
        return "matrix"
    if getattr(construct, "scale", "none") != "none" and weight.fans is None:
        return "fan"
    counted = getattr(construct, "branches", None) == "counted"
    return "branches" if counted and not _passed(weight, branches) else ""


def _drawn(construct: Any, form: str, start: Start, weight: Weight) -> Start:
    if construct.given is not None:
        start = _sized(start, form, construct.given)
    else:
        first, second = weight.fans or (1, 1)
        fan = {"in": first, "out": second}.get(construct.fan, (first + second) / 2)
        scale = float(construct.scale)
        over = [number(scale)] if scale != 1 else []
        if form == "uniform":  # whose bound is root(3) deviations away
            over, scale = ["3", *over], 3 * scale
        root = f"({' * '.join(over)} / {number(fan)}) ** 0.5" if over else f"{number(fan)}**-0.5"
        size = (scale / fan) ** 0.5 if fan else 0.0
        start = replace(start, form=form, amount=root, value=size) if size else _sized(start, "", 0)
    if start.form != "truncated":
        return start
    start = replace(start, cut=float(construct.cut))
    if not construct.corrected:
        return start
    shrinks = construct.shrinks
    return replace(start, amount=f"{start.amount} / {shrinks!r}", value=start.value / shrinks)


def _by_depth(construct: Any, start: Start, weight: Weight, branches: dict[Any, int]) -> Start:
    count = construct.branches
    count = _passed(weight, branches) if count == "counted" else count
    if start.value == 0:
        return start
    factor = f"{count}**{number(float(construct.power))}"
    value = start.value * count ** float(construct.power)
    return replace(start, amount=f"{start.amount} * {factor}", value=value)


# --- depth --------------------------------------------------------------------------------------------------


def _passed(weight: Weight, branches: dict[Any, int]) -> int:
    return branches.get(_stream(weight.root), 0) if _added(weight.root) else 0


def _branches(graph: Graph) -> dict[Any, int]:
    """How many branches are added to each stream of the model on its way."""
    found: dict[Any, int] = {}
    for node in graph.root.nodes:
        if count := _added(node):
            found[_stream(node)] = found.get(_stream(node), 0) + count
    return found


def _stream(node: Node) -> Any:
    return node.inputs[0].type if node.inputs else None


def _added(node: Node) -> int:
    total = 0
    for _, _, unit in node.calls():
        recipe = unit.recipe
        body = recipe.body if recipe is not None and recipe.construct == "block" else ()
        total += sum(map(_adds, body)) + sum(_added(inner) for inner in unit.nodes)
    return total


def _adds(statement: Any) -> bool:
    value = statement.value
    plus = isinstance(value, terms.Arithmetic) and value.operator == "+"
    return plus and statement.name == "x" and value.left == terms.Tensor("x")
