"""Losses over routing decisions. The coefficient is applied; the printed model returns them by name."""

from __future__ import annotations

from typing import ClassVar

from moedsl.constructs.declare import Construct, Number, Words

_LAYERS = Words(
    "sum", choices=("sum", "mean"), doc="how the values of several places are put together"
)


class Loss(Construct):
    """What all losses share."""

    abstract: ClassVar[bool] = True
    kind = "loss"
    coefficient = Number(low=0, positional=True, doc="factor of the loss")

    def reads(self) -> tuple[str, ...]:
        """The statistics of a routing that it is made of: choices, first, probability, z."""
        return ()


class Balance(Loss):
    """Pulls towards equal use: choices * sum_e(share of tokens e gets * mean probability of e).

    With `count = share` it is 1 at perfect balance; `all` counts each of the k choices (k at balance), `first` only
    the first choice (1 at balance). `over` is what counts and probabilities are averaged over before the product:
    each mixture by itself (site), all mixtures of a layer, of the whole model, or each sequence.
    """

    source = "Shazeer et al., 2017; Fedus et al., 2021"
    of = Words(
        "gate",
        choices=("gate", "score"),
        doc="the probability: gate / sum(gate), or softmax(score)",
    )
    over = Words(
        "site",
        choices=("site", "layer", "model", "sequence"),
        doc="what is pooled before the product",
    )
    count = Words(
        "share", choices=("share", "first", "all"), doc="which choices count, and how much"
    )
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("first" if self.count == "first" else "choices", "probability")


class Z(Loss):
    """Keeps logits small: the mean of squared log-sum-exps of the scores."""

    source = "Zoph et al., 2022"
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("z",)
