"""Steps of a checkpoint that lose or make up something: with one of them the files are where a model starts from, and
are never written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.frozen import frozen
from moedsl.model.terms import Checkpoint, Number, Recipe, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moedsl.ir.checkpoint_map import Target
    from moedsl.ir.graph import Storage

ONE_WAY = ("extend", "copies", "fresh", "grow")
TOGETHER = ("extend", "grow")  # steps that fill all members of a weight at once


def is_native(checkpoint: Checkpoint) -> bool:
    """Are the names in the files the model's own?"""
    return checkpoint.source.construct == "native"


def is_start(checkpoint: Checkpoint) -> bool:
    """Is it where a model starts from, and never written?"""
    return is_native(checkpoint) or any(
        step.construct in ONE_WAY for each in checkpoint.entries for step in each.steps
    )


@frozen
class Growth:
    """`members`: how many the files have. `like`: the one that new ones copy, "given" where whoever starts the model says
    which, None where they are made anew: of the value `start`. `noise`: deviation of what is drawn and added."""

    members: int
    like: int | str | None
    start: float
    noise: float


def growth(step: Recipe, weight: Storage | None = None) -> Growth:
    """How a weight grows. New members are made as `init_weights` does, unless the step says more."""
    like, said = step.setting("like"), step.setting("noise")
    of: int | str | None = int(like.value) if isinstance(like, Number) else None
    of = "given" if isinstance(like, Word) and like.text == "given" else of
    init, value = (weight.init, weight.value) if weight is not None else ("normal", 0.0)
    start = {"ones": 1.0, "constant": value}.get(init, 0.0) if of is None else 0.0
    noise = value if init == "normal" and of is None else 0.0
    if isinstance(said, Number):
        noise = float(said.value)
    return Growth(whole(step, "members"), of, start, noise)


def whole(step: Recipe, name: str) -> int:
    value = step.setting(name)
    assert isinstance(value, Number)
    return int(value.value)


def misfit(start: Recipe, targets: Sequence[Target], expert: str, named: bool) -> str:
    """What is wrong with such a step at these places, "" where nothing is. `expert`: the variable of the path that counts
    experts; is it `named` in the files too?"""
    if len(targets) > 1:
        return f"`{start.construct}` fills one place at a time"
    match start.construct:
        case "copies" if not expert or named:
            return "`copies` fills the experts of a bank from one tensor: `experts[e]` on the left, no `{e}` on the right"
        case "copies" if len(targets[0].shape) != 2:
            return "`copies` takes matrices, whose hidden channels are rows or columns"
        case "grow" if isinstance(targets[0].expert, int):
            return f"`grow` fills all members at once, and not number {targets[0].expert} alone"
        case "grow" if expert and not named:
            return f"`grow` takes all members of one tensor: write the path without `[{expert}]`"
        case "grow" if expert and growth(start, targets[0].storage).start:
            return (
                "fresh members of this weight start at one: say which member they copy, `like = 0`"
            )
        case "grow":
            return cannot_grow(growth(start), targets[0].storage)
    return ""


def cannot_grow(how: Growth, weight: Storage) -> str:
    have = weight.members
    if not have:
        return "`grow` adds to what stands side by side: the experts of a bank, or a router's rows for them"
    if how.members >= have:
        return f"nothing grows: the files have {how.members} members, and the model has {have}"
    if isinstance(how.like, int) and how.like >= how.members:
        return f"member {how.like} is not in the files, which have 0 to {how.members - 1}"
    return ""
