"""Streams made of images, rows added before them, positions added to them, and what is pooled from them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType, Value
from moedsl.ir.ops_attention import RealRows
from moedsl.ir.ops_base import Op, Type, dims_of
from moedsl.ir.shapes import agree

if TYPE_CHECKING:
    from moedsl.ir.build import Builder


@frozen(kw_only=True)
class Patches(Op):
    """[B, C, H, W] -> [B, T, D]: squares of `size` pixels side by side, each made a vector, row by row."""

    size: int
    width: Dim
    bias: bool
    channels: Dim
    tokens: Dim
    code: ClassVar[str] = "{self}({0}).flatten(2).mT"

    def parameters(self) -> tuple[Parameter, ...]:
        out = self.width.size or 0
        channels, square = self.channels.size or 0, self.size**2
        fans = (channels * square, out * square)
        weight = Parameter("weight", (out, channels, self.size, self.size), fans=fans)
        return (weight, Parameter("bias", (out,), "zeros", 0.0)) if self.bias else (weight,)

    def module(self) -> str:
        bias = "" if self.bias else ", bias=False"
        return (
            f"nn.Conv2d({self.channels.size}, {self.width.size}, "
            f"kernel_size={self.size}, stride={self.size}{bias})"
        )

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        image = dims_of(inputs[0])
        return (TensorType((image.dims[0], self.tokens, self.width), image.dtype),)

    def flops(self, *inputs: Type) -> int:
        return 2 * (self.width.size or 0) * (self.channels.size or 0) * self.size**2


@frozen(kw_only=True)
class Prepend(Op):
    """[B, T, D] -> [B, n + T, D]: n learned rows stand before the others."""

    count: int
    width: Dim
    tokens: Dim
    code: ClassVar[str] = "prepend({self}, {0})"
    imports: ClassVar[tuple[str, ...]] = (".streams:prepend",)

    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("", (1, self.count, self.width.size or 0)),)

    @property
    def spread(self) -> Fraction:
        after = self.tokens.size or 1
        return Fraction(after, after - self.count)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], self.tokens, x.dims[2]), x.dtype),)


@frozen(kw_only=True)
class LearnedPositions(Op):
    """A learned vector for each of `length` positions, added: to a stream of that length, or (`counted`) by the
    positions of tokens, the second input."""

    length: Dim
    width: Dim
    counted: bool
    atom: ClassVar[bool] = False
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return "{0} + {self}({1})" if self.counted else "{0} + {self}"

    def module(self) -> str:
        return f"nn.Embedding({self.length.size}, {self.width.size})" if self.counted else ""

    def parameters(self) -> tuple[Parameter, ...]:
        shape = (self.length.size or 0, self.width.size or 0)
        return (Parameter("weight", shape) if self.counted else Parameter("", (1, *shape)),)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        agree(x.dims[-1], self.width, "the stream and its positions")
        return (x,)


@frozen(kw_only=True)
class _Pooled(Op):
    """[B, T, D] -> [B, D]. Of a whole stream, or of one with padding: then the model's mask is the second input."""

    whole: bool
    sees: ClassVar[str] = "all"
    carries: ClassVar[tuple[int, ...] | None] = (0,)
    tokens: Dim

    @property
    def spread(self) -> Fraction:
        return Fraction(1, self.tokens.size or 1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], x.dims[2]), x.dtype),)


@frozen(kw_only=True)
class SequenceMean(_Pooled):
    """The mean of a sequence's real tokens."""

    @property
    def code(self) -> str:  # type: ignore[override]
        return "{0}.mean(1)" if self.whole else "sequence_mean({0}, {1})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.whole else (".streams:sequence_mean",)


@frozen(kw_only=True)
class FirstToken(_Pooled):
    """A sequence's first real token."""

    @property
    def code(self) -> str:  # type: ignore[override]
        return "{0}[:, 0]" if self.whole else "first_token({0}, {1})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.whole else (".streams:first_token",)


@frozen(kw_only=True)
class PromptMean(_Pooled):
    """(x, mask, past, cache) -> the mean of the tokens that the first call on a sequence had."""

    lookahead: ClassVar[str] = "the mean of the prompt"
    code: ClassVar[str] = "prompt_mean({0}, {1}, {2}, {3})"
    imports: ClassVar[tuple[str, ...]] = (".streams:prompt_mean",)

    def cached(self, *inputs: Type) -> int:
        return dims_of(inputs[0]).dims[-1].size or 0


@frozen(kw_only=True)
class RunningMean(Op):
    """(x [B, S, D], mask, past) -> for each new token the mean of what came up to it, [B, T, D]; float32."""

    tokens: Dim
    sees: ClassVar[str] = "past"
    carries: ClassVar[tuple[int, ...] | None] = (0,)
    code: ClassVar[str] = "running_mean({0}, {1}, {2})"
    imports: ClassVar[tuple[str, ...]] = (".streams:running_mean",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], self.tokens, x.dims[2]), "float32"),)


@frozen(kw_only=True)
class SegmentMean(Op):
    """(x [B, S, D], mask, past) -> for each segment the mean of the one `lag` before it, [B, P, D].

    The first segments have none before them: theirs is zero, or (`own`) their own, without a gradient. Then what decodes
    the first segment sees the mean of it so far.
    """

    segment: Dim
    lag: int
    own: bool
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def sees(self) -> str:  # type: ignore[override]
        return "past" if self.lag and not self.own else "all"

    @property
    def lookahead(self) -> str:
        return "the mean of the first segment so far" if self.lag and self.own else ""

    @property
    def causal_form(self) -> str:
        return "" if self.lag else "lag = 1"

    @property
    def function(self) -> str:
        return "segment_mean_own" if self.own and self.lag else "segment_mean"

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{self.function}({{0}}, {{1}}, {{2}}, {self.segment.segment}, {self.lag})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".segments:{self.function}",)

    @property
    def spread(self) -> Fraction:
        return Fraction(1, self.segment.segment)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], self.segment, x.dims[2]), x.dtype),)


@frozen(kw_only=True)
class NoPadding(Op):
    """What stands for a mask where a stream has no padding."""

    code: ClassVar[str] = "None"
    literal: ClassVar[bool] = True  # written wherever it is read
    carries: ClassVar[tuple[int, ...] | None] = ()
    dims: tuple[Dim, ...] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType(self.dims, "bool"),)


def real_rows(build: Builder, of: Value) -> Value:
    """Which rows are real tokens: all of them, where they are those of a whole stream."""
    dims = of.type.dims if isinstance(of.type, TensorType) else ()
    if dims and dims[0].split:
        return build.op(NoPadding())
    return build.ambient(RealRows(rows=Dim("N")))
