"""Decisions among choices that are products of two halves, and experts that are looked up rather than multiplied."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from moedsl.ir import ops
from moedsl.ir.graph import Dim, Init, Unit, Value
from moedsl.ir.ops_arranging import HEAD_ROWS, ROWS
from moedsl.ir.readings import Wanted, wide
from moedsl.model import terms
from moedsl.model.terms import Term

if TYPE_CHECKING:
    from moedsl.constructs.products import ProductKeys
    from moedsl.constructs.router import Router
    from moedsl.ir.build import Builder


def lower_scores(build: Builder, keys: ProductKeys, x: Value) -> Value:
    choices = build.width_of(keys.width, keys.recipe.origin("width"))
    side = isqrt(choices.size or 0)
    if build.frame.role != "score" or side * side != choices.size:
        square = f"{side}, {side + 1}: {side * side} or {(side + 1) ** 2}"
        build.mismatch(
            "E0415",
            f"{choices.size} choices are not the square of a whole number"
            if build.frame.role == "score"
            else "`product_keys` is the score of a router, and stands elsewhere",
            (keys.recipe.span, "names each by a row and a column"),
            (choices.origin, f"{choices.size} choices"),
            help=f"take the square of {square}",
        )
        return build.poison(x)
    inner = build.last(x)
    if (inner.size or 0) % (2 * keys.heads):
        build.mismatch(
            "E0430",
            f"a query of {inner.size} numbers is not two halves for each of {keys.heads} heads",
            (keys.recipe.origin("heads"), f"{keys.heads} heads"),
            (inner.origin, f"{inner.size} comes from here"),
            help="the size of the query is a multiple of twice the heads: `linear(8 * 128)`",
        )
        return build.poison(x)
    op = ops.ProductScores(
        rows=HEAD_ROWS if keys.heads > 1 else ROWS,
        halves=Dim("A", side, meaning="half keys", origin=choices.origin),
        inner=inner,
        heads=keys.heads,
        own=keys.keys == "own",
    )
    return build.placed(op, keys.recipe, x)


def scores_of(build: Builder, logits: Value) -> ops.ProductScores | None:
    maker = build.frame.unit.producer(logits)
    return maker.op if maker is not None and isinstance(maker.op, ops.ProductScores) else None


def lower_router(
    build: Builder,
    router: Router,
    x: Value,
    wanted: Wanted,
    scores: ops.ProductScores,
    logits: Value,
    choices: Dim,
) -> Value:
    """The best of all products of each head; weights over what it kept."""
    from moedsl.constructs.registry import construct_of

    select = construct_of(router.select) if isinstance(router.select, terms.Recipe) else None
    fault = _fault(router, wanted, getattr(select, "name", ""))
    if fault:
        what, at, mend = fault
        build.sink.error("E0416", f"product keys: {what}", at, help=mend)
        return build.poison(logits)
    assert select is not None
    kept = build.dim(select.k, select.recipe.origin("k"), letter="K")  # type: ignore[attr-defined]
    build.bind("logits", logits)
    total = build.dim(scores.heads * (kept.size or 1), kept.origin, letter="K")
    op = ops.TopProducts(kept=kept, choices=choices, in_all=total if scores.heads > 1 else None)
    with build.at("select", build.hint(None), "select"):
        expert, score = build.many(op, wide(build, logits), names=("expert", "score"))
    with build.body(score=score, gate=score, choose=score):
        weight = build.role("weigh", router.weigh, x, choices, name="weight")
    if build.last(weight) != kept:
        build.sink.error(
            "E0403",
            "the weights are not one number for each expert that is kept",
            router.weigh.span,
            help="read `score`, of which the kept ones are here: `score -> softmax`",
        )
        return build.poison(weight)
    heads = build.dim(scores.heads, logits.span, "H")
    if scores.heads > 1:
        merge = ops.MergeHeadRows(rows=ROWS, heads=heads, total=total)
        expert = build.op(merge, expert, name="expert")
        weight = build.op(merge, weight, name="weight")
        kept = total
    halves = 2 * scores.heads * (scores.halves.size or 1)
    flat = build.dim(halves, choices.origin, "A")
    logits = build.op(ops.Halves(rows=ROWS, heads=scores.heads, total=flat), logits)
    routed = ops.Routed(kept=kept, choices=choices)
    return build.op(routed, expert, weight, logits, name="routing")


def _fault(router: Router, wanted: Wanted, select: str) -> tuple[str, Any, str] | None:
    """What a router of product keys cannot have: (what is wrong, where, the mend)."""
    if wanted.heads is not None:
        return (
            "heads of an attention decide by scores of their own",
            router.score.span,
            "take `per = head` out",
        )
    if select != "top_k":
        return (
            "only the k best are found without looking at all",
            router.select.span,
            "`select = top_k(16)`",
        )
    for role in ("gate", "choose"):
        term = getattr(router, role)
        if not (isinstance(term, terms.Tensor) and term.name in ("score", "gate")):
            return (
                f"`{role}` would look at every choice",
                term.span,
                "leave it out, and weigh what was kept: `weigh = score -> softmax`",
            )
    if router.capacity != "none":
        return (
            "experts of one vector have room for all",
            router.recipe.origin("capacity"),
            "leave it out",
        )
    if "estimator" in router.recipe.given:
        return (
            "an estimator would look at every choice",
            router.recipe.origin("estimator"),
            "leave it out",
        )
    if wanted.statistics:
        return (
            "losses over decisions look at every choice",
            router.score.span,
            "take them out, or give this mixture plain scores: `score = linear`",
        )
    return None


# --- experts that are looked up --------------------------------------------------------------------


def is_neuron(body: Term) -> bool:
    """An expert of one hidden channel and nothing else: a vector in, an activation, a vector out."""
    if not isinstance(body, terms.Recipe) or body.construct != "mlp" or body.body:
        return False
    said = dict(body.settings)
    plain = not body.given & {"up", "hidden", "down", "bias", "dropout"}
    return plain and isinstance(said["width"], terms.Number) and said["width"].value == 1


def lower_neurons(
    build: Builder,
    body: terms.Recipe,
    x: Value,
    expert: Value,
    weight: Value,
    count: int,
    name: str,
    label: str,
) -> Value:
    """The unit of experts of one channel each: what they give, weighed and summed."""
    from moedsl.constructs.registry import construct_of

    key = ("neurons", body, count, name, x.type, expert.type)
    units = build.units
    if key not in units.memo:
        unit = Unit(name, "experts", recipe=body, bank=count, span=body.span)
        names = zip(("x", "expert", "weight"), (x, expert, weight), strict=True)
        inputs = [(each, Value(each, value.type)) for each, value in names]
        with units.opened(unit, inputs):
            own_x, own_expert, own_weight = (value for _, value in inputs)
            init = construct_of(body).init  # type: ignore[attr-defined]
            build.frame.inits = () if init is None else (Init(init),)
            unit.outputs = [_neurons(build, body, own_x, own_expert, own_weight, count)]
        units.memo[key] = unit
    with build.at("experts") if label else build.at(""):
        return build.op(ops.Call(unit=units.memo[key]), x, expert, weight, place=label or "experts")


def _neurons(
    build: Builder, body: terms.Recipe, x: Value, expert: Value, weight: Value, count: int
) -> Value:
    kept, inner = build.last(expert), build.last(x)
    up = build.op(ops.LookUp(bank=count, inner=inner, kept=kept), x, expert, place="up", name="up")
    h = build.apply(body.setting("activation"), up)
    weight = build.op(ops.Cast(dtype="float"), weight, x)
    h = build.op(ops.Combination(operator="*"), h, weight)
    return build.op(ops.SumUp(bank=count, out=inner, kept=kept), h, expert, place="down")
