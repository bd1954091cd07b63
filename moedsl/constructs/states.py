"""Numbers with state: no gradient moves them, a rule does, once after each step of the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Construct, Labels, Number, Words
from moedsl.ir import adapting

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Balancing(Construct):
    """A number for each choice that evens out how often it is chosen, without a loss.

    It stands in a router's `choose`, so it moves what is selected and never a weight. After each step of the
    optimizer, `model.adapt` raises it where a choice was taken too rarely, and lowers it where too often: by `rate`
    (`sign`), or by `rate` times the share of picks that is missing (`proportional`). Counts are those of all forwards
    of the step on all ranks, without padding. It stays in float32, is saved with the weights, and stands still in
    evaluation.

    In a bank of several kinds `kinds` are those that adapt, and `picks` is how many of them a token should take on
    average; the numbers of other kinds stay 0. Its place is `router.bias`.
    """

    kind = "correction"
    source = (
        "Wang et al., 2024 (loss-free balancing); DeepSeek-V3, 2024, section 2.1.2; "
        "LongCat-Flash, 2025 (kinds and picks)"
    )
    rate = Number(
        "1e-3", low=0, exclusive_low=True, positional=True, doc="how far one step moves it"
    )
    update = Words(
        "sign",
        choices=("sign", "proportional"),
        doc="a step of one size, or one as large as what is missing",
    )
    kinds = Labels("all", doc="the kinds of experts whose numbers adapt")
    picks = Number(
        "even",
        low=0,
        exclusive_low=True,
        words=("even",),
        unit="choices",
        doc="how many of these a token should take on average; `even`: as many as they take now",
    )

    def lower(self, build: Builder, x: Value) -> Value:
        return adapting.lower_balancing(build, self)
