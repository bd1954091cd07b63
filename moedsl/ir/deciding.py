"""Decisions: routers at work. In a mixture a router decides for it alone; a router applied to a tensor, `let pick =
top2(h)`, decides for every mixture that names the decision, and has as many choices as they have experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from moedsl.ir import arranging, balanced, before
from moedsl.ir.graph import Dim, RecordType, Value
from moedsl.ir.kinds import common_kinds
from moedsl.ir.readings import wanted_of
from moedsl.ir.walk import takes_choices
from moedsl.model import terms
from moedsl.model.terms import Term
from moedsl.model.users import kind_of

if TYPE_CHECKING:
    from moedsl.ir.build import Builder

Mixtures = Sequence[terms.Recipe]


def decide(
    build: Builder,
    router: terms.Recipe,
    x: Value,
    choices: Dim | None,
    mixtures: Mixtures,
    named: dict[str, Value] | None = None,
    place: str = "",
    heads: Dim | None = None,
) -> Value:
    """The decision of a router at a place of its own, handed up to the root."""
    losses = [loss for one in (*mixtures, router) for loss in _losses(one)]
    balanced.check(build, router, mixtures, losses)
    wanted = replace(
        wanted_of(router, losses),
        of=_agreed(build, losses, "of", ("gate", "score")) or "gate",
        bar=_agreed(build, losses, "bar", ("others", "last")),
        kinds=common_kinds(mixtures),
        heads=heads,
    )
    wanted = replace(wanted, devices=_visited(build, losses))
    by, named = _labelled(build, router, losses, named or {})
    wanted = replace(wanted, by=by)
    routing = build.units.call(router, x, named=named, place=place, width=choices, extra=wanted)
    if heads is not None and routing not in build.bad:
        arranging.check_by_head(build, router, routing)
    if isinstance(routing.type, RecordType):
        build.tap(routing)
        before.decided(build, router, x, routing)
    return routing


def _labelled(
    build: Builder, router: terms.Recipe, losses: Sequence[terms.Recipe], named: dict[str, Value]
) -> tuple[str, dict[str, Value]]:
    """The label that a loss over the decision goes by, handed to the router by its name."""
    by = next(
        (dict(loss.settings)["by"] for loss in losses if loss.construct == "reconstruction"), None
    )
    if by is None:
        return "", named
    name = by.name if isinstance(by, terms.Tensor) else "label"
    if name in build.units.names.of(router).mentioned:
        return name, named
    return name, {**named, name: build.evaluate(by)}


def _agreed(
    build: Builder, losses: Sequence[terms.Recipe], setting: str, among: tuple[str, ...]
) -> str:
    """The word that the losses of one decision agree on; "" where none says one of these."""
    found = [
        (said.text, loss)
        for loss in losses
        if isinstance(said := dict(loss.settings).get(setting), terms.Word) and said.text in among
    ]
    for word, loss in found[1:]:
        first, other = found[0]
        if word != first:
            build.mismatch(
                "E0504",
                f"losses over one decision read it in two ways: `{setting} = {first}` and `{word}`",
                (loss.origin(setting), f"`{word}` here"),
                (other.origin(setting), f"`{first}` here"),
                help=f"give both the same `{setting}`",
            )
    return found[0][0] if found else ""


def _visited(build: Builder, losses: Sequence[terms.Recipe]) -> int:
    """The number of devices whose visits the losses of one decision count; 1 where none does."""
    from moedsl.constructs.losses import Balance
    from moedsl.constructs.registry import construct_of

    made = [construct_of(loss) for loss in losses]
    found = [
        loss
        for loss in made
        if isinstance(loss, Balance) and loss.count == "visits" and loss.devices != "none"
    ]
    for loss in found[1:]:
        if loss.devices != found[0].devices:
            build.mismatch(
                "E0504",
                "losses over one decision count visits of different devices: "
                f"{found[0].devices} and {loss.devices}",
                (loss.recipe.origin("devices"), f"{loss.devices} here"),
                (found[0].recipe.origin("devices"), f"{found[0].devices} here"),
                help="give both the same `devices`",
            )
    return int(found[0].devices) if found else 1


def applied(build: Builder, router: terms.Recipe, x: Value, named: dict[str, Value]) -> Value:
    """A router on a tensor, for the mixtures around or after it."""
    mixtures = build.frame.mixtures
    sizes = [_choices(build, one) for one in mixtures]
    other = next((size for size in sizes if size.size != sizes[0].size), None)
    asked = bool(sizes) and takes_choices(router.setting("score"))
    if asked and other is not None:
        build.mismatch(
            "E0406",
            f"one decision cannot choose among {sizes[0].size} and among {other.size} experts",
            (router.span, "as many choices as the mixtures that use it have experts"),
            (sizes[0].origin, f"{sizes[0].size} experts"),
            (other.origin, f"{other.size} experts"),
            help="give these mixtures as many experts as each other, or a decision each",
        )
    decision = decide(build, router, x, sizes[0] if asked else None, mixtures, named)
    return build.poison(decision) if asked and other is not None else decision


def _losses(recipe: terms.Recipe) -> list[terms.Recipe]:
    from moedsl.constructs.registry import construct_of

    return list(getattr(construct_of(recipe), "loss", ()))


def _choices(build: Builder, moe: terms.Recipe) -> Dim:
    from moedsl.constructs.registry import construct_of

    bank = getattr(construct_of(moe), "experts", ())
    return build.dim(sum(count for _, count, _ in bank), moe.origin("experts"), "E")


def is_decision(term: Term) -> bool:
    """A router that is applied to a tensor."""
    if not isinstance(term, terms.Apply):
        return False
    last = term.recipe.stages[-1] if isinstance(term.recipe, terms.Flow) else term.recipe
    return isinstance(last, terms.Recipe) and kind_of(last) == "router"
