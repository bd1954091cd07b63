"""Room at places where several choices stand, and rows of which no pick is dropped."""

from __future__ import annotations

from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, TensorType
from moedsl.ir.ops_attention import TOKENS, Ambient
from moedsl.ir.ops_base import Op, Type
from moedsl.ir.ops_capacity import Rule, Serve


@frozen(kw_only=True)
class SharedRule(Rule):
    """The same of room that a row may want `each` times."""

    each: int

    @property
    def roomy(self) -> bool:
        """Is there room for all, whatever is picked?"""
        return self.unlimited or (self.share is not None and self.share >= self.each)

    def slots(self, size: int) -> int:
        return self.each * size if self.unlimited else super().slots(size)

    def code(self, size: str) -> str:
        many = self.unlimited and self.each > 1
        return f"{self.each} * {size}" if many else super().code(size)


@frozen(kw_only=True)
class ServeShared(Serve):
    """The same of room at `places`, where the choices stand in order."""

    places: int

    @property
    def each(self) -> int:
        return self.choices // self.places

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.each == 1:
            return super().code
        there = self._call(f"{{0}} // {self.each}", self.places)
        return f"{{0}}.where({there} < {self.places}, {self.choices})"


@frozen(kw_only=True)
class SparedRows(Ambient):
    """In training the rows of sequences of which nothing is dropped, [N] bool: `share` of them, drawn once for all
    layers. None else."""

    share: float
    name: ClassVar[str] = "spared"
    needs: ClassVar[tuple[str, ...]] = (TOKENS,)
    rank: ClassVar[int] = 5
    atom: ClassVar[bool] = False
    optional: ClassVar[bool] = True
    drops: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = (".sparing:spare_sequences",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"spare_sequences({{0}}, {self.share!r}) if self.training else None"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((Dim("N"),), "bool"),)


@frozen(kw_only=True)
class SparedFirst(Op):
    """(gate_NK, spared_N) -> the gates by which picks find room: those of spared rows are above all."""

    code: ClassVar[str] = "spared_first({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".sparing:spared_first",)
    carries: ClassVar[tuple[int, ...] | None] = ()


@frozen(kw_only=True)
class KeepSpared(Op):
    """(served_NK, expert_NK, spared_N, real) -> what is served, with all picks of spared rows."""

    choices: int
    code: ClassVar[str] = "keep_spared({0}, {1}, {choices}, {2}, {3})"
    imports: ClassVar[tuple[str, ...]] = (".sparing:keep_spared",)
    carries: ClassVar[tuple[int, ...] | None] = ()
