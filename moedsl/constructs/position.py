"""Positions: how a query or key learns where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Number, RecipeOf, Words
from moedsl.ir import attending, streams

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Position(Construct):
    """A vector for each position, added to the token that stands there.

    A stream of known length, such as an image's patches, has a vector for each of its tokens; a stream of ids for each
    position below the model's `context`, where padding on the left does not count.
    """

    kind = "position"
    whole = True
    source = "Gehring et al., 2017; Vaswani et al., 2017"
    form = Words(
        "learned", choices=("learned",), positional=True, doc="where the vectors come from"
    )
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        return streams.lower_position(build, self, x)


class Rope(Construct):
    """Rotary positions: channels of a head are turned in pairs, by angles that grow with the position.

    Pair i turns by position * theta^(-2i / size). `halves` pairs channel i with i + size / 2 (Hugging Face files);
    `adjacent` pairs 2i with 2i + 1 (the paper).
    """

    kind = "rotation"
    source = "Su et al., 2021"
    linear_in_input = True
    theta = Number("1e4", low=0, exclusive_low=True, doc="base of the angles")
    pairs = Words("halves", choices=("halves", "adjacent"), doc="which channels turn together")
    part = Number(
        "100%",
        low=0,
        high=1,
        exclusive_low=True,
        doc="share of a head's channels that turns; the first ones do",
    )
    scaling = RecipeOf(
        "none",
        kinds=("scaling",),
        words=("none",),
        doc="change of the angles for longer contexts: `yarn(40, original = 4096)`",
    )

    def lower(self, build: Builder, x: Value) -> Value:
        return attending.lower_rope(build, self, x)


class LogScale(Construct):
    """Multiply by 1 + by * log(1 + floor(p / every)) at position p: queries far from the start look more sharply.

    Positions count from `first`, real tokens only.
    """

    kind = "position"
    source = "Nakanishi, 2025; Llama 4, transformers llama4"
    every = Number(
        low=1,
        whole=True,
        positional=True,
        unit="tokens",
        doc="the factor stays the same for so many",
    )
    by = Number("0.1", low=0, doc="how much it grows with the logarithm")
    first = Number("1", low=0, high=1, whole=True, doc="the number of the first position")

    def lower(self, build: Builder, x: Value) -> Value:
        return attending.lower_log_scale(build, self, x)
