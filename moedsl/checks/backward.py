"""What lies behind a set of results: the walk that gradients take, from the outputs of a unit to its inputs.

One walk serves several questions, by what it follows: `values` (is this read at all), `gradients` (does a gradient
arrive), `nearly` (would one arrive if no weight were a constant). Walks are made once per unit and set of wanted
outputs, so equal layers are walked once. A record is wanted field by field: a constant weight in it stops gradients
that statistics in it let pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import field
from typing import Literal

from moedsl.checks.traits import carries, constant, field_of, is_loss, names_of_fields
from moedsl.frozen import frozen, record
from moedsl.ir.decisions import fed_inputs, handed_at
from moedsl.ir.graph import Graph, Node, RecordType, Unit, Value
from moedsl.ir.ops import Call, Field, Stack
from moedsl.ir.ops_calls import handed_by, lists_of

WHOLE = ""  # all of a tensor; of a record, what is not read by name
Wanted = frozenset[tuple[int, str]]  # (index among outputs and taps, or inputs and ambients; field)
Live = dict[Value, set[str]]  # the wanted fields of values inside a unit
NOTHING: Wanted = frozenset()


@frozen(eq=False)
class Reach:
    """`inputs` that are reached from the wanted outputs; `nodes` on the way, with their own wanted outputs."""

    inputs: Wanted
    nodes: dict[Node, Wanted]


@record
class Backward:
    """`losses`: those that ask for gradients too (None: all)."""

    follow: Literal["values", "gradients", "nearly"]
    losses: Collection[Node] | None = None
    memo: dict[tuple[Unit, Wanted], Reach] = field(default_factory=dict)

    def reach(self, unit: Unit, wanted: Wanted) -> Reach:
        key = (unit, wanted)
        if key not in self.memo:
            results = [*unit.outputs, *unit.taps]
            live: Live = {}
            for index, name in wanted:
                live.setdefault(results[index], set()).add(name)
            nodes: dict[Node, Wanted] = {}
            for node in reversed(unit.nodes):
                asked = _indexed(node.outputs, live)
                passed = self._passed(node, asked)
                if asked or passed:
                    nodes[node] = asked
                for index, name in passed:
                    if index < len(node.inputs):
                        live.setdefault(node.inputs[index], set()).add(name)
            self.memo[key] = Reach(_indexed([*unit.inputs, *unit.ambients], live), nodes)
        return self.memo[key]

    def below(self, node: Node, wanted: Wanted) -> Iterator[tuple[str, Unit, Wanted]]:
        """(path, unit, its wanted outputs) of each unit that runs under the node, last first."""
        stack = node.op if isinstance(node.op, Stack) else None
        handed = handed_by(unit for unit, _ in stack.runs) if stack is not None else []
        fed = fed_inputs(stack) if stack is not None else {}
        asked: dict[int, set[str]] = {}  # of decisions of layers below
        for path, _, unit in reversed(list(node.calls())):
            outs = _own(unit, handed, wanted)
            for index, op in fed.items():
                if index in asked and (tap := handed_at(unit, op)) is not None:
                    outs |= {(1 + tap[0], name) for name in asked.pop(index)}
            yield path, unit, outs
            if stack is not None:  # the layer below is asked for what this one reads
                inputs = self.reach(unit, outs).inputs
                stream = {want for want in inputs if want[0] == 0}
                wanted = frozenset(stream | {want for want in wanted if want[0] != 0})
                for index, name in inputs:
                    if index in fed:
                        asked.setdefault(index, set()).add(name)

    def _passed(self, node: Node, wanted: Wanted) -> Wanted:
        """The inputs of the node that are reached through it."""
        if isinstance(node.op, Call | Stack):
            called = [self.reach(unit, outs).inputs for _, unit, outs in self.below(node, wanted)]
            return called[0].union(*called[1:])
        if not wanted:
            asks = is_loss(node) if self.losses is None else node in self.losses
            if not asks:
                return NOTHING
        name = node.op.field if isinstance(node.op, Field) else WHOLE
        return frozenset([(index, name) for index in self._passing(node, wanted)])

    def _passing(self, node: Node, wanted: Wanted) -> Iterable[int]:
        """The inputs through which what is followed goes on."""
        inputs = range(len(node.inputs))
        if self.follow == "values":
            return inputs
        names = {name for _, name in wanted}
        if self.follow == "gradients" and constant(node):
            is_record = bool(node.outputs) and isinstance(node.outputs[0].type, RecordType)
            if not (is_record and WHOLE in names):
                return ()
        if names_of_fields(node) is None:
            return [index for index in inputs if carries(node, index)]
        return [i for i in inputs if carries(node, i) and field_of(node, i) in names]

    def bodies(self, graph: Graph, taps: bool = False) -> Iterator[tuple[Unit, dict[Node, Wanted]]]:
        """(unit, its nodes that are reached) for each set of outputs that any place wants of it, from the root's
        outputs (and its taps) on: what can be asked of bodies need not be asked of every place."""
        pending = [(graph.root, self._root_wanted(graph, taps))]
        seen = set(pending)
        while pending:
            unit, wanted = pending.pop()
            nodes = self.reach(unit, wanted).nodes
            yield unit, nodes
            for node, outs in nodes.items():
                if isinstance(node.op, Call | Stack):
                    below = {(callee, asked) for _, callee, asked in self.below(node, outs)} - seen
                    seen |= below
                    pending.extend(below)

    def visit(self, graph: Graph, taps: bool = False) -> Iterator[tuple[str, Node, bool]]:
        """(path, node, is it reached) over all places.

        A call that is not reached counts as one node: what is inside is not listed.
        """
        pending = [("", graph.root, self._root_wanted(graph, taps))]
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

    def _root_wanted(self, graph: Graph, taps: bool) -> Wanted:
        if self.losses:
            return NOTHING  # some losses by themselves
        results = len(graph.root.outputs) + (len(graph.root.taps) if taps else 0)
        return frozenset((index, WHOLE) for index in range(results))

    def missed(
        self, graph: Graph, among: Callable[[Node], bool], taps: bool = False
    ) -> dict[Node, list[str]]:
        """The operations that are not reached, with the paths of their places."""
        asked = {
            node
            for unit, nodes in self.bodies(graph, taps)
            for node in unit.nodes
            if node not in nodes and among(node)
        }
        found: dict[Node, list[str]] = {}
        if asked:  # in few models: all places are walked for their names
            for path, node, is_reached in self.visit(graph, taps):
                if not is_reached and node in asked:
                    found.setdefault(node, []).append(path)
        return found


def _indexed(values: Sequence[Value], live: Live) -> Wanted:
    if len(values) == 1:  # most nodes have one result
        names = live.get(values[0])
        return NOTHING if names is None else frozenset([(0, name) for name in names])
    return frozenset(
        [(index, n) for index, value in enumerate(values) if value in live for n in live[value]]
    )


def _own(unit: Unit, handed: list[Value], wanted: Wanted) -> Wanted:
    """Of the outputs that a stack is asked for, those that a layer of it has, as the layer counts them; `handed`: the
    lists that its layers fill together."""
    if not handed or all(index == 0 for index, _ in wanted):
        return wanted
    lists = lists_of(unit, handed)
    if lists == list(range(len(handed))):
        return wanted
    own = {0: 0, **{1 + index: 1 + tap for tap, index in enumerate(lists)}}
    return frozenset((own[index], name) for index, name in wanted if index in own)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
