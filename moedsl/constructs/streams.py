"""What acts on a stream as a whole: rows before it, and what is pooled from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moedsl.constructs.declare import INIT, Construct, Number, RecipeOf, Words
from moedsl.ir import streams

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Prepend(Construct):
    """Learned rows before all others, such as the class token of a classifier."""

    whole = True
    source = "Devlin et al., 2018; Dosovitskiy et al., 2020"
    count = Number("1", low=1, whole=True, positional=True, unit="tokens", doc="how many rows")
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        return streams.lower_prepend(build, self, x)


class Span(Construct):
    """What all stretches of tokens share."""

    abstract: ClassVar[bool] = True
    kind = "span"


class Segment(Span):
    """Segments of so many tokens, counted off from the first real one.

    What is read for a segment is what came `lag` segments before it: with 1 nothing that follows is seen. The first `lag`
    segments have nothing before them. A mean of theirs is zero, or (`first = own`) that of their own tokens, through which
    no gradient flows; tokens of the first segment then see what follows in it, but for decoding, where it is the mean
    of the segment so far. Slots before the first segment are empty, and nothing is read from them.
    """

    source = "Zhong et al., 2024 (Lory), section 3.1"
    length = Number(low=1, whole=True, positional=True, unit="tokens", doc="tokens of a segment")
    lag = Number(
        "1", low=0, whole=True, unit="segments", doc="how far back; 0 is the segment itself"
    )
    first = Words(
        "zero", choices=("zero", "own"), doc="the mean of segments that have none before them"
    )


class Pool(Construct):
    """One vector for many tokens: their mean, or the first of them. Padding has no part in it.

    Over a `sequence` that is one for each sequence; over the `prompt` too, but a cached step keeps what the first call
    had; over the `prefix` one for each token, the mean of what came up to it; over a `segment(256, lag = 1)` one for each
    segment.
    """

    whole = True
    how = Words(
        "mean", choices=("mean", "first"), positional=True, doc="the mean, or the first token"
    )
    over = RecipeOf(
        "sequence",
        kinds=("span",),
        words=("sequence", "prompt", "prefix"),
        doc="which tokens are pooled",
    )

    def lower(self, build: Builder, x: Value) -> Value:
        return streams.lower_pool(build, self, x)
