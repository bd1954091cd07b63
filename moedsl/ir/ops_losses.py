"""Losses over what routers decided."""

from __future__ import annotations

from moedsl.frozen import frozen
from moedsl.ir.graph import Parameter, TensorType
from moedsl.ir.ops_base import Op, Type, number
from moedsl.ir.ops_states import Coefficient


@frozen(kw_only=True)
class Listing(Op):
    """Routings of one loss as one list: of each input all, some (`picks`), or, where it is a single one, itself."""

    picks: tuple[tuple[int, ...] | str, ...]  # per input: indices | "all" | "one"

    @property
    def code(self) -> str:  # type: ignore[override]
        if len(self.picks) == 1 and isinstance(self.picks[0], tuple):
            return _some(0, self.picks[0])
        return f"[{', '.join(self._part(i, pick) for i, pick in enumerate(self.picks))}]"

    def _part(self, index: int, pick: tuple[int, ...] | str) -> str:
        if pick == "one":
            return f"{{{index}}}"
        return f"*{{{index}}}" if isinstance(pick, str) else f"*{_some(index, pick)}"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (inputs[0],)


def _some(index: int, indices: tuple[int, ...]) -> str:
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    stop = indices[-1] + 1
    if step > 0 and indices == tuple(range(indices[0], stop, step)):
        return f"{{{index}}}[{indices[0]}:{stop}{f':{step}' if step > 1 else ''}]"
    return f"[{{{index}}}[i] for i in {indices}]"


@frozen(kw_only=True)
class LossTerm(Op):
    """A loss over `routing: list[Routing]`, the decisions of one mixture from bottom to top, coefficient applied.

    `loss` is its name in the output; `function` the one in losses.py that computes it. `state`: the coefficient is a
    number with state, at the node's place.
    """

    loss: str
    function: str
    coefficient: float
    layers: str = "sum"
    state: Coefficient | None = None

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return self.state is None

    @property
    def adapts(self) -> str:
        return "sites" if self.state else ""

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{'{self}.value * ' if self.state else ''}{self.function}({{0}})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".losses:{self.function}", *(self.state.imports if self.state else ()))

    def parameters(self) -> tuple[Parameter, ...]:
        return self.state.parameters() if self.state else ()

    def module(self) -> str:
        return self.state.module if self.state else ""

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((), "float32"),)

    @property
    def statistics(self) -> tuple[str, ...]:
        return ()


@frozen(kw_only=True)
class Balance(LossTerm):
    """See constructs/losses.py. `num_experts` None where places differ in it; `groups`: places of each layer."""

    over: str = "site"
    count: str = "share"
    num_experts: int | None = None
    top_k: int | None = None
    groups: tuple[int, ...] = ()
    average: tuple[int, int] | None = None  # choices from .. to that count with their mean
    light: tuple[int, int] | None = None  # choices from .. to that count `eta`
    eta: float = 1.0
    buckets: tuple[int, ...] = ()  # how many choices in a row are balanced as one
    sites: int = 0
    limit: int | None = None  # of visits: of how many devices at most

    @property
    def steps(self) -> bool:
        """Are shares those of all forwards of a step? They are kept at the node's place."""
        return self.over == "step"

    @property
    def adapts(self) -> str:
        return "sites" if self.state or self.steps else ""

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{self.function}({{0}}, {{self}})" if self.steps else super().code

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        steps = (".adapting:StepCounts",) if self.steps else ()
        return (*super().imports, *steps)

    @property
    def library(self) -> tuple[str, ...]:
        """What its function in losses.py imports."""
        return (".adapting:over_ranks",) if self.over == "batch" else ()

    def parameters(self) -> tuple[Parameter, ...]:
        shape = (self.sites, self.num_experts or 0)
        counts = Parameter("count_LE", shape, "zeros", 0.0, trainable=False, buffer=True)
        return (counts,) if self.steps else super().parameters()

    def module(self) -> str:
        return f"StepCounts({self.sites}, {self.num_experts})" if self.steps else super().module()

    @property
    def statistics(self) -> tuple[str, ...]:
        counts = self.count if self.count in ("first", "visits") else "choices"
        return (counts, "probability")


@frozen(kw_only=True)
class ZLoss(LossTerm):
    """The mean of squared log-sum-exps of the logits."""

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("z",)


@frozen(kw_only=True)
class Penalty(LossTerm):
    """A loss of the runtime library: `call` is applied to the routings, with `arguments` behind; where `field` is set,
    to that field of each. Its result has one value for each place, unless `pooled`."""

    call: str
    field: str = ""
    arguments: str = ""
    negative: bool = False
    pooled: bool = False
    reads: tuple[str, ...] = ()

    @property
    def atom(self) -> bool:  # type: ignore[override]
        return False

    @property
    def code(self) -> str:  # type: ignore[override]
        given = f"[r.{self.field} for r in {{0}}]" if self.field else "{0}"
        value = f"{self.call}({given}{self.arguments})" + (
            "" if self.pooled else f".{self.layers}()"
        )
        factor = "{self}.value * " if self.state else f"{number(self.coefficient)} * "
        return ("-" if self.negative else "") + factor + value

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".penalties:{self.call}", *(self.state.imports if self.state else ()))

    @property
    def statistics(self) -> tuple[str, ...]:
        return self.reads
