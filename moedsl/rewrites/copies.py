"""Copying a graph, so that passes may change nodes in place and the checked graph stays as it was."""

from __future__ import annotations

from dataclasses import replace

from moedsl.ir.graph import Graph, Node, Unit
from moedsl.ir.ops import Call, Op, Stack


def copied(graph: Graph) -> Graph:
    """New units and nodes around the same values."""
    fresh: dict[Unit, Unit] = {}
    for unit in graph.units:
        fresh[unit] = copied_unit(unit, fresh)
    return Graph(graph.name, [fresh[unit] for unit in graph.units], graph.model)


def copied_unit(unit: Unit, fresh: dict[Unit, Unit]) -> Unit:
    result = Unit(
        unit.name,
        unit.kind,
        list(unit.inputs),
        list(unit.ambients),
        [_node(node, fresh) for node in unit.nodes],
        list(unit.outputs),
        list(unit.taps),
        unit.doc,
        unit.recipe,
        unit.bank,
        unit.span,
        list(unit.wants),
        list(unit.handed),
        dict(unit.streams),
        dict(unit.decides),
        dict(unit.decided),
    )
    return result


def _node(node: Node, fresh: dict[Unit, Unit]) -> Node:
    return Node(
        _op(node.op, fresh),
        node.inputs,
        node.outputs,
        node.place,
        node.role,
        node.span,
        node.doc,
        node.poisoned,
        node.path,
        node.inits,
    )


def _op(op: Op, fresh: dict[Unit, Unit]) -> Op:
    match op:
        case Call(unit=unit):
            return replace(op, unit=fresh[unit])
        case Stack(runs=runs):
            return replace(op, runs=tuple((fresh[unit], count) for unit, count in runs))
    return op
