"""Scores by how well something is rebuilt: gates that know a task when they see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Number, TensorOf, Words
from moedsl.constructs.linear import Linear
from moedsl.constructs.losses import _LAYERS, Loss
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Autoencoder(Construct):
    """Autoencoders side by side, one for each choice: the squared distance between what comes in and what each rebuilds.

    Each has a code of `bottleneck` numbers: linear, relu, linear, sigmoid. What comes in is squashed by a sigmoid
    before, since a sigmoid rebuilds it, and is the same for all: distances compare. `-> scale(-1)` makes a score of
    them. They learn by `loss = reconstruction(1.0, by = task)`, each from rows of its own task alone, so that a task
    can be learned after another. Without a width there are as many as the place needs.
    """

    kind = "linear"
    source = "Aljundi et al., 2017 (Expert Gate), sections 3.1 and 3.2; rahafaljundi/Expert-Gate"
    width = Linear.settings["width"]
    bottleneck = Number(low=1, whole=True, unit="channels", doc="size of the code")
    squash = Words(
        "sigmoid",
        choices=("sigmoid", "none"),
        doc="what happens to the input first; `none` where it is between 0 and 1 already",
    )
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        if self.squash == "sigmoid":
            x = build.op(ops.Pointwise(function="{0}.sigmoid()"), x, name="target")
        choices = build.width_of(self.width, self.recipe.origin("width"))
        op = ops.Rebuild(choices=choices, inner=build.last(x), bottleneck=self.bottleneck)
        rebuilt = build.placed(op, self.recipe, x)
        return build.op(ops.RebuildError(), build.named(rebuilt, "rebuilt"), x)


class Reconstruction(Loss):
    """Teaches autoencoders to rebuild what they know: the cross-entropy between what the one that the label names
    rebuilds and what came in, summed over channels, mean over tokens.

    They are those of the router's `score`. No other autoencoder gets a gradient. For tasks learned before to stay as they
    are whatever the optimizer does, a stage trains the newest alone: `train = router[2]`.
    """

    source = "Aljundi et al., 2017, section 3.1; rahafaljundi/Expert-Gate"
    by = TensorOf(doc="the label of the one that learns, an input: `label(4)`")
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("rebuilt",)
