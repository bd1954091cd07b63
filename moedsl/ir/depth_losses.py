"""Losses over what blocks decide about tokens: nodes of the root, beside those over routings."""

from __future__ import annotations

from moedsl.constructs.registry import construct_of
from moedsl.ir import ops
from moedsl.ir.depth_rules import worth_of
from moedsl.ir.graph import Node, Unit, Value
from moedsl.ir.losses import Group, Sites, listed


def add_depth_losses(root: Unit, sites: Sites) -> None:
    """One loss for each block whose rule learns, over all its places."""
    found = sites.of(root)
    groups: dict[tuple[str, float], Group] = {}
    for tap, decisions in enumerate(found):
        if root.taps[tap].type != ops.DEPTH:
            continue
        for index, decided in enumerate(decisions):
            (unit,) = decided.declarers
            if worth := worth_of(construct_of(unit.recipe).learns):  # type: ignore[attr-defined]
                group = groups.setdefault((unit.name, worth), {})
                group.setdefault(tap, []).append(index)
    taken: dict[str, int] = {}
    for (name, worth), group in groups.items():
        label = f"{name}.membership"
        taken[label] = taken.get(label, 0) + 1
        label += f"_{taken[label]}" if taken[label] > 1 else ""
        depths = listed(root, found, group)
        op = ops.Membership(loss=label, function="membership", coefficient=worth)
        value = Value("", op.infer(depths.type)[0])
        root.nodes.append(Node(op, (depths,), (value,), role="loss"))
