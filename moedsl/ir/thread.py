"""What crosses the borders of units without being written in a spec: ambients go down from the root, taps come up."""

from __future__ import annotations

from moedsl.ir.graph import Node, RecordType, Unit, Value
from moedsl.ir.ops import Ambient, CacheHandle, Call, MaskArgument, Past, Stack
from moedsl.ir.ops_attention import CACHE, MASK, PAST, TOKENS
from moedsl.ir.ops_base import Op
from moedsl.ir.shapes import is_ids

Wants = dict[Unit, dict[Op, Value]]


def thread(units: list[Unit]) -> None:
    """Complete all units, callees before callers; the last is the root."""
    root = units[-1]
    wants: Wants = {unit: dict(zip(unit.wants, unit.ambients, strict=True)) for unit in units}
    calls = [(u, called) for u in units for node in u.nodes if (called := callees(node))]
    while _spread(calls, wants):
        pass
    names = _names(units, wants)
    for unit in units[:-1]:
        _take(unit, wants[unit], names)
    for unit in units:
        _pass_down(unit, wants)
    _make(root, wants[root], names)
    for unit in units:
        _hand_up(unit)


# --- ambients -----------------------------------------------------------------------------------


def callees(node: Node) -> list[Unit]:
    match node.op:
        case Call(unit=unit):
            return [unit]
        case Stack(runs=runs):
            return list(dict.fromkeys(unit for unit, _ in runs))
    return []


def _spread(calls: list[tuple[Unit, list[Unit]]], wants: Wants) -> bool:
    """One round: callers want what callees want; layers of one stack want the same. True if anything changed."""
    before = sum(map(len, wants.values()))
    for unit, called in calls:
        needed = dict.fromkeys(op for callee in called for op in wants[callee])
        for taker in [*called, unit]:
            for op in needed:
                if op not in wants[taker]:
                    assert isinstance(op, Ambient)
                    wants[taker][op] = Value(op.name, op.infer()[0])
    return sum(map(len, wants.values())) > before


def _names(units: list[Unit], wants: Wants) -> dict[Op, str]:
    """One name for each ambient in all units: its kind's, then its function's where that is taken."""
    found: dict[str, Op] = {}
    for unit in units:
        for op in wants[unit]:
            if op in found.values():
                continue
            assert isinstance(op, Ambient)
            name = op.name if op.name not in found else op.other_name
            assert name not in found, f"two ambients named {name}"
            found[name] = op
    return {op: name for name, op in found.items()}


def _ranked(wanted: dict[Op, Value], names: dict[Op, str]) -> list[Op]:
    order = list(names)
    return sorted(wanted, key=lambda op: (getattr(op, "rank", 0), order.index(op)))


def _take(unit: Unit, wanted: dict[Op, Value], names: dict[Op, str]) -> None:
    unit.wants = _ranked(wanted, names)
    unit.ambients = [wanted[op] for op in unit.wants]
    for op, value in wanted.items():
        value.name = names[op]


def _pass_down(unit: Unit, wants: Wants) -> None:
    for node in unit.nodes:
        if called := callees(node):
            node.inputs = (*node.inputs, *(wants[unit][op] for op in called[0].wants))


def _make(root: Unit, wanted: dict[Op, Value], names: dict[Op, str]) -> None:
    """Nodes at the start of the root, for the ambients that anything wants; the others are arguments."""
    tokens = next((v for v in root.inputs if is_ids(v)), None)
    assert tokens is not None or not wanted, "ambients are made from ids"
    arguments = {MASK: Value(MASK, RecordType("Tensor")), CACHE: Value(CACHE, RecordType("Cache"))}
    known = dict(arguments)
    nodes: list[Node] = []
    if tokens is not None:
        known[TOKENS] = tokens
    needed = {name for op in wanted if isinstance(op, Ambient) for name in op.needs}
    if PAST in needed:
        past = Past()
        known[PAST] = Value(PAST, past.infer()[0])
        nodes.append(Node(past, tuple(known[n] for n in past.needs), (known[PAST],)))
    for op in _ranked(wanted, names):
        assert isinstance(op, Ambient)
        value = wanted[op]
        if not op.code:
            _replace(root, value, arguments[op.name])
            continue
        value.name = op.root_name if op.root_name and names[op] == op.name else names[op]
        nodes.append(Node(op, tuple(known[n] for n in op.needs), (value,)))
    root.nodes[:0] = nodes
    root.ambients = list(arguments.values())
    root.wants = [MaskArgument(), CacheHandle()]


def _replace(unit: Unit, old: Value, new: Value) -> None:
    for node in unit.nodes:
        node.inputs = tuple(new if value is old else value for value in node.inputs)


# --- taps ---------------------------------------------------------------------------------------


def _hand_up(unit: Unit) -> None:
    """The unit's taps, in order of computation: its own, and those of the units that it calls."""
    own = set(unit.handed)
    taps: list[Value] = []
    for node in unit.nodes:
        taps.extend(value for value in node.outputs if value in own)
        if called := callees(node):
            longest = max((c.taps for c in called), key=len)
            if longest and not node.outputs[0].name:
                node.outputs[0].name = "y"
            single = isinstance(node.op, Call) and len(longest) == 1
            handed = [Value(node.place if single else tap.name, tap.type) for tap in longest]
            node.outputs = (*node.outputs, *handed)
            taps.extend(handed)
    unit.taps = taps
