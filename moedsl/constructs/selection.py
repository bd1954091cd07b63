"""Stages of a router's `select`: which of the choices a token keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moedsl.constructs.declare import Construct, Number
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Selection(Construct):
    """What all selections share: from what is ranked, [rows, choices], to the chosen, [rows, kept], best first."""

    abstract: ClassVar[bool] = True
    kind = "select"


class TopK(Selection):
    """The k largest. Ties go to the lower index, on every device."""

    k = Number(
        low=1, whole=True, positional=True, unit="choices", doc="how many choices a token keeps"
    )

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        kept = build.dim(self.k, self.recipe.origin("k"), letter="K")
        return build.op(ops.TopK(kept=kept, choices=choices), x, name="expert")


class All(Selection):
    """Every choice is kept, best first."""

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        kept = build.dim(choices.size or 1, choices.origin, letter="K")
        return build.op(ops.TopK(kept=kept, choices=choices), x, name="expert")
