"""What each router of a model does beyond its numbers: in one kernel or in steps, and whom it leaves without room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moedsl.frozen import frozen
from moedsl.ir import ops
from moedsl.ir.graph import Graph, Node, Unit
from moedsl.ir.info import ranges
from moedsl.ir.loads import TOKENS, dropped, uniform, zipf
from moedsl.ir.ops_capacity import Rule


@frozen(kw_only=True)
class RoomNote:
    """Room in one phase: `slots` of one expert (of a `kind`), or of one `device`, in a group of `tokens`. `dropped`: the share of picks that find none,
    expected under uniform and under Zipf use of the choices; None where experts choose, and nothing overflows."""

    phase: str
    tokens: int
    slots: int
    dropped: tuple[float, float] | None = None
    kind: str = ""
    device: bool = False

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"phase": self.phase, "tokens": self.tokens, "slots": self.slots}
        if self.kind:
            found["kind"] = self.kind
        if self.device:
            found["of"] = "device"
        if self.dropped is not None:
            found["dropped"] = dict(
                zip(("uniform", "zipf"), map(_rounded, self.dropped), strict=True)
            )
        return found

    def __str__(self) -> str:
        of = f" of `{self.kind}`" if self.kind else ""
        text = f"{self.phase}: {self.slots:,} of {self.tokens:,} tokens to an expert{of}"
        if self.device:
            text = f"{self.phase}: {self.slots:,} picks of {self.tokens:,} tokens to a device"
        if self.dropped is None:
            return text
        even, uneven = (f"{share:.1%}" for share in self.dropped)
        return f"{text}, drops {even} of picks (uniform), {uneven} (Zipf)"


@frozen(kw_only=True)
class RouterNote:
    """Equal routers. `kernel`: whether score, choice and weights are one Triton kernel on a GPU. `couples`: what makes
    a token's experts depend on other tokens of the batch."""

    places: str
    kernel: bool
    couples: str = ""
    rooms: tuple[RoomNote, ...] = ()

    def json(self) -> dict[str, Any]:
        return {
            "places": self.places,
            "kernel": self.kernel,
            "couples": self.couples or None,
            "capacity": [room.json() for room in self.rooms],
        }

    @property
    def lines(self) -> tuple[str, ...]:
        how = "one Triton kernel on a GPU" if self.kernel else "plain PyTorch steps"
        coupled = (
            f"; {self.couples}: a token's experts depend on other tokens" if self.couples else ""
        )
        return (f"{self.places}: {how}{coupled}", *(f"  {room}" for room in self.rooms))


def _rounded(share: float) -> float:
    return round(share, 6)


def routers(graph: Graph, tokens: int = 1) -> tuple[RouterNote, ...]:
    """Of a graph after its rewrites. `tokens`: of a sequence, and of a batch, where that is more than one."""
    found: dict[Unit, list[str]] = {}
    for place in graph.places():
        if place.unit.kind == "router":
            found.setdefault(place.unit, []).append(place.path)
    return tuple(_note(unit, ", ".join(ranges(paths)), tokens) for unit, paths in found.items())


def _note(unit: Unit, places: str, tokens: int) -> RouterNote:
    by_op = {type(node.op): node for node in unit.nodes}
    couples = next((getattr(node.op, "couples", "") for node in reversed(unit.nodes)
                    if getattr(node.op, "couples", "")), "")  # fmt: skip
    return RouterNote(
        places=places,
        kernel=ops.Route in by_op,
        couples=couples,
        rooms=_rooms(unit, by_op, tokens) if ops.Slots in by_op else (),
    )


def _rooms(unit: Unit, by_op: dict[type, Node], tokens: int) -> tuple[RoomNote, ...]:
    size = by_op[ops.GroupSize].op
    assert isinstance(size, ops.GroupSize)
    group = size.rows or (tokens if tokens > 1 else TOKENS)
    serving = [node for node in unit.nodes if isinstance(node.op, ops.Serve)]
    if not serving:  # experts choose
        return _notes(by_op[ops.Slots].op, group, None, None)
    found: list[RoomNote] = []
    for node in serving:
        own, slots = unit.producer(node.inputs[0]), unit.producer(node.inputs[2])
        assert slots is not None and isinstance(node.op, ops.Serve)
        kind = own.op if own is not None and isinstance(own.op, ops.OfKind) else None
        found += _notes(slots.op, group, node.op, kind)
    return tuple(found)


def _notes(
    slots: ops.Op, group: int, serve: ops.Serve | None, kind: ops.OfKind | None
) -> tuple[RoomNote, ...]:
    assert isinstance(slots, ops.Slots)
    found: dict[Rule, str] = {}
    for phase, rule in zip(("training", "evaluation", "decoding"), slots.rules, strict=True):
        if not rule.unlimited:
            found[rule] = f"{found[rule]} and {phase}" if rule in found else phase
    notes = []
    for rule, phase in found.items():
        room = rule.slots(group)
        shares = None if serve is None else _dropped(serve, kind, group, room)
        phase = "always" if phase == "training and evaluation and decoding" else phase
        phase = phase.replace("evaluation and decoding", "evaluation")
        label = kind.label if kind is not None else ""
        note = RoomNote(phase=phase, tokens=group, slots=room, dropped=shares, kind=label)
        notes.append(replace(note, device=_on_devices(serve)))
    return tuple(notes)


def _dropped(
    serve: ops.Serve, kind: ops.OfKind | None, group: int, room: int
) -> tuple[float, float]:
    """Of the picks of a kind, as if it were alone in its popularity; of devices, each pick goes to one by itself."""
    if _on_devices(serve):
        assert isinstance(serve, ops.ServeShared)
        even, uneven = uniform(1, serve.places), zipf(1, serve.places)
        rows = group * serve.picks
        return dropped(rows, 1, room, even), dropped(rows, 1, room, uneven)
    shares = []
    for use in (uniform, zipf):
        choices = serve.choices // max(1, serve.heads)  # of a head, if heads decide
        chances, picks = use(serve.picks, choices), float(serve.picks)
        if kind is not None:
            picks = serve.picks * kind.count / choices
            chances = [picks / kind.count] * kind.count if use is uniform else _zipf(picks, kind)
        shares.append(dropped(group, picks, room, chances))
    return shares[0], shares[1]


def _on_devices(serve: ops.Serve | None) -> bool:
    return isinstance(serve, ops.ServeShared) and serve.each > 1


def _zipf(picks: float, kind: ops.OfKind) -> list[float]:
    """In proportion to 1 / rank among the experts of the kind."""
    whole = sum(1 / rank for rank in range(1, kind.count + 1))
    return [min(1.0, picks / rank / whole) for rank in range(1, kind.count + 1)]
