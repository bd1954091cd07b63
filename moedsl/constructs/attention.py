"""Attention: expressions over named tensors, evaluated in order, around one weighted mean of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moedsl.constructs.declare import Construct, Expression, Number, Words
from moedsl.diagnostics.model import Label
from moedsl.ir import attending, scoring

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value

_PROJECTION = "a recipe or an expression; `linear` takes the width of the heads"


class Attention(Construct):
    """Each position reads the positions that it may see, weighted by how well its query fits their keys.

    `q` is made from `x`; `k` and `v` from `x`, or from the second stream where one is given. `scores` compares
    queries with keys, a softmax turns scores into weights, `mixed` is the weighted mean of the values, and `o` maps
    it back to the stream. Fewer `kv_heads` than `heads` share keys and values among groups of heads.

    A fused kernel computes `dot`, whatever its scale; a soft cap, and all other scores, are written out.
    `dropout` acts in training only; `phase(train = 0.1, eval = 0.05)` says what else it is.
    """

    kind = "attention"
    unit = True
    mixes_tokens = True
    whole = True
    streams = ("memory",)
    source = "Vaswani et al., 2017; grouped queries: Ainslie et al., 2023"
    heads = Number(low=1, whole=True, doc="number of query heads")
    kv_heads = Number(
        "heads", low=1, whole=True, doc="number of key and value heads; must divide `heads`"
    )
    head_dim = Number("width / heads", low=1, whole=True, unit="channels", doc="size of one head")
    mask = Words(
        "causal",
        choices=("causal", "none"),
        doc="`causal`: a position sees itself and what came before",
    )
    window = Number(
        "none",
        low=1,
        whole=True,
        unit="tokens",
        words=("none",),
        doc="how many latest positions are seen, the own one included",
    )
    dropout = Number(
        "0", low=0, high=1, phases=True, doc="probability that a weight is dropped, in training"
    )
    q = Expression("linear", sees=("x",), bare=True, doc="queries: " + _PROJECTION)
    k = Expression("linear", sees=("x",), bare=True, doc="keys: " + _PROJECTION)
    v = Expression("linear", sees=("x",), bare=True, doc="values: " + _PROJECTION)
    scores = Expression(
        "dot",
        sees=("x", "q", "k"),
        bare=True,
        doc="how well a query fits a key: `dot`, sums of them, and what acts on each number by itself",
    )
    mixed = Expression(
        "mixed",
        sees=("x", "q", "k", "v", "mixed"),
        doc="the weighted mean of the values, all heads side by side",
    )
    o = Expression(
        "mixed -> linear", sees=("x", "mixed"), doc="from the mixed values back to the stream"
    )

    def check(self, at: Any, sink: Any) -> None:
        if (
            isinstance(self.heads, int)
            and isinstance(self.kv_heads, int)
            and self.heads % self.kv_heads
        ):
            sink.error(
                "E0303",
                f"{self.kv_heads} key and value heads cannot be shared evenly by {self.heads} heads",
                at.origin("kv_heads"),
                "must divide `heads`",
                secondary=(Label(at.origin("heads"), f"{self.heads} heads"),),
                help=f"one of {_divisors(self.heads)}",
            )
        if self.window != "none" and self.mask == "none":
            sink.error(
                "E0310",
                "`window` counts back from a token, so it needs `mask = causal`",
                at.origin("window"),
                f"the latest {self.window} tokens",
                secondary=(Label(at.origin("mask"), "lets every token see all others"),),
                help="write `mask = causal`, or take the window out",
            )

    def lower(self, build: Builder, x: Value, memory: Value | None = None) -> Value:
        return attending.lower_attention(build, self, x, memory)


def _divisors(number: int) -> str:
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)


class Dot(Construct):
    """Scaled dot product of queries and keys: where an attention's scores begin."""

    kind = "score"
    scale = Number("standard", words=("standard",), doc="factor; `standard` is head_dim^-0.5")

    def lower(self, build: Builder, x: Value) -> Value:
        return scoring.lower_dot(build, self)
