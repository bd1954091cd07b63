"""Which of its inputs an operation's printed form reads: what nobody reads is neither computed nor handed down."""

from __future__ import annotations

from dataclasses import field
from string import Formatter

from moedsl.frozen import record
from moedsl.ir.decisions import fed_inputs, handed_at
from moedsl.ir.graph import Node, Unit, Value
from moedsl.ir.ops import Before, Call, Stack


def is_loss(node: Node) -> bool:
    """An op with a non-empty `loss` fills that entry of the model's losses."""
    return bool(getattr(node.op, "loss", ""))


@record
class Reads:
    """Answers for one graph; a unit is looked at once."""

    memo: dict[Unit, tuple[bool, ...]] = field(default_factory=dict)
    caches: dict[Unit, Value] = field(default_factory=dict)  # what units keep their parts in

    def of(self, node: Node) -> tuple[Value, ...]:
        """The inputs that the node reads, in order."""
        return tuple(v for v, read in zip(node.inputs, self.mask(node), strict=True) if read)

    def mask(self, node: Node) -> tuple[bool, ...]:
        match node.op:
            case Call(unit=unit):
                return self.unit(unit)
            case Stack(runs=runs):
                columns = list(zip(*(self.unit(u) for u, _ in runs), strict=True))
                fed = fed_inputs(node.op)
                return tuple(
                    self.enters(node.op, index, fed[index]) if index in fed else any(column)
                    for index, column in enumerate(columns)
                )
        keys = {key for _, key, _, _ in Formatter().parse(node.op.code) if key is not None}
        return tuple("args" in keys or str(index) in keys for index in range(len(node.inputs)))

    def unit(self, unit: Unit) -> tuple[bool, ...]:
        """For each input, then each ambient: does the unit read it? It always takes its first one."""
        if unit not in self.memo:
            read = {value for node in self.live(unit) for value in self.of(node)}
            read.update([*unit.outputs, *unit.taps, *unit.inputs[:1]])
            read.update([self.caches[unit]] if unit in self.caches else [])
            self.memo[unit] = tuple(value in read for value in [*unit.inputs, *unit.ambients])
        return self.memo[unit]

    def enters(self, stack: Stack, index: int, op: Before) -> bool:
        """Does a layer read what was decided before the first of them?"""
        for unit, _ in stack.steps:
            if self.unit(unit)[index]:
                return True
            if handed_at(unit, op) is not None:
                return False
        return False

    def takes(self, unit: Unit, value: Value) -> bool:
        """Does the unit read this one of its inputs or ambients?"""
        return self.unit(unit)[[*unit.inputs, *unit.ambients].index(value)]

    def live(self, unit: Unit, more: tuple[Value, ...] = ()) -> list[Node]:
        """Nodes that an output or a tap depends on, or one of `more`, in order."""
        wanted = {*unit.outputs, *unit.taps, *more}
        wanted.update(value for node in unit.nodes if is_loss(node) for value in node.outputs)
        kept = []
        for node in reversed(unit.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(self.of(node))
                kept.append(node)
        return kept[::-1]
