"""A tiny Mixtral as units written by hand: what the plan is tested on without the stages before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from moedsl.ir.graph import Dim, Graph, Node, Parameter, RecordType, TensorType, Unit, Value
from moedsl.ir.ops import Call, Combination, Embedding, Linear, Norm, Op, Pointwise, Stack

B, T, N, R = Dim("B"), Dim("T"), Dim("N"), Dim("R")
D, V, E, K, F = Dim("D", 64), Dim("V", 256), Dim("E", 4), Dim("K", 2), Dim("F", 96)
H, G, C = Dim("H", 4), Dim("G", 2), Dim("C", 16)


@dataclass(frozen=True, kw_only=True)
class Plain(Op):
    """Any expression."""

    text: str
    single: bool = True

    @property
    def code(self):
        return self.text

    @property
    def atom(self):
        return self.single


@dataclass(frozen=True, kw_only=True)
class Loss(Plain):
    loss: str


@dataclass(frozen=True, kw_only=True)
class Bank(Op):
    """A grouped linear with a bare weight."""

    shape: tuple[int, ...]
    code: ClassVar[str] = "grouped_linear({0}, {self}, {1})"

    def parameters(self):
        return (Parameter("weight", self.shape, bank=True),)


def tensor(name, *dims):
    return Value(name, TensorType(dims))


def record(name, kind):
    return Value(name, RecordType(kind))


def node(code, inputs, outputs, place="", role="", op=None):
    return Node(op or Plain(text=code), tuple(inputs), tuple(outputs), place, role)


def linear(out, inner):
    return Linear(out=out, inner=inner)


def attention():
    x = tensor("x", B, T, D)
    rotary, mask, cache = record("rotary", "Rotary"), tensor("mask", B, T), record("cache", "Cache")
    q, k, v = tensor("q", B, T, H, C), tensor("k", B, T, G, C), tensor("v", B, T, G, C)
    flat_q, flat_k, flat_v = tensor("", B, T, D), tensor("", B, T, G), tensor("", B, T, G)
    open_q, open_k = tensor("", B, T, H, C), tensor("", B, T, G, C)
    mixed, flat, y = tensor("mixed", B, T, H, C), tensor("", B, T, D), tensor("", B, T, D)
    kv = Dim("GC", 32)
    nodes = [
        node("", [x], [flat_q], "q", "q", linear(D, D)),
        node("{0}.unflatten(-1, (4, 16))", [flat_q], [open_q]),
        node("rotate({0}, {1})", [open_q, rotary], [q]),
        node("", [x], [flat_k], "k", "k", linear(kv, D)),
        node("{0}.unflatten(-1, (2, 16))", [flat_k], [open_k]),
        node("rotate({0}, {1})", [open_k, rotary], [k]),
        node("", [x], [flat_v], "v", "v", linear(kv, D)),
        node("{0}.unflatten(-1, (2, 16))", [flat_v], [v]),
        node("attend({args})", [q, k, v, mask, cache], [mixed]),
        node("{0}.flatten(-2)", [mixed], [flat]),
        node("", [flat], [y], "o", "o", linear(D, D)),
    ]
    return Unit("gqa", "attention", [x], [rotary, mask, cache], nodes, [y])


def experts():
    x, rows = tensor("x", R, D), record("rows", "Dispatch")
    both, gate, up = tensor("", R, F), tensor("gate", R, F), tensor("up", R, F)
    act, hidden, y = tensor("", R, F), tensor("", R, F), tensor("", R, D)
    nodes = [
        node("", [x, rows], [both], "gate_up", "", Bank(shape=(4, 192, 64))),
        node("{0}.chunk(2, dim=-1)", [both], [gate, up]),
        node("", [gate], [act], op=Pointwise(function="F.silu")),
        node("", [act, up], [hidden], op=Combination(operator="*")),
        node("", [hidden, rows], [y], "down", "", Bank(shape=(4, 64, 96))),
    ]
    return Unit("sparse_experts", "experts", [x, rows], [], nodes, [y], bank=4)


def router():
    x, real, score = tensor("x", N, D), tensor("real", N), tensor("", N, E)
    routing = record("routing", "Routing")
    nodes = [
        node("", [x], [score], "score", "score", linear(E, D)),
        node("route_top2({0}, {1})", [score, real], [routing]),
    ]
    return Unit("top2", "router", [x], [real], nodes, [routing])


def mixture(router, experts):
    x, real, rows = tensor("x", B, T, D), tensor("real", N), record("rows", "Dispatch")
    flat, routing = tensor("x", N, D), record("routing", "Routing")
    gathered, y, mixed = tensor("", R, D), tensor("y", R, D), tensor("y", N, D)
    result = tensor("", B, T, D)
    nodes = [
        node("{0}.flatten(0, 1)", [x], [flat]),
        node("", [flat, real], [routing], "router", op=Call(unit=router)),
        node("dispatch({0}.expert_NK, 4)", [routing], [rows]),
        node("gather_rows({0}, {1})", [flat, rows], [gathered]),
        node("", [gathered, rows], [y], "experts", op=Call(unit=experts)),
        node("combine({0}, {1}.weight_NK, {2})", [y, routing, rows], [mixed]),
        node("{0}.view_as({1})", [mixed, x], [result]),
    ]
    return Unit("sparse", "moe", [x], [real], nodes, [result], [routing])


def layer(attention, mixture):
    x, mask, real = tensor("x", B, T, D), tensor("mask", B, T), tensor("real", N)
    rotary, cache, tap = (
        record("rotary", "Rotary"),
        record("cache", "Cache"),
        record("sparse", "Routing"),
    )
    a, b, middle = tensor("", B, T, D), tensor("", B, T, D), tensor("x", B, T, D)
    c, d, result = tensor("", B, T, D), tensor("", B, T, D), tensor("x", B, T, D)
    nodes = [
        node("", [x], [a], "before_mix", op=Norm(over=D, form="rms", eps=1e-5)),
        node("", [a, rotary, mask, cache], [b], "gqa", op=Call(unit=attention)),
        node("", [x, b], [middle], op=Combination(operator="+")),
        node("", [middle], [c], "before_ffn", op=Norm(over=D, form="rms", eps=1e-5)),
        node("", [c, real], [d, tap], "sparse", op=Call(unit=mixture)),
        node("", [middle, d], [result], op=Combination(operator="+")),
    ]
    return Unit("layer", "block", [x], [rotary, mask, cache, real], nodes, [result], [tap])


def tiny_mixtral(doc="A tiny Mixtral."):
    parts = [attention(), experts(), router()]
    parts.append(mixture(parts[2], parts[1]))
    parts.append(layer(parts[0], parts[3]))
    tokens, mask, cache = (
        Value("tokens", TensorType((B, T), "int")),
        tensor("mask", B, T),
        record("cache", "Cache"),
    )
    rotary, sees, real = (
        record("rotary", "Rotary"),
        tensor("attention_mask", B, T),
        tensor("real", N),
    )
    x, y, last, logits = (
        tensor("x", B, T, D),
        tensor("x", B, T, D),
        tensor("", B, T, D),
        tensor("logits", B, T, V),
    )
    taps, loss = (
        record("sparse", "list[Routing]"),
        tensor(
            "",
        ),
    )
    nodes = [
        node("rotary_table({0})", [tokens], [rotary]),
        node("causal_mask({0}, {1})", [tokens, mask], [sees]),
        node("{0}.flatten()", [mask], [real]),
        node("", [tokens], [x], "embed", op=Embedding(vocab=V, width=D)),
        node(
            "", [x, rotary, sees, cache, real], [y, taps], "layer", op=Stack(runs=((parts[4], 2),))
        ),
        node("", [y], [last], "last", op=Norm(over=D, form="rms", eps=1e-5)),
        node("", [last], [logits], "head", op=linear(V, D)),
        node(
            "",
            [taps],
            [loss],
            op=Loss(text="0.02 * balance({0})", loss="sparse.balance", single=False),
        ),
    ]
    root = Unit("tiny_mixtral", "model", [tokens], [mask, cache], nodes, [logits], [taps], doc=doc)
    return Graph("tiny_mixtral", [*parts, root])
