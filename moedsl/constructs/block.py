"""A block: statements over the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Construct

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Block(Construct):
    """Assignments to the stream `x`, in order; its last value is the result. Recipes passed as parameters stand at
    places of the parameter's name; declared tensor parameters are bound where the block is mentioned.
    """

    kind = "block"
    unit = True

    def lower(self, build: Builder, x: Value) -> Value:
        build.run(self.recipe.body)
        return build.scope["x"]
