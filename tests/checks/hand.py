"""A model made by hand: what lowering would give for a small decoder, with operations that state only their traits.

The operations stand in for anybody's: the checks and the cost know them by nothing but what they say of themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, Graph, Node, TensorType, Unit, Value
from moedsl.ir.ops import Call, Combination, Embedding, Linear, Norm, Op, Pointwise, Stack
from moedsl.source import Span

B, T = Dim("B"), Dim("T", stream=True)


@frozen(kw_only=True)
class Attend(Op):
    """Softmax(q k^T) v; `sees` says whether it is masked."""

    sees: str = "past"  # type: ignore[misc]
    looks: tuple[int, ...] = (1, 2)
    causal_form: str = "mask = causal"

    def flops_per_position(self, q: TensorType, *_: TensorType) -> int:
        return 4 * (q.dims[-1].size or 0)

    def cached(self, q: TensorType, k: TensorType, v: TensorType) -> int:
        return (k.dims[-1].size or 0) + (v.dims[-1].size or 0)


@frozen(kw_only=True)
class Select(Op):
    """Scores to (scores of the picks, which ones)."""

    picks: Dim
    choices: Dim
    sees: str = "row"  # type: ignore[misc]
    lookahead: str = ""

    @property
    def chosen(self) -> tuple[Dim, Dim]:
        return self.picks, self.choices

    def infer(self, scores: Any) -> tuple[Any, ...]:
        lead = scores.dims[:-1]
        return TensorType((*lead, self.picks)), TensorType((*lead, self.picks), "int")


@frozen(kw_only=True)
class Softmax(Op):
    normalizes: Dim


@frozen(kw_only=True)
class Send(Op):
    """Rows to the experts that they picked: (x, picks) -> k rows for each row of x."""

    spread: Fraction

    def infer(self, *inputs: Any) -> tuple[Any, ...]:
        return (TensorType((Dim("R"), inputs[0].dims[-1])),)


@frozen(kw_only=True)
class Combine(Op):
    """Rows of experts, weighted and added up where they came from: (y, weights, picks)."""

    spread: Fraction

    def infer(self, *inputs: Any) -> tuple[Any, ...]:
        return (TensorType((B, T, inputs[0].dims[-1])),)


@frozen(kw_only=True)
class Pool(Op):
    """The mean over a sequence, at every row of it."""

    sees: str = "all"  # type: ignore[misc]
    lookahead: str = ""


@frozen(kw_only=True)
class Detach(Op):
    carries: tuple[int, ...] = ()  # type: ignore[misc]


@frozen(kw_only=True)
class Balance(Op):
    coefficient: float = 0.01


@dataclass
class Body:
    """Builds one unit; `add` returns the first result."""

    unit: Unit
    at: int = 0
    made: list[Value] = field(default_factory=list)

    def add(
        self, op: Op, *inputs: Value, place: str = "", role: str = "", name: str = "y"
    ) -> Value:
        return self.add_all(op, *inputs, place=place, role=role, name=name)[0]

    def add_all(
        self, op: Op, *inputs: Value, place: str = "", role: str = "", name: str = "y"
    ) -> tuple[Value, ...]:
        self.at += 10
        span = Span(self.at, self.at + 5, self.unit.name)
        types = op.infer(*(v.type for v in inputs))
        outputs = tuple(Value(name, t, span) for t in types)
        self.unit.nodes.append(Node(op, inputs, outputs, place, role, span))
        return outputs


def body(name: str, kind: str, *inputs: Value) -> Body:
    return Body(Unit(name, kind, list(inputs)))


def stream(width: Dim, name: str = "x") -> Value:
    return Value(name, TensorType((B, T, width)))


@frozen(kw_only=True)
class Sizes:
    vocab: int = 256
    width: int = 64
    layers: int = 2
    heads: int = 64  # heads times channels of each
    kv: int = 32
    hidden: int = 96
    experts: int = 4
    picks: int = 2


def attention(s: Sizes, d: Dim, sees: str = "past") -> Unit:
    x = stream(d)
    b = body("own", "attention", x)
    q_dim, k_dim = Dim("Q", s.heads), Dim("G", s.kv)
    q = b.add(Linear(out=q_dim, inner=d), x, place="q", role="q")
    k = b.add(Linear(out=k_dim, inner=d), x, place="k", role="k")
    v = b.add(Linear(out=k_dim, inner=d), x, place="v", role="v")
    mixed = b.add(Attend(sees=sees), q, k, v, role="scores")
    b.unit.outputs = [b.add(Linear(out=d, inner=q_dim), mixed, place="o", role="o")]
    return b.unit


def swiglu(s: Sizes, d: Dim, bank: int = 0) -> Unit:
    x = Value("x", TensorType((Dim("R"), d))) if bank else stream(d)
    b = body("experts" if bank else "ffn", "experts" if bank else "ffn", x)
    b.unit.bank = bank
    f = Dim("F", s.hidden)
    gate = b.add(Linear(out=f, inner=d, bank=bank), x, place="gate", role="gate")
    up = b.add(Linear(out=f, inner=d, bank=bank), x, place="up", role="up")
    hidden = b.add(Combination(operator="*"), b.add(Pointwise(function="F.silu"), gate), up)
    b.unit.outputs = [b.add(Linear(out=d, inner=f, bank=bank), hidden, place="down", role="down")]
    return b.unit


def router(s: Sizes, d: Dim, sees: str = "row", lookahead: str = "") -> Unit:
    x = stream(d)
    b = body("pick", "router", x)
    e, k = (
        Dim("E", s.experts, origin=Span(40, 41, "spec")),
        Dim("K", s.picks, origin=Span(80, 81, "spec")),
    )
    score = b.add(Linear(out=e, inner=d), x, place="score", role="score")
    select = Select(picks=k, choices=e, sees=sees, lookahead=lookahead)
    kept, picked = b.add_all(select, score, role="select")
    b.unit.outputs = [b.add(Softmax(normalizes=k), kept, role="weigh"), picked]
    return b.unit


def mixture(s: Sizes, d: Dim, chooses: Unit | None = None) -> Unit:
    x = stream(d)
    b = body("sparse", "moe", x)
    weights, picked = b.add_all(Call(unit=chooses or router(s, d)), x, place="router")
    rows = b.add(Send(spread=Fraction(s.picks)), x, picked)
    y = b.add(Call(unit=swiglu(s, d, s.experts)), rows, place="experts")
    b.unit.outputs = [b.add(Combine(spread=Fraction(1, s.picks)), y, weights, picked)]
    return b.unit


def layer(s: Sizes, d: Dim, mix: Unit, feed: Unit) -> Unit:
    x = stream(d)
    b = body("layer", "block", x)
    norm = Norm(over=d, form="rms", eps=1e-5)
    plus = Combination(operator="+")
    x = b.add(plus, x, b.add(Call(unit=mix), b.add(norm, x, place="before_mix"), place="own"))
    name = "sparse" if feed.kind == "moe" else "dense"
    x = b.add(plus, x, b.add(Call(unit=feed), b.add(norm, x, place="before_ffn"), place=name))
    b.unit.outputs = [x]
    return b.unit


def decoder(s: Sizes, *runs: tuple[Unit, int]) -> Graph:
    """tokens -> embed -> layers -> last -> head; by default layers of the sizes' own mixture."""
    d, v = Dim("D", s.width), Dim("V", s.vocab)
    tokens = Value("tokens", TensorType((B, T), "int"))
    b = body("hand", "model", tokens)
    runs = runs or ((layer(s, d, attention(s, d), mixture(s, d)), s.layers),)
    x = b.add(Embedding(vocab=v, width=d), tokens, place="embed")
    x = b.add(Stack(runs=runs), x, place="layer")
    x = b.add(Norm(over=d, form="rms", eps=1e-5), x, place="last")
    b.unit.outputs = [b.add(Linear(out=v, inner=d), x, place="head", name="logits")]
    return graph(b.unit)


def graph(root: Unit) -> Graph:
    """Callees before callers, as lowering leaves them."""
    units: dict[Unit, None] = {}

    def visit(unit: Unit) -> None:
        for node in unit.nodes:
            for _, _, inner in node.calls():
                if inner not in units:
                    visit(inner)
        units[unit] = None

    visit(root)
    return Graph(root.name, list(units))
