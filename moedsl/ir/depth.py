"""How blocks that serve some of the tokens become nodes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from moedsl.ir import before, ops
from moedsl.ir.capacity import phases
from moedsl.ir.depth_rules import ONE, Rules, rules_of
from moedsl.ir.graph import Dim, RecordType, TensorType, Value
from moedsl.ir.ops_depth import Rule
from moedsl.ir.shapes import MAIN, is_sequence, is_whole, stream_of
from moedsl.ir.thread import wanted_below
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.depth import Routed, Serving
    from moedsl.ir.build import Builder


def lower_routed(build: Builder, routed: Routed, x: Value) -> Value:
    if x in build.bad or not is_tokens(build, routed, x):
        return build.poison(x)
    score = one_number(build, routed, "score", x)
    build.bind("score", score)
    gate = one_number(build, routed, "gate", x)
    if score in build.bad or gate in build.bad:
        return build.poison(x)
    _, eval_, decode = phases(routed.select)
    if is_whole(x) and decode is not eval_ and isinstance(decode, terms.Recipe):
        return never_decoded(build, routed, decode)
    rules = rules_of(build, routed, x, score)
    real, _ = surroundings(build, x)
    chosen = _choose(build, routed, rules, x)
    served = build.op(ops.Served(), chosen, score, name="served")
    build.tap(build.op(ops.Decided(), served, rules.taught, real, name="decided"))
    return serve(build, routed, x, gate, chosen, rules)


def never_decoded(build: Builder, routed: Serving, rule: terms.Term) -> Value:
    build.mismatch(
        "E0350",
        f"`{routed.recipe.name}` says whom it serves when decoding, and this stream is there at once",
        (rule.span, "nothing is decoded here"),
        (routed.recipe.span, "serves tokens that are not made of ids"),
        help="say what holds in training, and in evaluation where that is another: `select = top(50%)`",
    )
    return build.poison(build.scope["x"])


def surroundings(build: Builder, x: Value) -> tuple[Value, Value]:
    """Which tokens are real, and what is remembered of earlier ones: nothing of a stream that is there at once."""
    if is_whole(x):
        dims = x.type.dims[:2] if isinstance(x.type, TensorType) else ()
        return build.op(ops.NoPadding(dims=dims)), build.op(ops.NoPadding())
    return build.ambient(ops.RealTokens()), build.ambient(ops.CacheHandle())


def _choose(build: Builder, routed: Routed, rules: Rules, x: Value) -> Value:
    real, cache = surroundings(build, x)
    op = ops.Choose(
        train=rules.train,
        eval=rules.eval,
        decode=rules.decode,
        logits=len(rules.logits),
        lookahead=rules.lookahead,
        form=_form(routed),
        at_once=is_whole(x),
    )
    build.spans.append(routed.select.span)
    chosen = build.op(op, *rules.logits, real, cache, name="chosen")
    build.spans.pop()
    return chosen


def _form(routed: Routed) -> str:
    """What to write where the future may not be seen."""
    train, _, _ = phases(routed.select)
    assert isinstance(train, terms.Recipe)
    count = train.setting("count") if train.construct == "top" else None
    if not isinstance(count, terms.Number):
        return ""
    many = f"{count.value}" if isinstance(count.value, int) else f"{100 * count.value:g}%"
    return f"select = phase(train = top({many}), decode = predicted(mlp(64)))"


def _spread(build: Builder, rule: Rule) -> Fraction:
    """How many of the tokens of a whole context are served, where that is known."""
    context = build.model.setting("context")
    if rule.number is None or not isinstance(context, terms.Number):
        return Fraction(1)
    return min(Fraction(1), Fraction(rule.number, int(context.value)))


def serve(
    build: Builder,
    routed: Serving,
    x: Value,
    gate: Value,
    chosen: Value,
    rules: Rules,
    several: bool = False,
) -> Value:
    """The stream after the block has served the chosen tokens. `several`: it comes back for other numbers of them."""
    rule = rules.train
    spread = rule.share if rule.share is not None else _spread(build, rule)
    size = None
    if is_whole(x) and rules.eval == rule and not several:  # so many in all phases
        size = rule.count((stream_of(x) or MAIN).size or 0)
    taken = ops.TakeChosen(stream=served_stream(build, routed, chosen, spread, size))
    own = build.op(taken, x, chosen, name="own")
    given = inside(build, routed, own, chosen)
    if given in build.bad:
        return build.poison(x)
    whole = getattr(routed, "adds", "change") == "result"
    parts = (given,) if whole else (own, given)
    return build.op(ops.AddChosen(whole=whole), x, *parts, gate, chosen, name="x")


def served_stream(
    build: Builder,
    routed: Serving,
    chosen: Value,
    spread: Fraction = Fraction(1),
    size: int | None = None,
) -> Dim:
    """The stream of those that are chosen. `spread`: their share of all tokens, where that is known; `size`: their
    number, where no input changes it."""
    stream = Dim(
        "A",
        size,
        stream=True,
        mean=spread if spread < 1 else None,
        part=len(build.frame.unit.streams),
        meaning="tokens served",
        origin=routed.recipe.span,
    )
    build.frame.unit.streams[stream] = chosen
    return stream


def inside(build: Builder, routed: Serving, own: Value, chosen: Value | None) -> Value:
    """What the block gives for the tokens that it serves (None: all of them). Of streams around it, it reads what is of
    those tokens."""
    body = routed.body
    stream = own.type.dims[1]
    parts: dict[str, Value] = {}
    for name, value in build.units.around([body]):
        if chosen is not None and isinstance(value.type, RecordType):
            _refuse(build, routed, f"the decision `{name}`, which was made for all tokens,")
            return build.poison(own)
        if chosen is not None and stream_of(value) == MAIN:
            parts[name] = build.op(ops.TakeChosen(stream=stream), value, chosen, name=name)
    first = len(build.frame.unit.nodes)
    with build.body(x=own, **parts), before.apart(build):
        if isinstance(body, terms.Recipe):
            if body.tied:
                build.units.stands_inside(body.tied, body.span)
            named = dict(build.units.bound(body))
            body = replace(body, tied=f"{build.frame.unit.name}.{body.name}")  # in all rounds
            given = build.units.call(body, own, named=named)
        else:
            given = build.apply(body, own)
    for node in build.frame.unit.nodes[first:] if chosen is not None else ():
        for op in wanted_below(node):
            if op.part is None:
                _refuse(build, routed, f"`{op.name}`, which is made for whole sequences,")
                return build.poison(own)
    return given


def _refuse(build: Builder, routed: Serving, what: str) -> None:
    build.sink.error(
        "E0208",
        f"{what} cannot be read by a block that serves some of them",
        routed.body.span,
        "not yet in this compiler",
    )


def is_tokens(build: Builder, routed: Serving, x: Value) -> bool:
    if is_sequence(x):
        return True
    build.sink.error(
        "E0316",
        f"`{routed.recipe.name}` serves some tokens of a sequence, and there is none here",
        routed.recipe.span,
        "wants a stream of tokens",
        help="a stream begins with ids or patches: `input tokens = ids(vocab)`, `image -> patches(16)`",
    )
    return False


def one_number(build: Builder, routed: Serving, role: str, x: Value, number: str = "") -> Value:
    """A number for each token."""
    term = getattr(routed, role)
    value = build.role(role + number, term, x, ONE, name=role)
    if value in build.bad:
        return value
    if build.last(value).size != 1:
        build.mismatch(
            "E0403",
            f"`{role}` gives {build.last(value).size} numbers for a token, and one is wanted",
            (term.span, "here"),
            (routed.recipe.span, "each token is served or not"),
            help="end it with `linear(1)`",
        )
        return build.poison(value)
    return value
