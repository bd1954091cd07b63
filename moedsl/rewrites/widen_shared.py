"""Equal shared experts are one wide one: their hidden channels stand side by side, and their outputs were summed anyway.

y = y + self.shared_0(x) + self.shared_1(x)       y = y + self.shared(x)
"""

from __future__ import annotations

from dataclasses import replace

from moedsl.ir.graph import Dim, Graph, Node, TensorType, Unit, Value
from moedsl.ir.ops import Call, Combination, Linear, Pointwise
from moedsl.rewrites.copies import copied_unit


def widen_shared(graph: Graph) -> None:
    for unit in [u for u in graph.units if u.kind == "moe"]:
        equal: dict[Unit, list[Node]] = {}
        for node in unit.nodes:
            if isinstance(node.op, Call) and node.path.startswith("shared["):
                equal.setdefault(node.op.unit, []).append(node)
        for narrow, calls in equal.items():
            if len(calls) > 1 and _may_widen(narrow) and all(_is_added(unit, c) for c in calls):
                _widen(graph, unit, narrow, calls)


def _may_widen(unit: Unit) -> bool:
    """Up, elementwise, down: the hidden axis may be any size, and nothing is added after it is summed away."""
    linears = [node for node in unit.nodes if isinstance(node.op, Linear)]
    down = linears[-1] if linears else None
    if down is None or down.outputs[0] not in unit.outputs or unit.ambients or unit.taps:
        return False
    inner = all(node.inputs[0] is unit.inputs[0] for node in linears[:-1])
    plain = all(isinstance(n.op, Linear | Pointwise | Combination) for n in unit.nodes)
    assert isinstance(down.op, Linear)
    return inner and plain and not down.op.bias and len(unit.inputs) == 1


def _is_added(unit: Unit, call: Node) -> bool:
    readers = unit.consumers(call.outputs[0])
    return len(readers) == 1 and readers[0].op == Combination(operator="+")


def _widen(graph: Graph, unit: Unit, narrow: Unit, calls: list[Node]) -> None:
    numbers = [call.path.removeprefix("shared") for call in calls]
    wide = _wide_unit(narrow, numbers)
    graph.units.insert(graph.units.index(unit), wide)
    first, *others = calls
    first.op, first.place, first.path = Call(unit=wide), "shared", "shared"
    for call in others:
        (total,) = unit.consumers(call.outputs[0])
        before = next(value for value in total.inputs if value is not call.outputs[0])
        unit.nodes = [node for node in unit.nodes if node is not call and node is not total]
        for node in unit.nodes:
            node.inputs = tuple(before if v is total.outputs[0] else v for v in node.inputs)
        unit.outputs = [before if v is total.outputs[0] else v for v in unit.outputs]
    if not any(node.op == Call(unit=narrow) for u in graph.units for node in u.nodes):
        graph.units.remove(narrow)


def _wide_unit(narrow: Unit, numbers: list[str]) -> Unit:
    unit = copied_unit(narrow, {})
    fresh: dict[Value, Value] = {}
    linears = [node for node in unit.nodes if isinstance(node.op, Linear)]
    for node in unit.nodes:
        if node in linears:
            node.op = _wide_linear(node, numbers, down=node is linears[-1])
        node.inputs = tuple(fresh.get(value, value) for value in node.inputs)
        types = node.op.infer(*(value.type for value in node.inputs))
        for value, type_ in zip(node.outputs, types, strict=True):
            assert isinstance(type_, TensorType)
            fresh[value] = Value(value.name, type_, value.span)
        node.outputs = tuple(fresh[value] for value in node.outputs)
    unit.outputs = [fresh[value] for value in unit.outputs]
    return unit


def _wide_linear(node: Node, numbers: list[str], down: bool) -> Linear:
    op = node.op
    assert isinstance(op, Linear)
    hidden = op.inner if down else op.out
    size = hidden.size or 0
    wide = Dim(hidden.letter, size * len(numbers), origin=hidden.origin)
    parts = tuple((f"{number}.{node.path}", size) for number in numbers)
    if down:
        return replace(op, inner=wide, parts=parts, along="inner")
    return replace(op, out=wide, parts=parts)
