"""Images as streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Flag, Number
from moedsl.ir import streams

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Patches(Construct):
    """An image cut into squares, each a token: a linear map of its pixels, row of squares by row of squares.

    It is a convolution whose stride is its size, and its weight is stored as such.
    """

    kind = "embedding"
    whole = True
    source = "Dosovitskiy et al., 2020, section 3.1"
    linear_in_input = True
    size = Number(
        low=1, whole=True, positional=True, unit="pixels", doc="height and width of one square"
    )
    bias = Flag("true", doc="add a learned vector to each token")
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        return streams.lower_patches(build, self, x)
