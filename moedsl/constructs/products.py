"""Scores for very many choices: each is named by two halves of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Number, Words
from moedsl.constructs.linear import Linear
from moedsl.ir import products

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class ProductKeys(Construct):
    """Scores of choices that stand in a square: the score of a choice is that of its row plus that of its column.

    What comes in is a query: a part for each of `heads`, of which one half is compared with the key of each row, the
    other with the key of each column. Every head keeps the k best of all choices by looking at 2 * root(choices)
    scores, exactly, and its weights are its own; what all heads keep is summed. So `score = linear(heads * 128) ->
    product_keys(heads = 8)`, `select = top_k(16)`, `weigh = score -> softmax`, where the square of a whole number is
    chosen among; a norm may stand between. Losses over all choices cannot be had. In the decision's record `logits_NE`
    holds the scores of the halves.
    """

    kind = "linear"
    source = "Lample et al., 2019 (product keys); He, 2024 (PEER), section 2"
    width = Linear.settings["width"]
    heads = Number("1", low=1, whole=True, unit="heads", doc="queries, each with picks of its own")
    keys = Words("shared", choices=("shared", "own"), doc="keys of all heads, or of each its own")
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        return products.lower_scores(build, self, build.merged(x))
