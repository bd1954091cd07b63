"""Every operation of the graph, one screen each family. An op is a frozen value: attributes, no weights, no tensors.

`code` is how it prints: `{0}`, `{1}` are the inputs, `{self}` the place that owns its weights, other names its own
fields. `atom` says whether the printed expression may stand inside another without parentheses.
`imports` are the lines its code needs: ("torch", "F") etc., collected by the plan.
Linear in depth of thought: an op knows its weights (`parameters`), result types (`infer`), FLOPs (`flops`), what its
result may see (`sees`: "row" only its own row, "past", "all") and through which inputs gradients flow (`carries`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from moedsl.ir.graph import Dim, Parameter, RecordType, TensorType, Unit


@dataclass(frozen=True, kw_only=True)
class Op:
    code: ClassVar[str] = ""
    atom: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ()
    sees: ClassVar[str] = "row"
    carries: ClassVar[tuple[int, ...] | None] = None  # None: gradient flows through every input

    def parameters(self) -> tuple[Parameter, ...]:
        return ()

    def module(self) -> str:
        """The expression that makes the submodule in `__init__`, or "" where weights are bare parameters or none."""
        return ""

    def infer(self, *inputs: TensorType | RecordType) -> tuple[TensorType | RecordType, ...]:
        """Result types; the default keeps the first input's."""
        return (inputs[0],)

    def flops(self, *inputs: TensorType | RecordType) -> int:
        """Multiply-adds counted as two, forward, for one row of the stream (matrix products only, as torch counts)."""
        return 0

    def calls(self, place: str) -> Iterator[tuple[str, str, Unit]]:
        """(path, module, unit) for each unit instance under this node."""
        return iter(())


# --- weights -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Linear(Op):
    """y = x W^T (+ b). In a bank (`bank` > 0) inputs are (rows, Dispatch) and W is [bank, out, in]."""

    out: Dim
    inner: Dim
    bias: bool = False
    bank: int = 0
    init: str = "normal"
    std: float = 0.02

    def parameters(self) -> tuple[Parameter, ...]:
        lead = (self.bank,) if self.bank else ()
        out, inner = self.out.size or 0, self.inner.size or 0
        weight = Parameter("weight", (*lead, out, inner), self.init, self.std, bank=bool(self.bank))
        bias = Parameter("bias", (*lead, out), "zeros", 0.0, bank=bool(self.bank))
        return (weight, bias) if self.bias else (weight,)

    def module(self) -> str:
        return "" if self.bank else f"nn.Linear({self.inner.size}, {self.out.size}, bias={self.bias})"

    @property
    def code(self) -> str:  # type: ignore[override]
        if not self.bank:
            return "{self}({0})"
        return "grouped_linear_bias({0}, {self}, {self}_bias, {1})" if self.bias else "grouped_linear({0}, {self}, {1})"

    def infer(self, *inputs):
        return (TensorType((*inputs[0].dims[:-1], self.out), inputs[0].dtype),)

    def flops(self, *inputs) -> int:
        return 2 * (self.out.size or 0) * (self.inner.size or 0)


@dataclass(frozen=True, kw_only=True)
class Norm(Op):
    """Root-mean-square or layer norm over the last axis."""

    over: Dim
    form: str  # rms | layer
    eps: float
    weight: bool = True
    bias: bool = False
    offset: bool = False  # weight stored minus one
    code: ClassVar[str] = "{self}({0})"

    def parameters(self) -> tuple[Parameter, ...]:
        n = (self.over.size or 0,)
        found = []
        if self.weight:
            found.append(Parameter("weight", n, "zeros" if self.offset else "ones", 0.0))
        if self.bias:
            found.append(Parameter("bias", n, "zeros", 0.0))
        return tuple(found)

    def module(self) -> str:
        n = self.over.size
        if self.form == "rms":
            affine = "" if self.weight else ", elementwise_affine=False"
            return f"nn.RMSNorm({n}, eps={self.eps:g}{affine})"
        affine = "" if self.weight else ", elementwise_affine=False"
        bias = "" if self.bias or not self.weight else ", bias=False"
        return f"nn.LayerNorm({n}, eps={self.eps:g}{affine}{bias})"


@dataclass(frozen=True, kw_only=True)
class Embedding(Op):
    """Row look-up, [..] int -> [.., D]."""

    vocab: Dim
    width: Dim
    code: ClassVar[str] = "{self}({0})"
    carries: ClassVar = ()

    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("weight", (self.vocab.size or 0, self.width.size or 0)),)

    def module(self) -> str:
        return f"nn.Embedding({self.vocab.size}, {self.width.size})"

    def infer(self, *inputs):
        return (TensorType((*inputs[0].dims, self.width)),)


@dataclass(frozen=True, kw_only=True)
class TiedLinear(Op):
    """y = x W^T with the weight of another place (`head = tied(embed)`); owns nothing. `of` is that place's module path
    relative to the same unit."""

    of: str
    out: Dim
    inner: Dim
    code: ClassVar[str] = "F.linear({0}, self.{of}.weight)"
    imports: ClassVar = ("F",)

    def infer(self, *inputs):
        return (TensorType((*inputs[0].dims[:-1], self.out), inputs[0].dtype),)

    def flops(self, *inputs) -> int:
        return 2 * (self.out.size or 0) * (self.inner.size or 0)


# --- calls -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Call(Op):
    """Run a unit at this node's place. Inputs: the unit's inputs then its ambients; outputs: its outputs then taps."""

    unit: Unit
    code: ClassVar[str] = "{self}({args})"

    def infer(self, *inputs):
        return tuple(v.type for v in [*self.unit.outputs, *self.unit.taps])

    def calls(self, place: str):
        yield place, place, self.unit


@dataclass(frozen=True, kw_only=True)
class Stack(Op):
    """Layers in sequence under one attribute, numbered from 0: runs of (unit, count). The stream is the first input
    and the first output; every layer's taps come out as one list each, bottom to top."""

    runs: tuple[tuple[Unit, int], ...]

    def calls(self, place: str):
        index = 0
        for unit, count in self.runs:
            for _ in range(count):
                yield f"{place}[{index}]", f"{place}.{index}", unit
                index += 1


# --- elementwise -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pointwise(Op):
    """A named function of torch, elementwise: silu, gelu, relu, sigmoid, tanh, softplus, sqrt, ..."""

    function: str  # printed form, e.g. "F.silu"

    @property
    def code(self) -> str:  # type: ignore[override]
        return self.function + ("" if "{0}" in self.function else "({0})")


@dataclass(frozen=True, kw_only=True)
class Combination(Op):
    """a + b, a - b, a * b, a / b of tensors, or of a tensor and a number (`number` set: the right side)."""

    operator: str
    number: float | None = None
    atom: ClassVar[bool] = False

    @property
    def code(self) -> str:  # type: ignore[override]
        right = "{1}" if self.number is None else f"{self.number:g}"
        return "{0} " + self.operator + " " + right
