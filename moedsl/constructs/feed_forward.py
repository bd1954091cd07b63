"""Feed-forward forms: each position by itself, up to a wider space and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import INIT, Construct, Expression, Flag, Number, RecipeOf
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value

_WIDTH = Number(low=1, whole=True, positional=True, unit="channels", doc="size of the hidden space")
_BIAS = Flag("false", doc="add a learned vector after each linear map")
_DROPOUT = Number(
    "0", low=0, high=1, phases=True, doc="probability that a hidden channel is dropped, in training"
)
_DOWN = Expression(
    "hidden -> linear", sees=("x", "hidden"), doc="from the hidden space back to the stream"
)


class FeedForward(Construct):
    """What all feed-forward forms share: roles evaluated in order, each under its own name."""

    abstract: ClassVar[bool] = True
    kind = "ffn"
    unit = True
    width: Any
    bias: Any
    hidden: Any
    down: Any
    dropout: Any
    init = INIT

    def project(self, build: Builder, x: Value, role: str) -> Value:
        hidden = build.dim(self.width, self.recipe.origin("width"), letter="F")
        return build.role(role, getattr(self, role), x, width=hidden, bias=self.bias, name=role)

    def finish(self, build: Builder, x: Value, hidden: Value) -> Value:
        build.bind("hidden", hidden)
        hidden = build.role("hidden", self.hidden, x, width=build.last(hidden))
        train, eval_ = build.rates(self.dropout)
        if train or eval_:
            hidden = build.op(ops.Dropout(rate=train, eval_rate=eval_), hidden)
        build.bind("hidden", hidden)
        asked = build.width if build.frame.rows is None else None
        return build.role("down", self.down, x, width=asked or build.last(x), bias=self.bias)


class Gated(FeedForward):
    """What the gated forms share: activation(gate) * up."""

    abstract: ClassVar[bool] = True
    width = _WIDTH
    bias = _BIAS
    gate = Expression("linear", sees=("x",), bare=True, doc="what goes through the activation")
    up = Expression("linear", sees=("x",), bare=True, doc="what the gate multiplies")
    hidden = Expression(
        "hidden",
        sees=("x", "gate", "up", "hidden"),
        doc="activation(gate) * up, and what follows it",
    )
    down = _DOWN
    dropout = _DROPOUT

    def activate(self, build: Builder, gate: Value, up: Value) -> tuple[Value, Value]:
        raise NotImplementedError

    def lower(self, build: Builder, x: Value) -> Value:
        gate = self.project(build, x, "gate")
        up = self.project(build, x, "up")
        build.bind("gate", gate)
        build.bind("up", up)
        activated, up = self.activate(build, gate, up)
        return self.finish(build, x, build.op(ops.Combination(operator="*"), activated, up))


class Swiglu(Gated):
    """silu(gate) * up, and down again: three linear maps.

    `alpha` sharpens the sigmoid (gate * sigmoid(alpha * gate)); `limit` keeps the gate below it and `up` within it;
    `up_shift` is added to `up` before the product.
    """

    source = "Shazeer, 2020"
    alpha = Number("1", low=0, exclusive_low=True, doc="factor inside the sigmoid")
    limit = Number(
        "none",
        low=0,
        exclusive_low=True,
        words=("none",),
        doc="largest gate, and largest magnitude of up",
    )
    up_shift = Number("0", doc="added to `up` before the product")

    def activate(self, build: Builder, gate: Value, up: Value) -> tuple[Value, Value]:
        if self.limit != "none":
            gate = build.op(ops.Clip(limit=float(self.limit), above_only=True), gate)
            up = build.op(ops.Clip(limit=float(self.limit)), up)
        if self.alpha == 1:
            gate = build.op(ops.Pointwise(function="F.silu"), gate)
        else:
            sharp = build.op(ops.Combination(operator="*", number=self.alpha), gate)
            sharp = build.op(ops.Pointwise(function="{0}.sigmoid()"), sharp)
            gate = build.op(ops.Combination(operator="*"), gate, sharp)
        if self.up_shift:
            up = build.op(ops.Combination(operator="+", number=self.up_shift), up)
        return gate, up


class Geglu(Gated):
    """gelu(gate) * up, and down again: three linear maps."""

    source = "Shazeer, 2020"

    def activate(self, build: Builder, gate: Value, up: Value) -> tuple[Value, Value]:
        return build.op(ops.Pointwise(function="F.gelu"), gate), up


class Glu(Gated):
    """activation(gate) * up, and down again, with an activation of your own."""

    source = "Dauphin et al., 2016"
    activation = RecipeOf("sigmoid", kinds=("activation",), flows=True, doc="applied to the gate")

    def activate(self, build: Builder, gate: Value, up: Value) -> tuple[Value, Value]:
        return build.apply(self.activation, gate), up


class Mlp(FeedForward):
    """Up, activation, down: two linear maps."""

    width = _WIDTH
    activation = RecipeOf(
        "gelu", kinds=("activation",), flows=True, doc="applied to the hidden space"
    )
    bias = _BIAS
    up = Expression("linear", sees=("x",), bare=True, doc="from the stream to the hidden space")
    hidden = Expression(
        "hidden", sees=("x", "up", "hidden"), doc="activation(up), and what follows it"
    )
    down = _DOWN
    dropout = _DROPOUT

    def lower(self, build: Builder, x: Value) -> Value:
        up = self.project(build, x, "up")
        build.bind("up", up)
        return self.finish(build, x, build.apply(self.activation, up))
