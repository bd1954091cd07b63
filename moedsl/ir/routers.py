"""What each router of a model does beyond its numbers: in one kernel or in steps, and whom it leaves without room."""

from __future__ import annotations

from typing import Any

from moedsl.frozen import frozen
from moedsl.ir import ops
from moedsl.ir.graph import Graph, Node, Unit
from moedsl.ir.info import ranges
from moedsl.ir.loads import TOKENS, dropped, uniform, zipf
from moedsl.ir.ops_capacity import Rule


@frozen(kw_only=True)
class RoomNote:
    """Room in one phase: `slots` of one expert in a group of `tokens`. `dropped`: the share of picks that find none,
    expected under uniform and under Zipf use of the choices; None where experts choose, and nothing overflows."""

    phase: str
    tokens: int
    slots: int
    dropped: tuple[float, float] | None = None

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"phase": self.phase, "tokens": self.tokens, "slots": self.slots}
        if self.dropped is not None:
            found["dropped"] = dict(
                zip(("uniform", "zipf"), map(_rounded, self.dropped), strict=True)
            )
        return found

    def __str__(self) -> str:
        text = f"{self.phase}: {self.slots:,} of {self.tokens:,} tokens to an expert"
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
    size, slots = by_op[ops.GroupSize].op, by_op[ops.Slots].op
    assert isinstance(size, ops.GroupSize) and isinstance(slots, ops.Slots)
    group = size.rows or (tokens if tokens > 1 else TOKENS)
    serve = by_op.get(ops.Serve)
    picks, choices = (serve.op.picks, serve.op.choices) if serve is not None else (0, 0)  # type: ignore[attr-defined]
    found: dict[Rule, str] = {}
    for phase, rule in zip(("training", "evaluation", "decoding"), slots.rules, strict=True):
        if not rule.unlimited:
            found[rule] = f"{found[rule]} and {phase}" if rule in found else phase
    notes = []
    for rule, phase in found.items():
        room = rule.slots(group)
        shares = None
        if serve is not None:
            even, uneven = uniform(picks, choices), zipf(picks, choices)
            shares = (dropped(group, picks, room, even), dropped(group, picks, room, uneven))
        phase = phase.replace("evaluation and decoding", "evaluation")
        phase = "always" if phase == "training and evaluation" else phase
        notes.append(RoomNote(phase=phase, tokens=group, slots=room, dropped=shares))
    return tuple(notes)
