"""Losses are nodes of the root: each reads the routings of one mixture's places, from bottom to top."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moedsl.constructs.losses import Balance, Loss, Z
from moedsl.constructs.registry import construct_of
from moedsl.ir import ops
from moedsl.ir.graph import Dim, Node, RecordType, Unit, Value
from moedsl.ir.thread import callees
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.ir.build import Builder


@dataclass
class Sites:
    """The routings behind each tap of each unit: the mixtures that they belong to, bottom to top."""

    memo: dict[Unit, list[list[Unit]]] = field(default_factory=dict)

    def of(self, unit: Unit) -> list[list[Unit]]:
        if unit not in self.memo:
            found: dict[Value, list[Unit]] = {value: [unit] for value in unit.handed}
            for node in unit.nodes:
                handed = node.outputs[1:] if callees(node) else ()
                for index, value in enumerate(handed):
                    found[value] = self._below(node, index)
            self.memo[unit] = [found[value] for value in unit.taps]
        return self.memo[unit]

    def _below(self, node: Node, index: int) -> list[Unit]:
        runs = node.op.runs if isinstance(node.op, ops.Stack) else [(callees(node)[0], 1)]
        found = []
        for unit, count in runs:
            inner = self.of(unit)
            found.extend(inner[index] * count if index < len(inner) else [])
        return found


Group = dict[int, list[int]]  # tap -> indices of the routings in it


def add_losses(root: Unit, build: Builder) -> None:
    sites = Sites().of(root)
    groups: dict[tuple[str, terms.Recipe], Group] = {}
    homes: dict[tuple[str, terms.Recipe], list[Unit]] = {}
    for tap, units in enumerate(sites):
        for index, unit in enumerate(units):
            for loss in _declared(unit):
                key = (unit.name, loss)
                groups.setdefault(key, {}).setdefault(tap, []).append(index)
                homes.setdefault(key, []).append(unit)
    _unseen(root, build, {loss for _, loss in groups})
    taken: dict[str, int] = {}
    for (name, recipe), group in groups.items():
        routing = _routings(root, sites, group)
        label = f"{name}.{recipe.construct}"
        taken[label] = taken.get(label, 0) + 1
        label += f"_{taken[label]}" if taken[label] > 1 else ""
        _add(root, build, label, recipe, routing, homes[name, recipe])


def _declared(unit: Unit) -> list[terms.Recipe]:
    construct = construct_of(unit.recipe) if unit.recipe is not None else None
    return [r for r in getattr(construct, "loss", ()) if isinstance(r, terms.Recipe)]


def _routings(root: Unit, sites: list[list[Unit]], group: Group) -> Value:
    """The routings of one loss as one list."""
    values = [root.taps[tap] for tap in group]
    picks: list[tuple[int, ...] | str] = []
    for tap, indices in group.items():
        single = not isinstance(_maker(root, root.taps[tap]).op, ops.Stack)
        whole = len(indices) == len(sites[tap])
        picks.append("one" if single else "all" if whole else tuple(indices))
    if picks == ["all"]:
        return values[0]
    op = ops.Listing(picks=tuple(picks))
    listed = Value("", op.infer(values[0].type)[0])
    root.nodes.append(Node(op, tuple(values), (listed,)))
    return listed


def _maker(root: Unit, value: Value) -> Node:
    node = root.producer(value)
    assert node is not None
    return node


def _add(
    root: Unit, build: Builder, label: str, recipe: terms.Recipe, routing: Value, units: list[Unit]
) -> None:
    loss = construct_of(recipe)
    assert isinstance(loss, Loss)
    sizes = [_sizes(unit) for unit in units]
    common: dict[str, Any] = {
        "loss": label,
        "function": label.replace(".", "_"),
        "coefficient": float(loss.coefficient),
    }
    op: ops.LossTerm
    match loss:
        case Balance():
            experts = {e.size for _, e in sizes}
            if loss.over == "model" and len(experts) > 1:
                _report_unequal(build, recipe, sizes)
            op = ops.Balance(
                **common,
                layers=loss.layers,
                over=loss.over,
                count=loss.count,
                num_experts=experts.pop() if len(experts) == 1 else None,
                top_k=sizes[0][0].size,
                groups=(1,) * len(units) if loss.over == "layer" else (),
            )
        case Z():
            op = ops.ZLoss(**common, layers=loss.layers)
        case _:
            return
    value = Value("", op.infer(routing.type)[0], recipe.span)
    root.nodes.append(Node(op, (routing,), (value,), span=recipe.span, role="loss"))


def _sizes(unit: Unit) -> tuple[Dim, Dim]:
    """Kept and choices of a mixture's decision."""
    record = unit.handed[0].type
    assert isinstance(record, RecordType) and len(record.dims) == 2
    return record.dims[0], record.dims[1]


def _report_unequal(build: Builder, recipe: terms.Recipe, sizes: list[tuple[Dim, Dim]]) -> None:
    first = sizes[0][1]
    other = next(e for _, e in sizes if e.size != first.size)
    build.mismatch(
        "E0407",
        f"one balance loss cannot pool mixtures of {first.size} and of {other.size} experts",
        (recipe.origin("over"), "pools all layers"),
        (first.origin, f"{first.size} experts"),
        (other.origin, f"{other.size} experts"),
        help="write `over = site`: the loss of each mixture by itself, summed",
    )


def _unseen(root: Unit, build: Builder, found: set[terms.Recipe]) -> None:
    """Losses of mixtures whose decision is made elsewhere: nobody would compute them."""
    for unit in build.units.done:
        for loss in _declared(unit) if not unit.handed else ():
            if loss not in found and not build.sink.has_errors:
                build.sink.error(
                    "E0208",
                    f"`{unit.name}` uses a decision that is made elsewhere, and a loss over such a one "
                    "is not yet of this compiler",
                    loss.span,
                    help="declare the loss at a mixture that decides by itself: `router = top2`",
                )
