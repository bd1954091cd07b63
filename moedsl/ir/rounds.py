"""How blocks that come back, round after round for ever fewer tokens, become nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.ir import before, deciding, ops
from moedsl.ir.depth import (
    inside,
    is_tokens,
    never_decoded,
    one_number,
    serve,
    served_stream,
    surroundings,
)
from moedsl.ir.depth_rules import ONE, Rules, report_untaught, rule_of
from moedsl.ir.graph import Node, TensorType, Value
from moedsl.ir.ops_depth import Rule
from moedsl.ir.shapes import is_whole
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.depth import Recur
    from moedsl.ir.build import Builder


def lower_recur(build: Builder, recur: Recur, x: Value) -> Value:
    """Round after round, the same block on some of those that the round before served."""
    if x in build.bad or not is_tokens(build, recur, x):
        return build.poison(x)
    if is_whole(x) and isinstance(recur.decode, terms.Recipe):
        return never_decoded(build, recur, recur.decode)
    if isinstance(recur.decode, terms.Recipe) and recur.learns is None:
        report_untaught(build, recur.decode, recur.recipe.origin("keep"))
    real, cache = surroundings(build, x)
    among: Value | None = None
    for number, kept in enumerate(recur.keep):
        suffix = f"_{number}"
        with build.body(x=x):
            score = one_number(build, recur, "score", x, suffix)
            build.bind("score", score)
            gate = one_number(build, recur, "gate", x, suffix)
            if score in build.bad or gate in build.bad:
                return build.poison(x)
            logits = [score]
            train = rule_of(build, kept, x, logits, {})
            decode = train
            if isinstance(recur.decode, terms.Recipe):
                decode = rule_of(build, recur.decode, x, logits, {}, suffix)
        everyone = train.share == 1 and not number
        if everyone:
            train = decode = Rule()
        op = ops.Choose(
            train=train,
            eval=train,
            decode=decode,
            logits=len(logits),
            narrows=among is not None,
            lookahead=_lookahead(recur),
            form="decode = above(50%, membership = 1e-3)",
            at_once=is_whole(x),
        )
        before = [] if among is None else [among]
        build.spans.append(recur.recipe.origin("keep"))
        chosen = build.op(op, *logits, real, cache, *before, name="chosen")
        build.spans.pop()
        could = real if among is None else among
        among = build.op(ops.Served(), chosen, score, name="served")
        if not everyone:
            build.tap(build.op(ops.Decided(), among, logits[-1], could, name=f"round_{number}"))
        rules = Rules(train, train, decode, logits, "", logits[-1])
        x = serve(build, recur, x, gate, chosen, rules, several=len(recur.keep) > 1)
    _comes_back(build, recur, len(recur.keep))
    return x


def _comes_back(build: Builder, recur: Recur, rounds: int) -> None:
    called = (node.op.unit for node in build.frame.unit.nodes if isinstance(node.op, ops.Call))
    body = next((unit for unit in called if unit.kind == "block"), None)
    if rounds > 1 and body is not None:
        build.units.comes_back(body, recur.body.span)


def _lookahead(recur: Recur) -> str:
    if recur.lookahead == "allowed":
        return "allowed"
    decode = recur.decode
    return f"decode = {decode.construct}" if isinstance(decode, terms.Recipe) else ""


# --- a router decides for each token ---------------------------------------------------------------


def lower_chosen(build: Builder, recur: Recur, x: Value) -> Value:
    """A token decides once how many rounds it takes, and goes on among those that go on too."""
    if x in build.bad or not is_tokens(build, recur, x):
        return build.poison(x)
    if recur.keys == "first" and is_whole(x):
        return _never_kept(build, recur, x)
    choices = build.dim(int(recur.rounds), recur.recipe.origin("rounds"), "E")
    decided = deciding.decide(build, recur.router, x, choices, (), place="router")
    if decided in build.bad or not _is_one(build, recur, decided):
        return build.poison(x)
    decided.name = recur.router.name
    loose = decided.type.dims[0].loose
    expert, weight = (
        build.op(ops.Field(field=field, type=TensorType((ops.ROWS, ONE), dtype)), decided)
        for field, dtype in (("expert_NK", "int"), ("weight_NK", "float32"))
    )
    gate = build.op(ops.Unrows(same=False), build.op(ops.Cast(dtype="float"), weight, x), x)
    gate = build.named(gate, "gate")
    taken = ops.Taken(rounds=choices.size or 0, loose=loose)
    rounds = build.op(taken, expert, x, name="rounds")
    y = x
    first = build.op(ops.BeginRounds(), x, name="first") if recur.keys == "first" else None
    # All rounds are one body: where it tells streams apart, the first has one of its own too.
    alike = not loose and not is_whole(x) and not before.reads(recur.body)
    for number in range(choices.size or 0):
        everyone = not number and alike
        nodes = len(build.frame.unit.nodes)
        build.shares_keys = first is not None
        y = _first(build, recur, y) if everyone else _round(build, recur, y, rounds, number)
        build.shares_keys = False
        if y in build.bad:
            return build.poison(x)
        if first is not None:
            _hand_down(build, first, nodes, number)
    _comes_back(build, recur, choices.size or 0)
    if recur.adds == "change":
        y = build.op(ops.Combination(operator="-"), y, x)
    added = build.op(ops.Combination(operator="*"), gate, y)
    return build.op(ops.Combination(operator="+"), x, added)


def _never_kept(build: Builder, recur: Recur, x: Value) -> Value:
    build.sink.error(
        "E0208",
        f"`{recur.recipe.name}` reads keys of its first round, in a stream that is not made of ids",
        recur.recipe.origin("keys"),
        "not yet in this compiler",
        help="give each round its own: `keys = own`",
    )
    return build.poison(x)


def _hand_down(build: Builder, first: Value, nodes: int, number: int) -> None:
    """The round among the latest nodes gets what the first one leaves."""
    unit = build.frame.unit
    at, call = next(
        (i, n) for i, n in enumerate(unit.nodes) if i >= nodes and isinstance(n.op, ops.Call)
    )
    if number:
        value = Value("", ops.FIRST_ROUND)
        unit.nodes.insert(at, Node(ops.LaterRound(), (first,), (value,), span=call.span))
        first = value
    unit.given.append((call, first))


def _first(build: Builder, recur: Recur, x: Value) -> Value:
    """A round that leaves nobody out."""
    return build.named(inside(build, recur, x, None), "y")


def _round(build: Builder, recur: Recur, y: Value, rounds: Value, number: int) -> Value:
    """The stream after one round: what came out for those that take part, and the others as they were."""
    real, cache = surroundings(build, y)
    chosen = build.op(
        ops.GoOn(number=number, at_once=is_whole(y)), rounds, real, cache, name="chosen"
    )
    own = build.op(ops.InStream(stream=served_stream(build, recur, chosen)), y)
    given = inside(build, recur, own, chosen)
    if given in build.bad:
        return given
    back = build.op(ops.InStream(stream=y.type.dims[1]), build.named(given, "y"))
    return build.op(ops.Advance(), y, back, chosen, name="y")


def _is_one(build: Builder, recur: Recur, routing: Value) -> bool:
    kept = routing.type.dims[0]
    if kept.size == 1:
        return True
    router = recur.router
    build.mismatch(
        "E0427",
        f"`{router.name}` keeps {kept.size} of {recur.rounds} numbers of rounds, and a token takes one",
        (router.setting("select").span, "keeps several"),
        (recur.recipe.origin("router"), "decides how many rounds a token takes"),
        help="write `select = top_k(1)`",
    )
    return False
