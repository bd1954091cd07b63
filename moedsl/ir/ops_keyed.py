"""Selections by what a row is and not by what it scores, and selections that differ by phase."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Parameter, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of


@frozen(kw_only=True)
class TableRows(Op):
    """ids [N] -> the choices of each, from a table that never changes: [N, K] int."""

    ids: Dim
    kept: Dim
    choices: Dim
    fill: str  # random | balanced
    seed: int
    code: ClassVar[str] = "{self}({0})"
    imports: ClassVar[tuple[str, ...]] = (".tables:ChoiceTable",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    def parameters(self) -> tuple[Parameter, ...]:
        shape = (self.ids.size or 0, self.kept.size or 0)
        return (Parameter("expert_VK", shape, "own", 0.0, trainable=False, buffer=True),)

    def module(self) -> str:
        sizes = f"{self.ids.size}, {self.choices.size}, {self.kept.size}"
        balanced = ", balanced=True" if self.fill == "balanced" else ""
        return f"ChoiceTable({sizes}, seed={self.seed}{balanced})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims, self.kept), "int"),)


@frozen(kw_only=True)
class EveryRow(Op):
    """(labels [B], x_NE) -> the label of its sequence for each row, [N]."""

    code: ClassVar[str] = "{0}.repeat_interleave({1}.shape[0] // {0}.shape[0])"
    carries: ClassVar[tuple[int, ...] | None] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (replace(dims_of(inputs[0]), dims=dims_of(inputs[1]).dims[:1]),)


@frozen(kw_only=True)
class OnePick(Op):
    """labels [N] -> the same as picks, [N, 1]."""

    choices: Dim
    code: ClassVar[str] = "{0}.unsqueeze(1)"
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def kept(self) -> Dim:
        return Dim("K", 1, origin=self.choices.origin)

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims, self.kept), "int"),)


@frozen(kw_only=True)
class FillPicks(Op):
    """Picks with `added` absent ones behind, [N, K]."""

    kept: Dim
    choices: Dim
    added: int
    imports: ClassVar[tuple[str, ...]] = ("F",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"F.pad({{0}}, (0, {self.added}), value={self.choices.size})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        one = dims_of(inputs[0])
        return (replace(one, dims=(*one.dims[:-1], self.kept)),)


@frozen(kw_only=True)
class ByPhase(Op):
    """(picks in training, picks else) -> those of the phase. It prints as a statement for each, and only one of the two
    is computed."""

    kept: Dim
    code: ClassVar[str] = "{0} if self.training else {1}"
    drops: ClassVar[bool] = True
    carries: ClassVar[tuple[int, ...] | None] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        one = dims_of(inputs[0])
        return (replace(one, dims=(*one.dims[:-1], self.kept)),)


@frozen(kw_only=True)
class Assigned(Op):
    """(key_NE, real) -> picks [N, K] such that every choice gets as many real rows as every other."""

    kept: Dim
    choices: Dim
    exact: bool
    tolerance: float
    rounds: int
    lookahead: str = ""
    sees: ClassVar[str] = "all"
    looks: ClassVar[tuple[int, ...] | None] = (0,)
    couples: ClassVar[str] = "an even assignment in training"
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.exact:
            return f"assign_rows({{0}}, {{1}}, {self.tolerance!r})"
        return f"even_choices({{0}}, {{1}}, {self.kept.size}, {self.tolerance!r}, {self.rounds})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".assigning:{'assign_rows' if self.exact else 'even_choices'}",)

    @property
    def causal_form(self) -> str:
        return f"select = phase(train = assigned, eval = top_k({self.kept.size}))"

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims[:-1], self.kept), "int"),)
