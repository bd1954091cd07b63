"""What acts on a stream as a whole: rows before it, and what is pooled from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Construct, Number, Words
from moedsl.ir import streams

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Prepend(Construct):
    """Learned rows before all others, such as the class token of a classifier."""

    whole = True
    source = "Devlin et al., 2018; Dosovitskiy et al., 2020"
    count = Number("1", low=1, whole=True, positional=True, unit="tokens", doc="how many rows")

    def lower(self, build: Builder, x: Value) -> Value:
        return streams.lower_prepend(build, self, x)


class Pool(Construct):
    """One vector for many tokens: their mean, or the first of them. Padding has no part in it."""

    whole = True
    how = Words(
        "mean", choices=("mean", "first"), positional=True, doc="the mean, or the first token"
    )
    over = Words("sequence", choices=("sequence",), doc="which tokens are pooled")

    def lower(self, build: Builder, x: Value) -> Value:
        return streams.lower_pool(build, self, x)
