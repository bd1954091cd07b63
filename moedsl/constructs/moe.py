"""A mixture: a router, a bank of experts, perhaps shared ones beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Bank, Construct, Listed, RecipeOf, Words
from moedsl.ir import mixing

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Moe(Construct):
    """Each token is served by the experts that its router chose; their outputs are summed by weight.

    `experts` are side by side and chosen among; kinds may be named, `[full = 7 * swiglu(64), skip = zero]`. `shared`
    ones serve every token. A second input, `route = x`, is what the router reads instead. Mixtures may share one
    decision, `let pick = top2(h)`; a loss that several of them declare counts once.
    """

    kind = "moe"
    unit = True
    whole = True
    streams = ("route",)
    router = RecipeOf(
        kinds=("router",),
        tensors=True,
        doc="a router, which decides here, or a decision made elsewhere",
    )
    experts = Bank(doc="what is chosen among: copies side by side, each with weights of its own")
    shared = Bank(
        "none",
        doc="what serves every token beside the chosen; may carry a gate: `swiglu(64) * (linear(1) -> sigmoid)`",
    )
    weight = Words(
        "output",
        choices=("output", "input"),
        doc="weights multiply what experts give, or what they get",
    )
    loss = Listed("none", kinds=("loss",), doc="losses over the router's decisions")

    def lower(self, build: Builder, x: Value, route: Value | None = None) -> Value:
        return mixing.lower_moe(build, self, x, route)
