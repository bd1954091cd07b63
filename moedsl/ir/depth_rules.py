"""Rules of blocks that serve some of the tokens: whom they choose in each phase, and what teaches those that decide when decoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from moedsl.frozen import record
from moedsl.ir import ops
from moedsl.ir.capacity import phases
from moedsl.ir.graph import Dim, Value
from moedsl.ir.ops_depth import Rule
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.declare import Construct
    from moedsl.constructs.depth import Routed
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


def rules_of(build: Builder, routed: Routed, x: Value, score: Value) -> Rules:
    train, eval_, decode = phases(routed.select)
    logits = [score]
    known: dict[object, int] = {}
    first, second, last = (rule_of(build, t, x, logits, known) for t in (train, eval_, decode))
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


def rule_of(
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
        report_untaught(build, decode, train.span)


def report_untaught(build: Builder, decode: terms.Recipe, ranks: Span) -> None:
    build.mismatch(
        "E0425",
        f"nothing teaches `{decode.name}` whom training serves",
        (decode.span, "decides when decoding"),
        (ranks, "ranks tokens in training"),
        help="say what telling them apart is worth: `above(50%, membership = 1e-2)`",
    )
