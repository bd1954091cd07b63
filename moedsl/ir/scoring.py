"""An attention's scores: the fused form where kernels know it, `dot -> scale(2) -> soft_cap(50)`; else written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moedsl.diagnostics.model import Label
from moedsl.ir import ops
from moedsl.ir.graph import Value
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.attention import Attending, Dot
    from moedsl.constructs.declare import Construct
    from moedsl.ir.build import Builder

# What acts on each score by itself. Along the axis of keys, the future would have a say before it is masked.
ELEMENTWISE = (
    ops.Dot, ops.Pointwise, ops.Combination, ops.Scale, ops.SoftCap, ops.Clip, ops.Cast, ops.Dropout,
)  # fmt: skip


def fused(attention: Attending) -> tuple[float | None, float | None] | None:
    """The scale (None: the standard one) and the soft cap of scores that kernels know; None for others."""
    from moedsl.constructs.registry import construct_of

    term = attention.scores
    stages = term.stages if isinstance(term, terms.Flow) else (term,)
    found = [construct_of(s) for s in stages if isinstance(s, terms.Recipe)]
    names = [one.name for one in found]
    limit = found.pop() if names[-1:] == ["soft_cap"] else None
    scales: list[Any] = [one for one in found[1:] if one.name == "scale"]
    factors = ["learned" if one.factor == "learned" else one.raised for one in scales]
    others = len(found) - 1 - len(factors)
    if len(names) != len(stages) or names[:1] != ["dot"] or others or "learned" in factors:
        return None
    plain = getattr(found[0], "scale", "standard") == "standard" and not factors
    scale = None if plain and attention.sharpening == 1 else _scale(found[0], attention)
    for factor in factors:
        scale = (scale or 0.0) * float(factor)
    return scale, (float(getattr(limit, "limit", 0)) or None)


def lower_dot(build: Builder, dot: Dot) -> Value:
    attention = attention_of(build)
    op = ops.Dot(mask=explicit_mask(build, attention), scale=_scale(dot, attention))
    return build.op(op, build.scope["q"], build.scope["k"])


def _scale(dot: Construct, attention: Attending) -> float:
    scale = getattr(dot, "scale", "standard")
    factor = _size(attention) ** -0.5 if scale == "standard" else float(scale)
    return factor * attention.sharpening**2


def _size(attention: Attending) -> int:
    """How many channels a query and a key have."""
    return attention.head_dim + getattr(attention, "rope_dim", 0)  # type: ignore[attr-defined]


def attention_of(build: Builder) -> Attending:
    """The attention whose scores are at work."""
    from moedsl.constructs.attention import Attending
    from moedsl.constructs.registry import construct_of

    attention = construct_of(build.frame.unit.recipe)
    assert isinstance(attention, Attending)
    return attention


def keys_of(build: Builder) -> Value:
    return build.scope["k"]


def explicit_mask(build: Builder, attention: Attending) -> ops.AttentionMask:
    from moedsl.ir.attending import mask_of

    return mask_of(build, attention, build.scope.get("memory"), tensor=True)


def written_out(build: Builder, attention: Attending, remembers: bool = True) -> Value:
    """Scores as an expression over queries and keys, then their softmax over what is seen."""
    if attention.sinks:
        build.sink.error(
            "E0322",
            "these scores are written out, and `sinks` are not",
            attention.recipe.origin("sinks"),
            secondary=(Label(attention.scores.span, "no form that takes sinks"),),
            help="sinks go with `dot`, `dot -> scale(2)` and `dot -> soft_cap(50)`",
        )
        return build.poison(build.scope["q"])
    mask = explicit_mask(build, attention)
    k, v = build.scope["k"], build.scope["v"]
    if mask.causal and remembers:
        cache = build.ambient(ops.CacheHandle())
        k = build.op(ops.Remember(), k, cache, name="k")
        v = build.op(ops.Remember(), v, cache, name="v")
    if attention.tiles > 1:
        heads = build.dim(attention.heads, attention.recipe.origin("heads"), "H")
        tile = ops.Tile(times=attention.tiles, heads=heads)
        k, v = build.op(tile, k, name="k"), build.op(tile, v, name="v")
    first = len(build.frame.unit.nodes)
    with build.body(k=k):
        score = build.role("scores", attention.scores, build.scope["x"])
    if score in build.bad or not _may_be_scores(build, score, first):
        if score not in build.bad:
            _refuse(build, attention)
        return build.poison(build.scope["q"])
    train, eval_ = build.rates(attention.dropout)
    kind = (mask.causal, bool(train or eval_))
    op = ops.Mix(
        mask=mask, dropout=train, eval_dropout=eval_, function=build.function("mix", kind)
    )  # fmt: skip
    seen = build.ambient(mask) if mask.padded else build.op(ops.NoPadding())
    return build.op(op, score, v, seen, name="mixed", role="mixed")


def _may_be_scores(build: Builder, score: Value, first: int) -> bool:
    """Is there a number for each query and key, made of products, each by itself?"""
    made: set[Value] = set()
    for node in build.frame.unit.nodes[first:]:
        if isinstance(node.op, ops.Dot) or made.intersection(node.inputs):
            single = isinstance(node.op, ops.LearnedScale) and node.op.over is None
            if not (single or isinstance(node.op, ELEMENTWISE)):
                return False
            made.update(node.outputs)
    return score in made


def _refuse(build: Builder, attention: Attending) -> None:
    build.sink.error(
        "E0311",
        "these scores are not made of `dot`, each by itself",
        attention.scores.span,
        "wants a number for each query and key",
        help="begin with `dot`, and go on with what acts on each number alone: `dot -> soft_cap(50)`, "
        "`dot + dot(scale = 0.2)`; the softmax comes by itself",
    )
