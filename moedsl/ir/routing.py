"""How a router becomes nodes: the general form, one node for each step. `rewrites/fuse_routes.py` joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.frozen import frozen
from moedsl.ir import arranging, capacity, keyed, ops, soft
from moedsl.ir.graph import Dim, Node, TensorType, Value
from moedsl.ir.kinds import Choices
from moedsl.ir.shapes import MAIN, is_ids, rows_of, spell, stream_of
from moedsl.ir.walk import takes_choices, tensors_in
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.router import Router
    from moedsl.ir.build import Builder

ORDER = ("choices", "first", "probability", "z", "entropy", "weight", "gate", "clean", "load")
ROWS = Dim("N")
# What a selection may say beside its picks: a bound on the rows of experts, and what losses count.
SAID = ("rows", "counted")


@frozen
class Wanted:
    """What losses read of a routing; the same for every router of a model, since they share one record type."""

    statistics: tuple[str, ...] = ()
    per_sequence: bool = False
    of: str = "gate"
    kinds: tuple[Choices, ...] = ()  # of the bank that is chosen from
    bar: str = ""  # what a noisy score has to pass, where a loss over the load reads this decision
    bounded: bool = False  # some router limits the rows that experts get
    heads: Dim | None = None  # of a decision that is made for each by itself


@frozen
class Picks:
    """What was decided for each token."""

    expert: Value
    weight: Value
    logits: Value
    choices: Dim


def lower_router(
    build: Builder, router: Router, x: Value, wanted: Wanted | str | None = None
) -> Value:
    """`wanted` is the word `shares` where experts are merged by what it says."""
    if isinstance(wanted, str):
        return soft.lower_shares(build, router, x)
    if soft.soft_of(router.recipe) is not None:
        return soft.lower_score(build, router, x)
    wanted = wanted or build.wanted
    build.frame.kinds = wanted.kinds
    choices = build.width
    if choices is None and takes_choices(router.score):
        return _without_choices(build, router, x)
    _by_rows(build)
    x = build.scope["x"]
    heads = wanted.heads
    width = choices if heads is None or choices is None else build.flat("E", heads, choices)
    logits = all_logits = build.named(_score(build, router, x, width), "score")
    choices = choices or build.last(logits)
    if heads is not None:
        _is_choices(build, "score", router.score, logits, build.flat("E", heads, choices))
        logits = arranging.logits_by_head(build, logits, heads, choices)
    _is_choices(build, "score", router.score, logits, choices)
    build.bind("score", _wide(build, logits))
    logits = logits if heads is None else build.scope["score"]
    for role in ("gate", "choose"):
        value = build.role(role, getattr(router, role), x, choices, name=role)
        _is_choices(build, role, getattr(router, role), value, choices)
        build.bind(role, value)
    gate = build.scope["gate"]
    build.bind("logits", logits)
    if heads is not None and capacity.is_limited(router):
        _no_room_by_head(build, router, heads)
    picked = _select(build, router)
    counted = build.scope.get("counted", picked)
    asked, expert = _served(build, router, picked, choices)
    weight = _weigh(build, router, x, asked, expert, choices)
    picks = Picks(expert, weight, logits, choices)
    if heads is not None:
        picks = _of_all_heads(build, picks, all_logits, heads)
        counted = picks.expert
    parts = _statistics(build, wanted, picks, counted, logits, gate)
    if wanted.bounded:
        rows = build.scope.get("rows")
        parts.append(build.op(ops.AllRows(), expert, name="rows") if rows is None else rows)
    kept = build.last(picks.expert)
    meant = router.overflow == "zero"
    op = ops.Routed(kept=kept, choices=picks.choices, bounded=wanted.bounded, meant=meant)
    return build.op(op, picks.expert, picks.weight, picks.logits, *parts, name="routing")


def _score(build: Builder, router: Router, x: Value, width: Dim | None) -> Value:
    if isinstance(router.score, terms.Number) and width is not None:
        return _wide(build, build.op(ops.Full(value=router.score.value, last=width), x))
    return build.role("score", router.score, x, width)


def _of_all_heads(build: Builder, picks: Picks, logits: Value, heads: Dim) -> Picks:
    """The picks of all heads of a token as its own, among the choices of all heads."""
    return Picks(
        arranging.numbered(build, picks.expert, heads, picks.choices),
        arranging.merged_rows(build, picks.weight, heads, "weight"),
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


def _served(build: Builder, router: Router, picked: Value, choices: Dim) -> tuple[Value, Value]:
    """What weights are made of, and what experts serve: less of it where they have no room."""
    asked = build.scope.get("counted", picked)
    if capacity.is_limited(router) and not router.takes_rows and picked not in build.bad:
        served = capacity.serve(build, router, picked, choices)
        asked = asked if served.asked is picked else served.asked
        picked = served.expert
    if router.weighed == "served":
        asked = picked
    build.bind("expert", asked)
    return asked, picked


def _no_room_by_head(build: Builder, router: Router, heads: Dim) -> None:
    build.mismatch(
        "E0420",
        "room is shared by tokens, and this router decides for each head",
        (router.recipe.origin("capacity"), "how many tokens an expert takes"),
        (heads.origin, f"{heads.size} heads decide"),
        help="leave `capacity` out, or `per = head`",
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


def _wide(build: Builder, value: Value) -> Value:
    if isinstance(value.type, TensorType) and value.type.dtype == "float32":
        return value
    return build.op(ops.Cast(dtype="float32"), value, name="score")


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
    build: Builder, router: Router, x: Value, asked: Value, expert: Value, choices: Dim
) -> Value:
    """Evaluated over what was kept: the tensors that it mentions are gathered first."""
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
    if build.last(expert).loose and weight not in build.bad:
        weight = build.op(ops.WithoutAbsent(choices=choices), weight, expert, name="weight")
    return weight


def _fill(build: Builder, name: str, expert: Value) -> str | None:
    """What stands in for absent picks: nothing of a gate, and what a softmax turns into nothing of a score."""
    if not build.last(expert).loose:
        return None
    return "lowest" if build.scope[name] is build.scope["score"] else "0"


def _statistics(
    build: Builder, wanted: Wanted, picks: Picks, counted: Value, logits: Value, gate: Value
) -> list[Value]:
    """`counted`: the picks that losses count. Of decisions for each head every head of a token counts as a row;
    `logits` and `gate` have one for each."""
    if not wanted.statistics or {picks.expert, picks.weight, logits, gate} & build.bad:
        return []
    many, heads, expert = wanted.per_sequence, wanted.heads, counted
    real = ops.real_rows(build, logits)
    more = [build.ambient(ops.Sequences())] if many else []
    by_token = ends = [real, *more]
    if heads is not None:
        ends = [build.op(ops.RealHeadRows(heads=heads), real, name="real"), *more]
    found = []
    for which in ORDER:
        if which not in wanted.statistics:
            continue
        if which in ("probability", "entropy"):
            form, value = _probability(build, wanted, gate)
            if heads is not None:
                form, value = "given", _probability_of_heads(build, form, value, heads)
            op = ops.Statistic(which=which, form=form, per_sequence=many)
            found.append(build.op(op, value, *by_token))
        elif which == "weight":
            size = picks.choices.size or 0
            op = ops.Statistic(which=which, per_sequence=many, choices=size)
            found.append(build.op(op, picks.weight, picks.expert, *by_token))
        elif which in ("gate", "clean", "load") and heads is not None:
            _not_by_head(build, which)
        elif which == "load":
            op, values = _load(build, wanted, expert)
            found.append(build.op(op, *values, *ends))
        elif which in ("gate", "clean"):
            value = gate if which == "gate" else _noise(build)[0]
            found.append(build.op(ops.Statistic(which=which, per_sequence=many), value, *ends))
        elif which == "z":
            found.append(
                build.op(ops.Statistic(which=which, per_sequence=many), build.scope["score"], *ends)
            )
        else:
            every = 0 if heads is None else (build.last(expert).size or 0) // (heads.size or 1)
            op = ops.Statistic(
                which=which,
                per_sequence=many,
                loose=build.last(expert).loose,
                every=every if which == "first" else 0,
            )
            found.append(build.op(op, expert, picks.logits, *by_token))
    return [*found, build.op(ops.Statistic(which="tokens", per_sequence=many), logits, *ends)]


def _probability_of_heads(build: Builder, form: str, value: Value, heads: Dim) -> Value:
    """The probability among the choices of each head, for all heads of a token."""
    over = build.last(value)
    if form == "softmax":
        value = build.op(ops.Softmax(over=over), value)
    elif form == "normalize":
        value = build.op(ops.Normalize(over=over), value, name="probability")
    return arranging.merged_rows(build, value, heads, "probability")


def _not_by_head(build: Builder, which: str) -> None:
    build.sink.error(
        "E0208",
        f"losses over the {which} of decisions for each head are not yet in this compiler",
        build.frame.unit.span,
        help="`balance`, `importance`, `entropy` and `z` are",
    )


def _noise(build: Builder) -> tuple[Value, Node | None]:
    """The score before its last noise, and that noise if there is one."""
    score = value = build.scope["score"]
    while (maker := build.frame.unit.producer(value)) is not None:
        if isinstance(maker.op, ops.Noise) and maker.op.form == "gaussian":
            return _wide(build, maker.inputs[0]), maker
        if not isinstance(maker.op, ops.Cast):
            break
        value = maker.inputs[0]
    return score, None


def _load(build: Builder, wanted: Wanted, expert: Value) -> tuple[ops.Statistic, tuple[Value, ...]]:
    """How likely each choice is kept, were the noise drawn again; how often, where nothing wants to know it smooth."""
    clean, noise = _noise(build)
    picked = build.frame.unit.producer(expert)
    is_top = picked is not None and isinstance(picked.op, ops.TopK)
    kept = build.last(expert).size or 0
    many = wanted.per_sequence
    if wanted.bar and (noise is None or not is_top):
        what = "noise in the score" if noise is None else "the largest k of the score kept"
        build.sink.error(
            "E0503",
            f"`load` needs {what}, and there is none here",
            build.frame.unit.span,
            "decides without",
            help="`score = linear -> gaussian(1 / choices)`, and `select = top_k(2)`",
        )
    if not wanted.bar or noise is None:
        op = ops.Statistic(which="load", per_sequence=many, kept=kept)
        return op, (build.scope["score"],)
    assert isinstance(noise.op, ops.Noise)
    std = None if noise.op.learned else noise.op.amount
    op = ops.Statistic(which="load", per_sequence=many, kept=kept, bar=wanted.bar, std=std)
    return op, (clean, build.scope["score"], *noise.inputs[1:])


def _probability(build: Builder, wanted: Wanted, gate: Value) -> tuple[str, Value]:
    """`gate / sum(gate)`; softmax(score) where no gate is given."""
    score = build.scope["score"]
    if wanted.of == "score" or gate is score:
        return "softmax", score
    maker = next((n for n in build.frame.unit.nodes if gate in n.outputs), None)
    return ("given" if _sums_to_one(maker) else "normalize"), gate


def _sums_to_one(node: Node | None) -> bool:
    return node is not None and isinstance(node.op, ops.Softmax | ops.Normalize)


def wanted_of(recipes: list[terms.Recipe]) -> Wanted:
    """The union over all losses of a model, and all numbers that follow the load."""
    from moedsl.constructs.losses import Loss
    from moedsl.constructs.registry import construct_of, constructs
    from moedsl.constructs.router import Router
    from moedsl.constructs.states import Balancing, Stateful

    known = constructs()
    makers = (Loss, Router, Balancing, Stateful)
    made = [construct_of(r) for r in recipes if issubclass(known[r.construct], makers)]
    losses = [loss for loss in made if isinstance(loss, Loss)]
    bounded = any(router.bounds_rows for router in made if isinstance(router, Router))
    found = {s for loss in losses for s in loss.reads()}
    if any(isinstance(one, Balancing | Stateful) for one in made):
        found.add("choices")
    per_sequence = any(
        "sequence" in (getattr(loss, "over", ""), getattr(loss, "per", "")) for loss in losses
    )
    return Wanted(tuple(s for s in ORDER if s in found), per_sequence, bounded=bounded)
