"""A mixture: a router, a bank of experts, perhaps shared ones beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moedsl.constructs.declare import INIT, Bank, Construct, Listed, RecipeOf, Words
from moedsl.diagnostics.model import Label
from moedsl.ir import mixing
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


_NOT_BY_HEAD = {
    "mix": "puts the picks of a token side by side",
    "inputs": "shares a token out among its picks",
    "experts": "kinds of experts are counted over the token",
    "router": "a decision made elsewhere is one for the token",
}


class Moe(Construct):
    """Each token is served by the experts that its router chose; their outputs are summed by weight.

    `experts` are side by side and chosen among; kinds may be named, `[full = 7 * swiglu(64), skip = zero]`. `shared`
    ones serve every token. A second input, `route = x`, is what the router reads instead. Mixtures may share one
    decision, `let pick = top2(h)`; a loss that several of them declare counts once.

    One may stand at a projection of an attention, where `experts = 8 * linear` takes the width that the place asks
    for. With `mix = stack` what the picks gave stands side by side, and a later mixture with `inputs = stack` and the
    same decision hands each part to its own pick: `q` and `o` of a mixture of attention heads. `per = head` keeps
    experts and decisions for each head.
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
    mix = Words(
        "outputs",
        choices=("outputs", "stack", "parameters"),
        doc="outputs are summed by weight; or stand side by side, unweighted, in order of choice; or `parameters` of the "
        "experts are, into one expert for each segment or sequence",
    )
    inputs = Words(
        "same",
        choices=("same", "stack"),
        doc="each expert gets the token itself, or the part of it that belongs to its rank among the picks",
    )
    per = Words(
        "token",
        choices=("token", "head"),
        doc="one decision and one set of experts for a token, or for each head of it",
    )
    loss = Listed("none", kinds=("loss",), doc="losses over the router's decisions")
    init = INIT

    @property
    def plain(self) -> bool:
        """Whether each expert gets the whole token, and outputs are summed."""
        return self.mix == "outputs" and self.inputs == "same" and self.per == "token"

    def check(self, at: Any, sink: Any) -> None:
        if self.per != "head":
            return
        fault = next((name for name in ("mix", "inputs") if getattr(self, name) == "stack"), "")
        if not fault and len(self.experts) > 1:
            fault = "experts"
        elif not fault and isinstance(self.router, terms.Tensor | terms.Apply):
            fault = "router"
        if fault:
            sink.error(
                "E0432",
                f"`{at.name}` decides for each head, and its `{fault}` does not",
                at.origin(fault),
                _NOT_BY_HEAD[fault],
                secondary=(Label(at.origin("per"), "one decision for each head"),),
                help="take one of the two out",
            )

    def lower(self, build: Builder, x: Value, route: Value | None = None) -> Value:
        return mixing.lower_moe(build, self, x, route)
