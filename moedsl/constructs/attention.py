"""Attention: expressions over named tensors, evaluated in order, around one weighted mean of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import INIT, Construct, Expression, Flag, Number, RecipeOf, Words
from moedsl.constructs.registry import construct_of
from moedsl.diagnostics.model import Label
from moedsl.ir import attending, latent, scoring
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value

_SCORES = "how well a query fits a key: `dot`, sums of them, and what acts on each number by itself"
_PROJECTION = "a recipe or an expression; `linear` takes the width of the heads"


class Attending(Construct):
    """What all attentions share: which keys a query sees, how scores come about, and what follows them."""

    abstract: ClassVar[bool] = True
    kind = "attention"
    unit = True
    mixes_tokens = True
    whole = True
    scores: Any
    heads = Number(low=1, whole=True, doc="number of query heads")
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
    chunk = Number(
        "none",
        low=1,
        whole=True,
        unit="tokens",
        words=("none",),
        doc="positions stand in chunks of so many, and see no other chunk",
    )
    sinks = Flag(
        "false",
        doc="a learned logit for each head that takes part in the softmax and gives nothing: weights sum to less than 1",
    )
    dropout = Number(
        "0", low=0, high=1, phases=True, doc="probability that a weight is dropped, in training"
    )
    init = INIT

    @property
    def tiles(self) -> int:
        """How often all key heads are repeated, one after the other, to make as many as there are query heads."""
        return 1

    @property
    def sharpening(self) -> float:
        """What queries and keys are multiplied by as wholes, beside what their own stages do."""
        return 1.0

    def check(self, at: Any, sink: Any) -> None:
        for name in ("window", "chunk"):
            if getattr(self, name) != "none" and self.mask == "none":
                sink.error(
                    "E0310",
                    f"`{name}` counts back from a token, so it needs `mask = causal`",
                    at.origin(name),
                    f"{getattr(self, name)} tokens",
                    secondary=(Label(at.origin("mask"), "lets every token see all others"),),
                    help=f"write `mask = causal`, or take the {name} out",
                )


class Attention(Attending):
    """Each position reads the positions that it may see, weighted by how well its query fits their keys.

    `q` is made from `x`; `k` and `v` from `x`, or from the second stream where one is given. `scores` compares
    queries with keys, a softmax turns scores into weights, `mixed` is the weighted mean of the values, and `o` maps
    it back to the stream. Fewer `kv_heads` than `heads` share keys and values among groups of heads.

    A fused kernel computes `dot`, whatever its scale; a soft cap, sinks, and all other scores are written out.
    `dropout` acts in training only; `phase(train = 0.1, eval = 0.05)` says what else it is.
    """

    streams = ("memory",)
    source = "Vaswani et al., 2017; grouped queries: Ainslie et al., 2023; sinks: gpt-oss, 2025"
    kv_heads = Number(
        "heads", low=1, whole=True, doc="number of key and value heads; must divide `heads`"
    )
    share = Words(
        "interleaved",
        choices=("interleaved", "tiled"),
        doc="which query heads share a key head: neighbours, or every `kv_heads`-th, as if keys were repeated whole",
    )
    head_dim = Number("width / heads", low=1, whole=True, unit="channels", doc="size of one head")
    q = Expression("linear", sees=("x",), bare=True, doc="queries: " + _PROJECTION)
    k = Expression("linear", sees=("x",), bare=True, doc="keys: " + _PROJECTION)
    v = Expression("linear", sees=("x",), bare=True, doc="values: " + _PROJECTION)
    scores = Expression("dot", sees=("x", "q", "k"), bare=True, doc=_SCORES)
    mixed = Expression(
        "mixed",
        sees=("x", "q", "k", "v", "mixed"),
        doc="the weighted mean of the values, all heads side by side",
    )
    o = Expression(
        "mixed -> linear", sees=("x", "mixed"), doc="from the mixed values back to the stream"
    )

    @property
    def tiles(self) -> int:
        return int(self.heads // self.kv_heads) if self.share == "tiled" else 1

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
        super().check(at, sink)

    def lower(self, build: Builder, x: Value, memory: Value | None = None) -> Value:
        return attending.lower_attention(build, self, x, memory)


class Latent(Attending):
    """Attention whose keys and values come from one short vector for each token, which is all that a cache keeps.

    `compress` makes of each token `kv_rank` channels, from which `expand` makes the keys (`head_dim` channels a head)
    and values (`value_dim`) of all heads, and `rope_dim` more channels that `rotate` turns: they are appended to the
    key of every head. A query has `head_dim` channels that meet the former and `rope_dim` turned ones; with a `q_rank`
    it is made over as many channels, in two steps. `q_norm` and `kv_norm` stand between the steps.

    Scores are scaled by (head_dim + rope_dim)^-0.5. Decoding, keys and values are expanded from the cache at every step.
    """

    source = "DeepSeek-V2, 2024, section 2.1; transformers deepseek_v3"
    q_rank = Number(
        "none",
        low=1,
        whole=True,
        unit="channels",
        words=("none",),
        doc="channels between the two steps of a query; `none`: one step",
    )
    kv_rank = Number(low=1, whole=True, unit="channels", doc="channels of the short vector")
    head_dim = Number(low=1, whole=True, unit="channels", doc="channels of a head that never turn")
    rope_dim = Number(low=2, whole=True, unit="channels", doc="channels of a head that turn")
    value_dim = Number("head_dim", low=1, whole=True, unit="channels", doc="size of a head's value")
    rotate = RecipeOf("rope", kinds=("rotation",), doc="how the turning channels turn")
    q_norm = RecipeOf("rms", flows=True, doc="what stands between the two steps of a query")
    kv_norm = RecipeOf("rms", flows=True, doc="what the short vector goes through")
    q_down = Expression(
        "linear", sees=("x",), bare=True, doc="a query's first step, with a `q_rank`"
    )
    q = Expression(
        "linear", sees=("x",), bare=True, doc="queries, from `x` or its `q_rank` channels"
    )
    compress = Expression(
        "linear", sees=("x",), bare=True, doc="the short vector, then the channels that turn"
    )
    expand = Expression(
        "linear", sees=("x",), bare=True, doc="from the short vector to each head's key, then value"
    )
    scores = Expression("dot", sees=("x", "q", "k"), bare=True, doc=_SCORES)
    mixed = Expression(
        "mixed",
        sees=("x", "q", "k", "v", "mixed"),
        doc="the weighted mean of the values, all heads side by side",
    )
    o = Expression(
        "mixed -> linear", sees=("x", "mixed"), doc="from the mixed values back to the stream"
    )

    @property
    def sharpening(self) -> float:
        scaling = getattr(construct_of(self.rotate), "scaling", "none")
        if not isinstance(scaling, terms.Recipe):
            return 1.0
        return construct_of(scaling).sharpening  # type: ignore[attr-defined]

    def lower(self, build: Builder, x: Value) -> Value:
        return latent.lower_latent(build, self, x)


def _divisors(number: int) -> str:
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)


class Dot(Construct):
    """Scaled dot product of queries and keys: where an attention's scores begin."""

    kind = "score"
    scale = Number("standard", words=("standard",), doc="factor; `standard` is head_dim^-0.5")

    def lower(self, build: Builder, x: Value) -> Value:
        return scoring.lower_dot(build, self)
