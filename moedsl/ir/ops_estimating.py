"""Choices one after another, and weights whose gradient is not their own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of, number


@frozen(kw_only=True)
class InTurn(Op):
    """[N, E] -> `kept` choices one after another, [N, K] int: each the best of what `steps` make of those left."""

    kept: Dim
    choices: Dim
    steps: tuple[Op, ...] = ()
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    @property
    def drops(self) -> bool:
        """Does the model act differently in training?"""
        return any(getattr(step, "drops", False) for step in self.steps)

    @property
    def code(self) -> str:  # type: ignore[override]
        x = "x_NE"
        for step, before in zip(self.steps, (None, *self.steps), strict=False):
            x = _filled(step, x if before is None or before.atom else f"({x})")
        return f"in_turn({{0}}, {self.kept.size}, lambda x_NE: {x})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (".selection:in_turn", *(name for step in self.steps for name in step.imports))

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims[:-1], self.kept), "int"),)


def _filled(op: Op, operand: str) -> str:
    return op.code.format(operand, **{each.name: getattr(op, each.name) for each in fields(op)})


@frozen(kw_only=True)
class OnlyNearTies(Op):
    """[N, E] -> the same, lowest where it does not nearly tie with the best of the row."""

    within: float
    imports: ClassVar[tuple[str, ...]] = (".selection:near_ties",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"near_ties({{0}}, {number(self.within)})"


@frozen(kw_only=True)
class NearTies(Op):
    """(logits_NE, expert_NK) -> each pick's share among the choices left that nearly tied with the best, [N, K]."""

    within: float
    imports: ClassVar[tuple[str, ...]] = (".selection:share_near_ties",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"share_near_ties({{0}}, {{1}}, {number(self.within)})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (replace(dims_of(inputs[1]), dtype=dims_of(inputs[0]).dtype),)


@frozen(kw_only=True)
class StraightThrough(Op):
    """weight_NK -> 1 each, with the gradient of the weight."""

    code: ClassVar[str] = "straight_through({0})"
    imports: ClassVar[tuple[str, ...]] = (".estimators:straight_through",)


@frozen(kw_only=True)
class Heun(Op):
    """(weight_NK, gate_NE, expert_NK) -> the weights of forward, `part` of some that are not the best; their gradient
    is that of the whole weights."""

    part: float
    drops: ClassVar[bool] = True
    carries: ClassVar[tuple[int, ...] | None] = (0,)
    imports: ClassVar[tuple[str, ...]] = (".estimators:heun",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"heun({{0}}, {{1}}, {{2}}, {number(self.part)}, self.training)"
