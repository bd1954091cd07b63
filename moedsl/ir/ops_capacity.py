"""Room for routed rows: how much there is, who gets it, and what becomes of the rest.

Rows stand in groups of `size` neighbours, the last perhaps smaller; each expert takes `slots` rows of a group. Both
are whole numbers that are known before anything is routed, so nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, RecordType, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of

if TYPE_CHECKING:
    from fractions import Fraction

NUMBER = RecordType("int")


@frozen
class Rule:
    """How the slots of one expert follow from the rows of a group: share * rows, rounded, or a `fixed` number;
    room for all where neither is given."""

    share: Fraction | None = None
    fixed: int | None = None
    round: str = "up"
    times: int = 1
    least: int = 1
    multiple: int = 1

    @property
    def unlimited(self) -> bool:
        return self.share is None and self.fixed is None

    def slots(self, size: int) -> int:
        """What the printed expression gives."""
        if self.fixed is not None:
            return self.fixed
        if self.share is None:
            return size
        exact = self.share * size
        rounded = {"up": -(-exact // 1), "down": exact // 1, "nearest": round(exact)}[self.round]
        most = max(self.least, self.times * int(rounded))
        return -(-most // self.multiple) * self.multiple

    def code(self, size: str) -> str:
        if self.fixed is not None:
            return str(self.fixed)
        if self.share is None:
            return size
        whole, parts = self.share.numerator, self.share.denominator
        code = f"{self.function}({size}, {whole}, {parts})"
        if parts == 1:
            code = size if whole == 1 else f"{whole} * {size}"
        code = f"{self.times} * {code}" if self.times > 1 else code
        code = f"max({self.least}, {code})" if self._may_fall_short else code
        return f"next_multiple({code}, {self.multiple})" if self.multiple > 1 else code

    @property
    def _may_fall_short(self) -> bool:
        """Groups have a row at least, so what is rounded up is 1 at least."""
        return self.least > (self.times if self.round == "up" else 0)

    @property
    def function(self) -> str:
        return f"share_{self.round}"

    @property
    def functions(self) -> tuple[str, ...]:
        divides = self.share is not None and self.share.denominator > 1
        rounding = (self.function,) if divides else ()
        return (*rounding, *(("next_multiple",) if self.multiple > 1 else ()))


@frozen(kw_only=True)
class GroupSize(Op):
    """(x_NE[, number of sequences]) -> how many rows a group has: `rows` of them, those of a sequence, or all."""

    rows: int | None = None
    sequences: bool = False
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.rows is not None:
            return f"min({{0}}.shape[0], {self.rows})"
        return "{0}.shape[0] // {1}" if self.sequences else "{0}.shape[0]"

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return not self.sequences

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (NUMBER,)


@frozen(kw_only=True)
class Slots(Op):
    """(size[, cache]) -> the room of one expert in a group; with a cache `decode` where it differs from `eval`."""

    train: Rule
    eval: Rule
    decode: Rule
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def rules(self) -> tuple[Rule, Rule, Rule]:
        return self.train, self.eval, self.decode

    @property
    def drops(self) -> bool:
        """Does the model act differently in training?"""
        return self.train != self.eval

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return len(set(self.rules)) == 1 and " * " not in self.train.code("")

    @property
    def code(self) -> str:  # type: ignore[override]
        train, eval_, decode = (rule.code("{0}") for rule in self.rules)
        other = eval_ if self.eval == self.decode else f"{eval_} if {{1}} is None else {decode}"
        if self.train == self.eval == self.decode:
            return train
        if self.train == self.eval:
            return other
        return f"{train} if self.training else {other}"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f".capacity:{name}" for rule in self.rules for name in rule.functions)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (NUMBER,)


@frozen(kw_only=True)
class SlotRows(Op):
    """(expert_NK, size, slots) -> the most rows that all experts together can get."""

    choices: int
    code: ClassVar[str] = "num_slots({0}, {choices}, {1}, {2})"
    imports: ClassVar[tuple[str, ...]] = (".capacity:num_slots",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (NUMBER,)


# --- who gets it ----------------------------------------------------------------------------------

FUNCTIONS = {
    "first_come": "serve_first_come",
    "by_rank": "serve_by_rank",
    "best": "serve_best_rows",
    "strongest": "serve_best_picks",
    "random": "serve_shuffled",
}


@frozen(kw_only=True)
class Serve(Op):
    """(expert_NK, size, slots, real[, gate_NK]) -> the picks that find room; the others are absent.

    `first_come`: in the order of rows, and of ranks within one. All other orders let later rows go before earlier ones,
    `by_rank` only where there are two picks or more. `roomy`: there is always room for all.
    """

    priority: str
    choices: int
    mean: Fraction | None = None
    lookahead: str = ""
    picks: int = 1
    heads: int = 0  # those whose rows and choices these are; 0: a token's
    roomy: bool = False
    carries: ClassVar[tuple[int, ...] | None] = ()
    causal_form: ClassVar[str] = "priority = first_come"
    couples: ClassVar[str] = "capacity"

    @property
    def by_head(self) -> bool:
        return self.heads > 0

    @property
    def least(self) -> int | None:
        return None if self.roomy else 0

    @property
    def gated(self) -> bool:
        return self.priority in ("best", "strongest")

    @property
    def drops(self) -> bool:
        return self.priority == "random"

    @property
    def code(self) -> str:  # type: ignore[override]
        return self._call("{0}", self.choices)

    def _call(self, picks: str, places: int) -> str:
        gate = "{4}, " if self.gated else ""
        shuffled = ", self.training" if self.priority == "random" else ""
        function = FUNCTIONS[self.priority]
        return f"{function}({picks}, {gate}{places}, {{1}}, {{2}}, {{3}}{shuffled})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".capacity:{FUNCTIONS[self.priority]}",)

    @property
    def sees(self) -> str:  # type: ignore[override]
        ordered = self.priority == "first_come" or (self.priority == "by_rank" and self.picks == 1)
        return "past" if ordered else "all"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expert = dims_of(inputs[0])
        return (replace(expert, dims=(*expert.dims[:-1], absent(expert.dims[-1], self.mean))),)


@frozen(kw_only=True)
class OfKind(Op):
    """expert_NK -> the picks of one kind of experts, by their numbers; the others are absent."""

    label: str
    first: int
    count: int
    choices: int
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        first, stop = self.first, self.first + self.count
        among = f"({{0}} >= {first}) & ({{0}} < {stop})"
        if not first:
            among = f"{{0}} < {stop}"
        elif self.count == 1:
            among = f"{{0}} == {first}"
        elif stop == self.choices:
            among = f"{{0}} >= {first}"
        return f"{{0}}.where({among}, {self.choices})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expert = dims_of(inputs[0])
        return (replace(expert, dims=(*expert.dims[:-1], absent(expert.dims[-1]))),)


@frozen(kw_only=True)
class OfEither(Op):
    """Two times expert_NK, each with the picks of some kinds -> the picks of all these kinds."""

    code: ClassVar[str] = "torch.minimum({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    carries: ClassVar[tuple[int, ...] | None] = ()


@frozen(kw_only=True)
class NextBest(Op):
    """(served_NK, expert_NK, further_NX, size, slots, real) -> what each row holds in the end, [N, K], and the same
    with what it did not get absent."""

    choices: int
    heads: int = 0
    lookahead: str = ""
    code: ClassVar[str] = "serve_next({0}, {1}, {2}, {choices}, {3}, {4}, {5})"
    imports: ClassVar[tuple[str, ...]] = (".capacity:serve_next",)
    carries: ClassVar[tuple[int, ...] | None] = ()
    least: ClassVar[int] = 0
    sees: ClassVar[str] = "all"
    causal_form: ClassVar[str] = "overflow = drop"
    couples: ClassVar[str] = "capacity"

    @property
    def by_head(self) -> bool:
        return self.heads > 0

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return inputs[1], inputs[0]


@frozen(kw_only=True)
class Further(Op):
    """[N, E] -> the indices of those that rank right after the `kept` best, [N, `more`]."""

    kept: int
    more: int
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        order = "{0}.sort(dim=-1, descending=True, stable=True).indices"
        return f"{order}[:, {self.kept}:{self.kept + self.more}]"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        rows = dims_of(inputs[0]).dims[:-1]
        return (TensorType((*rows, Dim("X", self.more)), "int"),)


@frozen(kw_only=True)
class Thin(Op):
    """(expert_NK, share_NK) -> the same, where picks from `first` on may be absent: with probability share / below
    they stay (`random`), above it (`threshold`), always (`all`) or never (`none`)."""

    first: int
    below: float
    choices: int
    train: str
    eval: str
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def least(self) -> int | None:
        return None if self.train == self.eval == "all" else self.first

    def _code(self, keep: str) -> str:
        match keep:
            case "all":
                return "{0}"
            case "none":
                return f"keep_first({{0}}, {self.choices}, {self.first})"
        function = {"random": "keep_by_chance", "threshold": "keep_above"}[keep]
        return f"{function}({{0}}, {{1}}, {self.choices}, {self.first}, {self.below})"

    @property
    def drops(self) -> bool:
        return self.train != self.eval or "random" in (self.train, self.eval)

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return self.train == self.eval

    @property
    def code(self) -> str:  # type: ignore[override]
        train, eval_ = self._code(self.train), self._code(self.eval)
        return train if train == eval_ else f"{train} if self.training else {eval_}"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        names = {"none": "keep_first", "random": "keep_by_chance", "threshold": "keep_above"}
        return tuple(f".capacity:{names[k]}" for k in (self.train, self.eval) if k in names)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expert = dims_of(inputs[0])
        return (replace(expert, dims=(*expert.dims[:-1], absent(expert.dims[-1]))),)


@frozen(kw_only=True)
class ExpertChoice(Op):
    """(key_NE, size, slots, real) -> expert_NE: column e holds e where expert e took the row, else it is absent."""

    kept: Dim
    choices: Dim
    lookahead: str = ""
    least: ClassVar[int] = 0
    code: ClassVar[str] = "choose_rows({0}, {1}, {2}, {3})"
    imports: ClassVar[tuple[str, ...]] = (".capacity:choose_rows",)
    carries: ClassVar[tuple[int, ...] | None] = ()
    sees: ClassVar[str] = "all"
    couples: ClassVar[str] = "expert choice"

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    @property
    def causal_form(self) -> str:
        return f"select = top_k({max(1, round(self.kept.picks))})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims[:-1], self.kept), "int"),)


@frozen(kw_only=True)
class CappedChoice(ExpertChoice):
    """The same from a plan with at most `most` experts for a row, regularised by `entropy`."""

    most: int
    entropy: float
    rounds: int
    imports: ClassVar[tuple[str, ...]] = (".capacity:choose_rows", ".capacity:capped_plan")

    @property
    def code(self) -> str:  # type: ignore[override]
        plan = (
            f"capped_plan({{0}}, {{1}}, {{2}}, {{3}}, {self.most}, {self.entropy!r}, {self.rounds})"
        )
        return f"choose_rows({plan}, {{1}}, {{2}}, {{3}})"


def absent(kept: Dim, mean: Fraction | None = None) -> Dim:
    """The axis of picks of which some may be absent; `mean` are there on average."""
    return replace(kept, loose=True, mean=mean if mean is not None else kept.mean)
