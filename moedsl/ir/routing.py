"""How a router becomes nodes: the general form, one node for each step. `rewrites/fuse_routes.py` joins them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moedsl.ir import ops
from moedsl.ir.graph import Dim, Node, TensorType, Value
from moedsl.ir.walk import fits_width, tensors_in
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.router import Router
    from moedsl.ir.build import Builder

ORDER = ("choices", "first", "probability", "z")
ROWS = Dim("N")


@dataclass(frozen=True)
class Wanted:
    """What losses read of a routing; the same for every router of a model, since they share one record type."""

    statistics: tuple[str, ...] = ()
    per_sequence: bool = False
    of: str = "gate"


def lower_router(build: Builder, router: Router, x: Value, wanted: Wanted | None = None) -> Value:
    wanted = wanted or build.wanted
    choices = build.width
    if choices is None and fits_width(router.score):
        return _without_choices(build, router, x)
    _by_rows(build)
    x = build.scope["x"]
    logits = build.named(build.role("score", router.score, x, choices), "score")
    choices = choices or build.last(logits)
    _is_choices(build, router, logits, choices)
    build.bind("score", _wide(build, logits))
    for role in ("gate", "choose"):
        value = build.role(role, getattr(router, role), x, choices, name=role)
        build.bind(role, value)
    gate = build.scope["gate"]
    expert = build.role("select", router.select, build.scope["choose"])
    build.bind("expert", build.named(expert, "expert"))
    build.bind("logits", logits)
    weight = _weigh(build, router, x, expert, choices)
    kept = build.last(expert)
    parts = _statistics(build, wanted, expert, logits, gate)
    return build.op(
        ops.Routed(kept=kept, choices=choices), expert, weight, logits, *parts, name="routing"
    )


def _by_rows(build: Builder) -> None:
    """Each token is a row to decide on, in all that the router reads."""
    for name, value in build.scope.items():
        if isinstance(value.type, TensorType) and value.type.letters.startswith("BT"):
            build.bind(name, build.op(ops.Rows(rows=ROWS), value, name=name))


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


def _is_choices(build: Builder, router: Router, logits: Value, choices: Dim) -> None:
    found = build.last(logits)
    if logits not in build.bad and found.size != choices.size:
        build.mismatch(
            "E0403",
            f"the score has {found.size} numbers for {choices.size} choices",
            (router.score.span, "one number per choice is needed"),
            (found.origin, f"{found.size} comes from here"),
            (choices.origin, f"{choices.size} to choose among"),
            help="end it with a `linear` without a width: it takes the number of choices",
        )


def _weigh(build: Builder, router: Router, x: Value, expert: Value, choices: Dim) -> Value:
    """Evaluated over what was kept: the tensors that it mentions are gathered first."""
    mentioned = tensors_in(router.weigh)
    kept = {
        name: build.op(ops.Gather(), build.scope[name], expert)
        for name in ("score", "gate", "choose")
        if name in mentioned and expert not in build.bad
    }
    with build.body(**kept):
        return build.role("weigh", router.weigh, x, choices, name="weight")


def _statistics(
    build: Builder, wanted: Wanted, expert: Value, logits: Value, gate: Value
) -> list[Value]:
    if not wanted.statistics:
        return []
    many = wanted.per_sequence
    ends = [build.ambient(ops.RealRows(rows=ROWS))]
    ends += [build.ambient(ops.Sequences())] if many else []
    found = []
    for which in ORDER:
        if which not in wanted.statistics:
            continue
        if which == "probability":
            form, value = _probability(build, wanted, gate)
            found.append(
                build.op(ops.Statistic(which=which, form=form, per_sequence=many), value, *ends)
            )
        elif which == "z":
            found.append(
                build.op(ops.Statistic(which=which, per_sequence=many), build.scope["score"], *ends)
            )
        else:
            found.append(
                build.op(ops.Statistic(which=which, per_sequence=many), expert, logits, *ends)
            )
    return [*found, build.op(ops.Statistic(which="tokens", per_sequence=many), logits, *ends)]


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
    """The union over all losses of a model."""
    from moedsl.constructs.losses import Loss
    from moedsl.constructs.registry import construct_of

    losses = [construct_of(r) for r in recipes]
    found = {s for loss in losses if isinstance(loss, Loss) for s in loss.reads()}
    per_sequence = any(getattr(loss, "over", "") == "sequence" for loss in losses)
    return Wanted(tuple(s for s in ORDER if s in found), per_sequence)
