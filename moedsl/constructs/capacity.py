"""How much room experts have, among whom they share it, and what becomes of a pick that finds none."""

from __future__ import annotations

from typing import ClassVar

from moedsl.constructs.declare import Construct, Number, Words


class Capacity(Construct):
    """What all capacities share: how many rows of a group an expert takes."""

    abstract: ClassVar[bool] = True
    kind = "capacity"


class Room(Capacity):
    """Room in proportion to the rows of a group: factor * picks * rows / choices, rounded.

    A plain number `capacity = 1.25` is `room(1.25)`. With `per = token` the picks of a token do not count (2 then has
    room for both picks of every token at perfect balance), with `per = group` the factor is a share of all rows of the
    group: where kinds differ in weight (Jin et al., 2024, MoE++, with t = 0.75 and a factor of 1.1 on 8 costly and 4 free
    experts) `[full = room(1.1 * 0.75 / (0.75 * 8 + 4), per = group), free = room(1.1 / (0.75 * 8 + 4), per = group)]`. What was rounded is multiplied by `times`, is `least` at least, and is raised to a `multiple`. The number of
    rows counts padding too, though padding takes no room.

    With `devices` the experts stand on so many devices in order, and room is that of a device, for the picks of all its
    experts: `room(1, devices = 8)` is the average load. Of `spare`, a share of the sequences drawn anew in each forward of
    training, no pick is dropped: theirs are served first, by `priority = strongest` or `best`.
    """

    source = (
        "mesh_tensorflow moe.py, lingvo gshard_layers.py, flaxformer routing.py, vmoe nn/routing.py; DeepSeek-V2, 2024, "
        "section 2.2.4 (devices, spare)"
    )
    factor = Number(
        low=0, exclusive_low=True, positional=True, doc="1 is just enough at perfect balance"
    )
    per = Words("pick", choices=("pick", "token", "group"), doc="what the factor is for each of")
    round = Words("up", choices=("up", "down", "nearest"), doc="halves go to the even neighbour")
    times = Number("1", low=1, whole=True, doc="factor after rounding")
    least = Number("1", low=0, whole=True, unit="rows", doc="no expert has less room")
    multiple = Number("1", low=1, whole=True, unit="rows", doc="room is a multiple of this")
    devices = Number(
        "none",
        low=1,
        whole=True,
        words=("none",),
        unit="devices",
        doc="how many devices the experts stand on, which share room there; `none`: room is each expert's own",
    )
    spare = Number(
        "0", low=0, high=1, doc="share of sequences of which nothing is dropped, in training"
    )


class Slots(Capacity):
    """The same room for every expert, whatever the number of rows."""

    source = "transformers switch_transformers: expert_capacity"
    count = Number(low=1, whole=True, positional=True, unit="rows", doc="rows of a group")


class Group(Construct):
    """Rows among which room is shared."""

    abstract: ClassVar[bool] = True
    kind = "group"


class Tokens(Group):
    """Groups of neighbouring tokens of the batch, sequence after sequence; the last may be smaller."""

    source = "Lepikhin et al., 2020, section 3.1"
    count = Number(low=1, whole=True, positional=True, unit="tokens", doc="tokens of a group")


class Overflow(Construct):
    """What becomes of picks that find no room."""

    abstract: ClassVar[bool] = True
    kind = "overflow"


class Next(Overflow):
    """Who got less than it picked asks its next best choice, round after round, in the order of tokens.

    A round is over before the next begins, so what a token gets may depend on tokens after it.
    """

    source = "Fedus et al., 2021, appendix B: no token left behind"
    rounds = Number(
        "4", low=1, whole=True, positional=True, doc="how many further choices are asked"
    )
