"""How the inputs of a unit reach its outputs: which operations lie on the way, and whether row answers to row.

Summaries are made once per unit and composed at calls, so the work grows with what differs, not with depth.
"""

from __future__ import annotations

from dataclasses import field

from moedsl.checks.traits import sees
from moedsl.frozen import frozen, record
from moedsl.ir.decisions import fed_inputs, handed_at
from moedsl.ir.graph import Node, Unit, Value
from moedsl.ir.ops import Stack
from moedsl.ir.ops_calls import handed_by, lists_of


@frozen
class Strand:
    """All ways from one input to one value. `aligned`: row t of the value answers to row t of the input, on at least
    one way; `past` and `ahead`: the operations on any of the ways that see earlier rows, or all rows."""

    aligned: bool = True
    past: frozenset[Node] = frozenset()
    ahead: frozenset[Node] = frozenset()

    def through(self, node: Node, index: int) -> Strand:
        match sees(node, index):
            case "past":
                return Strand(self.aligned, self.past | {node}, self.ahead)
            case "all":
                return Strand(False, self.past, self.ahead | {node})
        return self

    def beside(self, other: Strand) -> Strand:
        if other is self or other == self:
            return self
        return Strand(
            self.aligned or other.aligned, self.past | other.past, self.ahead | other.ahead
        )

    def then(self, other: Strand) -> Strand:
        if other == PLAIN:
            return self
        return Strand(
            self.aligned and other.aligned, self.past | other.past, self.ahead | other.ahead
        )


PLAIN = Strand()
Strands = dict[int, Strand]  # by index of the unit's input


def _merge(into: Strands, more: Strands) -> None:
    for index, strand in more.items():
        into[index] = into[index].beside(strand) if index in into else strand


@record
class Flow:
    """Summaries of the units of one graph: for each output and tap, its strands from the unit's inputs."""

    memo: dict[Unit, tuple[Strands, ...]] = field(default_factory=dict)

    def summary(self, unit: Unit) -> tuple[Strands, ...]:
        if unit not in self.memo:
            at: dict[Value, Strands] = {
                value: {index: Strand()}
                for index, value in enumerate([*unit.inputs, *unit.ambients])
            }
            for node in unit.nodes:
                inputs = [at.get(value, {}) for value in node.inputs]
                at.update(zip(node.outputs, self._results(node, inputs), strict=False))
            self.memo[unit] = tuple(at.get(v, {}) for v in [*unit.outputs, *unit.taps])
        return self.memo[unit]

    def _results(self, node: Node, inputs: list[Strands]) -> tuple[Strands, ...]:
        if node.poisoned:
            return ({},) * len(node.outputs)
        if isinstance(node.op, Stack):
            return self._stack(node.op, inputs, len(node.outputs))
        called = next((unit for _, _, unit in node.calls()), None)
        if called is not None:
            return self._call(called, inputs)
        result: Strands = {}
        for index, strands in enumerate(inputs):
            _merge(result, {i: strand.through(node, index) for i, strand in strands.items()})
        return (result,) * len(node.outputs)

    def _call(self, unit: Unit, inputs: list[Strands]) -> tuple[Strands, ...]:
        results = []
        for strands in self.summary(unit):
            result: Strands = {}
            for index, inner in strands.items():
                outer = inputs[index] if index < len(inputs) else {}
                _merge(result, {i: strand.then(inner) for i, strand in outer.items()})
            results.append(result)
        return tuple(results)

    def _stack(self, stack: Stack, inputs: list[Strands], count: int) -> tuple[Strands, ...]:
        """The stream goes from layer to layer, and so do decisions that later ones read; taps gather what all of them
        hand up."""
        stream, rest = inputs[0], inputs[1:]
        fed = fed_inputs(stack)
        taps: list[Strands] = [{} for _ in range(count - 1)]
        listed = handed_by(unit for unit, _ in stack.runs)
        for unit, repeats in stack.steps:
            lists = lists_of(unit, listed)
            for _ in range(repeats):
                before = stream, list(rest)
                stream, *handed = self._call(unit, [stream, *rest])
                for index, strands in zip(lists, handed, strict=False):
                    _merge(taps[index], strands)
                for index, op in fed.items():
                    if (tap := handed_at(unit, op)) is not None:
                        rest[index - 1] = handed[tap[0]]
                if (stream, rest) == before:
                    break
        return (stream, *taps)
