"""Numbers on a common scale, by statistics of the data rather than by weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moedsl.constructs.declare import Construct, Number
from moedsl.ir import ops
from moedsl.ir.ops_base import number

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Standardize(Construct):
    """Subtract a mean and divide by a deviation, channel by channel: statistics of the data, the same for all rows.

    No optimizer moves them. They are numbers given here, or buffers, saved with the weights and fitted once, before
    training: `model.standardize.fit(batches)` takes the mean and the deviation of all that comes in there (of all rows,
    not of a sample), one number for each channel. Until then they are 0 and 1. Of an image the channels are its colours.
    """

    source = (
        "Aljundi et al., 2017, section 3.1; rahafaljundi/Expert-Gate (imagenet_mean, imagenet_std)"
    )
    mean = Number("fitted", words=("fitted",), positional=True, doc="what is subtracted")
    deviation = Number(
        "fitted",
        low=0,
        exclusive_low=True,
        words=("fitted",),
        positional=True,
        doc="what it is divided by",
    )

    def check(self, at: Any, sink: Any) -> None:
        if (self.mean == "fitted") != (self.deviation == "fitted"):
            missing, given = (
                ("mean", "deviation") if self.mean == "fitted" else ("deviation", "mean")
            )
            sink.error(
                "E0203",
                f"`{missing}` is to be given beside `{given}`",
                at.origin(given),
                "a number here",
                help="give both, as in `standardize(0.5, 0.25)`, or none: then `fit` takes both from the data",
            )

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        if self.mean == "fitted" or self.deviation == "fitted":
            return build.placed(ops.Standardize.of(x), self.recipe, x)
        less = f"{{0}} - {number(self.mean)}" if self.mean >= 0 else f"{{0}} + {number(-self.mean)}"
        return build.op(ops.Pointwise(function=f"(({less}) / {number(self.deviation)})"), x)
