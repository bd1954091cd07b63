"""Numbers that are hidden are -inf: they can be ranked and go into a softmax, and nothing else can be made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.diagnostics.model import Label
from moedsl.ir import ops
from moedsl.ir.graph import Node, Unit, Value

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.source import Span


def hidden_in(unit: Unit, value: Value) -> Node | None:
    """What hides some of the numbers behind a value."""
    behind = {value}
    for node in reversed(unit.nodes):
        if behind.isdisjoint(node.outputs):
            continue
        if isinstance(node.op, ops.Noise) and node.op.form == "hide":
            return node
        if not isinstance(node.op, ops.Softmax):
            behind.update(node.inputs)
    return None


def refuse(build: Builder, who: str, span: Span, node: Node) -> None:
    build.sink.error(
        "E0422",
        f"{who} computes with numbers of which some are hidden",
        span,
        "nothing can be made of -inf",
        secondary=(Label(node.span, "hidden here"),) if node.span != span else (),
        help="hide them where they are ranked: `choose = gate -> hide(0.1)`",
    )
