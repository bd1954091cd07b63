"""Choices by the product of two halves, and experts that are looked up: very many, very small ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of
from moedsl.ir.shapes import agree


@frozen(kw_only=True)
class ProductScores(Op):
    """Queries [N, heads * C] -> how well each half goes with each half key, [M, 2, A]; M rows of all heads. Keys are
    [2, A, C / 2], those of each head where `own`."""

    rows: Dim
    halves: Dim
    inner: Dim
    heads: int
    own: bool

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.own:
            return "score_halves_by_head({0}, {self})"
        return f"score_halves({{0}}, {{self}}, {self.heads})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".products:score_halves{'_by_head' if self.own else ''}",)

    def parameters(self) -> tuple[Parameter, ...]:
        half = (self.inner.size or 0) // self.heads // 2
        lead = (self.heads,) if self.own else ()
        return (Parameter("weight", (*lead, 2, self.halves.size or 0, half)),)

    @property
    def spread(self) -> Fraction:
        return Fraction(self.heads)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        agree(x.dims[-1], self.inner, "a query and its keys")
        return (TensorType((self.rows, Dim("2", 2), self.halves), x.dtype),)

    def flops(self, *inputs: Type) -> int:
        return 2 * (self.halves.size or 0) * (self.inner.size or 0)


@frozen(kw_only=True)
class Halves(Op):
    """[M, 2, A] -> the scores of all halves of all heads of a row, [N, total]."""

    rows: Dim
    heads: int
    total: Dim
    code: ClassVar[str] = "{0}.reshape(-1, {total.size})"

    @property
    def spread(self) -> Fraction:
        return Fraction(1, self.heads)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.rows, self.total), dims_of(inputs[0]).dtype),)


@frozen(kw_only=True)
class TopProducts(Op):
    """[M, 2, A] -> of all A * A sums of two halves the `kept` largest: (which [M, K] int, the sums [M, K])."""

    kept: Dim
    choices: Dim
    in_all: Dim | None = None  # what all heads keep together
    code: ClassVar[str] = "top_products({0}, {kept.size})"
    imports: ClassVar[tuple[str, ...]] = (".products:top_products",)

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        dims = (x.dims[0], self.kept)
        return (TensorType(dims, "int"), TensorType(dims, x.dtype))


@frozen(kw_only=True)
class Clamped(Op):
    """Picks, the absent ones as the last choice there is."""

    most: int
    code: ClassVar[str] = "{0}.clamp(max={most})"
    carries: ClassVar[tuple[int, ...] | None] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        picks = dims_of(inputs[0])
        return (replace(picks, dims=(*picks.dims[:-1], replace(picks.dims[-1], loose=False))),)


@frozen(kw_only=True)
class LookUp(Op):
    """(x_ND, expert_NK) -> the product of each row with the one vector of each of its experts, [N, K]."""

    bank: int
    inner: Dim
    kept: Dim
    met: ClassVar[str] = "looked up"
    code: ClassVar[str] = "look_up({0}, {self}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".products:look_up",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def meets(self) -> Fraction:
        """How many experts of the bank a row meets."""
        return self.kept.picks

    def parameters(self) -> tuple[Parameter, ...]:
        inner = self.inner.size or 0
        return (Parameter("weight", (self.bank, inner), bank=True, fans=(inner, 1)),)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], self.kept), x.dtype),)

    def flops(self, *inputs: Type) -> int:
        return 2 * (self.inner.size or 0)


@frozen(kw_only=True)
class SumUp(Op):
    """(h_NK, expert_NK) -> the sum of the one vector of each of its experts, times h: [N, D]."""

    bank: int
    out: Dim
    kept: Dim
    met: ClassVar[str] = "looked up"
    code: ClassVar[str] = "sum_up({0}, {self}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".products:sum_up",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def meets(self) -> Fraction:
        return self.kept.picks

    def parameters(self) -> tuple[Parameter, ...]:
        out = self.out.size or 0
        return (Parameter("weight", (self.bank, out), bank=True, fans=(1, out)),)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        h = dims_of(inputs[0])
        return (replace(h, dims=(h.dims[0], self.out)),)

    def flops(self, *inputs: Type) -> int:
        return 2 * (self.out.size or 0)
