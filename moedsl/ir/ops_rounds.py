"""Rounds that tokens choose: how many each takes, who goes on, and what the first round leaves for the others."""

from __future__ import annotations

import math
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, RecordType, TensorType
from moedsl.ir.ops_attention import Ambient
from moedsl.ir.ops_base import Op, Type, dims_of
from moedsl.ir.ops_depth import CHOSEN
from moedsl.ir.ops_scores import SEEN

FIRST_ROUND = RecordType("FirstRound")


@frozen(kw_only=True)
class Taken(Op):
    """(expert_NK, x_BTD) -> how many rounds each token takes, [B, T] int: it picked one of `rounds`, the number of
    which is one less, or none where picks may be absent (`loose`)."""

    rounds: int
    loose: bool = False
    meant: ClassVar[bool] = True  # a token without a pick takes no round, and stays as it is
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        most = f", {self.rounds}" if self.loose else ""
        return f"rounds_or_none({{0}}, {{1}}{most})" if most else "rounds_taken({0}, {1})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".depth:{self.code.partition('(')[0]}",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType(dims_of(inputs[1]).dims[:2], "int"),)


@frozen(kw_only=True)
class GoOn(Op):
    """(rounds_BT, real_BT, cache) -> who takes part in round `number`: those that take more rounds than that."""

    number: int
    at_once: bool = False
    stays: ClassVar[bool] = True
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        here = f"going_on({{0}}, {self.number}, {{1}})"
        return f"at_once({here})" if self.at_once else f"in_place({here}, {{2}})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (".depth:going_on", ".depth:at_once" if self.at_once else ".depth:in_place")

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (CHOSEN,)


@frozen(kw_only=True)
class InStream(Op):
    """Tokens that stay in their places, as another stream: what hides some of them is asked of that."""

    stream: Dim
    literal: ClassVar[bool] = True
    code: ClassVar[str] = "{0}"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], self.stream, *x.dims[2:]), x.dtype),)


@frozen(kw_only=True)
class Advance(Op):
    """(x_BTD, y_BTD, chosen) -> y for those that take part, x for the others, who stay as they are."""

    code: ClassVar[str] = "advance({args})"
    imports: ClassVar[tuple[str, ...]] = (".depth:advance",)
    carries: ClassVar[tuple[int, ...] | None] = (0, 1)


# --- keys and values of the first round -----------------------------------------------------------


@frozen(kw_only=True)
class FirstRound(Ambient):
    """What attentions of a block left in its first round for those after it. The block that comes back makes it, and
    nothing stands for it at the root (see `Unit.given`)."""

    name: ClassVar[str] = "first"
    rank: ClassVar[int] = 7
    first: ClassVar[bool] = True
    part: ClassVar[str | None] = "{0}"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (FIRST_ROUND,)


@frozen(kw_only=True)
class BeginRounds(Op):
    """(x) -> nothing is left yet."""

    code: ClassVar[str] = "FirstRound()"
    imports: ClassVar[tuple[str, ...]] = (".depth:FirstRound",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (FIRST_ROUND,)


@frozen(kw_only=True)
class LaterRound(Op):
    """(first) -> the same, to be read from its beginning."""

    later: ClassVar[bool] = True
    code: ClassVar[str] = "{0}.again()"
    carries: ClassVar[tuple[int, ...] | None] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (FIRST_ROUND,)


@frozen(kw_only=True)
class RememberFirst(Op):
    """(x [B, T, ..], cache, first) -> in the first round x, after what the cache holds of earlier tokens, [B, S, ..]; in
    later ones what that was."""

    first: ClassVar[bool] = True
    code: ClassVar[str] = "{2}.remember({0}, {1})"
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], SEEN, *x.dims[2:]), x.dtype),)

    def cached(self, *inputs: Type) -> int:
        return math.prod(dim.size or 0 for dim in dims_of(inputs[0]).dims[2:])
