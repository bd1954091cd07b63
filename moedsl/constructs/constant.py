"""What does not depend on the token, and what makes tokens alike in one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Number
from moedsl.ir import hiding, ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Constant(Construct):
    """A learned vector, the same for every token: it takes its shape from what it gets, and nothing else.

    In a bank each expert has its own. `x -> constant` beside `x`, weighed by the two parts of `x -> linear(2) -> softmax`,
    is an expert that replaces some of each token by what it learned.
    """

    source = "Jin et al., 2024 (MoE++), section 3.1"
    std = Number("0.02", low=0, doc="standard deviation of the start; 0 starts at zero")
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        over = build.width or build.last(x)
        return build.placed(ops.Constant(over=over, std=float(self.std)), self.recipe, x)


class Spread(Construct):
    """Each token's numbers scaled so that their standard deviation, that of a sample, is `to`; their mean is scaled too.

    In a router, `gate = score -> spread -> softmax` keeps the sharpness of the softmax as it is, however scores grow.
    """

    source = "SkyworkAI/MoE-plus-plus moe_plus_plus_layer.py (`moe_use_logits_norm`)"
    to = Number("1", low=0, exclusive_low=True, positional=True, doc="standard deviation after it")
    least = Number("1e-6", low=0, exclusive_low=True, doc="a smaller deviation counts as this one")

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        if build.last(x).size == 1:
            build.sink.error(
                "E0419",
                "one number by itself deviates from nothing",
                self.recipe.span,
                "wants two numbers or more for each token",
                help="leave `spread` out where there is one choice",
            )
            return build.poison(x)
        if (node := hiding.hidden_in(build.frame.unit, x)) is not None:
            hiding.refuse(build, "`spread`", self.recipe.span, node)
            return build.poison(x)
        return build.op(ops.Spread(over=build.last(x), to=self.to, least=self.least), x)
