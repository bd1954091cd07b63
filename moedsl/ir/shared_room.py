"""Room that the experts of a device share, and sequences of which nothing is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from moedsl.constructs.capacity import Room
from moedsl.constructs.registry import construct_of
from moedsl.ir import capacity, ops
from moedsl.ir.graph import Dim, Value
from moedsl.model import terms

if TYPE_CHECKING:
    from fractions import Fraction

    from moedsl.constructs.router import Router
    from moedsl.ir.build import Builder

GATED = ("best", "strongest")


def rooms(term: object) -> Iterator[Room]:
    """Every `room(...)` of a capacity, in any phase, of any kind."""
    match term:
        case terms.Recipe():
            construct = construct_of(term)
            if isinstance(construct, Room):
                yield construct
        case terms.Phase() | terms.Items():
            for part in term.parts:
                yield from rooms(part)


def is_shared(router: Router) -> bool:
    return any(room.devices != "none" or room.spare for room in rooms(router.capacity))


def spares(router: Router) -> bool:
    return any(room.spare for room in rooms(router.capacity))


def refused(build: Builder, router: Router, why: str) -> bool:
    for room in rooms(router.capacity):
        if room.devices != "none" or room.spare:
            _report(build, router, room, f"room of devices, and sequences to spare: {why}")
            return True
    return False


def _report(build: Builder, router: Router, room: Room, what: str, help: str = "") -> None:
    setting = "devices" if room.devices != "none" else "spare"
    where = (router.recipe.origin("capacity"), "the room of this router")
    build.mismatch(
        "E0420",
        what,
        (room.recipe.origin(setting), f"`{setting}` here"),
        where,
        help=help or "leave `devices` and `spare` out",
    )


def serve(build: Builder, router: Router, picked: Value, choices: Dim) -> capacity.Served:
    """The picks that find room on their devices; of spared sequences, all of them."""
    kept, among = build.last(picked), choices.size or 1
    places = _places(build, router, choices)
    if places is None or _unfit(build, router):
        return capacity.Served(picked, build.poison(picked))
    picks, each = kept.size or 1, among // places
    found = [
        _shared(rule, min(picks, each)) for rule in capacity.rules(router.capacity, picks, among)
    ]
    size = capacity.group_size(build, router, picked)
    more = [] if found[1] == found[2] else [build.ambient(ops.CacheHandle())]
    slots = ops.Slots(train=found[0], eval=found[1], decode=found[2])
    room = build.op(slots, size, *more, name="slots")
    real = ops.real_rows(build, picked)
    spare = found_spare(router)
    spared = build.ambient(ops.SparedRows(share=spare)) if spare else None
    op = ops.ServeShared(
        priority=router.priority,
        choices=among,
        picks=picks,
        mean=_mean(found[0], places, kept),
        lookahead=capacity.lookahead(router),
        roomy=all(rule.roomy for rule in found),
        places=places,
    )
    gate = []
    if op.gated:
        fill = "0" if kept.loose else None
        own = build.op(ops.Gather(fill=fill), build.scope["gate"], picked, name="gate")
        gate = [own if spared is None else build.op(ops.SparedFirst(), own, spared, name="gate")]
    build.spans.append(router.recipe.origin("capacity"))
    served = build.op(op, picked, size, room, real, *gate)
    served = capacity.in_phase(build, router, served, picked)
    if spared is not None:
        keep = ops.KeepSpared(choices=among)
        served = build.op(keep, served, picked, spared, real, name="served")
    build.spans.pop()
    if capacity.may_fall_short(router):
        limit = ops.SlotRows(choices=places)
        build.bind("rows", build.op(limit, picked, size, room, name="rows"))
    return capacity.Served(picked, served)


def _shared(rule: ops.Rule, each: int) -> ops.SharedRule:
    said = {one.name: getattr(rule, one.name) for one in fields(ops.Rule)}
    return ops.SharedRule(**said, each=each)


def found_spare(router: Router) -> float:
    """The share of sequences in training."""
    return max(
        (float(room.spare) for room in rooms(capacity.phases(router.capacity)[0])), default=0
    )


def _places(build: Builder, router: Router, choices: Dim) -> int | None:
    """How many devices share the choices among them, or each choice by itself; None after a finding."""
    among = choices.size or 1
    limited = [term for term in capacity.phases(router.capacity) if not _is_none(term)]
    counts = {_devices(term) for term in limited}
    room = next(rooms(router.capacity))
    if len(counts) > 1:
        _report(
            build,
            router,
            next(room for room in rooms(router.capacity) if room.devices != "none"),
            "room of devices in one phase and other room in another",
            help="give all phases that limit room the same `devices`, or no limit: `eval = none`",
        )
        return None
    places = counts.pop() or among
    if among % places:
        build.mismatch(
            "E0411",
            f"{among} choices do not stand on {places} equal devices",
            (room.recipe.origin("devices"), "devices"),
            (choices.origin, f"{among} choices"),
            help="the number of devices must divide the number of choices",
        )
        return None
    return places


def _is_none(term: object) -> bool:
    return isinstance(term, terms.Word) or term == "none"


def _devices(term: object) -> int | None:
    found = next(rooms(term), None)
    return found.devices if found is not None and isinstance(found.devices, int) else None


def _unfit(build: Builder, router: Router) -> bool:
    """What room of devices and sequences to spare do not go with."""
    if build.frame.heads is not None:
        return refused(build, router, "heads decide, each among experts of its own")
    if isinstance(router.overflow, terms.Recipe):
        return refused(build, router, "the next best choice asks an expert for its own")
    if spares(router) and router.priority not in GATED:
        room = next(room for room in rooms(router.capacity) if room.spare)
        build.mismatch(
            "E0420",
            f"what is spared is served first, and `priority = {router.priority}` says who is",
            (room.recipe.origin("spare"), "served first"),
            (router.recipe.origin("priority"), "by another order"),
            help="write `priority = strongest`",
        )
        return True
    return False


def _mean(rule: ops.Rule, places: int, kept: Dim) -> Fraction | None:
    """How many picks are served where there is less room than picks even at perfect balance."""
    if rule.share is None or rule.share * places >= kept.picks:
        return None
    return rule.share * places
