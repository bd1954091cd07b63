"""Running units: one at a place, or layers in sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import TensorType, Unit
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
    then ambients: units of one stack agree on them). Output 1 + i is the list of the i-th taps of the layers, bottom
    to top; a layer with fewer taps adds nothing to it.
    """

    runs: tuple[tuple[Unit, int], ...]
    axes: Axes = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        taps = max((len(unit.taps) for unit, _ in self.runs), default=0)
        return (inputs[0], *(_listed(self.runs, i) for i in range(taps)))

    def calls(self, place: str, path: str = "") -> Iterator[tuple[str, str, Unit]]:
        index = 0
        single = len({unit.name for unit, _ in self.runs}) == 1
        for unit, count in self.runs:
            name = (path or place) if single else unit.name
            for _ in range(count):
                yield f"{name}[{index}]", f"{place}.{index}", unit
                index += 1


def _listed(runs: tuple[tuple[Unit, int], ...], index: int) -> Type:
    first = next(unit.taps[index].type for unit, _ in runs if index < len(unit.taps))
    assert not isinstance(first, TensorType)
    return first
