"""Attention written out, where its scores are no form that fused kernels know: keep, compare, and mix."""

from __future__ import annotations

import math
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, TensorType
from moedsl.ir.ops_attention import AttentionMask
from moedsl.ir.ops_base import Op, Type, dims_of, number, rate_code
from moedsl.ir.shapes import agree

SEEN = Dim("S")


@frozen(kw_only=True)
class Remember(Op):
    """(x [B, T, ..], cache) -> with what the cache holds of earlier tokens, [B, S, ..]."""

    code: ClassVar[str] = "remember({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".state:remember",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], SEEN, *x.dims[2:]), x.dtype),)

    def cached(self, *inputs: Type) -> int:
        return math.prod(dim.size or 0 for dim in dims_of(inputs[0]).dims[2:])


@frozen(kw_only=True)
class _Looking(Op):
    """Looks at other rows through its second input; what a mask hides has no weight in the end."""

    mask: AttentionMask
    looks: ClassVar[tuple[int, ...]] = (1,)

    @property
    def sees(self) -> str:  # type: ignore[override]
        return "past" if self.mask.causal else "all"

    @property
    def causal_form(self) -> str:
        return "" if self.mask.causal else "mask = causal"


@frozen(kw_only=True)
class Dot(_Looking):
    """(q [B, T, H, C], k [B, S, G, C]) -> scaled products, [B, H, T, S]."""

    scale: float
    imports: ClassVar[tuple[str, ...]] = (".state:dot",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"dot({{0}}, {{1}}, {number(self.scale)})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        q, k = dims_of(inputs[0]), dims_of(inputs[1])
        agree(q.dims[-1], k.dims[-1], "the head sizes of queries and keys")
        return (TensorType((q.dims[0], q.dims[2], q.dims[1], k.dims[1]), q.dtype),)

    def flops_per_position(self, *inputs: Type) -> int:
        return 2 * _channels(inputs[0])


@frozen(kw_only=True)
class Mix(_Looking):
    """(score [B, H, T, S], v [B, S, G, C], mask) -> softmax(score) v, [B, T, H, C]."""

    dropout: float = 0.0
    eval_dropout: float = 0.0
    function: str = "mix"
    carries: ClassVar[tuple[int, ...] | None] = (0, 1)

    @property
    def drops(self) -> bool:
        return bool(self.dropout or self.eval_dropout)

    @property
    def causal(self) -> bool:
        return self.mask.causal

    @property
    def code(self) -> str:  # type: ignore[override]
        rate = f", dropout={rate_code(self.dropout, self.eval_dropout)}" if self.drops else ""
        return f"{self.function}({{0}}, {{1}}, {{2}}{rate})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".state:{self.function}",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        score, v = dims_of(inputs[0]), dims_of(inputs[1])
        batch, heads, tokens, _ = score.dims
        return (TensorType((batch, tokens, heads, v.dims[-1]), v.dtype),)

    def flops_per_position(self, *inputs: Type) -> int:
        score, v = dims_of(inputs[0]), dims_of(inputs[1])
        return 2 * (score.dims[1].size or 0) * (v.dims[-1].size or 0)


def _channels(type_: Type) -> int:
    heads, size = dims_of(type_).dims[-2:]
    return (heads.size or 0) * (size.size or 0)
