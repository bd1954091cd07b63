"""Autoencoders side by side, and how well each rebuilds what it is given."""

from __future__ import annotations

from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of
from moedsl.ir.shapes import agree

_WEIGHTS = "{self}_code, {self}_code_bias, {self}_back, {self}_back_bias"


@frozen(kw_only=True)
class Rebuild(Op):
    """x_ND -> what each of `choices` autoencoders makes of it, before the sigmoid, [N, E, D]."""

    choices: Dim
    inner: Dim
    bottleneck: int
    code: ClassVar[str] = f"rebuild({{0}}, {_WEIGHTS})"
    imports: ClassVar[tuple[str, ...]] = (".rebuilding:rebuild",)

    def parameters(self) -> tuple[Parameter, ...]:
        many, inner, narrow = self.choices.size or 0, self.inner.size or 0, self.bottleneck
        return (
            Parameter("code", (many, narrow, inner), choices=True),
            Parameter("code_bias", (many, narrow), "zeros", 0.0, choices=True),
            Parameter("back", (many, inner, narrow), choices=True),
            Parameter("back_bias", (many, inner), "zeros", 0.0, choices=True),
        )

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        agree(x.dims[-1], self.inner, "what autoencoders get and what they rebuild")
        return (TensorType((*x.dims[:-1], self.choices, self.inner), x.dtype),)

    def flops(self, *inputs: Type) -> int:
        return 4 * (self.choices.size or 0) * (self.inner.size or 0) * self.bottleneck


@frozen(kw_only=True)
class RebuildError(Op):
    """(rebuilt_NED, x_ND) -> the squared distance of each from what was to be rebuilt, [N, E]."""

    code: ClassVar[str] = "distances({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".rebuilding:distances",)
    beside: ClassVar[tuple[str, ...]] = (
        ".rebuilding:choose_beginning",
        ".rebuilding:copy_expert",
        ".rebuilding:distillation",
        ".rebuilding:relatedness",
    )

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        rebuilt = dims_of(inputs[0])
        return (TensorType(rebuilt.dims[:-1], rebuilt.dtype),)
