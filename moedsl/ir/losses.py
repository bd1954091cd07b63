"""Losses are nodes of the root: each reads the routings of one mixture's places, from bottom to top."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from moedsl.constructs.losses import L1, Balance, Entropy, Importance, Load, Loss, Z
from moedsl.constructs.rebuilding import Reconstruction
from moedsl.constructs.registry import construct_of
from moedsl.constructs.states import Stateful
from moedsl.frozen import frozen, record
from moedsl.ir import ops
from moedsl.ir.graph import Dim, Node, RecordType, Unit, Value
from moedsl.ir.kinds import Choices, common_kinds, span_of_kinds
from moedsl.ir.ops_base import number
from moedsl.ir.ops_calls import handed_by, tap_in
from moedsl.ir.thread import callees
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.ir.build import Builder


NOBODY = Dim("K", 0)


@frozen
class Decided:
    """One routing, and who declares losses over it: the mixtures that it serves, and the router that made it. Of
    what was decided about tokens, the block that did. `place`: of the module that decides, as the unit at hand sees
    it."""

    kept: Dim
    choices: Dim
    declarers: tuple[Unit, ...]
    place: str = ""


@record
class Sites:
    """The routings behind each tap of each unit, bottom to top."""

    memo: dict[Unit, list[list[Decided]]] = field(default_factory=dict)

    def of(self, unit: Unit) -> list[list[Decided]]:
        if unit not in self.memo:
            found = {value: [_decided(unit, value)] for value in unit.handed}
            for node in unit.nodes:
                handed = node.outputs[1:] if callees(node) else ()
                for index, value in enumerate(handed):
                    found[value] = self._below(node, index)
            self.memo[unit] = [found[value] for value in unit.taps]
        return self.memo[unit]

    def _below(self, node: Node, index: int) -> list[Decided]:
        handed = callees(node)[0].taps
        if isinstance(node.op, ops.Stack):
            handed = handed_by(unit for unit, _ in node.op.runs)
        found: list[Decided] = []
        for _, module, unit in node.calls():
            tap = tap_in(unit, handed, index)
            for decided in [] if tap is None else self.of(unit)[tap]:
                found.append(replace(decided, place=f"{module}.{decided.place}"))
        return found


def _decided(unit: Unit, value: Value) -> Decided:
    record = value.type
    assert isinstance(record, RecordType)
    if record == ops.DEPTH:
        return Decided(NOBODY, NOBODY, (unit,))
    mixtures = [unit] if unit.kind == "moe" else _sharers(unit, value)
    maker = unit.producer(value)
    assert maker is not None
    kept, choices = record.dims
    return Decided(kept, choices, tuple(dict.fromkeys([*mixtures, *callees(maker)])))


def _sharers(unit: Unit, decision: Value) -> Iterator[Unit]:
    """The mixtures in or below the unit that a decision made in it is handed to."""
    for node in unit.nodes:
        for called in callees(node):
            for inner, given in zip(called.inputs, node.inputs, strict=False):
                if given is decision and called.kind == "moe":
                    yield called
                elif given is decision:
                    yield from _sharers(called, inner)


Group = dict[int, list[int]]  # tap -> indices of the routings in it


def add_losses(root: Unit, build: Builder, known: Sites) -> None:
    sites = known.of(root)
    groups: dict[tuple[str, terms.Recipe], Group] = {}
    homes: dict[tuple[str, terms.Recipe], list[Decided]] = {}
    for tap, routings in enumerate(sites):
        if root.taps[tap].type == ops.DEPTH:
            continue
        for index, decided in enumerate(routings):
            for key in _losses(decided):
                groups.setdefault(key, {}).setdefault(tap, []).append(index)
                homes.setdefault(key, []).append(decided)
    taken: dict[str, int] = {}
    for (name, recipe), group in groups.items():
        routing = listed(root, sites, group)
        label = f"{name}.{recipe.construct}"
        taken[label] = taken.get(label, 0) + 1
        label += f"_{taken[label]}" if taken[label] > 1 else ""
        _add(root, build, label, recipe, routing, homes[name, recipe])


def _losses(decided: Decided) -> list[tuple[str, terms.Recipe]]:
    """What is declared over one decision, each loss once, under the name of the first that declares it."""
    found: dict[terms.Recipe, str] = {}
    for unit in decided.declarers:
        for loss in _declared(unit):
            found.setdefault(loss, unit.name)
    return [(name, loss) for loss, name in found.items()]


def _declared(unit: Unit) -> list[terms.Recipe]:
    construct = construct_of(unit.recipe) if unit.recipe is not None else None
    return [r for r in getattr(construct, "loss", ()) if isinstance(r, terms.Recipe)]


def listed(root: Unit, sites: list[list[Decided]], group: Group) -> Value:
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


def _function(label: str) -> str:
    """`sparse_balance`. A name that begins with `_` would be another one inside a class."""
    name = label.replace(".", "_")
    return f"loss{name}" if name.startswith("_") else name


def _add(
    root: Unit,
    build: Builder,
    label: str,
    recipe: terms.Recipe,
    routing: Value,
    homes: list[Decided],
) -> None:
    loss = construct_of(recipe)
    assert isinstance(loss, Loss)
    if _counts_heads(loss, homes):
        _report_heads(build, recipe)
        return
    common: dict[str, Any] = {
        "loss": label,
        "function": _function(label),
        **_coefficient(loss),
    }
    op: ops.LossTerm
    match loss:
        case Balance():
            experts = {one.choices.size for one in homes}
            pools = loss.over in ("model", "batch", "step") or loss.by_kind
            if pools and len(experts) > 1:
                _report_unequal(build, recipe, homes)
                return
            if loss.over == "step" and common.get("state"):
                _report_two_states(build, recipe)
                return
            op = ops.Balance(
                **common,
                layers=loss.layers,
                over=loss.over,
                count=loss.count,
                num_experts=experts.pop() if len(experts) == 1 else None,
                top_k=homes[0].kept.size,
                groups=(1,) * len(homes) if loss.over == "layer" else (),
                sites=len(homes) if loss.over == "step" else 0,
                limit=loss.limit if isinstance(loss.limit, int) else None,
                **_kinds(build, loss, homes),
            )
        case Z():
            op = ops.ZLoss(**common, layers=loss.layers)
        case Importance() | Load() | Entropy() | L1() | Reconstruction():
            op = ops.Penalty(
                **common, layers=loss.layers, reads=loss.reads(), **_measure(loss, homes)
            )
        case _:
            return
    value = Value("", op.infer(routing.type)[0], recipe.span)
    node = Node(op, (routing,), (value,), span=recipe.span, role="loss")
    if op.adapts:
        node.place = node.path = op.function
    root.nodes.append(node)


def _counts_heads(loss: Loss, homes: list[Decided]) -> bool:
    """Is its coefficient moved by a share of choices, where a token has choices for each head?"""
    if not isinstance(loss.coefficient, terms.Recipe):
        return False
    stateful = construct_of(loss.coefficient)
    by_choices = isinstance(stateful, Stateful) and stateful.by_choices
    return by_choices and any(one.choices.split for one in homes)


def _coefficient(loss: Loss) -> dict[str, Any]:
    if not isinstance(loss.coefficient, terms.Recipe):
        return {"coefficient": float(loss.coefficient)}
    stateful = construct_of(loss.coefficient)
    assert isinstance(stateful, Stateful)
    return {"coefficient": 1.0, "state": stateful.state()}


def _measure(
    loss: Importance | Load | Entropy | L1 | Reconstruction, homes: list[Decided]
) -> dict[str, Any]:
    """What is printed: a function of the runtime library, and what it reads."""
    match loss:
        case Importance() | Load():
            (which,) = loss.reads()
            field = f"{which}_SE"
            if loss.over == "site":
                return {"call": "varied", "field": field}
            return {"call": "varied_by_sequence", "field": field, "arguments": ", {0}"}
        case Entropy():
            if loss.per == "sequence" or (loss.per == "mean" and loss.over == "place"):
                call = "sequence_entropy" if loss.per == "sequence" else "place_entropy"
                arguments = f", {_runs(loss.over, homes)}"
                return {"call": call, "negative": loss.aim == "high", "arguments": arguments}
            over = "pooled" if loss.over == "model" else "mean"
            call = "token_entropy" if loss.per == "token" else f"{over}_entropy"
            pooled = loss.per == "mean" and loss.over == "model"
            return {"call": call, "negative": loss.aim == "high", "pooled": pooled}
        case Reconstruction():
            return {"call": "mean_rebuilt"}
        case L1():
            return {"call": "balanced_l1", "arguments": f", {number(float(loss.picks))}"}


def _runs(over: str, homes: list[Decided]) -> str:
    """For each decision the number of the place whose run it is."""
    known: dict[str, int] = {}
    found = [known.setdefault(one.place, len(known)) for one in homes]
    found = {"site": list(range(len(homes))), "model": [0] * len(homes)}.get(over, found)
    round_ = max(found) + 1
    times, rest = divmod(len(found), round_)
    if not rest and found == list(range(round_)) * times and times > 1:
        one = "(0,)" if round_ == 1 else str(tuple(range(round_)))
        return f"{one} * {times}"
    return str(tuple(found))


def _kinds(build: Builder, loss: Balance, homes: list[Decided]) -> dict[str, Any]:
    """What a balance knows of the kinds of its choices, as ranges of choices."""
    if not loss.by_kind:
        return {}
    kinds = common_kinds(
        [unit.recipe for one in homes for unit in one.declarers if unit.kind == "moe"]
    )
    ranges: dict[str, tuple[int, int] | None] = {}
    for setting in ("average", "light"):
        where = loss.recipe.origin(setting)
        found = span_of_kinds(build.sink, kinds, getattr(loss, setting), where)
        ranges[setting] = (found[0], found[0] + found[1]) if found else None
    return {**ranges, "eta": float(loss.eta), "buckets": _buckets(build, loss, kinds, homes[0])}


def _buckets(
    build: Builder, loss: Balance, kinds: tuple[Choices, ...], home: Decided
) -> tuple[int, ...]:
    """How many choices in a row are balanced as one: those of a device, or of a kind that is one choice."""
    where = loss.recipe.origin("together")
    single = [
        found
        for label in loss.together
        if (found := span_of_kinds(build.sink, kinds, (label,), where))
    ]
    if loss.devices == "none" and not single:
        return ()
    starts = dict(single)
    total, rest = home.choices.size or 0, (home.choices.size or 0) - sum(starts.values())
    share = 1 if loss.devices == "none" else rest // loss.devices
    sizes: list[int] = []
    at = 0
    while at < total:
        size = starts.get(at) or min([share, *(first - at for first in starts if first > at)])
        if (size < share and at not in starts) or (loss.devices != "none" and rest % loss.devices):
            build.mismatch(
                "E0411",
                f"{rest} choices do not stand on {loss.devices} equal devices",
                (loss.recipe.origin("devices"), "devices"),
                (home.choices.origin, f"{total} choices"),
                help="the number of devices must divide the number of choices",
            )
            return ()
        sizes.append(size)
        at += size
    return tuple(sizes)


def _report_heads(build: Builder, recipe: terms.Recipe) -> None:
    build.sink.error(
        "E0208",
        "a coefficient that follows how many choices a token leaves out is not yet one for decisions of heads",
        recipe.origin("coefficient"),
        help="write a plain coefficient, or `ramp(0, 0.01, steps = 1000)`",
    )


def _report_two_states(build: Builder, recipe: terms.Recipe) -> None:
    build.sink.error(
        "E0208",
        "a balance over a step whose coefficient has state too is not yet in this compiler",
        recipe.span,
        help="write `over = batch`, or a plain coefficient",
    )


def _report_unequal(build: Builder, recipe: terms.Recipe, homes: list[Decided]) -> None:
    first = homes[0].choices
    other = next(one.choices for one in homes if one.choices.size != first.size)
    build.mismatch(
        "E0407",
        f"one balance loss cannot pool mixtures of {first.size} and of {other.size} experts",
        (recipe.origin("over"), "pools all layers"),
        (first.origin, f"{first.size} experts"),
        (other.origin, f"{other.size} experts"),
        help="write `over = site`: the loss of each mixture by itself, summed",
    )
