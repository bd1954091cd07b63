"""What the same router said before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Construct, Words
from moedsl.ir import before

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Previous(Construct):
    """The score by which the router of this name decided last about the same tokens, in a layer before or earlier in this one.

    It stands in an expression of a router: `score = linear + (previous(score) -> linear)` lets a token remember which
    way it went. Layers without such a router are passed over. At the first place nothing was decided before: there
    the term falls out of the sum that it stands in, with all that follows it, so the first map has no weights. The score
    is the sum itself, as it was before softmax, and gradients flow back through it. It is each token's own, so nothing
    of it is kept in a cache.
    """

    source = "Jin et al., 2024 (MoE++), section 3.2, gating residuals"
    of = Words(
        "score", choices=("score",), positional=True, doc="which number of the router before"
    )

    def lower(self, build: Builder, x: Value) -> Value:
        return before.lower_previous(build, self.recipe, x)
