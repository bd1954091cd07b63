"""Losses over routing decisions. The coefficient is applied; the printed model returns them by name."""

from __future__ import annotations

from typing import Any, ClassVar

from moedsl.constructs.declare import Construct, Labels, Number, Words
from moedsl.diagnostics.model import Label
from moedsl.model.terms import Recipe

_LAYERS = Words(
    "sum", choices=("sum", "mean"), doc="how the values of several places are put together"
)


class Loss(Construct):
    """What all losses share."""

    abstract: ClassVar[bool] = True
    kind = "loss"
    coefficient = Number(
        low=0,
        positional=True,
        stateful=True,
        doc="factor of the loss, or a number with state: `ramp(0, 0.01, steps = 1000)`",
    )

    def reads(self) -> tuple[str, ...]:
        """The statistics of a routing that it is made of, see `ir/readings.py`."""
        return ()

    @property
    def follows_load(self) -> bool:
        """Does it keep numbers that `adapt` moves, or empties, by what was routed?"""
        return isinstance(self.coefficient, Recipe)


class Balance(Loss):
    """Pulls towards equal use: choices * sum_e(share of tokens e gets * mean probability of e).

    With `count = share` it is 1 at perfect balance; `all` counts each of the k choices (k at balance), `first` only
    the first choice (1 at balance). `over` is what counts and probabilities are averaged over before the product:
    each mixture by itself (site), all mixtures of a layer, of the whole model, or each sequence. With `batch` the
    shares are those of each mixture on all ranks, with `step` those of all forwards since the last `model.adapt` too;
    probabilities stay this forward's own.

    In a bank of several kinds, choices of `average` count with their mean, so that a token may take any of them; a
    product of `light` kinds counts `eta`; kinds `together` are one choice each. The others stand on so many `devices`
    in order, and what is balanced are those. With `count = visits` a token counts once on each device that it is sent
    to, however many of its choices are there, and shares are over `limit` visits of each token: 1 at balance where
    all tokens visit as many. That balances what devices receive, where `groups(8, keep = 3)` bounds what they send.
    """

    source = (
        "Shazeer et al., 2017; Fedus et al., 2021; DeepSeek-V2, 2024, section 2.2.3 (devices, visits); Qiu et al., 2025 "
        "(batch, step); Zeng et al., 2024, AdaMoE (average); Jin et al., 2024, MoE++ (light)"
    )
    of = Words(
        "gate",
        choices=("gate", "score"),
        doc="the probability: gate / sum(gate), or softmax(score)",
    )
    over = Words(
        "site",
        choices=("site", "layer", "model", "sequence", "batch", "step"),
        doc="what is pooled before the product",
    )
    average = Labels("none", words=("none",), doc="kinds whose choices count with their mean")
    light = Labels("none", words=("none",), doc="kinds that count less")
    eta = Number("1", low=0, doc="how much they count")
    together = Labels("none", words=("none",), doc="kinds that are balanced as one choice each")
    devices = Number(
        "none",
        low=1,
        whole=True,
        words=("none",),
        unit="devices",
        doc="how many devices the choices stand on; `none`: each choice by itself",
    )
    count = Words(
        "share",
        choices=("share", "first", "all", "visits"),
        doc="which choices count, and how much",
    )
    limit = Number(
        "none",
        low=1,
        whole=True,
        words=("none",),
        unit="devices",
        doc="of `visits`: how many devices a token is sent to at most; `none`: shares are over all visits",
    )
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        counts = {"first": "first", "visits": "visits"}.get(self.count, "choices")
        return (counts, "probability")

    @property
    def follows_load(self) -> bool:
        return self.over == "step" or super().follows_load

    @property
    def by_kind(self) -> bool:
        """Does it tell choices apart by more than their number?"""
        return bool(self.average or self.light or self.together or self.devices != "none")

    def check(self, at: Any, sink: Any) -> None:
        if self.by_kind and self.over == "model":
            sink.error(
                "E0208",
                "kinds and devices in a balance over the model are not yet in this compiler",
                at.origin("over"),
                help="write `over = site`",
            )
        if self.count == "visits":
            self._check_visits(at, sink)
        elif self.limit != "none":
            sink.error(
                "E0508",
                "`limit` is about visits of devices, and this loss counts choices",
                at.origin("limit"),
                secondary=(Label(at.origin("count"), f"`count = {self.count}`"),),
                help="write `count = visits`, or take the limit out",
            )

    def _check_visits(self, at: Any, sink: Any) -> None:
        if self.devices == "none":
            sink.error(
                "E0508",
                "visits are of devices, and nothing says how many there are",
                at.origin("count"),
                help="say on how many the experts stand: `devices = 8`",
            )
        elif isinstance(self.limit, int) and self.limit > self.devices:
            sink.error(
                "E0508",
                f"a token cannot visit {self.limit} of {self.devices} devices",
                at.origin("limit"),
                secondary=(Label(at.origin("devices"), f"{self.devices} devices"),),
                help=f"the limit is {self.devices} or less",
            )
        for name in ("average", "light", "together", "over"):
            if getattr(self, name) and (name != "over" or self.over in ("batch", "step")):
                sink.error(
                    "E0208",
                    "visits beside kinds, and over all ranks, are not yet in this compiler",
                    at.origin(name),
                    help="balance them over sites or sequences, and all kinds alike",
                )


class Z(Loss):
    """Keeps logits small: the mean of squared log-sum-exps of the scores."""

    source = "Zoph et al., 2022"
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("z",)


class Importance(Loss):
    """Pulls towards equal weight: the squared coefficient of variation, over the choices, of what they are given.

    That is the variance over the squared mean, of all choices and not of a sample: one choice gives 0. Given are the
    weights of the kept (`weight`), the probability of all (`gate`, `score`), or the softmax of the score before its
    noise (`clean`).
    """

    source = "Shazeer et al., 2017, section 4 (weight); Riquelme et al., 2021, appendix A (clean)"
    of = Words(
        "weight",
        choices=("weight", "gate", "score", "clean"),
        doc="what a token gives to a choice",
    )
    over = Words("site", choices=("site", "sequence"), doc="what is pooled before the variation")
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("probability" if self.of in ("gate", "score") else self.of,)


class Load(Loss):
    """Pulls towards equal use: the squared coefficient of variation of how many tokens a choice is expected to get.

    In training that is the probability to be kept were the noise of the score drawn again: smooth in the score. The
    bar to pass is the k-th largest of the others (`others`: the largest that is left out for the kept, the smallest
    kept for the others), or the smallest kept for all (`last`). Without noise, in evaluation or where all choices are
    kept, it is the count.
    """

    source = "Shazeer et al., 2017, appendix A (others); Riquelme et al., 2021, appendix A (last)"
    bar = Words("others", choices=("others", "last"), doc="what a noisy score has to pass")
    over = Words("site", choices=("site", "sequence"), doc="what is pooled before the variation")
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("load",)


class Entropy(Loss):
    """The entropy of the routing probability, in nats: of each token, of the mean over tokens, or of the mean over the
    tokens of each sequence.

    A low entropy of tokens makes decisions sharp; a high entropy of the mean uses all choices. With `over = model` the
    mean goes over all places of the mixture too, with `over = place` over all runs of a layer that comes back.
    """

    source = "Huang et al., 2024 (of a token, low); Csordas et al., 2024, section 2.2 (of the mean, high)"
    of = Words(
        "gate",
        choices=("gate", "score"),
        doc="the probability: gate / sum(gate), or softmax(score)",
    )
    per = Words("token", choices=("token", "mean", "sequence"), doc="whose entropy")
    aim = Words("low", choices=("low", "high"), doc="which way it is pulled")
    over = Words("site", choices=("site", "place", "model"), doc="what the mean goes over")
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("entropy",) if self.per == "token" else ("probability",)


class L1(Loss):
    """Makes a gate sparse, most where many tokens go: choices * sum_e(share of tokens e gets * mean gate of e).

    The gate is taken as it is, so that it shrinks; shares are counts over k * tokens, where k is `picks`.
    """

    source = "Wang et al., 2024 (ReMoE), section 3.3; thu-ml/ReMoE moe/router.py"
    name = "l1"
    picks = Number(
        "1", low=0, exclusive_low=True, unit="choices", doc="how many choices a token should take"
    )
    layers = _LAYERS

    def reads(self) -> tuple[str, ...]:
        return ("choices", "gate")
