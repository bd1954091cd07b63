"""What an operation is.

`code` is how it prints: `{0}`, `{1}` are the inputs, `{args}` all of them, `{self}` the place that owns its weights,
other names its own fields. `atom` says whether the printed expression may stand inside another without parentheses.
`imports` are what its code needs: "F", "torch", or ".state:rotate", collected by the plan.

`beside` are functions of the runtime library that the package has for people to use, and does not call.

What checks and counts read (see checks/traits.py and ir/cost.py), each optional beyond the defaults here:
`sees`, `looks`, `causal_form`, `carries`, `normalizes`, `chosen`, `coefficient`; `flops_per_position`, `cached`,
`spread`.

Every operation is declared with `@frozen(kw_only=True)`: equal ones are one where it counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Parameter, RecordType, TensorType, Unit
from moedsl.ir.shapes import NotATensor

Type = TensorType | RecordType


@frozen(kw_only=True)
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

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        """Result types; the default keeps the first input's. Raises `shapes.Mismatch`, which the builder reports."""
        return (inputs[0],)

    def flops(self, *inputs: Type) -> int:
        """Multiply-adds counted as two, forward, for one row of the first input (matrix products only, as torch
        counts). What grows with the context is in `flops_per_position`."""
        return 0

    def calls(self, place: str, path: str = "") -> Iterator[tuple[str, str, Unit]]:
        """(path, module, unit) for each unit instance under this node; `path` is `place` in the spec's words."""
        return iter(())


def dims_of(type_: Type) -> TensorType:
    """For ops that only take tensors."""
    if isinstance(type_, RecordType):
        what = "a router's decision" if type_.name == "Routing" else f"a {type_.name.lower()}"
        raise NotATensor(f"{what} stands where a tensor is needed")
    return type_


def rate_code(train: float, eval_: float) -> str:
    """A probability that differs in training."""
    if train == eval_:
        return number(train)
    return f"{number(train)} if self.training else {number(eval_)}"


def number(value: float) -> str:
    """How a number is printed: whole ones without a point, others with all their digits."""
    return (
        str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    )
