"""Score, choice, weights and statistics in one step, where the expression is one that the route kernel knows.

    score = self.score(x)                             routing = route_top2(self.score(x), real)
    expert = top 2 of score
    weight = softmax(score kept)
    routing = Routing(expert, weight, score, ...)

Softmax over all and division by the kept sum equals softmax over the kept; the route says which is meant, and its
kernel computes it the cheaper way. A router of another form keeps its steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Graph, Node, Unit, Value
from moedsl.ir.ops import (
    Cast,
    Combination,
    Correction,
    Gather,
    HeadRows,
    LimitGroups,
    MergeHeadRows,
    Normalize,
    NumberByHead,
    Pointwise,
    Route,
    Routed,
    Scale,
    Softmax,
    Statistic,
    TopK,
)
from moedsl.ir.ops_base import dims_of

_SIGMOID = "{0}.sigmoid()"
_KNOWN = ("choices", "first", "probability", "z", "entropy", "tokens")  # to the kernel


def fuse_routes(graph: Graph) -> None:
    names: dict[str, Route] = {}
    for unit in graph.units:
        last = unit.nodes[-1] if unit.nodes else None
        if last is not None and isinstance(last.op, Routed) and not last.poisoned:
            _fuse(unit, last, names)


def _fuse(unit: Unit, routed: Node, names: dict[str, Route]) -> None:
    assert isinstance(routed.op, Routed)
    expert, weight, logits, *statistics = routed.inputs
    of = {value: node for node in unit.nodes for value in node.outputs}
    heads = _by_head(of, expert, weight, logits)
    steps = Steps(of, heads.logits if heads else logits, heads is not None)
    expert, weight = (heads.expert, heads.weight) if heads else (expert, weight)
    form = steps.weights(weight, expert)
    read = steps.statistics(statistics)
    ranked, bias, limit = steps.ranked(expert)
    if form is None or read is None or not ranked or (heads and bias):
        return
    if bias or (limit and limit["best"] > 1):
        form = _ranked_alike(form, ranked)
        if form is None:
            return
    route = Route(
        name=unit.name,
        kept=heads.kept if heads else routed.op.kept,
        choices=heads.choices if heads else routed.op.choices,
        heads=heads.count if heads else 0,
        in_record=(routed.op.kept, routed.op.choices) if heads else None,
        bias=bool(bias),
        **limit,
        **form,
        **read,
    )
    route = _named(route, names)
    rest = steps.of[statistics[-1]].inputs[1:] if statistics else ()
    if heads and rest:  # rows of tokens: their heads follow
        rest = (of[rest[0]].inputs[0], *rest[1:])
    unit.nodes.remove(routed)
    unit.nodes.append(
        Node(route, (logits, *bias, *rest), routed.outputs, span=routed.span, role="routing")
    )
    _prune(unit)
    _unname(unit, logits)


@frozen
class _Heads:
    """A decision that is made for each head: what it is for the rows that are heads."""

    count: int
    kept: Dim
    choices: Dim
    expert: Value
    weight: Value
    logits: Value


def _by_head(of: dict[Value, Node], expert: Value, weight: Value, logits: Value) -> _Heads | None:
    numbered, merged = of.get(expert), of.get(weight)
    opened = (n for n in of.values() if isinstance(n.op, HeadRows) and n.inputs[0] is logits)
    rows = next(opened, None)
    match numbered, merged, rows:
        case Node(op=NumberByHead() as op), Node(op=MergeHeadRows()), Node(op=HeadRows() as own):
            picks = dims_of(numbered.inputs[0].type).dims[-1]
            inner = numbered.inputs[0], merged.inputs[0], rows.outputs[0]
            return _Heads(op.heads.size or 1, picks, own.part, *inner)
    return None


def _ranked_alike(form: dict[str, Any], ranked: str) -> dict[str, Any] | None:
    """The weights' form, with the same function of logits ranked and weighed: with a correction, or ranked by sums, it matters which.

    Softmax over the kept logits is softmax over all, divided by the kept sum: it goes with either ranking.
    """
    over_all = form["before"] and form["normalize"] and not form["eps"]
    if form["score"] == "softmax" and (over_all or not form["before"]):
        if ranked == "softmax":
            return {**form, "before": True, "normalize": True}
        return {**form, "before": False, "normalize": False} if ranked == "identity" else None
    return form if form["before"] and form["score"] == ranked else None


def _named(route: Route, names: dict[str, Route]) -> Route:
    """A name of its own for each different route."""
    base, number = route.name, 1
    while names.setdefault(route.name, route) != route:
        number += 1
        of = f"{base}_of_{route.num_experts}"
        route = replace(route, name=of if number == 2 else f"{of}_{number - 1}")
    return route


@frozen
class Steps:
    """The steps of one router, by the value that each makes."""

    of: dict[Value, Node]
    logits: Value
    by_head: bool = False

    def maker(self, value: Value) -> Node | None:
        """What made it, casts aside."""
        node = self.of.get(value)
        while node is not None and isinstance(node.op, Cast) and value is not self.logits:
            value = node.inputs[0]
            node = self.of.get(value)
        return None if value is self.logits else node

    def score(self, value: Value) -> str:
        """What function of the logits it is: identity, softmax, sigmoid, or another ("")."""
        if self._is_logits(value):
            return "identity"
        match self.maker(value):
            case Node(op=Softmax(temperature=1.0), inputs=(source,)) if self._is_logits(source):
                return "softmax"
            case Node(op=Pointwise(function=f), inputs=(source,)) if f == _SIGMOID:
                return "sigmoid" if self._is_logits(source) else ""
        return ""

    def _is_logits(self, value: Value) -> bool:
        while value is not self.logits:
            node = self.of.get(value)
            if node is None or not isinstance(node.op, Cast):
                return False
            value = node.inputs[0]
        return True

    def ranked(self, expert: Value) -> tuple[str, tuple[Value, ...], dict[str, Any]]:
        """The function of logits that is ranked ("" for others), a correction that was added to it, and in which
        groups."""
        node = self.of.get(expert)
        if node is None or not isinstance(node.op, TopK):
            return "", (), {}
        key, limit = node.inputs[0], dict[str, Any]()
        before = self.maker(key)
        if before is not None and isinstance(before.op, LimitGroups):
            op, key = before.op, before.inputs[0]
            if op.keep < op.groups:
                limit = {"groups": op.groups, "keep": op.keep, "best": op.best}
        match self.maker(key):
            case Node(op=Combination(operator="+", number=None), inputs=(one, other)):
                for value, bias in ((one, other), (other, one)):
                    if (by := self.of.get(bias)) is not None and isinstance(by.op, Correction):
                        return self.score(value), (bias,), limit
        return self.score(key), (), limit

    def weights(self, weight: Value, expert: Value) -> dict[str, Any] | None:
        """How weights come from what was kept: read from the last step to the first."""
        found: dict[str, Any] = {"scale": 1.0, "normalize": False, "eps": 0.0}
        node = self.maker(weight)
        if node is not None and isinstance(node.op, Scale):
            found["scale"] = node.op.factor
            node = self.maker(node.inputs[0])
        if node is not None and isinstance(node.op, Normalize):
            if node.op.detach:
                return None
            found |= {"normalize": True, "eps": node.op.eps}
            node = self.maker(node.inputs[0])
        if node is not None and isinstance(node.op, Softmax):
            if node.op.temperature != 1 or found["normalize"]:
                return None
            found |= {"score": "softmax", "before": False}
            node = self.maker(node.inputs[0])
        if node is None or not isinstance(node.op, Gather) or node.inputs[1] is not expert:
            return None
        source = self.score(node.inputs[0])
        if "score" in found:
            return found if source == "identity" else None
        return {**found, "score": source, "before": True} if source else None

    def statistics(self, values: list[Value]) -> dict[str, Any] | None:
        """Which ones, and of which probability."""
        which: list[str] = []
        distribution, devices = "softmax", 0
        for value in values:
            node = self.of[value]
            if isinstance(node.op, Statistic) and node.op.which == "visits":
                devices = node.op.devices  # counted from the picks, after the kernel
                continue
            if not isinstance(node.op, Statistic) or node.op.which not in _KNOWN:
                return None
            if node.op.which in ("probability", "entropy"):
                source = self.distribution(node)
                if not source:
                    return None
                distribution = "sigmoid" if source == "sigmoid" else "softmax"
            if node.op.which != "tokens":
                which.append(node.op.which)
        return {"statistics": tuple(which), "distribution": distribution, "devices": devices}

    def distribution(self, node: Node) -> str:
        """The function of logits whose distribution a statistic reads; "" for others."""
        assert isinstance(node.op, Statistic)
        form, value = node.op.form, node.inputs[0]
        if self.by_head:  # normalised by head, then put together
            value = self.of[value].inputs[0]
            made = self.maker(value)
            if made is not None and isinstance(made.op, Normalize):
                form, value = "normalize", made.inputs[0]
        source = self.score(value)
        wanted = {"softmax": "identity", "given": "softmax", "normalize": "sigmoid"}
        return (source if source != "identity" else "softmax") if source == wanted[form] else ""


def _unname(unit: Unit, value: Value) -> None:
    """What is read once is written where it is read."""
    fresh = Value("", value.type, value.span)
    for node in unit.nodes:
        node.inputs = tuple(fresh if v is value else v for v in node.inputs)
        node.outputs = tuple(fresh if v is value else v for v in node.outputs)


def _prune(unit: Unit) -> None:
    """Drop steps that nothing reads any more."""
    wanted = {*unit.outputs, *unit.taps}
    kept: list[Node] = []
    for node in reversed(unit.nodes):
        if node.place or wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    unit.nodes = kept[::-1]
