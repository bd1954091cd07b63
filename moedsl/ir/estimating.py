"""Choices made one after another, and estimators of what drawing them does to the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.ir import ops
from moedsl.ir.graph import Node, Value
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.drawn import InTurn
    from moedsl.ir.build import Builder

LEFT = "left"  # in scope where what is ranked is ranked anew for each pick


def lower_in_turn(build: Builder, turn: InTurn, x: Value) -> Value:
    """The flow runs once for each pick, so it becomes part of one operation and not nodes of the unit."""
    choices, nodes = build.last(x), build.frame.unit.nodes
    before = len(nodes)
    with build.body(x=x, left=x):
        last = build.evaluate(turn.by)
    steps, nodes[before:] = nodes[before:], []
    fault = next((step for step in steps if not _is_plain(step)), None)
    if last in build.bad or x in build.bad:
        return build.poison(x)
    if fault is not None or not _is_chain(steps, x, last):
        build.sink.error(
            "E0420",
            "what stands in `in_turn` is done anew for each pick, and this has weights or reads more than what is ranked",
            fault.span if fault is not None else turn.recipe.origin("by"),
            help="rule out, perturb or scale what is ranked: `near_ties(2%) -> gumbel`",
        )
        return build.poison(x)
    kept = build.dim(turn.k, turn.recipe.origin("k"), letter="K")
    op = ops.InTurn(kept=kept, choices=choices, steps=tuple(step.op for step in steps))
    return build.op(op, x, name="expert")


def _is_plain(node: Node) -> bool:
    return len(node.inputs) == len(node.outputs) == 1 and not node.op.parameters()


def _is_chain(steps: list[Node], x: Value, last: Value) -> bool:
    """Each reads what the one before it made, and they keep its shape."""
    value = x
    for step in steps:
        if step.inputs != (value,) or step.outputs[0].type != x.type:
            return False
        value = step.outputs[0]
    return value is last


def lower_near_ties(build: Builder, recipe: terms.Recipe, within: float, x: Value) -> Value:
    """Of what is ranked, the near ties; of picks, their shares among the choices that nearly tied."""
    expert, logits = build.scope.get("expert"), build.scope.get("logits")
    if expert is None and LEFT in build.scope:
        return build.op(ops.OnlyNearTies(within=within), x)
    if expert is None or logits is None or build.last(expert).loose:
        build.sink.error(
            "E0408",
            "`near_ties` needs chosen experts, and there are none here"
            if expert is None or logits is None
            else "`near_ties` needs picks that are all there, and some may be absent here",
            recipe.span,
            help="it stands in a router's `weigh`, `weigh = score -> near_ties(2%)`, or decides who takes part: "
            "`select = in_turn(2, near_ties(2%))`",
        )
        return build.poison(x)
    logits = build.op(ops.Cast(dtype="float32"), logits)
    return build.op(ops.NearTies(within=within), logits, expert)


def lower_heun(build: Builder, recipe: terms.Recipe, part: float, weight: Value) -> Value:
    gate, expert = build.scope["gate"], build.scope["expert"]
    if {gate, expert} & build.bad:
        return weight
    if not _is_drawn(build, expert, gate):
        build.sink.error(
            "E0507",
            "`heun` estimates what it does to draw a choice, and none is drawn here",
            recipe.span,
            "the best is always taken",
            help="draw in training, by noise that the gate does not have: `select = in_turn(2, gumbel)`, or "
            "`choose = score -> gumbel`",
        )
        return weight
    return build.op(ops.Heun(part=part), weight, gate, expert, name="weight")


def _is_drawn(build: Builder, expert: Value, gate: Value) -> bool:
    """Is there noise between what weighs choices and the picks, and do these come one after another?"""
    pending, seen, ranked = [expert], {gate}, False
    while pending:
        node = build.frame.unit.producer(pending.pop())
        if node is None:
            continue
        ranked |= isinstance(node.op, ops.TopK | ops.InTurn)
        if isinstance(node.op, ops.Noise | ops.InTurn) and node.op.drops:
            return ranked
        pending += [value for value in node.inputs if value not in seen]
        seen |= {*node.inputs}
    return False
