"""Operations that own weights."""

from __future__ import annotations

from typing import Any, ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of
from moedsl.ir.shapes import agree, rows_in


@frozen(kw_only=True)
class Linear(Op):
    """y = x W^T (+ b). In a bank (`bank` > 0) inputs are (rows, Dispatch) and W is [bank, out, in]; `met` says how else
    rows may meet the weights of a bank (see `each`).

    `wide`: the input is float32 whatever the model's precision, so the weight is widened too.
    `parts`: (path, size) of the linears that this fused one holds side by side, in order, `along` its outputs or its
    inner axis; empty if it is one. A path that begins with `[` continues the unit's own.
    """

    out: Dim
    inner: Dim
    bias: bool = False
    bank: int = 0
    met: str = "grouped"
    init: str = "normal"
    std: float = 0.02
    wide: bool = False
    parts: tuple[tuple[str, int], ...] = ()
    along: str = "out"  # out | inner

    def parameters(self) -> tuple[Parameter, ...]:
        lead = (self.bank,) if self.bank else ()
        out, inner = self.out.size or 0, self.inner.size or 0
        first: dict[str, Any] = {
            "bank": bool(self.bank),
            "choices": self.out.is_choices and not self.bank,
        }
        weight = Parameter("weight", (*lead, out, inner), self.init, self.std, **first)
        bias = Parameter("bias", (*lead, out), "zeros", 0.0, **first)
        return (weight, bias) if self.bias else (weight,)

    def module(self) -> str:
        return (
            "" if self.bank else f"nn.Linear({self.inner.size}, {self.out.size}, bias={self.bias})"
        )

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.bank and self.met != "grouped":
            weight, bias = each(self.met)
            if self.bias:
                return f"torch.baddbmm({bias}[:, None], {{0}}, {weight}.mT)"
            return f"{{0}} @ {weight}.mT"
        if self.bank:
            with_bias = "grouped_linear_bias({0}, {self}, {self}_bias, {1})"
            return with_bias if self.bias else "grouped_linear({0}, {self}, {1})"
        if self.wide:
            bias = ", wide({self}.bias)" if self.bias else ""
            return f"F.linear({{0}}, wide({{self}}.weight){bias})"
        return "{self}({0})"

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return self.met == "grouped" or self.bias

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.bank and self.met != "grouped":
            return (*(("torch",) if self.bias else ()), *merging(self.met))
        if self.bank:
            return (".experts:grouped_linear_bias" if self.bias else ".experts:grouped_linear",)
        return ("F", ".reference:wide") if self.wide else ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        agree(x.dims[-1], self.inner, "what a linear map gets and what its weight takes")
        return (TensorType((*x.dims[:-1], self.out), x.dtype),)

    def flops(self, *inputs: Type) -> int:
        return rows_in(inputs[0]) * 2 * (self.out.size or 0) * (self.inner.size or 0)

    @property
    def flops_per_merge(self) -> int:
        """What it costs to merge the experts of a bank once."""
        if not self.bank or self.met != "merged":
            return 0
        return 2 * sum(parameter.size for parameter in self.parameters())


def each(met: str) -> tuple[str, str]:
    """What the rows of a bank are multiplied by, and what is added: `batched` rows [E, R, D] come by expert, `merged`
    ones [G, L, D] in groups, each with experts merged by its shares [G, E], the second input."""
    if met == "batched":
        return "{self}", "{self}_bias"
    return "merge({self}, {1})", "merge({self}_bias, {1})"


def merging(met: str) -> tuple[str, ...]:
    return (".merging:merge",) if met == "merged" else ()


@frozen(kw_only=True)
class Norm(Op):
    """Root-mean-square or layer norm over the last axis. In a bank (`bank` > 0) inputs are (rows, Dispatch) and weights
    are [bank, D]."""

    over: Dim
    form: str  # rms | layer
    eps: float
    weight: bool = True
    bias: bool = False
    offset: bool = False  # weight stored minus one
    bank: int = 0
    met: str = "grouped"

    @property
    def code(self) -> str:  # type: ignore[override]
        function = f"F.{self.form}_norm({{0}}, ({self.over.size},)"
        if self.bank and self.met != "grouped":
            weight, bias = (f"{one}[:, None]" for one in each(self.met))
            weight = f"(1 + {weight})" if self.offset else weight
            scaled = f"{function}, eps={self.eps!r}) * {weight}"
            return f"{scaled} + {bias}" if self.bias else scaled
        if self.bank:
            weight = "1 + {self}" if self.offset else "{self}"
            weight += ", {self}_bias" if self.bias else ""
            return f"{self.by_expert}({function}, eps={self.eps!r}), {weight}, {{1}})"
        if self.offset and self.weight:
            return f"{function}, 1 + {{self}}, {self.eps!r})"
        return "{self}({0})"

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return self.met == "grouped"

    @property
    def by_expert(self) -> str:
        """What applies the weights of a bank to its rows."""
        return "expert_affine" if self.bias else "expert_scale"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.bank and self.met != "grouped":
            return ("F", *merging(self.met))
        if self.bank:
            return ("F", f".experts:{self.by_expert}")
        return ("F",) if self.offset and self.weight else ()

    def parameters(self) -> tuple[Parameter, ...]:
        n = (*((self.bank,) if self.bank else ()), self.over.size or 0)
        found = []
        if self.weight:
            start = "zeros" if self.offset else "ones"
            found.append(Parameter("weight", n, start, 0.0, bank=bool(self.bank)))
        if self.bias and self.weight:
            found.append(Parameter("bias", n, "zeros", 0.0, bank=bool(self.bank)))
        return tuple(found)

    def module(self) -> str:
        if self.bank or (self.offset and self.weight):
            return ""
        n = self.over.size
        affine = "" if self.weight else ", elementwise_affine=False"
        if self.form == "rms":
            return f"nn.RMSNorm({n}, eps={self.eps!r}{affine})"
        bias = "" if self.bias or not self.weight else ", bias=False"
        return f"nn.LayerNorm({n}, eps={self.eps!r}{affine}{bias})"


@frozen(kw_only=True)
class Embedding(Op):
    """Row look-up, [..] int -> [.., D]."""

    vocab: Dim
    width: Dim
    code: ClassVar[str] = "{self}({0})"
    carries: ClassVar[tuple[int, ...] | None] = ()

    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("weight", (self.vocab.size or 0, self.width.size or 0)),)

    def module(self) -> str:
        return f"nn.Embedding({self.vocab.size}, {self.width.size})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims, self.width)),)


@frozen(kw_only=True)
class TiedLinear(Op):
    """y = x W^T with the weight of another place (`head = tied(embed)`); owns nothing. `of` is that place's module path
    relative to the same unit; `transposed` where the other is a linear map from `out` to `inner`."""

    of: str
    out: Dim
    inner: Dim
    transposed: bool = False
    imports: ClassVar[tuple[str, ...]] = ("F",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"F.linear({{0}}, self.{{of}}.weight{'.t()' if self.transposed else ''})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        agree(x.dims[-1], self.inner, "what a tied map gets and what its weight takes")
        return (TensorType((*x.dims[:-1], self.out), x.dtype),)

    def flops(self, *inputs: Type) -> int:
        return rows_in(inputs[0]) * 2 * (self.out.size or 0) * (self.inner.size or 0)


@frozen(kw_only=True)
class Learned(Op):
    """A learned vector by itself, [D]; it starts at zero."""

    over: Dim
    code: ClassVar[str] = "{self}"

    def parameters(self) -> tuple[Parameter, ...]:
        size, choices = self.over.size or 0, self.over.is_choices
        return (Parameter("weight", (size,), "zeros", 0.0, choices=choices),)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.over,)),)


@frozen(kw_only=True)
class Constant(Op):
    """A learned vector beside each row of the input, [.., D]. In a bank (`bank` > 0) inputs are (rows, Dispatch) and the
    vectors are [bank, D]."""

    over: Dim
    std: float
    bank: int = 0
    met: str = "grouped"
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.bank and self.met != "grouped":
            return f"{each(self.met)[0]}[:, None].expand(-1, {{0}}.shape[1], -1)"
        if self.bank:
            return "expert_rows({self}, {1}, {0}.shape[0])"
        return "{self}.expand(*{0}.shape[:-1], -1)"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.bank and self.met != "grouped":
            return merging(self.met)
        return (".experts:expert_rows",) if self.bank else ()

    def parameters(self) -> tuple[Parameter, ...]:
        lead = (self.bank,) if self.bank else ()
        start = "normal" if self.std else "zeros"
        shape = (*lead, self.over.size or 0)
        return (Parameter("weight", shape, start, self.std, bank=bool(self.bank)),)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((*x.dims[:-1], self.over)),)


@frozen(kw_only=True)
class LearnedScale(Op):
    """Times a learned factor: one for all (`over` None), one for each channel, or (`per_choice`) for each chosen expert,
    whose index is the second input. In a bank (`bank` > 0) inputs are (rows, Dispatch) and weights are [bank, D or 1]."""

    over: Dim | None = None
    per_choice: bool = False
    loose: bool = False  # picks may be absent; what they are multiplied by is no matter
    bank: int = 0
    met: str = "grouped"

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.bank and self.met != "grouped":
            return f"{{0}} * {each(self.met)[0]}[:, None]"
        if self.bank:
            return "expert_scale({0}, {self}, {1})"
        if self.loose and self.over is not None:
            return f"{{0}} * {{self}}[{{1}}.clamp(max={(self.over.size or 1) - 1})]"
        return "{0} * {self}[{1}]" if self.per_choice else "{0} * {self}"

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return bool(self.bank) and self.met == "grouped"

    def parameters(self) -> tuple[Parameter, ...]:
        size = self.over.size or 0 if self.over is not None else 1
        shape = (self.bank, size) if self.bank else (size,)
        choices = self.over is not None and self.over.is_choices and not self.bank
        return (Parameter("weight", shape, "ones", 0.0, bank=bool(self.bank), choices=choices),)

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.bank and self.met != "grouped":
            return merging(self.met)
        return (".experts:expert_scale",) if self.bank else ()
