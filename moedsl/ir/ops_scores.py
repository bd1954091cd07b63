"""Attention written out, where its scores are no form that fused kernels know: keep, compare, and mix."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType
from moedsl.ir.ops_attention import PAST, TOKENS, Ambient, AttentionMask, Placed
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

    def cached(self, *inputs: Type) -> int:
        return 0 if self.mask.main else _channels(inputs[1])  # keys of another stream


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

    def cached(self, *inputs: Type) -> int:
        return 0 if self.mask.main else _channels(inputs[1])


def _channels(type_: Type) -> int:
    """Numbers of one row of the stream."""
    total = 1
    for dim in dims_of(type_).dims[2:]:
        total *= dim.size or 0
    return total


# --- learned distances ----------------------------------------------------------------------------


@frozen(kw_only=True)
class Buckets(Placed):
    """The bucket of each query's distance to each key, [T, S]; `remembered`: keys of earlier calls are among them."""

    causal: bool
    count: int
    max_distance: int
    remembered: bool
    name: ClassVar[str] = "buckets"
    rank: ClassVar[int] = 5
    part: ClassVar[str | None] = "chosen_pairs({0}, {1})"
    by_place: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TOKENS, PAST) if self.main else (TOKENS,)

    @property
    def function(self) -> str:
        return "causal_buckets" if self.causal else "relative_buckets"

    @property
    def code(self) -> str:  # type: ignore[override]
        past = "{1}" if self.main else "0"
        return f"{self.function}({{0}}, {past}, {self.count}, {self.max_distance})"

    @property
    def other_name(self) -> str:
        return f"{'causal' if self.causal else 'both'}_{self.count}_buckets"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".positions:{self.function}",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.stream, SEEN if self.remembered else self.stream), "int"),)


@frozen(kw_only=True)
class OwnDistances(Op):
    """A number for each head and bucket: [T, S] int -> [H, T, S]; of some chosen tokens, [B, T, S] -> [B, H, T, S]."""

    heads: Dim
    count: int
    code: ClassVar[str] = "{self}({0}).movedim(-1, -3)"
    carries: ClassVar[tuple[int, ...] | None] = ()

    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("weight", (self.count, self.heads.size or 0)),)

    def module(self) -> str:
        return f"nn.Embedding({self.count}, {self.heads.size})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.heads, *dims_of(inputs[0]).dims)),)


@frozen(kw_only=True)
class Distances(Ambient):
    """A table of distances that stands in the model at `table`, looked up once for all attentions of a stream."""

    heads: Dim
    buckets: Buckets
    table: str
    inits: tuple[Any, ...] = ()  # type: ignore[misc]
    rank: ClassVar[int] = 5
    part: ClassVar[str | None] = "chosen_pairs({0}, {1})"
    by_place: ClassVar[bool] = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.table

    @property
    def other_name(self) -> str:
        return f"{self.table}_{'causal' if self.buckets.causal else 'both'}"

    @property
    def place(self) -> str:
        return self.table

    @property
    def own(self) -> Buckets:
        return replace(self.buckets, stream=self.stream)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.own.needs

    @property
    def code(self) -> str:  # type: ignore[override]
        past = "{1}" if self.main else "0"
        return f"{self.function}({{self}}.weight, {{0}}, {past}, {self.buckets.max_distance})"

    @property
    def function(self) -> str:
        return "causal_bias" if self.buckets.causal else "relative_bias"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".positions:{self.function}",)

    def parameters(self) -> tuple[Parameter, ...]:
        return OwnDistances(heads=self.heads, count=self.buckets.count).parameters()

    def module(self) -> str:
        return OwnDistances(heads=self.heads, count=self.buckets.count).module()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        (buckets,) = self.own.infer()
        return (TensorType((self.heads, *dims_of(buckets).dims)),)
