"""How numbers with state become nodes, and who adapts to what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moedsl.frozen import frozen
from moedsl.ir import ops
from moedsl.ir.balanced import evening_out
from moedsl.ir.graph import Graph, Unit, Value
from moedsl.ir.kinds import span_of_kinds
from moedsl.ir.walk import walk
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.states import Balancing
    from moedsl.ir.build import Builder


def lower_balancing(build: Builder, one: Balancing) -> Value:
    choices = build.width
    assert choices is not None  # a router's `choose` asks for one number per choice
    router = build.frame.unit.recipe
    stage = evening_out(router) if isinstance(router, terms.Recipe) else None
    if stage is not None:
        build.mismatch(
            "E0420",
            f"there is nothing to balance: with `{stage.construct}` all choices get as much",
            (one.recipe.span, "follows loads, and they are equal"),
            (stage.span, "every choice gets as many tokens"),
            help="take `balancing` out, or select with `top_k`",
        )
    first, count = span_of_kinds(
        build.sink, build.frame.kinds, one.kinds, one.recipe.origin("kinds")
    ) or (0, 0)
    op = ops.Correction(
        choices=choices,
        rate=float(one.rate),
        rule=one.update,
        first=first,
        count=count if count != choices.size else 0,
        picks=0.0 if one.picks == "even" else float(one.picks),
        heads=build.frame.heads,
    )
    rows = [] if build.frame.heads is None else [build.scope["x"]]
    with build.outermost():
        return build.op(op, *rows, place="bias")


def follows_load(router: terms.Recipe) -> bool:
    """Does a number with state stand in what it ranks by?"""
    from moedsl.constructs.registry import constructs
    from moedsl.constructs.states import Balancing

    known = constructs()
    recipes = (one for one in walk(router) if isinstance(one, terms.Recipe))
    return any(issubclass(known[one.construct], Balancing) for one in recipes)


@frozen
class Adapting:
    """A number with state below the model. `site`: the entry of `output.routing` whose load it follows; `module`: where
    it is."""

    site: str
    module: str


def adapting(graph: Graph) -> list[Adapting]:
    """Every number that follows the load of a site, in order of execution."""
    found = []
    for site in graph.sites():
        unit, module = site.place.unit, site.place.module
        maker = unit.producer(site.value)
        assert maker is not None
        label = module if unit.kind == "moe" else _join(module, site.value.name)
        for _, path, router in maker.calls():
            below = _join(module, path)
            found += [Adapting(label, _join(below, place)) for place in _states(router)]
    return found


def _states(unit: Unit) -> Iterator[str]:
    for node in unit.nodes:
        if getattr(node.op, "adapts", "") == "site":
            yield node.place


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child
