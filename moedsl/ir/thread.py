"""What crosses the borders of units without being written in a spec: ambients go down from the root, taps come up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from moedsl.ir.decisions import Decision, around, callees, decisions
from moedsl.ir.graph import Dim, Init, Node, Unit, Value
from moedsl.ir.ops import (
    Ambient,
    Before,
    CacheHandle,
    Call,
    FirstRound,
    Latest,
    MaskArgument,
    Past,
    Stack,
)
from moedsl.ir.ops_attention import PAST, TOKENS
from moedsl.ir.ops_base import Op
from moedsl.ir.ops_calls import handed_by
from moedsl.ir.ops_depth import Part
from moedsl.ir.shapes import MAIN, is_whole, streams_in

Wants = dict[Unit, dict[Op, Value]]


def thread(units: list[Unit]) -> None:
    """Complete all units, callees before callers; the last is the root."""
    root = units[-1]
    wants: Wants = {unit: dict(zip(unit.wants, unit.ambients, strict=True)) for unit in units}
    calls = [(u, node) for u in units for node in u.nodes if callees(node)]
    while _spread(calls, wants):
        pass
    names = _names(units, wants, _prefixes(root))
    for unit in units[:-1]:
        _take(unit, wants[unit], names)
    for unit in units:
        _hand_up(unit)
    for unit in units:
        _pass_down(unit, wants, _parts(unit, wants, names))
    _make(root, wants[root], names)


# --- ambients -----------------------------------------------------------------------------------


def _spread(calls: list[tuple[Unit, Node]], wants: Wants) -> bool:
    """One round: callers want what callees want; layers of one stack want the same. True if anything changed."""
    before = sum(map(len, wants.values()))
    for unit, node in calls:
        called = callees(node)
        needed = dict.fromkeys(op for callee in called for op in wants[callee])
        for callee in called:
            _want(wants[callee], needed)
        asked = [_asked(unit, node, op) for op in needed]
        _want(wants[unit], [op for op in asked if op is not None])
    return sum(map(len, wants.values())) > before


def wanted_below(node: Node) -> Iterator[Ambient]:
    """What the bodies under a node ask for along their `x`, before it is handed down."""
    for _, _, unit in node.calls():
        for op in unit.wants:
            assert isinstance(op, Ambient)
            if op.stream == MAIN and not isinstance(op, Before):
                yield op
        for inner in unit.nodes:
            yield from wanted_below(inner)


def _want(wanted: dict[Op, Value], needed: Iterable[Op]) -> None:
    for op in needed:
        if op not in wanted:
            assert isinstance(op, Ambient)
            wanted[op] = Value(op.name, op.infer()[0])


def _asked(unit: Unit, node: Node, op: Op) -> Op | None:
    """What the caller is asked for: of a stream that the caller makes, what it is a part of, if any is needed. Nobody
    decided before about such a part."""
    asked = around(node, op)
    assert isinstance(asked, Ambient)
    if _of_first_round(unit, node, op):
        return _before_rounds(op)
    if asked.stream not in unit.streams:
        return asked
    alone = isinstance(op, Before) or _of_chosen(unit, asked)
    return None if alone else replace(asked, stream=MAIN)


def _of_first_round(unit: Unit, node: Node, op: Op) -> bool:
    """Whether a round is asked for what it shares with the first one."""
    return getattr(op, "first", False) and any(node is one for one, _ in unit.given)


def _before_rounds(op: Op) -> Op | None:
    """What the block that comes back is asked for so that it can give its rounds this."""
    return None if isinstance(op, FirstRound) else replace(op, stream=MAIN, first=False)  # type: ignore[call-arg]


def _left_by_first(unit: Unit, node: Node, wants: Wants) -> dict[Op, Value]:
    """What a round shares with the first one, as it is asked for."""
    left = next((value for one, value in unit.given if one is node), None)
    shared = [op for op in callees(node)[0].wants if _of_first_round(unit, node, op)]
    found: dict[Op, Value] = {}
    if left is None:
        return found
    for op in shared:
        whole = _before_rounds(op)
        found[around(node, op)] = left if whole is None else wants[unit][whole]
    return found


def _of_chosen(unit: Unit, op: Ambient) -> bool:
    """Whether the part of chosen tokens is made of who they are alone. What is there at once has nothing else."""
    return is_whole(unit.inputs[0]) or "{0}" not in (op.part or "")


def _parts(unit: Unit, wants: Wants, names: dict[Op, str]) -> dict[Op, Value]:
    """What is made in a unit for the streams that it makes, of what it is given for its `x`. Its nodes stand right
    after what says who is in the stream."""
    found: dict[Op, Value] = {}
    for node in [node for node in unit.nodes if unit.streams and callees(node)]:
        for op in (around(node, inner) for inner in callees(node)[0].wants):
            assert isinstance(op, Ambient)
            if op.stream not in unit.streams or op in found or isinstance(op, Before):
                continue
            if getattr(op, "first", False) and unit.given:
                continue
            chosen, whole = unit.streams[op.stream], replace(op, stream=MAIN)
            maker = next(n for n in unit.nodes if chosen in n.outputs)
            given = wants[unit].get(whole)
            if given is not None and (
                op.part == "{0}" or (op.by_place and getattr(maker.op, "stays", False))
            ):
                found[op] = given
                continue
            part = Part(whole=whole, stream=op.stream, alone=given is None)
            found[op] = Value(f"own_{names.get(whole, op.name)}", part.infer()[0])
            inputs = (chosen,) if given is None else (given, chosen)
            made = Node(part, inputs, (found[op],), span=maker.span)
            unit.nodes.insert(unit.nodes.index(maker) + 1, made)
    return found


def _prefixes(root: Unit) -> dict[Dim, str]:
    """What is made for a stream beside the main one is called after its input."""
    named = ((dim, value.name) for value in root.inputs for dim in streams_in(value.type))
    return {dim: "" if dim == MAIN else f"{name}_" for dim, name in named}


def _names(units: list[Unit], wants: Wants, prefixes: dict[Dim, str]) -> dict[Op, str]:
    """The name of each ambient in all units: its kind's, or its function's where a unit that wants both has one of that
    name already."""
    found: dict[Op, str] = {}
    for op in dict.fromkeys(op for unit in units for op in wants[unit]):
        assert isinstance(op, Ambient)
        beside = dict.fromkeys(o for unit in units if op in wants[unit] for o in wants[unit])
        taken = {found[other] for other in beside if other in found}
        prefix = prefixes.get(op.stream, "")
        names = (prefix + op.name, prefix + op.other_name)
        free = [name for name in names if name not in taken]
        assert free, f"two ambients named {names[-1]}"
        found[op] = free[0]
    return found


def _ranked(wanted: dict[Op, Value], names: dict[Op, str]) -> list[Op]:
    order = list(names)
    return sorted(wanted, key=lambda op: (getattr(op, "rank", 0), order.index(op)))


def _take(unit: Unit, wanted: dict[Op, Value], names: dict[Op, str]) -> None:
    unit.wants = _ranked(wanted, names)
    unit.ambients = [wanted[op] for op in unit.wants]
    for op, value in wanted.items():
        value.name = names[op]


def _pass_down(unit: Unit, wants: Wants, parts: dict[Op, Value]) -> None:
    known = {**wants[unit], **parts}
    decided: dict[Op, Decision] = {}
    for node in list(unit.nodes):
        if called := callees(node):
            asked = [around(node, op) for op in called[0].wants]
            latest = {op: _latest(unit, node, op, decided[op]) for op in asked if op in decided}
            given = {**known, **latest, **_left_by_first(unit, node, wants)}
            node.inputs = (*node.inputs, *(given.get(op) or _nothing(op) for op in asked))
        decided.update(decisions(unit, node))


def _nothing(op: Op) -> Value:
    """Stands where nobody decided before, and is read by nobody."""
    assert isinstance(op, Before)
    return Value(op.name, op.record)


def _latest(unit: Unit, node: Node, op: Op, decision: Decision) -> Value:
    """The last decision before a node, by itself: one of those that layers handed up has a name of its own."""
    assert isinstance(op, Before)
    if not decision.back:
        return decision.value
    latest = Latest(back=decision.back, record=op.record)
    value = Value(op.name, op.record)
    unit.nodes.insert(unit.nodes.index(node), Node(latest, (decision.value,), (value,)))
    return value


def _make(root: Unit, wanted: dict[Op, Value], names: dict[Op, str]) -> None:
    """Nodes at the start of the root, for the ambients that anything wants; the others are arguments."""
    prefixes = _prefixes(root)
    known = {(dim, TOKENS): v for v in root.inputs for dim in streams_in(v.type)}
    known.setdefault((MAIN, TOKENS), root.inputs[0])  # an image: says how many sequences there are
    beside = [dim for dim in prefixes if dim != MAIN]
    arguments: list[Ambient] = [MaskArgument(stream=dim) for dim in [*beside, MAIN]]
    arguments.append(CacheHandle())
    root.wants = list(arguments)
    root.ambients = []
    for argument in arguments:
        value = Value(prefixes.get(argument.stream, "") + argument.name, argument.infer()[0])
        root.ambients.append(value)
        known[argument.stream, argument.name] = value
    nodes: list[Node] = []
    if any(PAST in op.needs or isinstance(op, Past) for op in wanted if isinstance(op, Ambient)):
        past = Past()
        known[MAIN, PAST] = Value(PAST, past.infer()[0])
        needed = tuple(known[MAIN, need] for need in past.needs)
        nodes.append(Node(past, needed, (known[MAIN, PAST],)))
    for op in _ranked(wanted, names):
        assert isinstance(op, Ambient)
        value = wanted[op]
        if isinstance(op, Before):
            continue  # nobody decides before the first layer
        if not op.code or isinstance(op, Past):
            _replace(root, value, known[op.stream, op.name])
            continue
        prefix = prefixes.get(op.stream, "")
        plain = names[op] == prefix + op.name and op.root_name
        value.name = prefix + op.root_name if plain else names[op]
        needed = tuple(known[op.stream, need] for need in op.needs)
        nodes.append(Node(op, needed, (value,), place=op.place, inits=tuple(map(Init, op.inits))))
    root.nodes[:0] = nodes
    if not prefixes:  # no ids: neither padding nor past
        root.wants, root.ambients = [], []


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
            longest = handed_by(called) if isinstance(node.op, Stack) else called[0].taps
            if longest and not node.outputs[0].name:
                node.outputs[0].name = "y"
            single = isinstance(node.op, Call) and len(longest) == 1
            handed = [Value(node.place if single else tap.name, tap.type) for tap in longest]
            node.outputs = (*node.outputs, *handed)
            taps.extend(handed)
    unit.taps = taps
