"""How blocks that serve some of the tokens become nodes, and what their rules learn from."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from moedsl.frozen import record
from moedsl.ir import ops
from moedsl.ir.capacity import phases
from moedsl.ir.graph import Dim, Node, RecordType, Unit, Value
from moedsl.ir.losses import Group, Sites, listed
from moedsl.ir.ops_depth import Rule
from moedsl.ir.shapes import MAIN, is_sequence, is_whole, stream_of
from moedsl.ir.thread import wanted_below
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.declare import Construct
    from moedsl.constructs.depth import Recur, Routed, Serving
    from moedsl.ir.build import Builder
    from moedsl.source import Span

ONE = Dim("1", 1)


@record
class Rules:
    """Whom a block serves in each phase. `logits`: what the rules read, the score first; `lookahead`: what the spec puts
    in place of ranking when decoding; `taught`: the logit that learns who is served."""

    train: Rule
    eval: Rule
    decode: Rule
    logits: list[Value]
    lookahead: str
    taught: Value


def lower_routed(build: Builder, routed: Routed, x: Value) -> Value:
    if x in build.bad or not _is_tokens(build, routed, x):
        return build.poison(x)
    score = _one(build, routed, "score", x)
    build.bind("score", score)
    gate = _one(build, routed, "gate", x)
    if score in build.bad or gate in build.bad:
        return build.poison(x)
    rules = _rules(build, routed, x, score)
    real = build.ambient(ops.RealTokens())
    chosen = _choose(build, routed, rules, real)
    served = build.op(ops.Served(), chosen, score, name="served")
    build.tap(build.op(ops.Decided(), served, rules.taught, real, name="decided"))
    return serve(build, routed, x, gate, chosen, rules.train)


def lower_recur(build: Builder, recur: Recur, x: Value) -> Value:
    """Round after round, the same block on some of those that the round before served."""
    if x in build.bad or not _is_tokens(build, recur, x):
        return build.poison(x)
    if isinstance(recur.decode, terms.Recipe) and recur.learns is None:
        _report_untaught(build, recur.decode, recur.recipe.origin("keep"))
    real = build.ambient(ops.RealTokens())
    cache = build.ambient(ops.CacheHandle())
    among: Value | None = None
    for number, kept in enumerate(recur.keep):
        suffix = f"_{number}"
        with build.body(x=x):
            score = _one(build, recur, "score", x, suffix)
            build.bind("score", score)
            gate = _one(build, recur, "gate", x, suffix)
            if score in build.bad or gate in build.bad:
                return build.poison(x)
            logits = [score]
            train = _rule(build, kept, x, logits, {})
            decode = train
            if isinstance(recur.decode, terms.Recipe):
                decode = _rule(build, recur.decode, x, logits, {}, suffix)
        everyone = train.share == 1 and not number
        if everyone:
            train = decode = Rule()
        op = ops.Choose(
            train=train,
            eval=train,
            decode=decode,
            logits=len(logits),
            narrows=among is not None,
            lookahead=_recur_lookahead(recur),
            form="decode = above(50%, membership = 1e-3)",
        )
        before = [] if among is None else [among]
        build.spans.append(recur.recipe.origin("keep"))
        chosen = build.op(op, *logits, real, cache, *before, name="chosen")
        build.spans.pop()
        could = real if among is None else among
        among = build.op(ops.Served(), chosen, score, name="served")
        if not everyone:
            build.tap(build.op(ops.Decided(), among, logits[-1], could, name=f"round_{number}"))
        x = serve(build, recur, x, gate, chosen, train)
    for _, _, unit in [run for node in build.frame.unit.nodes for run in node.calls()][:1]:
        if len(recur.keep) > 1:
            build.units.comes_back(unit, recur.body.span)
    return x


def _recur_lookahead(recur: Recur) -> str:
    if recur.lookahead == "allowed":
        return "allowed"
    decode = recur.decode
    return f"decode = {decode.construct}" if isinstance(decode, terms.Recipe) else ""


def serve(
    build: Builder, routed: Serving, x: Value, gate: Value, chosen: Value, rule: Rule
) -> Value:
    """The stream after the block has served the chosen tokens."""
    spread = rule.share if rule.share is not None else _spread(build, rule)
    stream = Dim(
        "A",
        stream=True,
        mean=spread if spread < 1 else None,
        part=len(build.frame.unit.streams),
        meaning="tokens served",
        origin=routed.recipe.span,
    )
    build.frame.unit.streams[stream] = chosen
    taken = ops.TakeChosen(stream=stream)
    own = build.op(taken, x, chosen, name="own")
    given = _inside(build, routed, own, chosen)
    if given in build.bad:
        return build.poison(x)
    return build.op(ops.AddChosen(), x, own, given, gate, chosen, name="x")


def _inside(build: Builder, routed: Serving, own: Value, chosen: Value) -> Value:
    """What the block gives for the tokens that it serves. Of streams around it, it reads what is of those tokens."""
    body = routed.body
    stream = own.type.dims[1]
    parts: dict[str, Value] = {}
    for name, value in build.units.around([body]):
        if isinstance(value.type, RecordType):
            _refuse(build, routed, f"the decision `{name}`, which was made for all tokens,")
            return build.poison(own)
        if stream_of(value) == MAIN:
            parts[name] = build.op(ops.TakeChosen(stream=stream), value, chosen, name=name)
    first = len(build.frame.unit.nodes)
    with build.body(x=own, **parts):
        if isinstance(body, terms.Recipe):
            if body.tied:
                build.units.stands_inside(body.tied, body.span)
            named = dict(build.units.bound(body))
            body = replace(body, tied=f"{build.frame.unit.name}.{body.name}")  # in all rounds
            given = build.units.call(body, own, named=named)
        else:
            given = build.apply(body, own)
    for node in build.frame.unit.nodes[first:]:
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


def _is_tokens(build: Builder, routed: Serving, x: Value) -> bool:
    if is_sequence(x) and not is_whole(x):
        return True
    build.sink.error(
        "E0316",
        f"`{routed.recipe.name}` serves some tokens of a sequence, and there is none here",
        routed.recipe.span,
        "wants a stream of tokens",
        help="a stream begins with ids: `input tokens = ids(vocab)`",
    )
    return False


def _one(build: Builder, routed: Serving, role: str, x: Value, number: str = "") -> Value:
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


# --- rules ----------------------------------------------------------------------------------------


def _rules(build: Builder, routed: Routed, x: Value, score: Value) -> Rules:
    train, eval_, decode = phases(routed.select)
    logits = [score]
    known: dict[object, int] = {}
    first, second, last = (_rule(build, t, x, logits, known) for t in (train, eval_, decode))
    taught = score
    if routed.learns is not None:
        taught = logits[(second if routed.learns.recipe is eval_ else last).reads]
    instead = "" if last.ranks else f"select = {getattr(decode, 'construct', '')}"
    allowed = getattr(routed, "lookahead", "") == "allowed"
    lookahead = "allowed" if allowed else instead
    rules = Rules(first, second, last, logits, lookahead, taught)
    _check_taught(build, routed, rules)
    return rules


def learner(select: object) -> Construct | None:
    """The rule that learns from what training decides."""
    from moedsl.constructs.registry import construct_of

    train, eval_, decode = phases(select)
    if not isinstance(train, terms.Recipe) or train.construct != "top":
        return None
    rules = (construct_of(rule) for rule in (decode, eval_) if isinstance(rule, terms.Recipe))
    return next((rule for rule in rules if worth_of(rule)), None)


def _rule(
    build: Builder,
    term: object,
    x: Value,
    logits: list[Value],
    known: dict[object, int],
    number: str = "",
) -> Rule:
    """`logits` grows by what a rule computes for itself, once for all phases."""
    from moedsl.constructs.depth import Above, Predicted
    from moedsl.constructs.registry import construct_of

    assert isinstance(term, terms.Recipe)
    construct = construct_of(term)
    match construct:
        case Above(share=share):
            return Rule(threshold=math.log(share / (1 - share)))
        case Predicted(body=body):
            if term.said not in known:
                with build.at("", build.hint(None)):
                    apart = build.op(ops.Detached(), x)
                    logit = _predicted(build, body, apart, f"predicted{number}")
                known[term.said] = len(logits)
                logits.append(_checked(build, term, logit))
            return Rule(threshold=0.0, reads=known[term.said])
    share = construct.share  # type: ignore[attr-defined]
    return Rule(share=share) if share is not None else Rule(number=construct.count)  # type: ignore[attr-defined]


def _predicted(build: Builder, body: terms.Term, apart: Value, place: str) -> Value:
    """A number for each token, by weights of their own."""
    from moedsl.constructs.registry import constructs

    if isinstance(body, terms.Recipe) and constructs()[body.construct].kind == "ffn":
        logit = build.units.call(body, apart, place=place, width=ONE)
        return build.named(logit, "predicted")
    return build.role(place, body, apart, ONE, name="predicted")


def _checked(build: Builder, term: terms.Recipe, logit: Value) -> Value:
    if logit not in build.bad and build.last(logit).size != 1:
        build.mismatch(
            "E0403",
            f"what predicts gives {build.last(logit).size} numbers for a token, and one is wanted",
            (term.span, "here"),
            help="end it with `linear(1)`: `predicted(mlp(192) -> linear(1))`",
        )
        build.poison(logit)
    return logit


def worth_of(rule: Construct | None) -> float:
    """What it is worth to a rule to tell whom training serves."""
    worth = getattr(rule, "membership", "none")
    return 0.0 if worth == "none" else float(worth)


def _check_taught(build: Builder, routed: Routed, rules: Rules) -> None:
    """Training serves by a rule that learns otherwise, and a rule that decides when decoding learns from it."""
    train, _, decode = phases(routed.select)
    assert isinstance(train, terms.Recipe) and isinstance(decode, terms.Recipe)
    if rules.train.reads:
        build.mismatch(
            "E0425",
            f"`{train.name}` learns from whom training serves, and decides that itself",
            (train.span, "decides in training"),
            help="rank tokens in training: `select = phase(train = top(12.5%), decode = predicted(mlp(64)))`",
        )
    elif rules.decode.threshold is not None and rules.train.ranks and not routed.learns:
        _report_untaught(build, decode, train.span)


def _report_untaught(build: Builder, decode: terms.Recipe, ranks: Span) -> None:
    build.mismatch(
        "E0425",
        f"nothing teaches `{decode.name}` whom training serves",
        (decode.span, "decides when decoding"),
        (ranks, "ranks tokens in training"),
        help="say what telling them apart is worth: `above(50%, membership = 1e-2)`",
    )


def _choose(build: Builder, routed: Routed, rules: Rules, real: Value) -> Value:
    op = ops.Choose(
        train=rules.train,
        eval=rules.eval,
        decode=rules.decode,
        logits=len(rules.logits),
        lookahead=rules.lookahead,
        form=_form(routed),
    )
    cache = build.ambient(ops.CacheHandle())
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


# --- losses ---------------------------------------------------------------------------------------


def add_depth_losses(root: Unit, sites: Sites) -> None:
    """One loss for each block whose rule learns, over all its places."""
    from moedsl.constructs.registry import construct_of

    found = sites.of(root)
    groups: dict[tuple[str, float], Group] = {}
    for tap, decisions in enumerate(found):
        if root.taps[tap].type != ops.DEPTH:
            continue
        for index, decided in enumerate(decisions):
            (unit,) = decided.declarers
            if worth := worth_of(construct_of(unit.recipe).learns):  # type: ignore[attr-defined]
                group = groups.setdefault((unit.name, worth), {})
                group.setdefault(tap, []).append(index)
    taken: dict[str, int] = {}
    for (name, worth), group in groups.items():
        label = f"{name}.membership"
        taken[label] = taken.get(label, 0) + 1
        label += f"_{taken[label]}" if taken[label] > 1 else ""
        depths = listed(root, found, group)
        op = ops.Membership(loss=label, function="membership", coefficient=worth)
        value = Value("", op.infer(depths.type)[0])
        root.nodes.append(Node(op, (depths,), (value,), role="loss"))
