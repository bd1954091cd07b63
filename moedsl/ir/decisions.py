"""Where decisions stand for those who come after them: which value of a body is the last decision of a router."""

from __future__ import annotations

from dataclasses import replace

from moedsl.frozen import frozen
from moedsl.ir.graph import Node, Unit, Value
from moedsl.ir.ops_attention import Ambient
from moedsl.ir.ops_base import Op
from moedsl.ir.ops_before import Before
from moedsl.ir.ops_calls import Call, Stack, handed_by, lists_of
from moedsl.ir.shapes import streams_in


def callees(node: Node) -> list[Unit]:
    match node.op:
        case Call(unit=unit):
            return [unit]
        case Stack(runs=runs):
            return list(dict.fromkeys(unit for unit, _ in runs))
    return []


def around(node: Node, op: Op) -> Op:
    """What a called unit wants, of the streams that the caller gives it."""
    assert isinstance(node.op, Call | Stack) and isinstance(op, Ambient)
    axes = dict(node.op.axes)
    return replace(op, stream=axes[op.stream]) if op.stream in axes else op


@frozen
class Decision:
    """Where a decision stands: a record, or the one that stands `back` from the end of a list of them."""

    value: Value
    back: int = 0


def decisions(unit: Unit, node: Node) -> dict[Op, Decision]:
    """The decisions that a node of a unit makes for those after it, by what they are asked for as."""
    if not unit.decides:  # as in most models
        return {}
    own = {op: Decision(value) for op, value in unit.decided.items() if value in node.outputs}
    called = callees(node)
    if not called:
        return own
    for op in dict.fromkeys(op for callee in called for op in made_for_others(callee)):
        here = around(node, op)
        assert isinstance(here, Before)
        if (here.router, here.stream) in unit.decides:
            index, back = _handed(node, op)
            own[here] = Decision(node.outputs[index], back)
    return own


def made_for_others(unit: Unit) -> dict[Op, Decision]:
    """The last decision of each router in a unit, about streams that it was given."""
    streams = {dim for value in unit.inputs for dim in streams_in(value.type)}
    found: dict[Op, Decision] = {}
    for node in unit.nodes:
        found.update(decisions(unit, node))
    return {op: one for op, one in found.items() if getattr(op, "stream", None) in streams}


def handed_at(unit: Unit, op: Op) -> tuple[int, int] | None:
    """The tap of a unit in which its last decision stands, and how far from the end of a list."""
    decision = made_for_others(unit).get(op)
    return None if decision is None else (unit.taps.index(decision.value), decision.back)


def _handed(node: Node, op: Op) -> tuple[int, int]:
    """The output of a call, or of layers, in which the last decision stands, and how far from the end of its list."""
    if isinstance(node.op, Call):
        tap, back = handed_at(node.op.unit, op) or (0, 0)
        return len(node.op.unit.outputs) + tap, back
    assert isinstance(node.op, Stack)
    handed = handed_by(unit for unit, _ in node.op.runs)
    after = [0] * len(handed)  # what later layers hand up
    for unit, count in reversed(node.op.steps):
        lists = lists_of(unit, handed)
        if (found := handed_at(unit, op)) is not None:
            index, back = lists[found[0]], found[1] or 1
            return 1 + index, after[index] + back
        for value, index in zip(unit.taps, lists, strict=True):
            after[index] += count * records(unit, value)
    raise AssertionError("no layer decides")


def records(unit: Unit, tap: Value) -> int:
    """How many decisions a tap stands for."""
    node = next(node for node in unit.nodes if tap in node.outputs)
    called = callees(node)
    if not called or tap in unit.handed:
        return 1
    if isinstance(node.op, Call):
        inner = node.op.unit
        return records(inner, inner.taps[node.outputs.index(tap) - len(inner.outputs)])
    assert isinstance(node.op, Stack)
    handed = handed_by(called)
    index = node.outputs.index(tap) - 1
    return sum(
        count * records(unit, own)
        for unit, count in node.op.steps
        for own, place in zip(unit.taps, lists_of(unit, handed), strict=True)
        if place == index
    )


def fed_inputs(stack: Stack) -> dict[int, Before]:
    """The inputs of layers that the layers before them decide, by index among inputs and ambients."""
    unit = stack.runs[0][0]
    first = len(unit.inputs)
    return {first + index: op for index, op in enumerate(unit.wants) if isinstance(op, Before)}
