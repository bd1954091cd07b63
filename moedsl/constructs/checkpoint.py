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


class Native(Construct):
    """The files of an earlier model of this spec, in the names that `save_checkpoint` gives where no others are declared.

    Entries say only what is otherwise, of places or kinds of place: `experts = grow(3)`, `router = grow(3)`, `embed =
    extend`. All else is as it was. A model only starts from such files, and never writes them.
    """

    kind = "checkpoint"


class Step(Construct):
    """What all steps share: they read a file's tensor from left to right, and are undone in reverse when saving."""

    abstract: ClassVar[bool] = True
    kind = "step"


class OneWay(Step):
    """What steps share that lose or make up something: a checkpoint with one of them is where a model starts from, and
    is never written."""

    abstract: ClassVar[bool] = True


class Extend(OneWay):
    """More rows than the file has: its own come first, and the others start at their mean.

    For a larger vocabulary, in the embedding and in the head.
    """

    init = Words("mean", choices=("mean", "zeros"), doc="what the rows behind the file's start at")


class Grow(OneWay):
    """More members side by side than the file has: those of the file come first and stay as they are.

    For the experts of a bank, and for what a router has for each of them. Files may hold all members in one tensor, or
    each in its own (`experts[e].gate = "experts.{e}.gate" -> grow(8)`). A new member starts as `init_weights` would have it, or
    as a copy of the file's member `like`; with `like = given` whoever starts the model says which, `start_from_name(model,
    folder, like = 2)`. Two experts with equal rows in the router always score the same: add `noise` to rows that are copies.
    """

    source = "Aljundi et al., 2017 (Expert Gate), section 3.3"
    members = Number(low=1, whole=True, positional=True, doc="how many the files have")
    like = Number(
        "fresh",
        low=0,
        whole=True,
        words=("fresh", "given"),
        doc="the member that new ones are copies of; `fresh`: they are drawn",
    )
    noise = Number(
        "standard",
        low=0,
        words=("standard",),
        doc="deviation of what is drawn and added; `standard`: nothing to copies, to fresh ones what `init_weights` draws",
    )


class Copies(OneWay):
    """Each expert starts as the same tensor of a dense model, or as a part of it.

    `axis` is that of the hidden channels, 0 in gate and up, 1 in down. With `shards` the hidden channels are cut into
    so many parts, and expert e takes part e mod shards. `redraw` draws this share of an expert's hidden channels anew,
    the same ones in all its matrices, from a normal distribution with the mean and the deviation of the tensor.
    """

    source = "Komatsuzaki et al., 2022; He et al., 2024 (shards); Nakamura et al., 2025 (redraw)"
    axis = Number("0", low=0, high=1, whole=True, doc="which axis are the hidden channels")
    shards = Number("1", low=1, whole=True, doc="parts of the dense layer, one for each expert")
    redraw = Number("0%", low=0, high=1, doc="share of the hidden channels that are drawn anew")
    scale = Number("1", doc="factor on what was taken")


class Fresh(Construct):
    """Weights that no file has: drawn from a normal distribution.

    With `runs` so many rows in a row are equal: experts that are the shards of one copy then get equal scores, and a
    token goes to whole copies.
    """

    kind = "start"
    source = "He et al., 2024, section 3 (runs)"
    std = Number("0.02", low=0, doc="deviation")
    runs = Number("1", low=1, whole=True, doc="how many neighbouring rows are equal")


class Split(Step):
    """Cut along an axis, one part for each of the places on the left: equal ones, or as long as each place is."""

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
