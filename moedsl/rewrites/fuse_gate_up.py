"""Gate and up of a bank are one weight, gate rows first: one product over the routed rows instead of two.

gate = grouped_linear(x, self.gate, rows)         gate, up = grouped_linear(x, self.gate_up, rows).chunk(2, dim=-1)
up = grouped_linear(x, self.up, rows)
"""

from __future__ import annotations

from dataclasses import replace

from moedsl.ir.graph import Dim, Graph, Node, TensorType, Unit, Value
from moedsl.ir.ops import Chunk, Linear


def fuse_gate_up(graph: Graph) -> None:
    for unit in graph.units:
        if unit.bank:
            _fuse(unit)


def _fuse(unit: Unit) -> None:
    for gate in [n for n in unit.nodes if _leaf(n) == "gate"]:
        up = next((n for n in unit.nodes if _alike(gate, n)), None)
        if up is None:
            continue
        both, chunk = _joined(gate, up)
        index = unit.nodes.index(gate)
        unit.nodes = [n for n in unit.nodes if n is not up]
        unit.nodes[index : index + 1] = [both, chunk]


def _leaf(node: Node) -> str:
    return node.path.rsplit(".", 1)[-1] if isinstance(node.op, Linear) else ""


def _alike(gate: Node, up: Node) -> bool:
    """Both read the same rows and have weights of one shape, side by side at one place."""
    beside = gate.path.removesuffix("gate") + "up"
    return up.path == beside and up.op == gate.op and up.inputs == gate.inputs and not up.poisoned


def _joined(gate: Node, up: Node) -> tuple[Node, Node]:
    op = gate.op
    assert isinstance(op, Linear)
    size = op.out.size or 0
    wide = Dim("J", 2 * size, origin=op.out.origin)
    fused = replace(op, out=wide, parts=((gate.path, size), (up.path, size)))
    place = gate.place.removesuffix("gate") + "gate_up"
    path = gate.path.removesuffix("gate") + "gate_up"
    rows = gate.outputs[0].type
    assert isinstance(rows, TensorType)
    value = Value("", TensorType((*rows.dims[:-1], wide), rows.dtype), gate.outputs[0].span)
    both = Node(fused, gate.inputs, (value,), place, "gate_up", gate.span, path=path)
    outputs = (gate.outputs[0], up.outputs[0])
    return both, Node(Chunk(parts=(op.out, op.out)), (value,), outputs, span=gate.span)
