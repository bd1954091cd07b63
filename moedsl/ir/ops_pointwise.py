"""Functions of elements, and along the last axis. None owns weights."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of, number, rate_code
from moedsl.ir.shapes import broadcast


@frozen(kw_only=True)
class Pointwise(Op):
    """A named function of torch, elementwise: silu, gelu, relu, sigmoid, tanh, softplus, sqrt, ..."""

    function: str  # printed form, e.g. "F.silu", or with its operand: "{0}.sigmoid()"

    @property
    def code(self) -> str:  # type: ignore[override]
        return self.function + ("" if "{0}" in self.function else "({0})")

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("F",) if self.function.startswith("F.") else ()


@frozen(kw_only=True)
class Combination(Op):
    """a + b, a - b, a * b, a / b of tensors, or of a tensor and a number (`number` set: the right side)."""

    operator: str
    number: float | None = None
    atom: ClassVar[bool] = False

    @property
    def code(self) -> str:  # type: ignore[override]
        right = "{1}" if self.number is None else number(self.number)
        return "{0} " + self.operator + " " + right

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if len(inputs) == 1:
            return (inputs[0],)
        return (
            broadcast(dims_of(inputs[0]), dims_of(inputs[1]), f"the sides of `{self.operator}`"),
        )


@frozen(kw_only=True)
class Scale(Op):
    """Times a number that the spec gives."""

    factor: float
    atom: ClassVar[bool] = False

    @property
    def code(self) -> str:  # type: ignore[override]
        return number(self.factor) + " * {0}"


@frozen(kw_only=True)
class Clip(Op):
    """Kept within the limit on both sides, or only from above."""

    limit: float
    above_only: bool = False

    @property
    def code(self) -> str:  # type: ignore[override]
        limit = number(self.limit)
        return f"{{0}}.clamp(max={limit})" if self.above_only else f"{{0}}.clamp(-{limit}, {limit})"


@frozen(kw_only=True)
class SoftCap(Op):
    """limit * tanh(x / limit)."""

    limit: float
    atom: ClassVar[bool] = False

    @property
    def code(self) -> str:  # type: ignore[override]
        limit = number(self.limit)
        return f"{limit} * ({{0}} / {limit}).tanh()"


@frozen(kw_only=True)
class Zeros(Op):
    code: ClassVar[str] = "torch.zeros_like({0})"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    carries: ClassVar[tuple[int, ...] | None] = ()


@frozen(kw_only=True)
class Full(Op):
    """One number everywhere: [N, `last`] beside the rows of the input, or (`like`) in the shape of the second input."""

    value: float
    last: Dim
    like: bool = False
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        shape = "{1}.shape" if self.like else f"({{0}}.shape[0], {self.last.size})"
        return f"{{0}}.new_full({shape}, {float(self.value)!r})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((*x.dims[:-1], self.last), x.dtype),)


@frozen(kw_only=True)
class Cast(Op):
    """To float32 or wider, or back to the precision of the second input."""

    dtype: str  # float32 | float

    @property
    def code(self) -> str:  # type: ignore[override]
        return "wide({0})" if self.dtype == "float32" else "{0}.to({1}.dtype)"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (".reference:wide",) if self.dtype == "float32" else ()

    @property
    def carries(self) -> tuple[int, ...] | None:  # type: ignore[override]
        return (0,)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (replace(dims_of(inputs[0]), dtype=self.dtype),)


@frozen(kw_only=True)
class Softmax(Op):
    """Along the last axis. `over` is that axis, for checks: over one entry the result is the constant 1."""

    over: Dim
    temperature: float = 1.0

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.temperature == 1:
            return "{0}.softmax(-1)"
        return f"({{0}} / {number(self.temperature)}).softmax(-1)"

    @property
    def normalizes(self) -> Dim:
        return self.over


@frozen(kw_only=True)
class Normalize(Op):
    """Divided by the sum along the last axis, plus `eps`; `detach`: by it as a constant."""

    over: Dim
    eps: float = 0.0
    detach: bool = False

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return self._none_may_be_there

    @property
    def _none_may_be_there(self) -> bool:
        return self.over.loose and not self.eps

    @property
    def _shares(self) -> str:
        return "detached_shares" if self.detach else "shares"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".selection:{self._shares}",) if self._none_may_be_there else ()

    @property
    def code(self) -> str:  # type: ignore[override]
        if self._none_may_be_there:
            return f"{self._shares}({{0}})"
        total = "{0}.sum(-1, keepdim=True)" + (".detach()" if self.detach else "")
        return f"{{0}} / ({total} + {self.eps!r})" if self.eps else f"{{0}} / {total}"

    @property
    def normalizes(self) -> Dim | None:
        return None if self.eps or self.detach else self.over


@frozen(kw_only=True)
class Spread(Op):
    """Scaled to a standard deviation along the last axis, that of a sample."""

    over: Dim
    to: float
    least: float
    atom: ClassVar[bool] = False

    @property
    def code(self) -> str:  # type: ignore[override]
        scale = f"{{0}}.var(-1, keepdim=True).clamp(min={number(self.least**2)}).rsqrt()"
        return f"{{0}} * {scale}" if self.to == 1 else f"{{0}} * ({number(self.to)} * {scale})"


@frozen(kw_only=True)
class Dropout(Op):
    """Acts in training; else where `eval_rate` says so."""

    rate: float
    eval_rate: float = 0.0
    drops: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ("F",)

    @property
    def code(self) -> str:  # type: ignore[override]
        if not self.eval_rate:
            return f"F.dropout({{0}}, {number(self.rate)}, self.training)"
        return f"F.dropout({{0}}, {rate_code(self.rate, self.eval_rate)})"


@frozen(kw_only=True)
class Chunk(Op):
    """Cut along the last axis into equal parts."""

    parts: tuple[Dim, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.chunk({len(self.parts)}, dim=-1)"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return tuple(TensorType((*x.dims[:-1], part), x.dtype) for part in self.parts)
