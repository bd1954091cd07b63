"""Tokens that get nothing: harmless beside a stream that carries them on, a hole where a projection should be.

In `x += sparse(norm(x))` a token that finds no room stays as it was. A projection has nothing beside it: there the
token's query, key or value would be zero, and it would still take part in attention.
"""

from __future__ import annotations

from moedsl.checks.traits import leaves_out
from moedsl.diagnostics.model import Label, Sink
from moedsl.ir.graph import NOWHERE, Graph, Node, Unit, Value

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down", "keys", "values", "hidden")
Causes = tuple[
    Node | None, ...
]  # for each value that a unit gets or gives: what leaves rows of it out


def check_left_out(graph: Graph, sink: Sink) -> None:
    _Walk(sink).unit(graph.root, ())


class _Walk:
    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.memo: dict[tuple[Unit, Causes], tuple[Causes, Node | None]] = {}
        self.reported: set[Node] = set()

    def unit(self, unit: Unit, given: Causes) -> tuple[Causes, Node | None]:
        """What leaves rows of its decisions out, and of what a mixture gives."""
        key = (unit, given)
        if key not in self.memo:
            inputs = [*unit.inputs, *unit.ambients]
            causes: dict[Value, Node | None] = dict(zip(inputs, given, strict=False))
            met: Node | None = None
            for node in unit.nodes:
                found = self._node(node, causes)
                met = met or found
            ends = tuple(causes.get(value) for value in [*unit.outputs, *unit.taps])
            self.memo[key] = (ends, met)
        return self.memo[key]

    def _node(self, node: Node, causes: dict[Value, Node | None]) -> Node | None:
        """Follows decisions; what a mixture computes is no decision any more."""
        own = tuple(causes.get(value) for value in node.inputs)
        called = [inner for _, _, inner in node.calls()]
        if not called:
            cause = node if leaves_out(node) else next(filter(None, own), None)
            decides = node.op.module() == "" and not node.place
            causes.update((value, cause if decides else None) for value in node.outputs)
            return cause
        met: Node | None = None
        for inner in dict.fromkeys(called):
            ends, found = self.unit(inner, own)
            met = met or found
            if inner.kind == "moe" and node.role in PROJECTIONS and found is not None:
                self._report(node, found)
            if inner.kind == "router":
                causes.update(zip(node.outputs, ends, strict=False))
        return met

    def _report(self, node: Node, cause: Node) -> None:
        if node in self.reported or node.poisoned:
            return
        self.reported.add(node)
        places = (Label(cause.span, "tokens may find no room here"),)
        self.sink.error(
            "E0421",
            f"a token that finds no room would have no `{node.role}`",
            node.span,
            "nothing beside it carries the token on",
            secondary=tuple(label for label in places if label.span not in (NOWHERE, node.span)),
            help="give every token room, `capacity = none`; where zeros are meant, write `overflow = zero`",
        )
