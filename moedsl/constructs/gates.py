"""A decision as a tensor, and tensors put side by side, cut, and laid over heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moedsl.constructs.declare import Construct, Number
from moedsl.diagnostics.model import Label
from moedsl.ir import ops, problems
from moedsl.ir.graph import TensorType
from moedsl.ir.shapes import is_sequence

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Gates(Construct):
    """A decision as numbers, one for each choice: its weight where it was picked, zero where it was not.

    `let pick = top4(x)`, then `gates(pick)` is [tokens, choices]: with it a decision can weigh what is computed anyway,
    such as the heads of an attention, `mixed * per_head(gates(pick))`.
    """

    def lower(self, build: Builder, x: Value) -> Value:
        like = build.scope.get("x")
        if not problems.is_decision(x) or like is None or not is_sequence(like):
            return problems.no_gates(build, self.recipe, x)
        kept, choices = x.type.dims
        expert, weight = (
            build.op(ops.Field(field=field, type=TensorType((ops.ROWS, kept), dtype)), x)
            for field, dtype in (("expert_NK", "int"), ("weight_NK", "float32"))
        )
        gates = build.op(ops.Gates(choices=choices), weight, expert)
        gates = build.op(ops.Cast(dtype="float"), gates, build.named(like, "x"))
        return build.op(ops.Unrows(same=False), gates, like)


class Join(Construct):
    """Two tensors side by side along the last axis: `join(shared, routed)`."""

    streams = ("other",)

    def lower(self, build: Builder, x: Value, other: Value | None = None) -> Value:
        if other is None:
            build.sink.error(
                "E0205",
                "`join` puts two tensors side by side, and got one",
                self.recipe.span,
                help="write `join(a, b)`",
            )
            return build.poison(x)
        x, other = build.merged(x), build.merged(other)
        size = (build.last(x).size or 0) + (build.last(other).size or 0)
        return build.op(ops.Join(total=build.dim(size, self.recipe.span)), x, other)


class Part(Construct):
    """One of equal parts of the last axis, counted from 0: `x -> part(1, of = 2)` is its second half."""

    index = Number(low=0, whole=True, positional=True, doc="which part, from 0")
    of = Number(low=1, whole=True, unit="parts", doc="how many parts there are")

    def check(self, at: Any, sink: Any) -> None:
        if isinstance(self.index, int) and isinstance(self.of, int) and self.index >= self.of:
            sink.error(
                "E0206",
                f"there are {self.of} parts, counted from 0, and this is number {self.index}",
                at.origin("index"),
                secondary=(Label(at.origin("of"), f"{self.of} parts"),),
                help=f"the last is {self.of - 1}",
            )

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        whole = build.last(x)
        size, rest = divmod(whole.size or 0, self.of)
        if rest:
            build.mismatch(
                "E0430",
                f"{whole.size} channels are not {self.of} equal parts",
                (self.recipe.origin("of"), "here"),
                (whole.origin, f"{whole.size} comes from here"),
                help="choose a number of parts that divides the width",
            )
            return build.poison(x)
        part = build.dim(size, self.recipe.span)
        return build.op(ops.Part(first=self.index * size, part=part), x)


class PerHead(Construct):
    """One number for all channels of a head: what [tokens, heads] is multiplied by becomes a factor of each head.

    `mixed * per_head(gates(pick))` scales the heads of an attention, token by token.
    """

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.PerHead(), build.merged(x))
