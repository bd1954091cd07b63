"""How attention becomes nodes: queries, keys, values, scores, mixed values, and back to the stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moedsl.ir import ops, problems, scoring
from moedsl.ir.graph import Dim, Value
from moedsl.ir.shapes import MAIN, is_whole, stream_of
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.attention import Attending, Attention
    from moedsl.constructs.position import LogScale, Rope
    from moedsl.constructs.scaling import Scaling
    from moedsl.ir.build import Builder


def lower_attention(build: Builder, attention: Attention, x: Value, memory: Value | None) -> Value:
    heads, shared, size = _axes(build, attention)
    source = x if memory is None else memory
    queries, keys = build.flat("I", heads, size), build.flat("J", shared, size)
    for role, stream, width in (("q", x, queries), ("k", source, keys), ("v", source, keys)):
        value = build.role(role, getattr(attention, role), stream, width)
        build.bind(role, build.named(_by_heads(build, value, width), role))
    if memory is not None and stream_of(memory) != MAIN:
        build.ambient(ops.CacheHandle())  # keeps keys and values of what stays as it is
    mixed = build.named(attend(build, attention, memory), "mixed")
    build.bind("mixed", build.merged(mixed))
    build.bind("mixed", build.role("mixed", attention.mixed, x))
    return build.role("o", attention.o, x, build.last(x))


def _by_heads(build: Builder, value: Value, width: Dim) -> Value:
    """Heads and channels apart; a tensor made elsewhere may have the width of heads without being made of them."""
    opened = build.opened(value)
    if build.is_opened(opened) or build.last(opened).size != width.size or value in build.bad:
        return opened
    return build.op(ops.SplitHeads(parts=width.split), opened)


def _axes(build: Builder, attention: Attention) -> tuple[Dim, Dim, Dim]:
    origin = attention.recipe.origin
    heads = build.dim(attention.heads, origin("heads"), "H")
    size = build.dim(attention.head_dim, origin("head_dim"), "C")
    if attention.kv_heads == attention.heads:
        return heads, heads, size
    return heads, build.dim(attention.kv_heads, origin("kv_heads"), "G"), size


def attend(
    build: Builder, attention: Attending, memory: Value | None = None, remembers: bool = True
) -> Value:
    """The weighted mean of the values; `remembers`: keys and values are what a cache keeps."""
    source = build.scope["x"] if memory is None else memory
    if attention.mask == "causal" and memory is None and is_whole(source):
        problems.no_ids(build, attention.recipe, "a causal mask", "write `mask = none`")
        return build.poison(build.scope["q"])
    known = scoring.fused(attention)
    shares = build.shares_keys and memory is None
    if (shares and known is None) or (build.shares_keys and not remembers):
        return problems.not_shared(build, attention.recipe)
    if known is None:
        return scoring.written_out(build, attention, remembers)
    scale, soft_cap = known
    sinks = attention.sinks
    mask = mask_of(build, attention, memory, tensor=soft_cap is not None or sinks)
    causal = mask.causal
    grouped = getattr(attention, "kv_heads", attention.heads) != attention.heads
    remembers = remembers and causal
    if shares:
        mask = replace(mask, first=True)
        _of_first_round(build, remembers)
        remembers = False
    train, eval_ = build.rates(attention.dropout)
    noisy = train > 0 or eval_ > 0
    kind = (causal, mask.padded, remembers, grouped, soft_cap, scale is not None, sinks, noisy)
    op = ops.Attend(
        mask=mask,
        grouped=grouped,
        cached_keys=remembers,
        scale=scale,
        soft_cap=soft_cap,
        sinks=sinks,
        dropout=train,
        eval_dropout=eval_,
        function=build.function("attend", kind),
    )
    values = [build.scope[name] for name in ("q", "k", "v")]
    tiled = attention.tiles > 1
    apart = ops.Regroup(groups=attention.tiles, ranks=attention.heads // attention.tiles)
    if tiled:
        values[0] = build.op(apart, values[0], name="q")
    if mask.padded:
        values.append(build.ambient(mask))
    if remembers:
        values.append(build.ambient(ops.CacheHandle()))
    if sinks:
        heads = build.dim(attention.heads, attention.recipe.origin("heads"), "H")
        learned = build.op(ops.Learned(over=heads), place="sinks")
        values.append(build.op(replace(apart, of_heads=False), learned) if tiled else learned)
    mixed = build.op(op, *values, name="mixed", role="mixed")
    return build.op(apart.back, mixed, name="mixed") if tiled else mixed


def _of_first_round(build: Builder, remembers: bool) -> None:
    """Keys and values as the first round made them."""
    cache = build.ambient(ops.CacheHandle()) if remembers else build.op(ops.NoPadding())
    first = build.ambient(ops.FirstRound())
    for name in ("k", "v"):
        value = build.named(build.scope[name], name)
        build.bind(name, build.op(ops.RememberFirst(), value, cache, first, name=name))


def is_causal(attention: Attending, memory: Value | None) -> bool:
    return attention.mask == "causal" and ((memory and stream_of(memory)) or MAIN) == MAIN


def mask_of(
    build: Builder, attention: Attending, memory: Value | None, tensor: bool
) -> ops.AttentionMask:
    """What an attention lets be seen; `tensor` where its scores are written out. Before and after are things of one
    stream: all of another one is seen."""
    source = build.scope["x"] if memory is None else memory
    if is_whole(source):
        return ops.AttentionMask(causal=False, padded=False)
    stream = (memory and stream_of(memory)) or MAIN
    causal = is_causal(attention, memory)
    window = None if attention.window == "none" or not causal else int(attention.window)
    chunk = None if attention.chunk == "none" or not causal else int(attention.chunk)
    tensor = tensor and causal  # all that is real is seen: there may be nothing to hide
    base = "chunk_mask" if chunk else "window_mask" if window else ""
    base = base or ("causal_mask" if causal else "padding_mask")
    function = build.function(base, (causal, window, chunk, tensor))
    return ops.AttentionMask(
        causal=causal, window=window, chunk=chunk, tensor=tensor, function=function, stream=stream
    )


def lower_rope(build: Builder, rope: Rope, x: Value) -> Value:
    """The first channels of each head turned by the position."""
    scaling = scaling_of(rope)
    turned = turn(build, rope, x)
    if scaling is None or scaling.sharpening == 1 or turned in build.bad:
        return turned
    return build.op(ops.Scale(factor=scaling.sharpening), turned)


def turn(build: Builder, rope: Rope, x: Value) -> Value:
    if is_whole(x):
        help = "add positions to the stream: `patches(16) -> position(learned)`"
        return problems.no_ids(build, rope.recipe, f"`{rope.recipe.name}`", help)
    x = build.opened(x)
    head = build.last(x).size or 0
    if not build.is_opened(x):
        build.sink.error(
            "E0307",
            "`rope` turns the channels of heads, and there are none here",
            rope.recipe.span,
            help="heads are in an attention's `q`, `k` and `v`: `q, k = linear -> rope`",
        )
        return build.poison(x)
    size = int(head * rope.part)
    if size % 2 or size == 0:
        build.mismatch(
            "E0308",
            f"`rope` turns channels in pairs, and {size} of a head's {head} are not pairs",
            (rope.recipe.span, "here"),
            (build.last(x).origin, f"heads of {head} come from here"),
            help="choose a `head_dim`, or a `part` of it, that makes an even number of channels",
        )
        return build.poison(x)
    scaling = scaling_of(rope)
    stretch = None if scaling is None else scaling.stretch()
    way = (size, head, rope.pairs)
    table = ops.RotaryTable(
        theta=float(rope.theta),
        size=size,
        head=head,
        pairs=rope.pairs,
        stretch=stretch,
        table=build.function("rotary_table", (float(rope.theta), stretch, *way)),
        rotate=build.function("rotate", way),
    )
    here = replace(table, stream=stream_of(x) or MAIN)
    return build.op(ops.Rotate(table=table), x, build.ambient(here))


def lower_log_scale(build: Builder, log_scale: LogScale, x: Value) -> Value:
    x = build.opened(x)
    if not build.is_opened(x):
        build.sink.error(
            "E0307",
            "`log_scale` acts on heads, and there are none here",
            log_scale.recipe.span,
            help="heads are in an attention's `q`, `k` and `v`: `q = linear -> log_scale(8192)`",
        )
        return build.poison(x)
    table = ops.Temperature(
        every=int(log_scale.every),
        by=float(log_scale.by),
        first=int(log_scale.first),
        stream=stream_of(x) or MAIN,
    )
    return build.op(ops.Temper(), x, build.ambient(table))


def scaling_of(rope: Rope) -> Scaling | None:
    """What is done to the angles, if anything."""
    from moedsl.constructs.registry import construct_of

    if not isinstance(rope.scaling, terms.Recipe):
        return None
    return construct_of(rope.scaling)  # type: ignore[return-value]
