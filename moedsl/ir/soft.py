"""How a mixture whose experts get mixtures of tokens becomes nodes: score, fill, the bank on rows of each expert, read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.diagnostics.model import Label
from moedsl.ir import ops, problems
from moedsl.ir.graph import Dim, TensorType, Value
from moedsl.ir.shapes import is_whole, stream_of
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.moe import Moe
    from moedsl.constructs.router import Router
    from moedsl.constructs.soft import Soft
    from moedsl.ir.build import Builder
    from moedsl.source import Span

# What a router says about picks, of which there are none here; and what a mixture says about them.
_OF_PICKS = (
    "gate",
    "choose",
    "weigh",
    "capacity",
    "priority",
    "overflow",
    "within",
    "weighed",
    "loss",
)
_OF_ROUTED = ("loss", "weight", "mix", "inputs", "per")


def soft_of(router: terms.Term | None) -> Soft | None:
    """The soft slots that a router selects, if it does."""
    from moedsl.constructs.registry import construct_of
    from moedsl.constructs.soft import Soft

    if not isinstance(router, terms.Recipe):
        return None
    select = dict(router.settings).get("select")
    for stage in select.stages if isinstance(select, terms.Flow) else (select,):
        found = construct_of(stage) if isinstance(stage, terms.Recipe) else None
        if isinstance(found, Soft):
            return found
    return None


def lower_soft(build: Builder, moe: Moe, x: Value, route: Value | None, soft: Soft) -> Value:
    from moedsl.ir import mixing

    kinds = mixing.kinds_of(moe)
    router = moe.router
    assert isinstance(router, terms.Recipe)
    if _refused(build, moe, router, len(kinds)):
        return build.poison(x)
    (kind,) = kinds
    experts = build.dim(kind.count, moe.recipe.origin("experts"), "E")
    slots = Dim("Z", kind.count * soft.slots, origin=moe.recipe.origin("experts"))
    read = build.named(x if route is None else route, "x")
    score = build.units.call(router, read, place="router", width=slots)
    if score in build.bad:
        return build.poison(x)
    rows = _fill(build, soft, x, build.named(score, "score"), experts, router)
    y = mixing.bank(
        build, moe, kind, build.named(rows, "x"), None, kind.count, build.last(x), "batched"
    )
    read_op = ops.ReadPrefix() if soft.over == "prefix" else ops.ReadSlots()
    return build.op(read_op, build.named(y, "y"), score)


def _fill(
    build: Builder, soft: Soft, x: Value, score: Value, experts: Dim, router: terms.Recipe
) -> Value:
    from moedsl.constructs.registry import construct_of

    stream = stream_of(x)
    assert stream is not None
    allowed = getattr(construct_of(router), "lookahead", "")
    ahead = "allowed" if allowed == "allowed" else ""
    if soft.over == "prefix":
        if is_whole(x):
            problems.no_ids(build, soft.recipe, "`over = prefix`", "write `over = sequence`")
            return build.poison(x)
        cache = build.ambient(ops.CacheHandle(stream=stream))
        seen = build.op(ops.Remember(), x, cache, name="seen")
        scores = build.op(ops.Remember(), score, cache, name="scores")
        scores = build.op(ops.HidePadding(), scores, build.ambient(ops.MaskArgument(stream=stream)))
        prefix = ops.FillPrefix(experts=experts, slots=soft.slots, tokens=stream)
        return build.op(prefix, seen, scores, build.ambient(ops.Past(stream=stream)))
    if not is_whole(x):
        score = build.op(ops.HidePadding(), score, build.ambient(ops.MaskArgument(stream=stream)))
    op = ops.FillSlots(experts=experts, slots=soft.slots, tokens=stream, lookahead=ahead)
    build.spans.append(soft.recipe.span)
    rows = build.op(op, x, score, role="slots")
    build.spans.pop()
    return rows


def lower_score(build: Builder, router: Router, x: Value) -> Value:
    """A number for each token and slot, float32."""
    slots = build.width
    if slots is None or slots.letter != "Z":
        build.sink.error(
            "E0450",
            f"`{router.recipe.name}` fills the slots of one mixture, and is applied by itself",
            router.recipe.span,
            help="name it in the mixture: `router = " + router.recipe.name + "`",
        )
        return build.poison(x)
    score = build.named(build.role("score", router.score, x, slots), "score")
    if score in build.bad:
        return score
    wanted = (*x.type.dims[:-1], slots)
    if not isinstance(score.type, TensorType) or score.type.dims != wanted:
        found = build.last(score)
        build.mismatch(
            "E0403",
            f"the score has {found.size} numbers for {slots.size} slots",
            (router.score.span, "one number for each slot is needed"),
            (slots.origin, f"{slots.size} slots of all experts"),
            help="end it with a `linear` or a `cosine` without a width: it takes the number of slots",
        )
        return build.poison(score)
    if score.type.dtype == "float32":
        return score
    return build.op(ops.Cast(dtype="float32"), score, name="score")


def _refused(build: Builder, moe: Moe, router: terms.Recipe, kinds: int) -> bool:
    fault: tuple[Span, str] | None = None
    for name in _OF_PICKS:
        if name in router.given:
            fault = (router.origin(name), f"`{name}` is about picks")
    for name in _OF_ROUTED:
        if name in moe.recipe.given and _says(moe, name):
            fault = (moe.recipe.origin(name), f"`{name}` is about picks")
    if isinstance(dict(router.settings)["select"], terms.Flow):
        fault = (router.setting("select").span, "soft slots stand alone")
    if kinds > 1:
        fault = (moe.recipe.origin("experts"), "all slots want one kind of experts")
    if fault is None:
        return False
    build.sink.error(
        "E0450",
        f"soft slots pick nothing, so `{moe.recipe.name}` cannot have this",
        fault[0],
        fault[1],
        secondary=(Label(router.origin("select"), "every expert gets a mixture of all tokens"),),
        help="take it out: `score` alone says what slots take of tokens, and tokens of slots",
    )
    return True


def _says(moe: Moe, name: str) -> bool:
    """More than that nothing is wanted."""
    value = getattr(moe, name)
    return bool(value) and value not in ("output", "outputs", "same", "token")
