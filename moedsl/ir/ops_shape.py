"""The same numbers in another arrangement."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of


@frozen(kw_only=True)
class SplitHeads(Op):
    """[.., HC] -> [.., H, C], by the axes that the flat one is made of."""

    parts: tuple[Dim, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.unflatten(-1, ({', '.join(str(d.size) for d in self.parts)}))"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((*x.dims[:-1], *self.parts), x.dtype),)


@frozen(kw_only=True)
class MergeHeads(Op):
    """[.., H, C] -> [.., HC]."""

    flat: Dim
    code: ClassVar[str] = "{0}.flatten(-2)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((*x.dims[:-2], self.flat), x.dtype),)


@frozen(kw_only=True)
class Cut(Op):
    """Cut along the last axis into parts of these sizes."""

    parts: tuple[Dim, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.split([{', '.join(str(d.size) for d in self.parts)}], dim=-1)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return tuple(TensorType((*x.dims[:-1], part), x.dtype) for part in self.parts)


@frozen(kw_only=True)
class OneHead(Op):
    """[.., C] -> [.., 1, C]."""

    one: Dim
    code: ClassVar[str] = "{0}.unsqueeze(-2)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((*x.dims[:-1], self.one, x.dims[-1]), x.dtype),)


@frozen(kw_only=True)
class Append(Op):
    """([.., H, A], [.., H, B]) -> [.., H, A + B]; where `heads`, the second has one head, which goes to all of them."""

    whole: Dim
    heads: int = 0
    imports: ClassVar[tuple[str, ...]] = ("torch",)

    @property
    def code(self) -> str:  # type: ignore[override]
        second = f"{{1}}.expand(-1, -1, {self.heads}, -1)" if self.heads else "{1}"
        return f"torch.cat([{{0}}, {second}], dim=-1)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((*x.dims[:-1], self.whole), x.dtype),)


@frozen(kw_only=True)
class Rows(Op):
    """The stream as rows: [B, T, D] -> [N, D]."""

    rows: Dim
    code: ClassVar[str] = "{0}.flatten(0, 1)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (replace(x, dims=(self.rows, *x.dims[2:])),)


@frozen(kw_only=True)
class Unrows(Op):
    """Rows as the stream they were: [N, D] -> [B, T, D], like the second input; `same`: of the same width."""

    same: bool = True
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return "{0}.view_as({1})" if self.same else "{0}.unflatten(0, {1}.shape[:2])"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        y, like = dims_of(inputs[0]), dims_of(inputs[1])
        return (TensorType((*like.dims[:-1], y.dims[-1]), y.dtype),)


@frozen(kw_only=True)
class RowNames(Op):
    """Rows under another name: [B, D] as [N, D], or back, like the second input."""

    rows: Dim = Dim("B")
    like: bool = False
    literal: ClassVar[bool] = True
    code: ClassVar[str] = "{0}"

    @property
    def carries(self) -> tuple[int, ...] | None:  # type: ignore[override]
        return (0,)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        rows = dims_of(inputs[1]).dims[0] if self.like else self.rows
        return (replace(x, dims=(rows, *x.dims[1:])),)


@frozen(kw_only=True)
class EveryPosition(Op):
    """A row for each sequence at all positions of it: [B, D] -> [B, 1, D]."""

    code: ClassVar[str] = "{0}[:, None]"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], Dim("1", 1), *x.dims[1:]), x.dtype),)


@frozen(kw_only=True)
class Field(Op):
    """`routing.expert_NK`: a tensor of a record. Gradients flow through the floating ones."""

    field: str
    type: Type

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.{self.field}"

    @property
    def carries(self) -> tuple[int, ...] | None:  # type: ignore[override]
        return () if getattr(self.type, "dtype", "int") in ("int", "bool") else None

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (self.type,)
