"""Numbers with state: kept with the weights, moved by a rule after each step of the optimizer, or fitted once."""

from __future__ import annotations

from typing import Any, ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType, Value
from moedsl.ir.ops_arranging import HEAD_ROWS
from moedsl.ir.ops_base import Op, Type, dims_of, number
from moedsl.ir.shapes import is_image


@frozen(kw_only=True)
class StateOp(Op):
    """A number, or one per choice, that a rule moves. `adapts`: what the rule reads, "site" for the load of the place
    whose routing it stands in."""

    adapts: ClassVar[str] = "site"


@frozen(kw_only=True)
class Correction(StateOp):
    """One number for each choice, [E]. `first` and `count` are the choices that adapt (`count` 0: all), `picks` how
    many of them a token should take (0: even). With `heads`, of rows x_ND: one for each choice of each head, [M, E]."""

    choices: Dim
    rate: float
    rule: str = "sign"  # sign | proportional
    first: int = 0
    count: int = 0
    picks: float = 0.0
    heads: Dim | None = None

    @property
    def by_head(self) -> bool:
        return self.heads is not None

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.heads is None:
            return "{self}.value_E"
        sizes = f"{self.heads.size}, {self.choices.size}"
        return f"{{self}}.value_E.view({sizes}).repeat({{0}}.shape[0], 1)"

    @property
    def _numbers(self) -> int:
        each = self.choices.size or 0
        return each if self.heads is None else each * (self.heads.size or 1)

    @property
    def _class(self) -> str:
        return {"sign": "SignBalancing", "proportional": "ProportionalBalancing"}[self.rule]

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".adapting:{self._class}",)

    def parameters(self) -> tuple[Parameter, ...]:
        shape = (self._numbers,)
        state: dict[str, Any] = {
            "trainable": False,
            "buffer": True,
            "choices": self.choices.is_choices,
        }
        return (Parameter("value_E", shape, "zeros", 0.0, **state),)

    def module(self) -> str:
        more = f", among=({self.first}, {self.first + self.count})" if self.count else ""
        more += f", picks={number(self.picks)}" if self.picks else ""
        return f"{self._class}({self._numbers}, rate={self.rate!r}{more})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        dims = (self.choices,) if self.heads is None else (HEAD_ROWS, self.choices)
        return (TensorType(dims, "float32"),)


@frozen(kw_only=True)
class Coefficient:
    """A factor of a loss that a rule moves: what its module is made with. `steps`: it counts them."""

    rule: str
    start: float
    settings: tuple[tuple[str, float], ...] = ()
    steps: bool = False

    @property
    def imports(self) -> tuple[str, ...]:
        return (f".adapting:{self.rule}",)

    @property
    def module(self) -> str:
        settings = [f"{name}={number(value)}" for name, value in self.settings]
        return f"{self.rule}({', '.join([number(self.start), *settings])})"

    def parameters(self) -> tuple[Parameter, ...]:
        state = Parameter("value", (), "constant", self.start, trainable=False, buffer=True)
        step = Parameter("step", (), "zeros", 0.0, trainable=False, buffer=True)
        return (state, step) if self.steps else (state,)


@frozen(kw_only=True)
class Standardize(Op):
    """x less a mean, divided by a deviation: statistics of the data, one for each channel, which stand `before` so many
    other axes (the rows and columns of an image)."""

    over: Dim
    before: int = 0
    code: ClassVar[str] = "{self}({0})"
    imports: ClassVar[tuple[str, ...]] = (".standardizing:Standardize",)

    @classmethod
    def of(cls, x: Value) -> Standardize:
        image = is_image(x)
        dims = dims_of(x.type).dims
        return cls(over=dims[1] if image else dims[-1], before=2 if image else 0)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.over.size or 0, *[1] * self.before)

    def parameters(self) -> tuple[Parameter, ...]:
        state: dict[str, Any] = {"trainable": False, "buffer": True}
        return (
            Parameter("mean", self._shape, "zeros", 0.0, **state),
            Parameter("deviation", self._shape, "ones", 1.0, **state),
        )

    def module(self) -> str:
        return f"Standardize({', '.join(map(str, self._shape))})"
