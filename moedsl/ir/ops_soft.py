"""Experts without a choice: slots that are mixtures of tokens, and experts merged into one.

Axes: Z slots of all experts, E experts, R rows of each expert in a batched bank, P segments. What a cache remembers
makes S of T.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of, number
from moedsl.ir.shapes import agree, rows_in

ALL_SEGMENTS = Dim("Q", meaning="segments of all sequences")


@frozen(kw_only=True)
class Cosine(Op):
    """The products of rows and weights that both have length 1, times a scale; float32."""

    out: Dim
    inner: Dim
    eps: float
    learned: bool
    scale: float = 1.0
    imports: ClassVar[tuple[str, ...]] = (".slots:cosine",)

    def parameters(self) -> tuple[Parameter, ...]:
        out, inner = self.out.size or 0, self.inner.size or 1
        weight = Parameter("weight", (out, inner), "normal", inner**-0.5)
        return (weight, Parameter("scale", (1,), "ones", 0.0)) if self.learned else (weight,)

    @property
    def code(self) -> str:  # type: ignore[override]
        scale = "{self}_scale" if self.learned else repr(self.scale)
        return f"cosine({{0}}, {{self}}, {scale}, {number(self.eps)})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        agree(x.dims[-1], self.inner, "what is compared and what it is compared with")
        return (TensorType((*x.dims[:-1], self.out), "float32"),)

    def flops(self, *inputs: Type) -> int:
        return rows_in(inputs[0]) * 2 * (self.out.size or 0) * (self.inner.size or 0)


@frozen(kw_only=True)
class HidePadding(Op):
    """(score [B, S, Z], mask) -> the lowest number at padding, so that no slot takes anything of it."""

    code: ClassVar[str] = "hide_padding({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".slots:hide_padding",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)


@frozen(kw_only=True)
class FillSlots(Op):
    """(x [B, T, D], score [B, T, Z]) -> what each slot takes of a whole sequence, [E, R, D]."""

    experts: Dim
    slots: int
    tokens: Dim
    lookahead: str = ""
    code: ClassVar[str] = "fill_slots({0}, {1}, {experts.size})"
    imports: ClassVar[tuple[str, ...]] = (".slots:fill_slots",)
    sees: ClassVar[str] = "all"
    causal_form: ClassVar[str] = "over = prefix"

    def rows_per_token(self, tokens: int) -> Fraction:
        """Of each expert."""
        return Fraction(self.slots, self.tokens.size or tokens)

    @property
    def by_sequence(self) -> bool:
        """As many for a sequence, however many of its tokens are here."""
        return self.tokens.size is None

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((self.experts, Dim("R"), x.dims[-1]), x.dtype),)

    def flops(self, *inputs: Type) -> int:
        """To fill them, and to read them."""
        x, score = dims_of(inputs[0]), dims_of(inputs[1])
        return 4 * (x.dims[-1].size or 0) * (score.dims[-1].size or 0)


@frozen(kw_only=True)
class ReadSlots(Op):
    """(y [E, R, D], score [B, T, Z]) -> each token's mixture of all slots, [B, T, D]."""

    code: ClassVar[str] = "read_slots({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".slots:read_slots",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        y, score = dims_of(inputs[0]), dims_of(inputs[1])
        return (TensorType((*score.dims[:-1], y.dims[-1]), y.dtype),)

    rows_of: ClassVar[int] = 1


@frozen(kw_only=True)
class FillPrefix(FillSlots):
    """(x [B, S, D], score [B, S, Z], past) -> slots for each new token, of what came up to it, [E, R, D]."""

    by_sequence: ClassVar[bool] = False
    code: ClassVar[str] = "fill_prefix({0}, {1}, {2}, {experts.size})"
    imports: ClassVar[tuple[str, ...]] = (".slots:fill_prefix",)
    sees: ClassVar[str] = "past"
    causal_form: ClassVar[str] = ""
    carries: ClassVar[tuple[int, ...] | None] = (0, 1)

    def rows_per_token(self, tokens: int) -> Fraction:
        return Fraction(self.slots)


@frozen(kw_only=True)
class ReadPrefix(ReadSlots):
    """(y [E, R, D], score [B, T, Z]) -> each token's mixture of its own slots, [B, T, D]."""

    code: ClassVar[str] = "read_prefix({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".slots:read_prefix",)


@frozen(kw_only=True)
class FillSegments(FillSlots):
    """(x [B, S, D], score [B, S, Z], mask, past) -> slots for each segment, of what came `lag` segments before it and
    earlier, [E, R, D]."""

    segment: int
    lag: int
    imports: ClassVar[tuple[str, ...]] = (".segments:fill_segments",)
    carries: ClassVar[tuple[int, ...] | None] = (0, 1)

    @property
    def code(self) -> str:  # type: ignore[override]
        numbers = f"{self.segment}, {self.lag}, {self.experts.size}"
        return f"fill_segments({{0}}, {{1}}, {{2}}, {{3}}, {numbers})"

    @property
    def sees(self) -> str:  # type: ignore[override]
        return "past" if self.lag else "all"

    @property
    def causal_form(self) -> str:  # type: ignore[override]
        return "" if self.lag else "lag = 1"

    def rows_per_token(self, tokens: int) -> Fraction:
        return Fraction(self.slots, self.segment)


@frozen(kw_only=True)
class ReadSegments(ReadSlots):
    """(y [E, R, D], score [B, T, Z], mask, past) -> each token's mixture of its segment's slots, [B, T, D]."""

    segment: int
    lag: int
    imports: ClassVar[tuple[str, ...]] = (".segments:read_segments",)
    carries: ClassVar[tuple[int, ...] | None] = (0, 1)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"read_segments({{0}}, {{1}}, {{2}}, {{3}}, {self.segment}, {self.lag})"


# --- experts merged into one ----------------------------------------------------------------------


@frozen(kw_only=True)
class ToSegments(Op):
    """(x [B, T, D], mask, past) -> the tokens of each segment together, [Q, L, D]."""

    segment: int
    imports: ClassVar[tuple[str, ...]] = (".segments:to_segments",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"to_segments({{0}}, {{1}}, {{2}}, {self.segment})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        tokens = Dim("L", segment=self.segment, meaning="tokens of a segment")
        return (TensorType((ALL_SEGMENTS, tokens, x.dims[-1]), x.dtype),)


@frozen(kw_only=True)
class FromSegments(Op):
    """(y [Q, L, D], x [B, T, D], mask, past) -> the rows of segments as the stream again, [B, T, D]."""

    segment: int
    imports: ClassVar[tuple[str, ...]] = (".segments:from_segments",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"from_segments({{0}}, {{1}}, {{2}}, {{3}}, {self.segment})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        y, x = dims_of(inputs[0]), dims_of(inputs[1])
        return (TensorType((*x.dims[:-1], y.dims[-1]), y.dtype),)


@frozen(kw_only=True)
class Shares(Op):
    """[B, P, E] -> the shares of each segment, [Q, E]."""

    code: ClassVar[str] = "{0}.flatten(0, 1)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        share = dims_of(inputs[0])
        return (TensorType((ALL_SEGMENTS, share.dims[-1]), share.dtype),)
