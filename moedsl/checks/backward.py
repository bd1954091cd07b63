"""What lies behind a set of results: the walk that gradients take, from the outputs of a unit to its inputs.

One walk serves several questions, by what it follows: `values` (is this read at all), `gradients` (does a gradient
arrive), `nearly` (would one arrive if no weight were a constant). Walks are made once per unit and set of wanted
outputs, so equal layers are walked once. A record is wanted field by field: a constant weight in it stops gradients
that statistics in it let pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from moedsl.checks.traits import carries, constant, field_of, is_loss
from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, Node, RecordType, Unit, Value
from moedsl.ir.ops import Call, Field, Stack

WHOLE = ""  # all of a tensor; of a record, what is not read by name
Wanted = frozenset[tuple[int, str]]  # (index among outputs and taps, or inputs and ambients; field)


@frozen(eq=False)
class Reach:
    """`inputs` that are reached from the wanted outputs; `nodes` on the way, with their own wanted outputs."""

    inputs: Wanted
    nodes: dict[Node, Wanted]


@dataclass
class Backward:
    """`losses`: those that ask for gradients too (None: all)."""

    follow: Literal["values", "gradients", "nearly"]
    losses: Collection[Node] | None = None
    memo: dict[tuple[Unit, Wanted], Reach] = field(default_factory=dict)

    def reach(self, unit: Unit, wanted: Wanted) -> Reach:
        key = (unit, wanted)
        if key not in self.memo:
            results = [*unit.outputs, *unit.taps]
            live: set[tuple[Value, str]] = {(results[i], name) for i, name in wanted}
            nodes: dict[Node, Wanted] = {}
            for node in reversed(unit.nodes):
                asked = _indexed(node.outputs, live)
                passed = self._passed(node, asked)
                if asked or passed:
                    nodes[node] = asked
                live.update((node.inputs[i], name) for i, name in passed if i < len(node.inputs))
            self.memo[key] = Reach(_indexed([*unit.inputs, *unit.ambients], live), nodes)
        return self.memo[key]

    def below(self, node: Node, wanted: Wanted) -> Iterator[tuple[str, Unit, Wanted]]:
        """(path, unit, its wanted outputs) of each unit that runs under the node, last first."""
        for path, _, unit in reversed(list(node.calls())):
            count = len(unit.outputs) + len(unit.taps)
            yield path, unit, frozenset(want for want in wanted if want[0] < count)
            if isinstance(node.op, Stack):  # the layer below is asked for what this one reads
                here = self.reach(unit, frozenset(want for want in wanted if want[0] < count))
                stream = {want for want in here.inputs if want[0] == 0}
                wanted = frozenset(stream | {want for want in wanted if want[0] != 0})

    def _passed(self, node: Node, wanted: Wanted) -> Wanted:
        """The inputs of the node that are reached through it."""
        if isinstance(node.op, Call | Stack):
            called = [self.reach(unit, outs).inputs for _, unit, outs in self.below(node, wanted)]
            return frozenset().union(*called)
        asks = is_loss(node) and (self.losses is None or node in self.losses)
        if not wanted and not asks:
            return frozenset()
        name = node.op.field if isinstance(node.op, Field) else WHOLE
        return frozenset(
            (i, name) for i in range(len(node.inputs)) if self._passes(node, i, wanted)
        )

    def _passes(self, node: Node, index: int, wanted: Wanted) -> bool:
        if self.follow == "values":
            return True
        if not carries(node, index):
            return False
        names = {name for _, name in wanted}
        owner = field_of(node, index)
        if owner is not None and owner not in names:
            return False
        if self.follow == "nearly" or not constant(node):
            return True
        is_record = bool(node.outputs) and isinstance(node.outputs[0].type, RecordType)
        return is_record and WHOLE in names

    def visit(self, graph: Graph, taps: bool = False) -> Iterator[tuple[str, Node, bool]]:
        """(path, node, is it reached) over all places, from the root's outputs (and its taps).

        A call that is not reached counts as one node: what is inside is not listed.
        """
        root = graph.root
        results = len(root.outputs) + (len(root.taps) if taps else 0)
        if self.losses:
            results = 0  # some losses by themselves
        pending = [("", root, frozenset((i, WHOLE) for i in range(results)))]
        while pending:
            path, unit, wanted = pending.pop()
            nodes = self.reach(unit, wanted).nodes
            for node in unit.nodes:
                yield _join(path, node.path or node.place), node, node in nodes
                if node in nodes:
                    pending.extend(
                        (_join(path, name), callee, outs)
                        for name, callee, outs in self.below(node, nodes[node])
                    )

    def missed(self, graph: Graph, taps: bool = False) -> dict[Node, list[str]]:
        """The operations that are not reached, with the paths of their places."""
        found: dict[Node, list[str]] = {}
        for path, node, is_reached in self.visit(graph, taps):
            if not is_reached:
                found.setdefault(node, []).append(path)
        return found


def _indexed(values: Sequence[Value], live: set[tuple[Value, str]]) -> Wanted:
    if len(values) == 1:  # most nodes have one result
        only = values[0]
        return frozenset((0, name) for value, name in live if value is only)
    found = {value: index for index, value in enumerate(values)}
    return frozenset((found[value], name) for value, name in live if value in found)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
