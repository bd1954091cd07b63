"""Weights that multiply: linear maps, look-ups, and weights shared with another place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Flag, Number, PlaceOf
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Linear(Construct):
    """A matrix product along the last axis: y = x W^T (+ b).

    Without a width it takes the one that its place needs: a query the heads', a router's score the number of
    choices, the last one of a branch the stream's.
    """

    kind = "linear"
    linear_in_input = True
    width = Number(
        "fitting",
        low=1,
        whole=True,
        positional=True,
        words=("fitting",),
        doc="size of the result; `fitting` is what the place needs",
    )
    bias = Flag("false", doc="add a learned vector to the result")
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        fitting = self.width == "fitting"
        op = ops.Linear(
            out=build.width_of(self.width, self.recipe.origin("width")),
            inner=build.last(x),
            bias=self.bias or (fitting and build.frame.hint.bias),
            bank=build.frame.unit.bank,
            wide=getattr(x.type, "dtype", "") == "float32",
        )
        return build.placed(op, self.recipe, x)


class Embedding(Construct):
    """A learned vector for each whole number: a look-up of rows."""

    kind = "embedding"
    takes = "ids"
    whole = True
    vocab = Number(low=1, whole=True, positional=True, doc="how many different numbers there are")
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        vocab = build.dim(self.vocab, self.recipe.origin("vocab"), letter="V")
        width = build.width or build.model_width
        return build.placed(ops.Embedding(vocab=vocab, width=width), self.recipe, x)


class Tied(Construct):
    """A linear map with the weights of another place: `head = tied(embed)` is the embedding's transpose."""

    kind = "linear"
    linear_in_input = True
    place = PlaceOf(positional=True, doc="the place whose weights are used")

    def lower(self, build: Builder, x: Value) -> Value:
        found = build.frame.places.find(self.place)
        match found.op if found else None:
            case ops.Embedding(vocab=out, width=inner) | ops.Linear(out=out, inner=inner):
                op = ops.TiedLinear(of=self.place, out=out, inner=inner)
                return build.op(op, build.merged(x))
        build.sink.error(
            "E0313",
            f"`{self.place}` has no weights in this body that could be shared",
            self.recipe.origin("place"),
            "a `linear` or an `embedding`, earlier in the same body, is wanted",
            help="a head with the embedding's weights is `linear head = tied(embed)`",
        )
        return build.poison(x)
