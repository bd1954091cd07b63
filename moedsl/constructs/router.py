"""A router is algebra over named tensors: score, gate, choose, select, weigh."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import (
    INIT,
    Construct,
    Expression,
    Listed,
    Number,
    RecipeOf,
    Words,
)
from moedsl.constructs.registry import construct_of
from moedsl.ir import capacity, routing
from moedsl.model import terms
from moedsl.model.terms import stages_of

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Router(Construct):
    """Decides which experts serve a token, and with what weight.

    `score` gives one number per choice, `gate` makes it what losses and weights read, `choose` is what the selection
    ranks, `select` keeps some choices, and `weigh`, over what was kept, gives their weights.

    With a `capacity` an expert takes so many rows and no more: `priority` says which, `overflow` what becomes of the
    others, `within` among which rows room is shared. Padding takes no room. Losses count what was picked, whether it
    found room or not. With a cache the rows of a call are those of the new tokens, so what finds room when decoding is
    not what found room when all tokens were there; `capacity = phase(train = 1.25, decode = none)` drops nothing then.

    Kinds of experts may have room of their own, `capacity = [full = 0.9, skip = 2]`; a kind that is not named has room for
    all. `choices` in these factors are all choices, so a factor says how much more an expert takes than at perfect balance.

    In a mixture it decides for that one alone. Applied to a tensor, `let pick = top2(h)`, it decides for every mixture
    that names the decision, `router = pick`; it has as many choices as they have experts. `choices` is that number.
    """

    kind = "router"
    unit = True
    whole = True
    score = Expression(
        "linear",
        sees=("x",),
        bare=True,
        doc="logits, one per choice; a number is that of every choice, where nothing scores",
    )
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
    capacity = RecipeOf(
        "none",
        kinds=("capacity",),
        words=("none",),
        number=Number(low=0, exclusive_low=True),
        by_kind=True,
        doc="rows that an expert takes: a factor of picks * rows / choices, rounded up; `room(...)`; `slots(n)`; by kind: "
        "`[full = 0.9, skip = 2]`",
    )
    priority = Words(
        "first_come",
        choices=("first_come", "by_rank", "best", "strongest", "random"),
        doc="who finds room: by token; first picks before second ones; so too, tokens by their highest gate; each "
        "pick by its own gate; tokens in an order drawn anew (in training)",
    )
    overflow = RecipeOf(
        "drop",
        kinds=("overflow",),
        words=("drop", "zero"),
        doc="a pick that finds no room adds nothing (`zero`: nor need anything else there, and that is meant), or asks "
        "the `next` best choice",
    )
    within = RecipeOf(
        "batch",
        kinds=("group",),
        words=("batch", "sequence"),
        doc="rows that share room: all, those of a sequence, or `tokens(n)`",
    )
    weighed = Words(
        "picked",
        choices=("picked", "served"),
        doc="whether `weigh` runs over all that was picked, so that what drops takes its weight along, or over what "
        "found room",
    )
    lookahead = Words(
        "refused",
        choices=("refused", "allowed"),
        doc="whether what a token gets may depend on tokens after it where these are to be predicted",
    )
    weigh = Expression(
        "gate",
        sees=("x", "score", "gate", "choose"),
        doc="weights, over what was kept; a number is that of every pick",
    )
    estimator = RecipeOf(
        "exact",
        kinds=("estimator",),
        doc="whose gradient the weights get: their own, or that of an estimator for choices that are drawn",
    )

    loss = Listed(
        "none",
        kinds=("loss",),
        doc="losses over all its decisions, whatever they serve; those of one mixture stand there",
    )
    init = INIT

    @property
    def bounds_rows(self) -> bool:
        """Whether experts get at most a number of rows that is known before any is routed."""
        return self.takes_rows or (capacity.is_limited(self) and capacity.may_fall_short(self))

    @property
    def takes_rows(self) -> bool:
        """Whether experts choose, so that none of them overflows."""
        return any(
            getattr(construct_of(stage), "bounds_rows", False)
            for stage in stages_of(self.select)
            if isinstance(stage, terms.Recipe)
        )

    def lower(self, build: Builder, x: Value, wanted: routing.Wanted | str | None = None) -> Value:
        return routing.lower_router(build, self, x, wanted)
