"""Running units: one at a place, or layers in sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import RecordType, Unit, Value
from moedsl.ir.ops_base import Op, Type
from moedsl.ir.shapes import Axes, relabelled


@frozen(kw_only=True)
class Call(Op):
    """Run a unit at this node's place. Inputs: the unit's inputs then its ambients; outputs: its outputs then taps.
    `axes`: what the unit's streams are here, where that is another."""

    unit: Unit
    axes: Axes = ()
    code: ClassVar[str] = "{self}({args})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        axes = dict(self.axes)
        return tuple(relabelled(v.type, axes) for v in [*self.unit.outputs, *self.unit.taps])

    def calls(self, place: str, path: str = "") -> Iterator[tuple[str, str, Unit]]:
        yield path or place, place, self.unit


@frozen(kw_only=True)
class Stack(Op):
    """Layers in sequence under one attribute, numbered from 0: runs of (unit, count).

    The stream is the first input and the first output. Every layer takes the same further inputs (captured tensors,
    then ambients: units of one stack agree on them). The outputs after the stream are lists of what layers hand up,
    bottom to top: of each kind of record the first ones, the second ones, ...; see `lists_of`.
    `order`: where layers come back, which of them runs at each step; else each runs once.
    """

    runs: tuple[tuple[Unit, int], ...]
    axes: Axes = ()
    order: tuple[int, ...] = ()

    @property
    def layers(self) -> list[Unit]:
        """Those that there are, by number."""
        return [unit for unit, count in self.runs for _ in range(count)]

    @property
    def steps(self) -> list[tuple[Unit, int]]:
        """Those that run, in sequence, in runs of equal ones."""
        if not self.order:
            return list(self.runs)
        layers = self.layers
        return [(layers[index], 1) for index in self.order]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (inputs[0], *(tap.type for tap in handed_by(unit for unit, _ in self.runs)))

    def calls(self, place: str, path: str = "") -> Iterator[tuple[str, str, Unit]]:
        single = len({unit.name for unit, _ in self.runs}) == 1
        layers = self.layers
        for index in self.order or range(len(layers)):
            name = (path or place) if single else layers[index].name
            yield f"{name}[{index}]", f"{place}.{index}", layers[index]


def handed_by(units: Iterable[Unit]) -> list[Value]:
    """A tap for each list that several layers fill: of each kind of record as many as the layer with most has."""
    longest: dict[str, list[Value]] = {}
    for unit in units:
        for kind, taps in _by_kind(unit).items():
            known = longest.get(kind, [])
            longest[kind] = taps if len(taps) > len(known) else known
    return [tap for kind in sorted(longest, key=_rank) for tap in longest[kind]]


def lists_of(unit: Unit, handed: Sequence[Value]) -> list[int]:
    """For each tap of a layer, the index of the list that it goes to, of those that `handed_by` gives."""
    counts: dict[str, int] = {}
    found = []
    for tap in unit.taps:
        kind = _kind(tap)
        places = [index for index, other in enumerate(handed) if _kind(other) == kind]
        found.append(places[counts.get(kind, 0)])
        counts[kind] = counts.get(kind, 0) + 1
    return found


def tap_in(unit: Unit, handed: Sequence[Value], index: int) -> int | None:
    """The tap of a layer that goes to a list, if there is one."""
    lists = lists_of(unit, handed)
    return lists.index(index) if index in lists else None


def _by_kind(unit: Unit) -> dict[str, list[Value]]:
    found: dict[str, list[Value]] = {}
    for tap in unit.taps:
        found.setdefault(_kind(tap), []).append(tap)
    return found


def _kind(tap: Value) -> str:
    assert isinstance(tap.type, RecordType)
    return tap.type.name


def _rank(kind: str) -> tuple[bool, str]:
    return kind != "Routing", kind
