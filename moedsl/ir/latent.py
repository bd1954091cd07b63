"""How latent attention becomes nodes: compress, remember, expand, attend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.frozen import frozen
from moedsl.ir import attending, ops
from moedsl.ir.graph import Dim, Value

if TYPE_CHECKING:
    from moedsl.constructs.attention import Latent
    from moedsl.constructs.position import Rope
    from moedsl.ir.build import Builder


@frozen
class Axes:
    """Heads; the channels of one: those that never turn, those that do, both, and a value's."""

    heads: Dim
    still: Dim
    turning: Dim
    whole: Dim
    value: Dim


def lower_latent(build: Builder, latent: Latent, x: Value) -> Value:
    from moedsl.constructs.registry import construct_of

    rope: Rope = construct_of(latent.rotate)  # type: ignore[assignment]
    axes = _axes(build, latent)
    build.bind("q", _queries(build, latent, rope, x, axes))
    k, v = _keys(build, latent, rope, x, axes)
    build.bind("k", k)
    build.bind("v", v)
    build.flat("O", axes.heads, axes.value)
    mixed = build.named(attending.attend(build, latent, x, remembers=False), "mixed")
    build.bind("mixed", build.merged(mixed))
    build.bind("mixed", build.role("mixed", latent.mixed, x))
    return build.role("o", latent.o, x, build.last(x))


def _axes(build: Builder, latent: Latent) -> Axes:
    origin = latent.recipe.origin
    return Axes(
        build.dim(latent.heads, origin("heads"), "H"),
        build.dim(latent.head_dim, origin("head_dim"), "U"),
        build.dim(latent.rope_dim, origin("rope_dim"), "P"),
        build.dim(latent.head_dim + latent.rope_dim, origin("head_dim"), "C"),
        build.dim(latent.value_dim, origin("value_dim"), "W"),
    )


def _queries(build: Builder, latent: Latent, rope: Rope, x: Value, axes: Axes) -> Value:
    if latent.q_rank != "none":
        rank = build.dim(int(latent.q_rank), latent.recipe.origin("q_rank"), "L")
        x = build.role("q_down", latent.q_down, x, rank)
        with build.at("q_norm"), build.body(x=x):
            x = build.apply(latent.q_norm, x)
    made = build.opened(build.role("q", latent.q, x, build.flat("I", axes.heads, axes.whole)))
    cut = ops.Cut(parts=(axes.still, axes.turning))
    still, turning = build.many(cut, made, names=("still", "turning"))
    build.flat("J", axes.heads, axes.turning)
    turned = attending.turn(build, rope, turning)
    return build.op(ops.Append(whole=axes.whole), still, turned, name="q")


def _keys(build: Builder, latent: Latent, rope: Rope, x: Value, axes: Axes) -> tuple[Value, Value]:
    rank = build.dim(latent.kv_rank, latent.recipe.origin("kv_rank"), "L")
    both = build.dim(latent.kv_rank + latent.rope_dim, rank.origin, "J")
    made = build.role("compress", latent.compress, x, both)
    short, turning = build.many(
        ops.Cut(parts=(rank, axes.turning)), made, names=("latent", "shared")
    )
    with build.at("kv_norm"), build.body(x=short):
        short = build.apply(latent.kv_norm, short)
    one = Dim("1", 1)
    build.flat("J", one, axes.turning)
    shared = attending.turn(build, rope, build.op(ops.OneHead(one=one), turning))
    if attending.is_causal(latent, x):
        cache = build.ambient(ops.CacheHandle())
        short = build.op(ops.Remember(), short, cache, name="latent")
        shared = build.op(ops.Remember(), shared, cache, name="shared")
    each = build.dim(latent.head_dim + latent.value_dim, axes.value.origin, "J")
    wide = build.role("expand", latent.expand, short, build.flat("J", axes.heads, each))
    cut = ops.Cut(parts=(axes.still, axes.value))
    still, v = build.many(cut, build.opened(wide), names=("still", "v"))
    op = ops.Append(whole=axes.whole, heads=axes.heads.size or 1)
    return build.op(op, still, shared, name="k"), v
