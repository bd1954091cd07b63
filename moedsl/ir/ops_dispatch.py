"""Rows to the experts that serve them, and back: dispatch, gather, combine, kinds of experts.

N rows, K picks of each, R routed rows sorted by expert. RecordType("Dispatch") is their order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, RecordType, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of

if TYPE_CHECKING:
    from fractions import Fraction

DISPATCH = RecordType("Dispatch")
ROW_COUNT = RecordType("int")


@frozen(kw_only=True)
class Dispatch(Op):
    """(expert_NK[, most rows]) -> the order in which routed rows stand, sorted by expert; absent picks have none."""

    experts: int
    bounded: bool = False
    imports: ClassVar[tuple[str, ...]] = (".routing:dispatch",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"dispatch({{0}}, {self.experts}{', {1}' if self.bounded else ''})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (DISPATCH,)


@frozen(kw_only=True)
class GatherRows(Op):
    """(x_ND, rows) -> a copy of each row for each expert that it goes to, x_RD."""

    routed: Dim
    kept: Dim
    code: ClassVar[str] = "gather_rows({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".routing:gather_rows",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def spread(self) -> Fraction:
        return self.kept.picks

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((self.routed, *x.dims[1:]), x.dtype),)


@frozen(kw_only=True)
class Combine(Op):
    """(y_RD, weight_NK, rows) -> the weighted sum of each row's experts, y_ND."""

    kept: Dim
    code: ClassVar[str] = "combine({0}, {1}, {2})"
    imports: ClassVar[tuple[str, ...]] = (".routing:combine",)
    carries: ClassVar[tuple[int, ...] | None] = (0, 1)

    @property
    def spread(self) -> Fraction:
        return 1 / self.kept.picks

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        y, weight = dims_of(inputs[0]), dims_of(inputs[1])
        return (TensorType((weight.dims[0], *y.dims[1:]), y.dtype),)


@frozen(kw_only=True)
class RowWeights(Op):
    """(weight_NK, rows) -> the weight of each routed row, [R, 1]."""

    routed: Dim
    carries: ClassVar[tuple[int, ...] | None] = (0,)
    code: ClassVar[str] = "row_weights({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".selection:row_weights",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.routed, Dim("1", 1)), dims_of(inputs[0]).dtype),)


# --- banks of several kinds -----------------------------------------------------------------------


@frozen(kw_only=True)
class KindRows(Op):
    """expert_NK -> choices of one kind counted from 0; those of other kinds are absent: numbered `count`."""

    first: int
    count: int
    choices: int
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def among(self) -> tuple[int, int]:
        return self.first, self.count

    @property
    def code(self) -> str:  # type: ignore[override]
        first, last = self.first, self.first + self.count - 1
        if not first:
            return f"{{0}}.clamp(max={self.count})"
        among = f"({{0}} >= {first}) & ({{0}} <= {last})"
        if last == self.choices - 1:
            among = f"{{0}} >= {first}"
        elif self.count == 1:
            among = f"{{0}} == {first}"
        return f"({{0}} - {first}).where({among}, {self.count})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expert = dims_of(inputs[0])
        kept = replace(expert.dims[-1], loose=True)
        return (replace(expert, dims=(*expert.dims[:-1], kept)),)


@frozen(kw_only=True)
class WeightSum(Op):
    """weight_NK -> the total weight of each row, [N, 1]."""

    code: ClassVar[str] = "{0}.sum(-1, keepdim=True)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        weight = dims_of(inputs[0])
        return (TensorType((*weight.dims[:-1], Dim("1", 1)), weight.dtype),)
