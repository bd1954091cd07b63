"""How learned distances become nodes: a table beside an attention, or one at the root for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.ir import ops, scoring
from moedsl.ir.graph import Value
from moedsl.ir.shapes import MAIN

if TYPE_CHECKING:
    from moedsl.constructs.relative import Relative
    from moedsl.ir.build import Builder


def lower_relative(build: Builder, relative: Relative) -> Value:
    attention = scoring.attention_of(build)
    mask = scoring.explicit_mask(build, attention)
    if mask.stream != MAIN:
        return _across(build, relative)
    side = relative.buckets if mask.causal else relative.buckets // 2
    if side < 2 or relative.max_distance <= side // 2 or relative.buckets % 2:
        return _without_room(build, relative, side)
    heads = build.dim(attention.heads, attention.recipe.origin("heads"), "H")
    buckets = ops.Buckets(
        causal=mask.causal,
        count=relative.buckets,
        max_distance=relative.max_distance,
        remembered=ops.SEEN in scoring.keys_of(build).type.dims,
    )
    if not relative.recipe.tied:
        table = ops.OwnDistances(heads=heads, count=relative.buckets)
        return build.placed(table, relative.recipe, build.ambient(buckets))
    place = relative.recipe.tied
    if "." in place:
        return _not_in_the_model(build, relative)
    other = build.shared.setdefault(place, heads)
    if other.size != heads.size:
        build.mismatch(
            "E0332",
            f"`{place}` has a number for each of {other.size} heads, and here are {heads.size}",
            (build.span, "shared with others"),
            (heads.origin, f"{heads.size} heads"),
            (other.origin, f"{other.size} heads"),
            help="attentions that share a table have as many heads; give the others one of their own",
        )
    inits = (relative.init,) if relative.init is not None else ()
    return build.ambient(ops.Distances(heads=heads, buckets=buckets, table=place, inits=inits))


def _across(build: Builder, relative: Relative) -> Value:
    build.sink.error(
        "E0331",
        f"`{relative.recipe.name}` measures how far apart positions are, and these are of two streams",
        build.span,
        "keys come from another stream",
        help="leave it out of the scores here: `scores = dot`",
    )
    return build.poison(build.scope["q"])


def _without_room(build: Builder, relative: Relative, side: int) -> Value:
    build.sink.error(
        "E0330",
        f"{relative.buckets} buckets up to a distance of {relative.max_distance} cannot be cut",
        relative.recipe.origin("buckets"),
        f"{side} of them for one side, half of those for one distance each",
        help="take an even number of buckets, two or more for each side, and a `max_distance` beyond half of those",
    )
    return build.poison(build.scope["q"])


def _not_in_the_model(build: Builder, relative: Relative) -> Value:
    build.sink.error(
        "E0208",
        "a table of distances that is tied inside a body is part of the language, but not yet of this compiler",
        relative.recipe.span,
        help="declare it in the model, where all layers share it, or without `tied`",
    )
    return build.poison(build.scope["q"])
