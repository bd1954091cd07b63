"""A router is algebra over named tensors: score, gate, choose, select, weigh."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Construct, Expression, RecipeOf
from moedsl.constructs.registry import construct_of
from moedsl.ir import routing
from moedsl.model import terms
from moedsl.model.terms import stages_of

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Router(Construct):
    """Decides which experts serve a token, and with what weight.

    `score` gives one number per choice, `gate` makes it what losses and weights read, `choose` is what the selection
    ranks, `select` keeps some choices, and `weigh`, over what was kept, gives their weights.

    In a mixture it decides for that one alone. Applied to a tensor, `let pick = top2(h)`, it decides for every mixture
    that names the decision, `router = pick`; it has as many choices as they have experts.
    """

    kind = "router"
    unit = True
    whole = True
    score = Expression("linear", sees=("x",), bare=True, doc="logits, one per choice")
    gate = Expression(
        "score",
        sees=("x", "score"),
        doc="the score made positive: `score -> softmax` over all choices",
    )
    choose = Expression(
        "gate", sees=("x", "score", "gate"), doc="what the selection ranks; larger is better"
    )
    select = RecipeOf(
        kinds=("select",), flows=True, doc="a flow of stages that keeps some of the choices"
    )
    weigh = Expression(
        "gate", sees=("x", "score", "gate", "choose"), doc="weights, over what was kept"
    )

    @property
    def bounds_rows(self) -> bool:
        """Whether experts get at most a number of rows that is known before any is routed."""
        return any(
            getattr(construct_of(stage), "bounds_rows", False)
            for stage in stages_of(self.select)
            if isinstance(stage, terms.Recipe)
        )

    def lower(self, build: Builder, x: Value, wanted: routing.Wanted | None = None) -> Value:
        return routing.lower_router(build, self, x, wanted)
