"""Positions that scores learn: a number for each distance from query to key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Number
from moedsl.ir import relating

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Relative(Construct):
    """A learned number for each head and distance, added to an attention's scores: `scores = dot + relative()`.

    Distances stand in buckets: the shorter half of them one by one, the others in steps that grow by a factor, up to
    `max_distance` and beyond. Where an attention sees both sides, half of the buckets are for what comes after; where
    it is causal, all are for what came before. `tied near = relative()`, declared in the model, is one table that all
    attentions share, and is looked up once for all of them.
    """

    kind = "score"
    source = "Raffel et al., 2020, section 2.1; transformers t5/modeling_t5.py"
    buckets = Number(
        "32", low=2, whole=True, positional=True, unit="buckets", doc="how many numbers a head has"
    )
    max_distance = Number(
        "128", low=2, whole=True, unit="tokens", doc="from here on all distances are one bucket"
    )
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        return relating.lower_relative(build, self)
