"""How a mixture becomes nodes: route, dispatch, the bank, combine; shared experts beside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moedsl.frozen import frozen
from moedsl.ir import arranging, deciding, expressions, ops, problems, products, soft
from moedsl.ir.graph import Dim, RecordType, TensorType, Unit, Value
from moedsl.ir.ops_base import dims_of
from moedsl.ir.shapes import per_sequence, rows_of
from moedsl.model import terms
from moedsl.model.terms import Term

if TYPE_CHECKING:
    from moedsl.constructs.moe import Moe
    from moedsl.ir.arranging import Arrangement
    from moedsl.ir.build import Builder

ROWS = arranging.ROWS


@frozen
class Kind:
    """One kind of experts: `count` of them from choice `first` on."""

    label: str
    first: int
    count: int
    body: Term

    @property
    def construct(self) -> str:
        return self.body.construct if isinstance(self.body, terms.Recipe) else ""


@frozen
class Decision:
    """What the router said, as tensors."""

    expert: Value
    weight: Value
    kept: Dim
    choices: int
    rows: Value | None = None  # the most rows that experts get, where routers limit them


def lower_moe(build: Builder, moe: Moe, x: Value, route: Value | None) -> Value:
    x = build.merged(x)
    kinds = kinds_of(moe)
    choices = build.dim(sum(k.count for k in kinds), moe.recipe.origin("experts"), "E")
    if not kinds:
        build.sink.error(
            "E0404",
            f"`{moe.recipe.name}` has no experts to choose among",
            moe.recipe.origin("experts"),
            "none are given",
            help="say how many, and of what: `experts = 8 * swiglu(64)`",
        )
        return build.poison(x)
    if moe.mix == "parameters":
        return _shared(build, moe, x, soft.lower_merged(build, moe, x, route))
    slots = soft.soft_of(moe.router)
    if slots is not None:
        return _shared(build, moe, x, soft.lower_soft(build, moe, x, route, slots))
    rows = as_rows(build, x, "x")
    read = rows if route is None else as_rows(build, route, "route")
    heads = None
    if moe.per == "head":
        heads = arranging.heads_of(build, moe, x)
        if heads is None:
            return build.poison(x)
    decision = _decide(build, moe, read, choices, heads)
    how = arranging.arrangement(build, moe, x, decision.kept, heads) if decision else None
    if decision is None or how is None:
        return build.poison(x)
    parts = [
        _kind(build, moe, kind, rows, decision, how) for kind in kinds if kind.construct != "zero"
    ]
    total = parts[0] if parts else build.op(ops.Zeros(), rows)
    for part in parts[1:]:
        total = build.op(ops.Combination(operator="+"), total, part)
    same = build.last(total).size == build.last(x).size
    back = ops.RowNames(like=True) if per_sequence(x) else ops.Unrows(same=same)
    y = build.op(back, build.named(total, "y"), x)
    return _shared(build, moe, x, y)


def as_rows(build: Builder, x: Value, name: str) -> Value:
    """The rows of a stream, all sequences together; rows that are one for each sequence are so as they stand."""
    op = ops.RowNames(rows=rows_of(x)) if per_sequence(x) else ops.Rows(rows=rows_of(x))
    return build.op(op, x, name=name)


def kinds_of(moe: Moe) -> list[Kind]:
    first, found = 0, []
    several = len(moe.experts) > 1
    for index, (label, count, body) in enumerate(moe.experts):
        name = label or (f"{index}" if several else "")
        found.append(Kind(name, first, count, body))
        first += count
    return found


# --- the decision -------------------------------------------------------------------------------


def _decide(build: Builder, moe: Moe, x: Value, choices: Dim, heads: Dim | None) -> Decision | None:
    routing = _routing(build, moe, x, choices, heads)
    if not problems.is_decision(routing):
        if routing not in build.bad:
            problems.not_a_decision(build, moe.router, routing)
        return None
    if routing in build.bad:
        return None
    record = routing.type
    assert isinstance(record, RecordType)
    kept, made_for = record.dims
    several = heads.size or 1 if heads else 1
    if made_for.size != several * (choices.size or 0):
        build.mismatch(
            "E0406",
            f"the decision chooses among {made_for.size}, but there are {choices.size} experts",
            (choices.origin, f"{choices.size} experts"),
            (made_for.origin, f"{made_for.size} choices"),
            help="a decision serves mixtures with as many experts as its router has choices",
        )
        return None
    expert = _field(build, routing, "expert_NK", kept, "int")
    weight = _field(build, routing, "weight_NK", kept, "float32")
    if heads is not None:
        kept = replace(kept, size=(kept.size or 0) // several)
        expert = arranging.rows_of_heads(build, expert, heads, kept, "expert")
        weight = arranging.rows_of_heads(build, weight, heads, kept, "weight")
    return Decision(
        expert,
        weight,
        kept,
        made_for.size,
        build.op(ops.Field(field=ops.ROWS_FIELD, type=ops.ROW_COUNT), routing)
        if ops.ROWS_FIELD in record.fields
        else None,
    )


def _routing(build: Builder, moe: Moe, x: Value, choices: Dim, heads: Dim | None) -> Value:
    if isinstance(moe.router, terms.Recipe):
        mixtures = [moe.recipe]
        return deciding.decide(build, moe.router, x, choices, mixtures, place="router", heads=heads)
    build.frame.mixtures = [moe.recipe]
    decision = build.evaluate(moe.router)
    build.frame.mixtures = ()
    return decision


def _field(build: Builder, routing: Value, field: str, kept: Dim, dtype: str) -> Value:
    return build.op(ops.Field(field=field, type=TensorType((ROWS, kept), dtype)), routing)


# --- one kind of experts --------------------------------------------------------------------------


def _kind(
    build: Builder, moe: Moe, kind: Kind, x: Value, decision: Decision, how: Arrangement
) -> Value:
    several = how.heads.size or 1 if how.heads else 1
    if several * kind.count != decision.choices:
        decision = _of_kind(build, kind, decision)
    if kind.construct == "identity" and moe.weight == "output" and moe.plain:
        total = build.op(ops.WeightSum(), decision.weight)
        return build.op(ops.Combination(operator="*"), x, _like(build, total, x))
    if moe.plain and moe.weight == "output" and products.is_neuron(kind.body):
        body, expert, weight = kind.body, decision.expert, decision.weight
        assert isinstance(body, terms.Recipe)
        name = f"{moe.recipe.name}_experts" + (f"_{kind.label}" if kind.label else "")
        if decision.kept.loose:  # an absent pick weighs nothing, whatever is looked up for it
            expert = build.op(ops.Clamped(most=kind.count - 1), expert, name="own")
        return products.lower_neurons(build, body, x, expert, weight, kind.count, name, kind.label)
    given = [decision.expert] if decision.rows is None else [decision.expert, decision.rows]
    op = ops.Dispatch(experts=several * kind.count, bounded=len(given) > 1)
    rows = build.op(op, *given, name="rows")
    routed = arranging.spread(build, moe, how, x, rows, decision.kept)
    weight = decision.weight
    if moe.weight == "input":
        axis = dims_of(routed.type).dims[0]
        factor = build.op(ops.RowWeights(routed=axis), weight, rows)
        routed = build.op(ops.Combination(operator="*"), routed, _like(build, factor, routed))
        weight = build.op(ops.Pointwise(function="torch.ones_like"), weight)
    y = bank(build, moe, kind, routed, rows, several * kind.count, how.width)
    return arranging.gather(build, moe, how, y, weight, rows, decision.kept)


def _of_kind(build: Builder, kind: Kind, decision: Decision) -> Decision:
    """The choices of one kind, counted from 0; those of other kinds are absent."""
    expert = build.named(decision.expert, "expert")
    op = ops.KindRows(first=kind.first, count=kind.count, choices=decision.choices)
    own = build.op(op, expert, name="own")
    absent = ops.WithoutAbsent(choices=Dim("E", kind.count))
    weight = build.op(absent, build.named(decision.weight, "weight"), own, name="own_weight")
    return replace(decision, expert=own, weight=weight, kept=build.last(own))


def _like(build: Builder, value: Value, other: Value) -> Value:
    return build.op(ops.Cast(dtype="float"), value, build.named(other, "x"))


def bank(
    build: Builder,
    moe: Moe,
    kind: Kind,
    x: Value,
    rows: Value | None,
    count: int,
    width: Dim,
    met: str = "grouped",
) -> Value:
    """The unit of one kind's experts, with all their weights side by side. `met`: how rows meet them, by what `rows`
    say (see `ops_weights.each`)."""
    name = f"{moe.recipe.name}_experts" + (f"_{kind.label}" if kind.label else "")
    key = ("bank", kind.body, count, name, x.type, width, met)
    units = build.units
    given = [x] if rows is None else [x, rows]
    if key not in units.memo:
        recipe = kind.body if isinstance(kind.body, terms.Recipe) else None
        unit = Unit(name, "experts", recipe=recipe, bank=count, span=kind.body.span)
        names = ("x", "rows" if met == "grouped" else "share")
        inputs = [(n, Value(n, v.type)) for n, v in zip(names, given, strict=False)]
        with units.opened(unit, inputs):
            build.frame.rows, build.frame.met = inputs[-1][1], met
            unit.outputs = [_body(build, kind.body, inputs[0][1], width)]
        units.memo[key] = unit
    place = "experts"
    with build.at(place) if kind.label else build.at(""):
        y = build.op(ops.Call(unit=units.memo[key]), *given, place=kind.label or place)
    if build.bad.intersection(units.memo[key].outputs):
        build.poison(y)
    return y


def _body(build: Builder, body: Term, x: Value, width: Dim) -> Value:
    """One expert over routed rows. A form's roles are the bank's own: `experts.gate`."""
    from moedsl.constructs.registry import construct_of

    construct = construct_of(body) if isinstance(body, terms.Recipe) else None
    with build.at("", build.hint(width)):
        if construct is not None and construct.unit:
            return expressions.lower(build, construct, x)
        return build.apply(body, x)


# --- beside the chosen ----------------------------------------------------------------------------


def _shared(build: Builder, moe: Moe, x: Value, y: Value) -> Value:
    for index, (label, count, body) in enumerate(moe.shared):
        for copy in range(count):
            number = f"[{copy}]" if count > 1 else f"[{index}]" if len(moe.shared) > 1 else ""
            several = f"shared_{label}{number}" if label else f"shared{number}"
            with build.body(x=x), build.at(several, build.hint(build.last(y)), "shared"):
                y = build.op(ops.Combination(operator="+"), y, build.apply(body, x))
    return y
