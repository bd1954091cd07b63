"""Selections that give every choice as many rows as every other: rows are assigned, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moedsl.constructs.declare import Number, Words
from moedsl.constructs.registry import construct_of
from moedsl.constructs.selection import Selection
from moedsl.ir import ops
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.router import Router
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Assigned(Selection):
    """Rows are assigned to choices so that every choice gets as many: what a row gets depends on all rows.

    So it acts in training, and the largest score decides else: `phase(train = assigned, eval = top_k(1))`; the weight
    comes from the score and not from the assignment, `gate = score -> sigmoid` with `choose = score`. Nothing needs a
    balance loss. Padding takes part in neither.

    `sinkhorn` scales exp(score) row by row and choice by choice in turn until all choices have equal shares (to
    `tolerance`, in at most `rounds` rounds), and keeps the k largest: loads are nearly equal, and nothing waits for the
    device. `exact` is an auction: no choice gets more than its share of rows, rounded up, and the sum of scores is the
    largest there is, to within `tolerance` for each row; k is 1, and the host waits for the device.
    """

    source = "Lewis et al., 2021 (BASE layers); Clark et al., 2022, appendix (S-BASE); Megatron-LM moe_utils.py, sinkhorn"
    evens_out: ClassVar[bool] = True
    causality = "noncausal"
    k = Number(
        "1", low=1, whole=True, positional=True, unit="choices", doc="how many choices a row keeps"
    )
    method = Words(
        "sinkhorn", choices=("sinkhorn", "exact"), doc="nearly even by scaling, or even by auction"
    )
    tolerance = Number(
        "1e-4",
        low=0,
        exclusive_low=True,
        doc="mean change of a round that ends it; what a bid adds",
    )
    rounds = Number("100", low=1, whole=True, unit="rounds", doc="most rounds of `sinkhorn`")

    def lower(self, build: Builder, x: Value) -> Value:
        from moedsl.constructs.router import Router

        router = construct_of(build.frame.unit.recipe)
        assert isinstance(router, Router)
        if self.method == "exact" and self.k != 1:
            build.sink.error(
                "E0420",
                f"an auction assigns one choice to a row, and {self.k} are asked for",
                self.recipe.origin("k"),
                help="`method = sinkhorn` keeps more than one",
            )
            return build.poison(x)
        op = ops.Assigned(
            kept=build.dim(self.k, self.recipe.origin("k"), letter="K"),
            choices=build.last(x),
            exact=self.method == "exact",
            tolerance=float(self.tolerance),
            rounds=self.rounds,
            lookahead=_instead(router),
        )
        return build.op(op, x, ops.real_rows(build, x), name="expert")


def _instead(router: Router) -> str:
    """What the spec puts in the assignment's place when decoding."""
    if getattr(router, "lookahead", "") == "allowed":
        return "allowed"
    select = router.recipe.setting("select")
    if not isinstance(select, terms.Phase):
        return ""
    decode = terms.stages_of(select.decode)
    even = any(isinstance(s, terms.Recipe) and s.construct == Assigned.name for s in decode)
    return "" if even else " -> ".join(map(_spelled, decode))


def _spelled(stage: terms.Term) -> str:
    """`top_k(1)`."""
    assert isinstance(stage, terms.Recipe)
    given = construct_of(stage).settings.items()
    numbers = [stage.setting(name) for name, setting in given if setting.positional]
    inside = ", ".join(f"{n.value:g}" for n in numbers if isinstance(n, terms.Number))
    return f"{stage.construct}({inside})" if inside else stage.construct
