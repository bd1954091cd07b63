"""Choices that are drawn one after another, and estimators: what their weights are in forward, and whose gradient these get."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moedsl.constructs.declare import Construct, Number, RecipeOf
from moedsl.constructs.selection import Selection
from moedsl.ir import estimating, ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class InTurn(Selection):
    """k choices one after another: each the best of what `by` makes of the choices left.

    `in_turn(2, gumbel)` draws two in training, each from the softmax of what is ranked over those left, and takes the
    best else. With `near_ties(2%) -> gumbel` only what nearly ties with the best of those left takes part. `by` stands
    for every pick anew, so it has no weights. Ties go to the lower index.
    """

    source = "Liu et al., 2024, GRIN (SparseMixer-v2), section 3; transformers phimoe `sparsemixer`"
    k = Number(
        low=1, whole=True, positional=True, unit="choices", doc="how many choices a token keeps"
    )
    by = RecipeOf(
        kinds=("stage", "noise", "select"),
        flows=True,
        positional=True,
        doc="what is done before each pick to what is ranked",
    )

    def lower(self, build: Builder, x: Value) -> Value:
        return estimating.lower_in_turn(build, self, x)


class Estimator(Construct):
    """What all estimators share: from the weights of the picks, [rows, kept], to those that forward uses."""

    abstract: ClassVar[bool] = True
    kind = "estimator"


class Exact(Estimator):
    """The gradient of the weights as they are."""

    def lower(self, build: Builder, weight: Value) -> Value:
        return weight


class StraightThrough(Estimator):
    """A pick weighs 1, in training and else, and its gradient is that of the weight that stands in `weigh`."""

    source = "Bengio et al., 2013, section 4"

    def lower(self, build: Builder, weight: Value) -> Value:
        return build.op(ops.StraightThrough(), weight, name="weight")


class Heun(Estimator):
    """For choices that are drawn from what weighs them: the gradient of the expected result, to third order.

    In training a pick that is not the best of the choices left to it weighs `part` of its weight, three times in four;
    else it weighs all of it. So what is behind the mixture is differentiated at a third of the way and at its end, as
    Heun's third-order method asks. The weight's own gradient is as if it were whole. In evaluation nothing changes.

    The probability of a pick is its weight, so `weigh` has what the choice was drawn by: a softmax of the score, over
    those that took part: `weigh = score -> near_ties(2%)` for `in_turn(2, near_ties(2%) -> gumbel)`.
    """

    source = (
        "Liu et al., 2023, SparseMixer; Liu et al., 2024, GRIN (SparseMixer-v2); transformers phimoe "
        "`sparsemixer`, which writes a third as 0.3333"
    )
    part = Number(
        "1 / 3", low=0, high=1, exclusive_low=True, doc="of its weight, at the inner point"
    )

    def lower(self, build: Builder, weight: Value) -> Value:
        return estimating.lower_heun(build, self.recipe, float(self.part), weight)
