"""How images become streams, what is put before streams, positions in them, and what is pooled from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moedsl.ir import ops, problems
from moedsl.ir.graph import Dim, TensorType, Value
from moedsl.ir.shapes import MAIN, is_image, is_sequence, is_whole, spell, stream_of
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.images import Patches
    from moedsl.constructs.position import Position
    from moedsl.constructs.streams import Pool, Prepend, Segment
    from moedsl.ir.build import Builder


def lower_patches(build: Builder, patches: Patches, x: Value) -> Value:
    if x in build.bad:
        return x
    if not is_image(x):
        build.sink.error(
            "E0351",
            f"`{patches.recipe.name}` cuts up images, and gets {spell(x.type)}",
            patches.recipe.span,
            "no image here",
            help="an image is an input: `input image = pixels(3, 224, 224)`",
        )
        return build.poison(x)
    assert isinstance(x.type, TensorType)
    _, channels, height, width = x.type.dims
    size = patches.size
    for axis, what in ((height, "high"), (width, "wide")):
        if (axis.size or 0) % size:
            build.mismatch(
                "E0351",
                f"an image {axis.size} pixels {what} cannot be cut into squares of {size}",
                (patches.recipe.origin("size"), "the size of one square"),
                (axis.origin, f"{axis.size} pixels {what}"),
                help=f"the size of a square divides both sides of the image: {_fitting(height, width)}",
            )
            return build.poison(x)
    count = (height.size or 0) // size * ((width.size or 0) // size)
    op = ops.Patches(
        size=size,
        width=build.width or build.model_width,
        bias=patches.bias,
        channels=channels,
        tokens=replace(MAIN, size=count, origin=patches.recipe.span),
    )
    return build.placed(op, patches.recipe, x)


def _fitting(height: Dim, width: Dim) -> str:
    sizes = (height.size or 1, width.size or 1)
    return ", ".join(str(n) for n in range(2, min(sizes) + 1) if not any(s % n for s in sizes))


def lower_prepend(build: Builder, prepend: Prepend, x: Value) -> Value:
    if x in build.bad:
        return x
    if not is_whole(x):
        build.sink.error(
            "E0352",
            f"`{prepend.recipe.name}` puts rows before a stream of known length, and gets {spell(x.type)}",
            prepend.recipe.span,
            "the length of what it gets is not known",
            help="a stream of ids can begin with an id of its own; patches of an image have a known length",
        )
        return build.poison(x)
    assert isinstance(x.type, TensorType)
    length = x.type.dims[1]
    tokens = replace(length, size=(length.size or 0) + prepend.count, origin=prepend.recipe.span)
    op = ops.Prepend(count=prepend.count, width=build.last(x), tokens=tokens)
    return build.placed(op, prepend.recipe, x)


def lower_position(build: Builder, position: Position, x: Value) -> Value:
    if x in build.bad:
        return x
    if not is_sequence(x):
        return problems.no_sequence(build, position.recipe, x)
    assert isinstance(x.type, TensorType)
    length = x.type.dims[1]
    if is_whole(x):
        op = ops.LearnedPositions(length=length, width=build.last(x), counted=False)
        return build.placed(op, position.recipe, x)
    context = build.model.setting("context")
    if not isinstance(context, terms.Number):
        build.sink.error(
            "E0352",
            f"`{position.recipe.name}` does not know how many positions to learn",
            position.recipe.span,
            "one vector for each",
            help="say the longest sequence: `context = 1024` in the model",
        )
        return build.poison(x)
    op = ops.LearnedPositions(
        length=build.dim(int(context.value), context.span, "T"), width=build.last(x), counted=True
    )
    return build.placed(
        op, position.recipe, x, build.ambient(ops.Positions(stream=stream_of(x) or MAIN))
    )


def lower_pool(build: Builder, pool: Pool, x: Value) -> Value:
    if x in build.bad:
        return x
    if not is_sequence(x):
        return problems.no_sequence(build, pool.recipe, x)
    over = _over(pool.over)
    if over in ("sequence", "prompt") and (is_whole(x) or over == "sequence"):
        return _pool_sequence(build, pool, x)
    if is_whole(x):
        help = "write `over = sequence`"
        return problems.no_ids(build, pool.recipe, "a mean of what came before", help)
    if pool.how != "mean":
        build.sink.error(
            "E0212",
            "the first token is that of a sequence",
            pool.recipe.origin("over"),
            help="leave `over` out, or pool the `mean`",
        )
        return build.poison(x)
    return _pool_before(build, over, x)


def _over(term: object) -> str | Segment:
    """Words as they are; a stretch of tokens as its construct."""
    from moedsl.constructs.registry import construct_of

    if isinstance(term, terms.Recipe):
        return construct_of(term)  # type: ignore[return-value]
    return term.text if isinstance(term, terms.Word) else str(term)


def _pool_sequence(build: Builder, pool: Pool, x: Value) -> Value:
    whole, stream = is_whole(x), stream_of(x)
    assert stream is not None
    kind = ops.SequenceMean if pool.how == "mean" else ops.FirstToken
    mask = () if whole else (build.ambient(ops.MaskArgument(stream=stream)),)
    return build.op(kind(whole=whole, tokens=stream), x, *mask)


def _pool_before(build: Builder, over: str | Segment, x: Value) -> Value:
    stream = stream_of(x)
    assert stream is not None
    mask = build.ambient(ops.MaskArgument(stream=stream))
    past = build.ambient(ops.Past(stream=stream))
    cache = build.ambient(ops.CacheHandle(stream=stream))
    if over == "prompt":
        return build.op(ops.PromptMean(whole=False, tokens=stream), x, mask, past, cache)
    seen = build.op(ops.Remember(), x, cache, name="seen")
    if isinstance(over, str):
        return build.op(ops.RunningMean(tokens=stream), seen, mask, past)
    axis = Dim("P", segment=over.length, meaning="segments")
    op = ops.SegmentMean(segment=axis, lag=over.lag, own=over.first == "own")
    return build.op(op, seen, mask, past)
