"""How rows stand before and after experts: parts of a row side by side, and rows that are the heads of a token.

M rows are the heads of N tokens, the heads of a token next to each other. A plan (Dispatch) made of M rows serves the
same routed rows as one of N rows with as many more picks (`MergePlan`).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of
from moedsl.ir.ops_dispatch import DISPATCH

ROWS = Dim("N")
HEAD_ROWS = Dim("M")


@frozen(kw_only=True)
class SortRows(Op):
    """(x [N, K * D], plan) -> x_RD: the expert of pick j gets the j-th part of the row."""

    routed: Dim
    kept: Dim
    part: Dim
    code: ClassVar[str] = "sort_rows({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".arranging:sort_rows",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def spread(self) -> Fraction:
        return Fraction(self.kept.size or 1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.routed, self.part), dims_of(inputs[0]).dtype),)


@frozen(kw_only=True)
class StackRows(Op):
    """(y_RD, plan) -> [N, K * D]: what the picks of a row gave, side by side; nothing where a pick is absent."""

    rows: Dim
    kept: Dim
    total: Dim
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def _function(self) -> str:
        return "stack_present_rows" if self.kept.loose else "stack_rows"

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{self._function}({{0}}, {{1}})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".arranging:{self._function}",)

    @property
    def spread(self) -> Fraction:
        return Fraction(1, self.kept.size or 1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.rows, self.total), dims_of(inputs[0]).dtype),)


# --- rows that are heads --------------------------------------------------------------------------


@frozen(kw_only=True)
class HeadRows(Op):
    """[N, H * X] -> [M, X]: each head of a token as a row of its own."""

    heads: Dim
    part: Dim
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.reshape(-1, {self.part.size})"

    @property
    def spread(self) -> Fraction:
        return Fraction(self.heads.size or 1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((HEAD_ROWS, self.part), dims_of(inputs[0]).dtype),)


@frozen(kw_only=True)
class MergeHeadRows(Op):
    """[M, X] -> [N, H * X]."""

    rows: Dim
    heads: Dim
    total: Dim

    @property
    def code(self) -> str:  # type: ignore[override]
        view = "reshape" if self.total.loose else "view"  # what was served may stand in any order
        return f"{{0}}.{view}(-1, {self.total.size})"

    @property
    def spread(self) -> Fraction:
        return Fraction(1, self.heads.size or 1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.rows, self.total), dims_of(inputs[0]).dtype),)


@frozen(kw_only=True)
class NumberByHead(Op):
    """expert_MK -> [N, H * K]: choices of all heads counted through, those of head h from h * E on."""

    rows: Dim
    heads: Dim
    choices: int
    total: Dim
    imports: ClassVar[tuple[str, ...]] = (".arranging:number_by_head",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"number_by_head({{0}}, {self.heads.size}, {self.choices})"

    @property
    def spread(self) -> Fraction:
        return Fraction(1, self.heads.size or 1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.rows, self.total), "int"),)


@frozen(kw_only=True)
class CountThrough(Op):
    """expert_MK -> the same, choices of all heads counted through."""

    heads: Dim
    choices: int
    imports: ClassVar[tuple[str, ...]] = (".arranging:count_through",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"count_through({{0}}, {self.heads.size}, {self.choices})"


@frozen(kw_only=True)
class OwnChoices(Op):
    """expert_MK counted through all heads -> the choices of each head from 0 on, absent ones E."""

    heads: Dim
    choices: int
    imports: ClassVar[tuple[str, ...]] = (".arranging:own_choices",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"own_choices({{0}}, {self.heads.size}, {self.choices})"


@frozen(kw_only=True)
class HeadGroup(Op):
    """How many tokens share room -> how many rows they are, one for each head."""

    heads: Dim
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{self.heads.size} * {{0}}"


@frozen(kw_only=True)
class RealHeadRows(Op):
    """real_N -> real_M, or None where all rows are."""

    heads: Dim
    atom: ClassVar[bool] = False
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"None if {{0}} is None else {{0}}.repeat_interleave({self.heads.size})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((HEAD_ROWS,), "bool"),)


@frozen(kw_only=True)
class MergePlan(Op):
    """The plan of M rows as one of N rows, with as many more picks each."""

    heads: Dim
    imports: ClassVar[tuple[str, ...]] = (".arranging:merge_plan",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"merge_plan({{0}}, {self.heads.size})"

    @property
    def spread(self) -> Fraction:
        return Fraction(1, self.heads.size or 1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (DISPATCH,)


# --- a decision as a tensor -----------------------------------------------------------------------


@frozen(kw_only=True)
class Gates(Op):
    """(weight_NK, expert_NK) -> [N, E]: the weight of each choice, zero where it was not picked."""

    choices: Dim
    loose: bool = False
    carries: ClassVar[tuple[int, ...] | None] = (0,)
    imports: ClassVar[tuple[str, ...]] = (".arranging:gates",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"gates({{0}}, {{1}}, {self.choices.size})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        weight = dims_of(inputs[0])
        return (replace(weight, dims=(*weight.dims[:-1], self.choices)),)


# --- parts of the last axis -----------------------------------------------------------------------


@frozen(kw_only=True)
class Join(Op):
    """Side by side along the last axis."""

    total: Dim
    code: ClassVar[str] = "torch.cat([{args}], dim=-1)"
    imports: ClassVar[tuple[str, ...]] = ("torch",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (replace(x, dims=(*x.dims[:-1], self.total)),)


@frozen(kw_only=True)
class Part(Op):
    """Some entries of the last axis: `size` of them from `first` on."""

    first: int
    part: Dim

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}[..., {self.first}:{self.first + (self.part.size or 0)}]"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (replace(x, dims=(*x.dims[:-1], self.part)),)


@frozen(kw_only=True)
class PerHead(Op):
    """[.., H] -> [.., H, 1]: one number for all channels of a head."""

    code: ClassVar[str] = "{0}.unsqueeze(-1)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (replace(x, dims=(*x.dims, Dim("1", 1))),)


@frozen(kw_only=True)
class Tile(Op):
    """[.., G, C] -> [.., H, C]: all heads again and again."""

    times: int
    heads: Dim

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.repeat(1, 1, {self.times}, 1)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (replace(x, dims=(*x.dims[:-2], self.heads, x.dims[-1])),)


@frozen(kw_only=True)
class Regroup(Op):
    """[.., H, C] with the heads in another order: those that share a key head together, or apart again.

    The heads stand in `groups` runs of `ranks`; afterwards those of equal rank are neighbours. `of_heads` False: a
    number for each head, [H].
    """

    groups: int
    ranks: int
    of_heads: bool = True

    @property
    def back(self) -> Regroup:
        return replace(self, groups=self.ranks, ranks=self.groups)

    @property
    def code(self) -> str:  # type: ignore[override]
        sizes = f"({self.groups}, {self.ranks})"
        if not self.of_heads:
            return f"{{0}}.unflatten(0, {sizes}).t().flatten()"
        return f"{{0}}.unflatten(-2, {sizes}).transpose(-3, -2).flatten(-3, -2)"
