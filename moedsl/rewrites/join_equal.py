"""What a router works out twice is worked out once.

    y = gather(gate, expert)                          y = gather(gate, expert)
    share = y / sum(y)                                share = y / sum(y)
    ...                                               ...
    z = gather(gate, expert)
    weight = z / sum(z)                               weight = share

Joined are steps without weights and without chance, on the same values.
"""

from __future__ import annotations

from moedsl.ir.graph import Graph, Unit, Value
from moedsl.ir.ops import Cast, Gather, Normalize, Op, Pointwise, Scale, Softmax

_PLAIN = (Cast, Gather, Normalize, Pointwise, Scale, Softmax)


def join_equal(graph: Graph) -> None:
    for unit in graph.units:
        if unit.kind == "router":
            _join(unit)


def _join(unit: Unit) -> None:
    made: dict[tuple[Op, tuple[Value, ...]], Value] = {}
    same: dict[Value, Value] = {}
    named: dict[Value, Value] = {}  # with the name of another one that it is
    for node in list(unit.nodes):
        node.inputs = tuple(same.get(value, value) for value in node.inputs)
        if node.place or not isinstance(node.op, _PLAIN):
            continue
        (output,) = node.outputs
        first = made.setdefault((node.op, node.inputs), output)
        if first is not output and output not in (*unit.outputs, *unit.taps):
            same[output] = first
            unit.nodes.remove(node)
            if output.name and not first.name:
                named[first] = Value(output.name, first.type, first.span)
    for node in unit.nodes:
        node.inputs = tuple(named.get(value, value) for value in node.inputs)
        node.outputs = tuple(named.get(value, value) for value in node.outputs)
