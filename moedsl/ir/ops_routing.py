"""Who serves which row: selection, weights, statistics, the fused route. `ops_dispatch` takes rows there and back.

Ties: E experts to choose among, K kept of them, N rows, R = N * K routed rows, sorted by expert (`Dispatch`).
Types: RecordType("Routing") has expert_NK (int), weight_NK (float32) and logits_NE, then what losses read of
it (`fields`), and `rows` where its router bounds them; RecordType("Dispatch") is the order of routed rows.

Picks may be loose (`Dim.loose`): a choice that was dropped, fell below a threshold, or belongs to another kind of
experts is numbered E, one past the last. It weighs nothing, and dispatch gives it no row to compute.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, RecordType, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of, number

ROWS_FIELD = "rows"  # of a record: the most rows that experts get


@frozen(kw_only=True)
class TopK(Op):
    """[N, E] -> the indices of the `kept` largest, best first, ties to the lower index: [N, K] int."""

    kept: Dim
    choices: Dim
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.sort(dim=-1, descending=True, stable=True).indices[:, :{self.kept.size}]"

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims[:-1], self.kept), "int"),)


@frozen(kw_only=True)
class Positive(Op):
    """[N, E] -> in column e the choice e where it is above zero, else absent: [N, E] int."""

    choices: Dim
    least: ClassVar[int] = 0
    code: ClassVar[str] = "positive({0})"
    imports: ClassVar[tuple[str, ...]] = (".selection:positive",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def kept(self) -> Dim:
        return Dim("K", self.choices.size, loose=True, origin=self.choices.origin)

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims[:-1], self.kept), "int"),)


@frozen(kw_only=True)
class TopP(Op):
    """[N, E] -> the fewest largest that add up to `share`, best first, the rest of `kept` absent: [N, K] int."""

    kept: Dim
    choices: Dim
    share: float
    least: ClassVar[int] = 1
    imports: ClassVar[tuple[str, ...]] = (".selection:top_p",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"top_p({{0}}, {self.share!r}, {self.kept.size})"

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((*dims_of(inputs[0]).dims[:-1], self.kept), "int"),)


@frozen(kw_only=True)
class LimitGroups(Op):
    """[N, E] -> the same, lowest outside the `keep` best of the groups; a group ranks by the sum of its `best`."""

    groups: int
    keep: int
    best: int
    carries: ClassVar[tuple[int, ...] | None] = ()
    imports: ClassVar[tuple[str, ...]] = (".selection:limit_groups",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"limit_groups({{0}}, {self.groups}, {self.keep}, {self.best})"


@frozen(kw_only=True)
class Gather(Op):
    """What was kept of [N, E], by indices [N, K]; `fill` is what absent picks get, None where all are there."""

    # "0", or "lowest": the lowest finite number, so that a softmax gives it nothing.
    fill: str | None = None
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.fill is None:
            return "{0}.gather(-1, {1})"
        return "F.pad({0}, (0, 1), value=" + self._value + ").gather(-1, {1})"

    @property
    def _value(self) -> str:
        return "torch.finfo({0}.dtype).min" if self.fill == "lowest" else "0.0"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.fill is None else ("F",) if self.fill == "0" else ("F", "torch")

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (replace(dims_of(inputs[1]), dtype=dims_of(inputs[0]).dtype),)


@frozen(kw_only=True)
class NormalizeAmong(Op):
    """(weight_NK, expert_NK) -> divided by the sum over picks from choice `first` up to `stop`, plus `eps`."""

    first: int
    stop: int
    eps: float = 0.0
    detach: bool = False
    carries: ClassVar[tuple[int, ...] | None] = (0,)
    atom: ClassVar[bool] = False
    imports: ClassVar[tuple[str, ...]] = (".selection:kept_sum",)

    @property
    def code(self) -> str:  # type: ignore[override]
        sum_NK = "{0}.detach()" if self.detach else "{0}"
        total = f"kept_sum({sum_NK}, {{1}}, {self.first}, {self.stop})"
        return f"{{0}} / ({total} + {self.eps!r})" if self.eps else f"{{0}} / {total}"


@frozen(kw_only=True)
class WithoutAbsent(Op):
    """(weight_NK, expert_NK) -> the weights, zero where a pick is absent."""

    choices: Dim
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}.where({{1}} < {self.choices.size}, 0)"


@frozen(kw_only=True)
class Statistic(Op):
    """What a loss reads of a routing, summed over the real rows of each sequence, [S, E] or [S].

    Inputs: what it is of (choices, first: expert_NK and logits; probability, entropy, gate: gate; z, clean, tokens:
    logits; weight: weight_NK and expert_NK; visits: expert_NK; load: clean and noisy logits, and the deviation of the noise where it is
    computed), then real_N, then the number of sequences (1 where absent).
    """

    which: str  # choices | first | probability | z | entropy | weight | gate | clean | load | visits | tokens
    form: str = (
        "given"  # probability: given (sums to 1) | softmax (of logits) | normalize; clean: made
    )
    per_sequence: bool = False
    loose: bool = False  # picks may be absent
    kept: int = 0  # of a load: how many are kept
    choices: int = 0  # of weights and visits: of how many
    bar: str = ""  # of a load: others | last, or nothing where there is no noise
    std: float | None = None  # of a load's noise; None: computed
    devices: int = 0  # visits: of how many, on which the choices stand in order
    merged: int = 0  # of a load: the choices of all heads, where heads decide
    every: int = 0  # first: each so many picks belong to a head, whose first one counts

    @property
    def carries(self) -> tuple[int, ...] | None:  # type: ignore[override]
        if self.which == "rebuilt":
            return () if self.form == "none" else (0, 1)
        return (0, 1, 2) if self.which == "load" else (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        value, first = "{0}", self._inputs
        rest = f"{{{first}}}, {{{first + 1}}}" if self.per_sequence else f"{{{first}}}, 1"
        match self.which:
            case "visits":
                return f"count_visits({{0}}, {self.choices}, {self.devices}, {rest})"
            case "weight":
                value = f"weight_of_each({{0}}, {{1}}, {self.choices})"
            case "rebuilt":
                value = "torch.zeros_like({0}[:, :1])"
                if self.form != "none":
                    value = "cross_entropies({0}, {1}, {2})"
            case "clean" if self.form != "made":
                value = "{0}.softmax(-1)"
            case "load" if not self.bar:
                value = f"count_largest({{0}}, {self.kept})"
            case "load":
                std = "{2}" if self.std is None else number(self.std)
                value = f"{self._load}({{0}}, {{1}}, {std}, {self.kept}, self.training)"
            case "entropy":
                value = f"entropy({self._distribution}).unsqueeze(1)"
            case "choices" | "first":
                best = f"{{0}}[:, ::{self.every}]" if self.every else "{0}[:, :1]"
                picked = "{0}" if self.which == "choices" else best
                value = f"torch.zeros_like({{1}}, dtype=torch.int64).scatter(1, {picked}, 1)"
                if self.loose:
                    value = f"count_picks({picked}, {{1}}.shape[1])"
            case "z":
                return f"sum_z({{0}}, {rest})"
            case "probability":
                value = self._distribution
            case "tokens":
                return f"count_tokens({{0}}, {rest})"
        if self.merged:
            value = f"{value}.view(-1, {self.merged})"
        squeeze = ".squeeze(1)" if self.which in ("entropy", "rebuilt") else ""
        return f"segment_sum({value}, {rest}){squeeze}"

    @property
    def _inputs(self) -> int:
        """How many inputs say what it is of."""
        if self.which == "load":
            return (2 + (self.std is None)) if self.bar else 1
        if self.which == "rebuilt":
            return 1 if self.form == "none" else 3
        return 2 if self.which in ("choices", "first", "weight") else 1

    @property
    def _load(self) -> str:
        return "load_by_last" if self.bar == "last" else "load_by_pair"

    @property
    def _distribution(self) -> str:
        forms = {"softmax": "{0}.softmax(-1)", "normalize": "F.normalize({0}, p=1.0, dim=-1)"}
        return forms.get(self.form, "{0}")

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.which in ("tokens", "visits"):
            return (f".routing:count_{self.which}",)
        if self.which == "z":
            return (".selection:sum_z",)
        more = (".selection:count_picks",) if self.loose else ()
        if self.which == "weight":
            more = (".selection:weight_of_each",)
        elif self.which == "rebuilt":
            more = (".rebuilding:cross_entropies",) if self.form != "none" else ()
        elif self.which == "entropy":
            more = (".penalties:entropy",)
        elif self.which == "load":
            more = (f".noise:{self._load if self.bar else 'count_largest'}",)
        return (".reference:segment_sum", "torch", "F", *more)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (RecordType("Tensor"),)


@frozen(kw_only=True)
class Routed(Op):
    """A routing put together from its parts: expert_NK, weight_NK, logits_NE, then `statistics` in the record's order.

    `bounded`: the last input is the most rows that experts can get, a number known before any index is.
    `meant`: rows without a pick get nothing, and that is meant.
    """

    kept: Dim
    choices: Dim
    statistics: tuple[str, ...] = ()
    bounded: bool = False
    meant: bool = False
    code: ClassVar[str] = "{record}({args})"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        rows = (ROWS_FIELD,) if self.bounded else ()
        return (RecordType("Routing", (self.kept, self.choices), (*self.statistics, *rows)),)


@frozen(kw_only=True)
class Route(Op):
    """Scoring, choice, weights and statistics in one step: (logits_NE[, real_N[, num_sequences]]) -> Routing.

    `before`: the score runs over all logits before selection; else over the kept ones alone. `normalize` divides the
    kept by their sum plus `eps`; `scale` multiplies last. `distribution` is the probability that losses read. With a
    `bias`, the second input, what is ranked is the score (`before`) or the logit plus that. Only choices of the `keep`
    best of `groups` are kept (see `LimitGroups`). `devices`: those whose visits are counted. With `heads` each head of a
    token decides so among choices of its own, and the record has the picks and choices of all (`in_record`).
    """

    name: str
    kept: Dim
    choices: Dim
    score: str = "softmax"  # softmax | sigmoid | identity
    before: bool = False
    normalize: bool = False
    eps: float = 0.0
    scale: float = 1.0
    bias: bool = False
    groups: int = 1
    keep: int = 1
    best: int = 1
    statistics: tuple[str, ...] = ()
    distribution: str = "softmax"  # softmax | sigmoid
    devices: int = 0
    heads: int = 0
    in_record: tuple[Dim, Dim] | None = None
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def read(self) -> tuple[str, ...]:
        """The fields of its record beside the decision."""
        return (*self.statistics, *(("visits",) if self.devices else ()))

    @property
    def top_k(self) -> int:
        return self.kept.size or 0

    @property
    def num_experts(self) -> int:
        return self.choices.size or 0

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.kept, self.choices

    @property
    def normalizes(self) -> Dim | None:
        """The axis over which weights add up to a constant."""
        over_kept = (self.score == "softmax" and not self.before) or (
            self.normalize and not self.eps
        )
        return self.kept if over_kept else None

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"route_{self.name}({{args}})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".routing:route_{self.name}",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (RecordType("Routing", self.in_record or (self.kept, self.choices), self.read),)
