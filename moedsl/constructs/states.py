"""Numbers with state: no gradient moves them, a rule does, once after each step of the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moedsl.constructs.declare import Construct, Labels, Number, Words
from moedsl.ir import adapting, ops

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


class Stateful(Construct):
    """What numbers with state share that stand where a plain number may: a loss's coefficient."""

    abstract: ClassVar[bool] = True
    by_choices: ClassVar[bool] = False  # does it go by how many choices a token has?
    kind = "number"

    def state(self) -> ops.Coefficient:
        """The number, with its rule."""
        raise NotImplementedError(self.name)


class Sparsity(Stateful):
    """A factor that finds its size: it grows while routing is less sparse than wanted, and shrinks else.

    Sparsity is the share of choices that a token leaves out, its mean over the places of the loss. After each step of
    the optimizer, `model.adapt` multiplies or divides the number by `factor`. It stays in float32.
    """

    by_choices: ClassVar[bool] = True
    source = "Wang et al., 2024 (ReMoE), section 3.2; thu-ml/ReMoE training.py"
    target = Number(
        low=0, high=1, positional=True, doc="the share of choices left out: `1 - 1 / choices`"
    )
    start = Number("1e-8", low=0, exclusive_low=True, doc="where it starts")
    factor = Number("1.2", low=1, exclusive_low=True, doc="how much one step changes it")

    def state(self) -> ops.Coefficient:
        return ops.Coefficient(
            rule="SparsityCoefficient",
            start=float(self.start),
            settings=(("target", float(self.target)), ("factor", float(self.factor))),
        )


class Ramp(Stateful):
    """A number that goes in a straight line from `start` to `end` within so many steps of the optimizer."""

    start = Number(low=0, positional=True, doc="where it starts")
    end = Number(low=0, positional=True, doc="where it ends, and stays")
    steps = Number(low=1, whole=True, positional=True, unit="steps", doc="how many steps it takes")

    def state(self) -> ops.Coefficient:
        return ops.Coefficient(
            rule="Ramp",
            start=float(self.start),
            settings=(("end", float(self.end)), ("steps", self.steps)),
            steps=True,
        )
