"""Chance in training: what perturbs a score or an input, and what hides some of it.

Each is a stage. In evaluation it passes on what it got, unless `phase` says more: `jitter(phase(train = 0.02, eval =
0.01))`. Draws come from torch's own generators, so activations that are made again in backward draw the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import Construct, Expression, Number
from moedsl.ir import ops, problems
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Noise(Construct):
    """What all noise shares: it is a stage that keeps the shape of what it gets."""

    abstract: ClassVar[bool] = True
    kind = "noise"


class Jitter(Noise):
    """Every element is multiplied by a number drawn evenly between 1 - amount and 1 + amount.

    In a router, `score = jitter(0.01) -> linear`, it perturbs what the router reads and nothing else.
    """

    source = "Fedus et al., 2021, section 2.4; mesh_tensorflow/transformer/moe.py (input_jitter)"
    amount = Number(
        "0.01", low=0, high=1, positional=True, phases=True, doc="how far from 1 the factor goes"
    )

    def lower(self, build: Builder, x: Value) -> Value:
        train, eval_ = build.rates(self.amount)
        if not (train or eval_):
            return x
        return build.op(ops.Noise(form="jitter", amount=train, eval_amount=eval_), x)


class Gaussian(Noise):
    """Normal noise is added to every element.

    `std` is a number, `gaussian(1 / choices)`, or an expression that gives one for each element:
    `linear -> gaussian(std = (x -> linear -> softplus) + 0.01)` learns it. At the end of a router's `score` it is the
    noise that the loss `load` reads.
    """

    source = "Shazeer et al., 2017, section 2.1 (learned); Riquelme et al., 2021, section 2 (1 / choices)"
    std = Expression(
        "1", sees=("x",), positional=True, doc="the standard deviation, or what computes it"
    )

    def check(self, at: Any, sink: Any) -> None:
        for term in at.setting("std").parts if isinstance(self.std, terms.Phase) else (self.std,):
            if isinstance(term, terms.Number) and term.value < 0:
                sink.error("E0206", "a standard deviation is at least 0", at.origin("std"))

    def lower(self, build: Builder, x: Value) -> Value:
        if isinstance(self.std, terms.Number | terms.Phase):
            train, eval_ = _amounts(build, self.std)
            if not (train or eval_):
                return x
            return build.op(ops.Noise(form="gaussian", amount=train, eval_amount=eval_), x)
        read = build.scope.get("x")
        if read is None:
            return problems.nothing_feeds(build, self.std)
        std = build.role("std", self.std, read, build.last(x), name="std")
        return build.op(ops.Noise(form="gaussian", learned=True), x, std)


class Gumbel(Noise):
    """Gumbel noise is added to every element: the largest of `score -> gumbel` is a draw from its softmax."""

    source = "Gumbel, 1954; Lepikhin et al., 2020 (second expert by sampling)"
    scale = Number("1", low=0, positional=True, phases=True, doc="factor of the noise")

    def lower(self, build: Builder, x: Value) -> Value:
        train, eval_ = build.rates(self.scale)
        if not (train or eval_):
            return x
        return build.op(ops.Noise(form="gumbel", amount=train, eval_amount=eval_), x)


class Hide(Noise):
    """Each number is hidden with this probability: it becomes -inf, so it ranks below all that are not.

    `choose = gate -> hide(0.1)` drops whole experts for single tokens in training, and leaves weights as they are.
    """

    source = "Csordas et al., 2023 (expert dropout); moe_attention/layers/moe_layer.py"
    rate = Number(low=0, high=1, positional=True, phases=True, doc="probability to be hidden")

    def lower(self, build: Builder, x: Value) -> Value:
        train, eval_ = build.rates(self.rate)
        if not (train or eval_):
            return x
        return build.op(ops.Noise(form="hide", amount=train, eval_amount=eval_), x)


def _amounts(build: Builder, std: terms.Number | terms.Phase) -> tuple[float, float]:
    if isinstance(std, terms.Number):
        return float(std.value), 0.0
    if not all(isinstance(each, terms.Number) for each in (std.train, std.eval, std.decode)):
        problems.differs_by_phase(build, std)
        return 0.0, 0.0
    return build.rates(std)
