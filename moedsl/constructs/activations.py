"""Functions of one number, applied to each element."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moedsl.constructs.declare import Construct, Words
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Activation(Construct):
    """What all elementwise functions share: the expression they print as."""

    abstract: ClassVar[bool] = True
    kind = "activation"
    function: ClassVar[str] = ""

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.Pointwise(function=self.function), x)


class Silu(Activation):
    """x * sigmoid(x)."""

    function = "F.silu"


class Gelu(Activation):
    """x * Phi(x), the Gaussian error linear unit."""

    source = "Hendrycks and Gimpel, 2016"
    approximate = Words(
        "none", choices=("none", "tanh"), doc="exact, or the usual approximation by tanh"
    )

    def lower(self, build: Builder, x: Value) -> Value:
        tanh = self.approximate == "tanh"
        function = 'F.gelu({0}, approximate="tanh")' if tanh else "F.gelu"
        return build.op(ops.Pointwise(function=function), x)


class Relu(Activation):
    """max(x, 0)."""

    function = "F.relu"


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    function = "{0}.sigmoid()"


class Tanh(Activation):
    """The hyperbolic tangent."""

    function = "{0}.tanh()"


class Softplus(Activation):
    """log(1 + exp(x))."""

    function = "F.softplus"


class Square(Activation):
    """x * x; `relu -> square` is the squared ReLU."""

    function = "{0}.square()"


class Sqrt(Activation):
    """The square root."""

    function = "{0}.sqrt()"
