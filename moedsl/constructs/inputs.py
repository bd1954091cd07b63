"""What a model is fed with: each input says what tensor it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import Construct, Number
from moedsl.ir.graph import Dim, TensorType

if TYPE_CHECKING:
    from moedsl.ir.build import Builder

BATCH = Dim("B")


class Input(Construct):
    """What all inputs share. `sequence`: it has positions, so a length, a padding mask and an axis of its own."""

    abstract: ClassVar[bool] = True
    kind = "input"
    sequence: ClassVar[bool] = False

    def tensor(self, build: Builder, positions: Dim) -> TensorType:
        """Its type; `positions` is the axis of its own, where it has one."""
        raise NotImplementedError(self.name)


def _below(build: Builder, ids: Ids | Label) -> Dim:
    return build.dim(ids.size, ids.recipe.origin("size"))


class Ids(Input):
    """Token numbers: a tensor of whole numbers below `size`, one per position.

    A model may take several: each has a length of its own and, in the printed `forward`, a padding mask of its own
    (`source`, `source_mask`). The one that the output is made from is what the model continues: it has the mask
    called `mask`, the cache, and its next tokens are predicted.
    """

    sequence = True
    size = Number(low=1, whole=True, positional=True, doc="how many different numbers there are")

    def tensor(self, build: Builder, positions: Dim) -> TensorType:
        return TensorType((BATCH, positions), "int", _below(build, self))


class Label(Input):
    """One whole number below `size` for each sequence: a task, a language, a class.

    `label -> embedding(64)` is a vector for each sequence; beside a stream it stands at every position.
    """

    size: Any = Number(
        low=1, whole=True, positional=True, doc="how many different labels there are"
    )

    def tensor(self, build: Builder, positions: Dim) -> TensorType:
        return TensorType((BATCH,), "int", _below(build, self))


class Vector(Input):
    """Numbers that describe each sequence: features of a task, a condition. Beside a stream they stand at every
    position.
    """

    size: Any = Number(low=1, whole=True, positional=True, doc="how many numbers")

    def tensor(self, build: Builder, positions: Dim) -> TensorType:
        return TensorType((BATCH, build.dim(self.size, self.recipe.origin("size"))))


class Pixels(Input):
    """Images: numbers for each channel, row and column. All images of a batch have one size."""

    channels = Number(low=1, whole=True, positional=True, doc="colours: 3 for red, green, blue")
    height = Number(low=1, whole=True, positional=True, unit="pixels", doc="rows of an image")
    width = Number(low=1, whole=True, positional=True, unit="pixels", doc="columns of an image")

    def tensor(self, build: Builder, positions: Dim) -> TensorType:
        sizes = (("C", "channels"), ("H", "height"), ("W", "width"))
        axes = [
            Dim(
                letter,
                getattr(self, name),
                meaning=f"{name} of images",
                origin=self.recipe.origin(name),
            )
            for letter, name in sizes
        ]
        return TensorType((BATCH, *axes))
