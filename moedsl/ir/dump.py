"""A graph as text: stable, one line a node, for goldens and for `moedsl check --emit graph`.

    sparse (moe): x [B, T, D 64] | real [N] bool
      x [N, D 64] = rows(x)
      routing Routing = call router: top2(x, real)
      ...
      -> [B, T, D 64] | routing Routing

Values that nothing named are numbered. After `|` stand ambients (in) and taps (out).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, field, fields

from moedsl.frozen import record
from moedsl.ir.graph import Dim, Graph, Node, Unit, Value
from moedsl.ir.ops import Ambient, Call, Op, Stack
from moedsl.ir.shapes import spell


def dump_graph(graph: Graph) -> str:
    return "\n".join(_unit(unit) for unit in graph.units)


@record
class _Names:
    """What a dump calls each value: its name, with a number where another one has it."""

    of: dict[Value, str] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)

    def __call__(self, value: Value) -> str:
        if value not in self.of:
            count = self.used[value.name] = self.used.get(value.name, 0) + 1
            plain = value.name and count == 1
            self.of[value] = value.name if plain else f"{value.name or '%'}{count}"
        return self.of[value]

    def typed(self, values: Iterable[Value]) -> str:
        return ", ".join(f"{self(value)} {spell(value.type)}" for value in values)


def _unit(unit: Unit) -> str:
    names = _Names()
    bank = f", {unit.bank} side by side" if unit.bank else ""
    head = f"{unit.name} ({unit.kind}{bank}): {_sides(names, unit.inputs, unit.ambients)}"
    lines = [f"  {_node(node, names)}" for node in unit.nodes]
    return "\n".join([head, *lines, f"  -> {_sides(names, unit.outputs, unit.taps)}", ""])


def _sides(names: _Names, own: list[Value], threaded: list[Value]) -> str:
    return " | ".join(part for part in (names.typed(own), names.typed(threaded)) if part)


def _node(node: Node, names: _Names) -> str:
    inputs = ", ".join(names(value) for value in node.inputs)
    place = f" {node.path or node.place}" if node.place else ""
    weights = ", ".join(str(list(p.shape)) for p in node.op.parameters())
    text = f"{names.typed(node.outputs)} = {_verb(node.op)}{place}{_called(node.op)}({inputs})"
    notes = [*_settings(node.op), *([f"weights {weights}"] if weights else [])]
    notes += ["poisoned"] if node.poisoned else []
    return text + (f"  # {'; '.join(notes)}" if notes else "")


def _verb(op: Op) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(op).__name__).lower()


def _called(op: Op) -> str:
    match op:
        case Call(unit=unit):
            return f": {unit.name}"
        case Stack(runs=runs):
            return ": " + " + ".join(f"{count} * {unit.name}" for unit, count in runs)
    return ""


def _settings(op: Op) -> list[str]:
    """Fields that differ from their defaults; axes and units show elsewhere."""
    found = []
    for one in fields(op):
        value = getattr(op, one.name)
        shown = not isinstance(value, Unit | Dim | Op) and one.name not in ("runs", "type")
        if (one.default is not MISSING and value == one.default) or value is None or not shown:
            continue
        if isinstance(value, tuple):
            value = ", ".join(str(getattr(item, "letter", item)) for item in value)
        found.append(f"{one.name} = {value}")
    if isinstance(op, Ambient):
        found.append("for all layers")
    return found
