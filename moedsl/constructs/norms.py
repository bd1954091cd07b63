"""Norms: they act along the last axis, or on each head by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import INIT, Construct, Flag, Number, Words
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value

_PER = Words(
    "none", choices=("none", "head"), doc="normalise the whole width, or each head by itself"
)


class Norm(Construct):
    """What all norms share."""

    abstract: ClassVar[bool] = True
    kind = "norm"
    form: ClassVar[str] = ""
    eps: Any
    weight: Any
    per: Any
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.opened(x) if self.per == "head" else build.merged(x)
        if self.per == "head" and not build.is_opened(x):
            build.sink.error(
                "E0307",
                "`per = head` needs heads, and there are none here",
                self.recipe.origin("per"),
                help="heads are in an attention's `q`, `k` and `v`: `q, k = linear -> rms(per = head)`",
            )
            return build.poison(x)
        op = ops.Norm(
            over=build.last(x),
            form=self.form,
            eps=self.eps,
            weight=self.weight,
            bias=getattr(self, "bias", False),
            offset=getattr(self, "offset", False),
        )
        return build.placed(op, self.recipe, x)


class Rms(Norm):
    """Root-mean-square norm: x / sqrt(mean(x^2) + eps) * weight. In a bank each expert has a weight of its own.

    `offset` stores the weight minus one, as the Gemma family does.
    """

    form = "rms"
    source = "Zhang and Sennrich, 2019"
    eps = Number("1e-6", low=0, doc="added to the mean square before the root")
    weight = Flag("true", doc="multiply by a learned vector")
    per = _PER
    offset = Flag("false", doc="the weight is stored minus one, and starts at zero")


class LayerNorm(Norm):
    """Layer norm: (x - mean) / sqrt(variance + eps) * weight + bias. In a bank each expert has its own of both."""

    form = "layer"
    source = "Ba et al., 2016"
    eps = Number("1e-5", low=0, doc="added to the variance before the root")
    weight = Flag("true", doc="multiply by a learned vector")
    bias = Flag("true", doc="add a learned vector")
    per = _PER
