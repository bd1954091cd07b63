"""How a router becomes nodes: the general form, one node for each step. `rewrites/fuse_routes.py` joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.ir import arranging, before, capacity, keyed, ops, products, soft
from moedsl.ir.graph import Dim, TensorType, Value
from moedsl.ir.readings import Picks, Wanted, statistics, wide
from moedsl.ir.shapes import MAIN, is_ids, rows_of, spell, stream_of
from moedsl.ir.walk import takes_choices, tensors_in
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.router import Router
    from moedsl.ir.build import Builder

ROWS = Dim("N")
# What a selection may say beside its picks: a bound on the rows of experts, and what losses count.
SAID = ("rows", "counted")


def lower_router(
    build: Builder, router: Router, x: Value, wanted: Wanted | str | None = None
) -> Value:
    """`wanted` is the word `shares` where experts are merged by what it says."""
    keeps_score = not isinstance(wanted, str) and soft.soft_of(router.recipe) is None
    if not keeps_score and before.reads(router.recipe):
        return before.keeps_no_score(build, router.recipe, x)
    if isinstance(wanted, str):
        return soft.lower_shares(build, router, x)
    if soft.soft_of(router.recipe) is not None:
        return soft.lower_score(build, router, x)
    wanted = wanted or Wanted()
    build.frame.kinds, build.frame.heads = wanted.kinds, wanted.heads
    choices = build.width
    if choices is None and takes_choices(router.score):
        return _without_choices(build, router, x)
    _by_rows(build)
    x = build.scope["x"]
    heads = wanted.heads
    width = choices if heads is None or choices is None else build.flat("E", heads, choices)
    if width is not None and not before.check_choices(build, router.score, width):
        return build.poison(x)
    logits = all_logits = build.named(_score(build, router, x, width), "score")
    product = products.scores_of(build, logits)
    if product is not None and choices is not None:
        return products.lower_router(build, router, x, wanted, product, logits, choices)
    choices = choices or build.last(logits)
    if heads is not None:
        _is_choices(build, "score", router.score, logits, build.flat("E", heads, choices))
        logits = arranging.logits_by_head(build, logits, heads, choices)
    _is_choices(build, "score", router.score, logits, choices)
    build.bind("score", wide(build, logits))
    logits = logits if heads is None else build.scope["score"]
    for role in ("gate", "choose"):
        value = build.role(role, getattr(router, role), x, choices, name=role)
        _is_choices(build, role, getattr(router, role), value, choices)
        build.bind(role, value)
    gate = build.scope["gate"]
    build.bind("logits", logits)
    if heads is not None and router.takes_rows:
        _no_rows_by_head(build, router, heads)
    picked = _select(build, router)
    counted = build.scope.get("counted", picked)
    asked, expert = _served(build, router, picked, choices, all_logits)
    limited = expert is not picked
    among = choices if heads is None or not limited else build.last(all_logits)
    weight = _weigh(build, router, x, asked, expert, choices, among)
    picks = Picks(expert, weight, logits, choices)
    own = counted
    if heads is not None:
        picks = _of_all_heads(build, picks, all_logits, heads, limited)
        counted = arranging.numbered(build, own, heads, choices) if limited else picks.expert
    parts = statistics(build, wanted, picks, counted, own, logits, gate)
    rows = build.scope.get("rows") if router.bounds_rows else None
    parts += [] if rows is None else [rows]
    op = ops.Routed(
        kept=build.last(picks.expert),
        choices=picks.choices,
        statistics=wanted.statistics,
        bounded=rows is not None,
        meant=router.overflow == "zero",
    )
    return build.op(op, picks.expert, picks.weight, picks.logits, *parts, name="routing")


def _score(build: Builder, router: Router, x: Value, width: Dim | None) -> Value:
    if isinstance(router.score, terms.Number) and width is not None:
        return wide(build, build.op(ops.Full(value=router.score.value, last=width), x))
    return build.role("score", router.score, x, width)


def _of_all_heads(
    build: Builder, picks: Picks, logits: Value, heads: Dim, counted_through: bool
) -> Picks:
    """The picks of all heads of a token as its own, among the choices of all heads; `counted_through`: they say so."""
    expert = picks.expert
    return Picks(
        arranging.merged_rows(build, expert, heads, "expert")
        if counted_through
        else arranging.numbered(build, expert, heads, picks.choices),
        arranging.merged_rows(build, picks.weight, heads, "weight", build.last(expert)),
        logits,
        build.last(logits),
    )


def _select(build: Builder, router: Router) -> Value:
    """The picks, [N, K]: whole numbers below the number of choices, or equal to it where a pick is absent."""
    with build.at("select", build.hint(None), "select"), build.body(x=build.scope["choose"]):
        expert = keyed.by_phase(build, router.select)
        said = {name: build.scope[name] for name in SAID if name in build.scope}
    for name, value in said.items():
        build.bind(name, value)
    if expert not in build.bad and not is_ids(expert):
        build.sink.error(
            "E0409",
            "this selection never says which choices are kept",
            router.select.span,
            "narrows what may be chosen, and chooses none",
            help="end it with a stage that picks: `-> top_k(2)`",
        )
        build.poison(expert)
    build.bind("expert", build.named(expert, "expert"))
    return expert


def _served(
    build: Builder, router: Router, picked: Value, choices: Dim, rows: Value
) -> tuple[Value, Value]:
    """What weights are made of, and what experts serve: less of it where they have no room. Where heads decide, what is
    served is counted through all of them. `rows`: those of tokens."""
    asked, served = build.scope.get("counted", picked), None
    if capacity.is_limited(router) and not router.takes_rows and picked not in build.bad:
        served = capacity.serve(build, router, picked, choices, rows)
        asked = asked if served.asked is picked else served.asked
        picked = served.expert
    heads = build.frame.heads
    if router.weighed == "served" and served is not None:
        asked = picked if heads is None else arranging.own(build, picked, heads, choices)
    build.bind("expert", asked)
    return asked, picked


def _no_rows_by_head(build: Builder, router: Router, heads: Dim) -> None:
    build.mismatch(
        "E0420",
        "here experts take rows, and a head has experts of its own",
        (router.select.span, "ranks the rows of all heads"),
        (heads.origin, f"{heads.size} heads decide"),
        help="let heads choose, `select = top_k(2)`, or leave `per = head` out",
    )
    build.poison(build.scope["choose"])


def _by_rows(build: Builder) -> None:
    """Each token is a row to decide on, in all that the router reads."""
    own = stream_of(build.scope["x"]) or MAIN
    for name, value in build.scope.items():
        stream = stream_of(value)
        if stream is not None and stream.letter == own.letter:
            build.bind(name, build.op(ops.Rows(rows=rows_of(value)), value, name=name))


def _without_choices(build: Builder, router: Router, x: Value) -> Value:
    """Nobody uses the decision of a router that is applied by itself, and its score does not say a number."""
    build.mismatch(
        "E0402",
        f"`{router.recipe.name}` does not know how many choices it has",
        (router.score.span, "takes its width from a mixture, and none uses the decision"),
        help="write how many there are: `score = linear(8)`",
    )
    return build.poison(x)


def _is_choices(build: Builder, role: str, term: terms.Term, value: Value, choices: Dim) -> None:
    """A score, a gate and what is chosen by are one number per choice, for each row."""
    found = build.last(value)
    if value in build.bad or (found.size == choices.size and _rows_of_numbers(value)):
        return
    numbers = found.size not in (None, choices.size)
    build.mismatch(
        "E0403",
        f"the {role} has {found.size} numbers for {choices.size} choices"
        if numbers
        else f"the {role} is {spell(value.type)}, not {choices.size} numbers for each token",
        (term.span, "one number per choice is needed"),
        (found.origin, f"{found.size} comes from here"),
        (choices.origin, f"{choices.size} to choose among"),
        help="end it with a `linear` without a width: it takes the number of choices",
    )
    build.poison(value)


def _is_kept(build: Builder, router: Router, weight: Value, expert: Value) -> None:
    """A weight is one number for each expert that is kept."""
    found, kept = build.last(weight), build.last(expert)
    if {weight, expert} & build.bad or (found == kept and _rows_of_numbers(weight)):
        return
    build.mismatch(
        "E0403",
        f"the weights are {spell(weight.type)}, not one number for each expert that is kept",
        (router.weigh.span, "one number per kept expert is needed"),
        (router.select.span, f"keeps {kept.size or kept.letter}"),
        help="read `score`, `gate` or `choose`, of which the kept ones are here: `score -> softmax`",
    )
    build.poison(weight)


def _rows_of_numbers(value: Value) -> bool:
    return isinstance(value.type, TensorType) and len(value.type.dims) == 2


def _weigh(
    build: Builder, router: Router, x: Value, asked: Value, expert: Value, choices: Dim, among: Dim
) -> Value:
    """Evaluated over what was kept: the tensors that it mentions are gathered first. `among`: the choices that `expert`
    counts."""
    mentioned = tensors_in(router.weigh)
    kept = {
        name: build.op(ops.Gather(fill=_fill(build, name, asked)), build.scope[name], asked)
        for name in ("score", "gate", "choose")
        if name in mentioned and asked not in build.bad
    }
    if isinstance(router.weigh, terms.Number):
        one = ops.Full(value=router.weigh.value, last=build.last(asked), like=True)
        weight = build.op(one, build.scope["score"], asked, name="weight")
    else:
        with build.body(**kept):
            weight = build.role("weigh", router.weigh, x, choices, name="weight")
    _is_kept(build, router, weight, asked)
    if weight not in build.bad:
        with build.at("estimator", role="estimator"):
            weight = build.apply(router.estimator, weight)
    if build.last(expert).loose and weight not in build.bad:
        weight = build.op(ops.WithoutAbsent(choices=among), weight, expert, name="weight")
    return weight


def _fill(build: Builder, name: str, expert: Value) -> str | None:
    """What stands in for absent picks: nothing of a gate, and what a softmax turns into nothing of a score."""
    if not build.last(expert).loose:
        return None
    return "lowest" if build.scope[name] is build.scope["score"] else "0"
