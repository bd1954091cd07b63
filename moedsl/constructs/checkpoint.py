"""Checkpoints: where weights come from, and the steps from a tensor of a file to a place."""

from __future__ import annotations

from typing import ClassVar

from moedsl.constructs.declare import Construct, Listed, Number, Words


class Huggingface(Construct):
    """Names of a Hugging Face repository: of its files, or of the modules in memory where they differ."""

    kind = "checkpoint"
    names = Words("file", choices=("file", "memory"), doc="whose names the entries give")
    ignore = Listed(
        "none", texts=True, doc="names in the files that no place takes; `*` stands for anything"
    )


class Step(Construct):
    """What all steps share: they read a file's tensor from left to right, and are undone in reverse when saving."""

    abstract: ClassVar[bool] = True
    kind = "step"


class Split(Step):
    """Cut into equal parts along an axis, one for each of the places on the left."""

    count = Number(low=2, whole=True, positional=True, doc="number of parts")
    axis = Number("0", low=0, whole=True, doc="which axis is cut")


class Transpose(Step):
    """Exchange the last two axes."""


class Interleave(Step):
    """Take every count-th row along an axis: the first part is rows 0, count, ..., the second 1, count + 1, ..."""

    count = Number("2", low=2, whole=True, positional=True, doc="number of parts")
    axis = Number("0", low=0, whole=True, doc="along which axis")


class Stack(Step):
    """Put tensors of several files on top of each other along a new first axis, as experts are."""
