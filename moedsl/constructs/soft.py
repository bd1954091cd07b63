"""Experts without a choice: each gets slots, which are mixtures of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Number, RecipeOf
from moedsl.constructs.linear import Linear
from moedsl.constructs.selection import Selection
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Soft(Selection):
    """Every expert gets `slots` mixtures of tokens, and every token a mixture of all slots: nothing is picked or dropped.

    The router's `score` has a number for each token and slot. A softmax over tokens says what a slot is made of, a softmax
    over the slots of all experts together what a token gets of them; both are computed in float32. Padding is in no slot.

    `over` says which tokens a slot is made of: all of the sequence, which a model that predicts tokens cannot do; or
    those up to each token (`prefix`), which gives each token slots of its own, so every expert runs on `slots` rows for
    every token; or those of earlier segments (`segment(256)`), which gives each segment slots, and the first segment
    nothing but what stands beside them.
    """

    source = "Puigcerver et al., 2023; vmoe projects/soft_moe/router.py"
    slots = Number(
        "1", low=1, whole=True, positional=True, unit="slots", doc="slots of each expert"
    )
    over = RecipeOf(
        "sequence",
        kinds=("span",),
        words=("sequence", "prefix"),
        doc="the tokens that a slot is made of",
    )


class Cosine(Construct):
    """The cosine between what comes in and each of the learned rows, times a scale; computed in float32.

    Without a width it takes the one that its place needs, as `linear` does.
    """

    kind = "linear"
    source = "Puigcerver et al., 2023, section 2.3"
    width = Linear.settings["width"]
    scale = Number(
        "learned", words=("learned",), doc="factor; `learned` is a weight that starts at one"
    )
    eps = Number("1e-6", low=0, doc="added to the sum of squares, of rows and of weights")
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        op = ops.Cosine(
            out=build.width_of(self.width, self.recipe.origin("width")),
            inner=build.last(x),
            eps=float(self.eps),
            learned=self.scale == "learned",
            scale=1.0 if self.scale == "learned" else float(self.scale),
        )
        return build.placed(op, self.recipe, x)
