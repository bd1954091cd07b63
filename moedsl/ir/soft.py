"""How a mixture whose experts get mixtures of tokens becomes nodes: score, fill, the bank on rows of each expert, read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moedsl.diagnostics.model import Label
from moedsl.ir import ops, problems
from moedsl.ir.graph import Dim, TensorType, Value
from moedsl.ir.shapes import MAIN, is_whole, spell, stream_of
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.moe import Moe
    from moedsl.constructs.router import Router
    from moedsl.constructs.soft import Soft
    from moedsl.constructs.streams import Segment
    from moedsl.ir.build import Builder
    from moedsl.source import Span

# What a router says about picks, of which there are none here; and what a mixture says about them.
_OF_PICKS = (
    "gate",
    "choose",
    "weigh",
    "estimator",
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
    y = build.named(y, "y")
    segment = _segment(soft)
    if segment is not None and not is_whole(x):
        op = ops.ReadSegments(segment=segment.length, lag=segment.lag)
        return build.op(op, y, score, *_before(build, x))
    return build.op(ops.ReadPrefix() if _over(soft) == "prefix" else ops.ReadSlots(), y, score)


def _over(soft: Soft) -> str:
    return soft.over.text if isinstance(soft.over, terms.Word) else str(soft.over)


def _segment(soft: Soft) -> Segment | None:
    from moedsl.constructs.registry import construct_of

    if not isinstance(soft.over, terms.Recipe):
        return None
    return construct_of(soft.over)  # type: ignore[return-value]


def _before(build: Builder, x: Value) -> tuple[Value, Value]:
    """What is padding, and how much came before."""
    stream = stream_of(x) or MAIN
    return build.ambient(ops.MaskArgument(stream=stream)), build.ambient(ops.Past(stream=stream))


def _fill(
    build: Builder, soft: Soft, x: Value, score: Value, experts: Dim, router: terms.Recipe
) -> Value:
    from moedsl.constructs.registry import construct_of

    stream = stream_of(x)
    assert stream is not None
    allowed = getattr(construct_of(router), "lookahead", "")
    ahead = "allowed" if allowed == "allowed" else ""
    segment = _segment(soft)
    if segment is not None or _over(soft) == "prefix":
        if is_whole(x):
            help = "write `over = sequence`"
            return problems.no_ids(build, soft.recipe, "what a slot is made of here", help)
        cache = build.ambient(ops.CacheHandle(stream=stream))
        seen = build.op(ops.Remember(), x, cache, name="seen")
        scores = build.op(ops.Remember(), score, cache, name="scores")
        mask, past = _before(build, x)
        sizes: dict[str, Any] = {"experts": experts, "slots": soft.slots, "tokens": stream}
        if segment is not None:
            op = ops.FillSegments(segment=segment.length, lag=segment.lag, lookahead=ahead, **sizes)
            return build.op(op, seen, scores, mask, past)
        scores = build.op(ops.HidePadding(), scores, mask)
        return build.op(ops.FillPrefix(**sizes), seen, scores, past)
    if not is_whole(x):
        score = build.op(ops.HidePadding(), score, build.ambient(ops.MaskArgument(stream=stream)))
    whole = ops.FillSlots(experts=experts, slots=soft.slots, tokens=stream, lookahead=ahead)
    build.spans.append(soft.recipe.span)
    rows = build.op(whole, x, score, role="slots")
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


# --- experts merged into one ----------------------------------------------------------------------


def lower_merged(build: Builder, moe: Moe, x: Value, route: Value | None) -> Value:
    """Shares of all experts for each segment or sequence, their mean as one expert, and that on its rows."""
    from moedsl.ir import mixing

    kinds = mixing.kinds_of(moe)
    if _cannot_merge(build, moe, len(kinds)):
        return build.poison(x)
    (kind,) = kinds
    router = moe.router
    assert isinstance(router, terms.Recipe)
    experts = build.dim(kind.count, moe.recipe.origin("experts"), "E")
    read = build.named(x if route is None else route, "x")
    share = build.units.call(router, read, place="router", width=experts, extra="shares")
    if share in build.bad:
        return build.poison(x)
    share = build.named(share, "share")
    dims = share.type.dims if isinstance(share.type, TensorType) else ()
    if len(dims) == 2 and dims[0].letter == "B":
        return mixing.bank(build, moe, kind, x, share, kind.count, build.last(x), "merged")
    if len(dims) != 3 or not dims[1].segment:
        build.mismatch(
            "E0451",
            f"experts are merged for a segment or a sequence, and the score is {spell(share.type)}",
            (router.setting("score").span, "one row for each token"),
            (moe.recipe.origin("mix"), "each would have experts of its own"),
            help="let it read a mean: `score = pool(mean, over = segment(256)) -> linear`",
        )
        return build.poison(x)
    size, (mask, past) = dims[1].segment, _before(build, x)
    rows = build.op(ops.ToSegments(segment=size), x, mask, past, name="x")
    shares = build.op(ops.Shares(), share, name="share")
    y = mixing.bank(build, moe, kind, rows, shares, kind.count, build.last(x), "merged")
    return build.op(ops.FromSegments(segment=size), build.named(y, "y"), x, mask, past)


def lower_shares(build: Builder, router: Router, x: Value) -> Value:
    """What each expert is worth: the weights of all, for each row that the score has."""
    choices = build.width
    score = build.named(build.role("score", router.score, x, choices), "score")
    if score not in build.bad and choices is not None and build.last(score).size != choices.size:
        build.mismatch(
            "E0403",
            f"the score has {build.last(score).size} numbers for {choices.size} choices",
            (router.score.span, "one number per choice is needed"),
            (choices.origin, f"{choices.size} to choose among"),
            help="end it with a `linear` without a width: it takes the number of choices",
        )
        return build.poison(score)
    if getattr(score.type, "dtype", "") != "float32":
        score = build.op(ops.Cast(dtype="float32"), score, name="score")
    build.bind("score", score)
    for role in ("gate", "weigh"):
        build.bind(role, build.role(role, getattr(router, role), x, choices, name=role))
    return build.scope["weigh"]


def _cannot_merge(build: Builder, moe: Moe, kinds: int) -> bool:
    from moedsl.constructs.registry import construct_of
    from moedsl.constructs.selection import All

    fault: tuple[Span, str] | None = None
    router = moe.router
    if not isinstance(router, terms.Recipe):
        fault = (router.span, "a decision made elsewhere picks experts for tokens")
    else:
        select = router.setting("select")
        if not isinstance(select, terms.Recipe) or not isinstance(construct_of(select), All):
            fault = (router.origin("select"), "picks some of them: all are merged")
        for name in (n for n in _OF_PICKS if n not in ("gate", "weigh")):
            if name in router.given:
                fault = (router.origin(name), f"`{name}` is about picks")
    for name in ("loss", "weight", "inputs", "per"):
        if name in moe.recipe.given and _says(moe, name):
            fault = (moe.recipe.origin(name), f"`{name}` is about experts side by side")
    if kinds > 1:
        fault = (moe.recipe.origin("experts"), "experts of one shape can be merged")
    if fault is None:
        return False
    build.sink.error(
        "E0451",
        f"`{moe.recipe.name}` merges its experts, and cannot have this",
        *fault,
        secondary=(Label(moe.recipe.origin("mix"), "one expert is made of all"),),
        help="`score`, `gate` and `weigh` say what each is worth, with `select = all`",
    )
    return True
