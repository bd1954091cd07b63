"""A tiny Mixtral as units written by hand: what the plan is tested on without the stages before it."""

from __future__ import annotations

from moedsl.ir import ops
from moedsl.ir.graph import Dim, Graph, Node, RecordType, TensorType, Unit, Value

B, T, N, R = Dim("B"), Dim("T", stream=True), Dim("N"), Dim("R")
D, V, E, K, F = Dim("D", 64), Dim("V", 256), Dim("E", 4), Dim("K", 2), Dim("F", 96)
H, G, C = Dim("H", 4), Dim("G", 2), Dim("C", 16)
HC, GC, TWO_F = Dim("D", 64), Dim("J", 32, (G, C)), Dim("J", 192)

MASK = ops.AttentionMask()
TABLE = ops.RotaryTable(theta=1e4, size=16, head=16)
CACHE, REAL, COUNT = ops.CacheHandle(), ops.RealRows(rows=N), ops.Sequences()


def tensor(name, *dims, dtype="float"):
    return Value(name, TensorType(dims, dtype))


READ = ("choices", "probability")  # of decisions


def record(name, kind, fields=()):
    return Value(name, RecordType(kind, fields=fields))


def given(ambient):
    """An ambient's value inside a unit."""
    return Value(ambient.name, ambient.infer()[0])


def node(op, inputs, outputs, place="", role=""):
    return Node(op, tuple(inputs), tuple(outputs), place, role)


def linear(out, inner, bank=0):
    return ops.Linear(out=out, inner=inner, bank=bank)


def norm():
    return ops.Norm(over=D, form="rms", eps=1e-5)


def attention():
    x = tensor("x", B, T, D)
    rotary, mask, cache = given(TABLE), given(MASK), given(CACHE)
    q, k, v = tensor("q", B, T, H, C), tensor("k", B, T, G, C), tensor("v", B, T, G, C)
    flat_q, flat_k, flat_v = tensor("", B, T, HC), tensor("", B, T, GC), tensor("", B, T, GC)
    open_q, open_k = tensor("", B, T, H, C), tensor("", B, T, G, C)
    mixed, flat, y = tensor("mixed", B, T, H, C), tensor("", B, T, HC), tensor("", B, T, D)
    nodes = [
        node(linear(HC, D), [x], [flat_q], "q", "q"),
        node(ops.SplitHeads(parts=(H, C)), [flat_q], [open_q]),
        node(ops.Rotate(table=TABLE), [open_q, rotary], [q]),
        node(linear(GC, D), [x], [flat_k], "k", "k"),
        node(ops.SplitHeads(parts=(G, C)), [flat_k], [open_k]),
        node(ops.Rotate(table=TABLE), [open_k, rotary], [k]),
        node(linear(GC, D), [x], [flat_v], "v", "v"),
        node(ops.SplitHeads(parts=(G, C)), [flat_v], [v]),
        node(ops.Attend(mask=MASK, grouped=True), [q, k, v, mask, cache], [mixed]),
        node(ops.MergeHeads(flat=HC), [mixed], [flat]),
        node(linear(D, HC), [flat], [y], "o", "o"),
    ]
    return Unit(
        "gqa", "attention", [x], [rotary, mask, cache], nodes, [y], wants=[TABLE, MASK, CACHE]
    )


def experts():
    x, rows = tensor("x", R, D), record("rows", "Dispatch")
    both, gate, up = tensor("", R, TWO_F), tensor("gate", R, F), tensor("up", R, F)
    act, hidden, y = tensor("", R, F), tensor("", R, F), tensor("", R, D)
    nodes = [
        node(linear(TWO_F, D, bank=4), [x, rows], [both], "gate_up"),
        node(ops.Chunk(parts=(F, F)), [both], [gate, up]),
        node(ops.Pointwise(function="F.silu"), [gate], [act]),
        node(ops.Combination(operator="*"), [act, up], [hidden]),
        node(linear(D, F, bank=4), [hidden, rows], [y], "down"),
    ]
    return Unit("sparse_experts", "experts", [x, rows], [], nodes, [y], bank=4)


def router():
    x, real, count = tensor("x", N, D), given(REAL), given(COUNT)
    score, routing = tensor("", N, E), record("routing", "Routing", READ)
    route = ops.Route(name="top2", kept=K, choices=E, statistics=READ)
    nodes = [
        node(linear(E, D), [x], [score], "score", "score"),
        node(route, [score, real, count], [routing]),
    ]
    return Unit("top2", "router", [x], [real, count], nodes, [routing], wants=[REAL, COUNT])


def mixture(router, experts):
    x, real, count = tensor("x", B, T, D), given(REAL), given(COUNT)
    flat, routing, rows = (
        tensor("x", N, D),
        record("routing", "Routing", READ),
        record("rows", "Dispatch"),
    )
    expert, weight = tensor("", N, K, dtype="int"), tensor("", N, K)
    gathered, y, mixed, result = (
        tensor("", R, D),
        tensor("y", R, D),
        tensor("y", N, D),
        tensor("", B, T, D),
    )
    nodes = [
        node(ops.Rows(rows=N), [x], [flat]),
        node(ops.Call(unit=router), [flat, real, count], [routing], "router"),
        node(ops.Field(field="expert_NK", type=expert.type), [routing], [expert]),
        node(ops.Dispatch(experts=4), [expert], [rows]),
        node(ops.GatherRows(routed=R, kept=K), [flat, rows], [gathered]),
        node(ops.Call(unit=experts), [gathered, rows], [y], "experts"),
        node(ops.Field(field="weight_NK", type=weight.type), [routing], [weight]),
        node(ops.Combine(kept=K), [y, weight, rows], [mixed]),
        node(ops.Unrows(), [mixed, x], [result]),
    ]
    return Unit(
        "sparse", "moe", [x], [real, count], nodes, [result], [routing], wants=[REAL, COUNT]
    )


def layer(attention, mixture):
    x, tap = tensor("x", B, T, D), record("sparse", "Routing", READ)
    rotary, mask, real, count, cache = (given(a) for a in (TABLE, MASK, REAL, COUNT, CACHE))
    a, b, middle = tensor("", B, T, D), tensor("", B, T, D), tensor("x", B, T, D)
    c, d, result = tensor("", B, T, D), tensor("", B, T, D), tensor("x", B, T, D)
    nodes = [
        node(norm(), [x], [a], "before_mix"),
        node(ops.Call(unit=attention), [a, rotary, mask, cache], [b], "gqa"),
        node(ops.Combination(operator="+"), [x, b], [middle]),
        node(norm(), [middle], [c], "before_ffn"),
        node(ops.Call(unit=mixture), [c, real, count], [d, tap], "sparse"),
        node(ops.Combination(operator="+"), [middle, d], [result]),
    ]
    wants = [TABLE, MASK, REAL, COUNT, CACHE]
    handed = [rotary, mask, real, count, cache]
    return Unit("layer", "block", [x], handed, nodes, [result], [tap], wants=wants)


def tiny_mixtral(doc="A tiny Mixtral."):
    parts = [attention(), experts(), router()]
    parts.append(mixture(parts[2], parts[1]))
    parts.append(layer(parts[0], parts[3]))
    tokens, padding, cache = (
        tensor("tokens", B, T, dtype="int"),
        record("mask", "Tensor"),
        given(CACHE),
    )
    past, rotary, sees = record("past", "int"), given(TABLE), record("attention_mask", "Tensor")
    real, count = given(REAL), given(COUNT)
    x, y, last, logits = (
        tensor("x", B, T, D),
        tensor("x", B, T, D),
        tensor("", B, T, D),
        tensor("logits", B, T, V),
    )
    taps, loss = record("sparse", "Routing", READ), tensor("")
    balance = ops.Balance(
        loss="sparse.balance", function="sparse_balance", coefficient=0.02, num_experts=4
    )
    nodes = [
        node(ops.Past(), [cache, tokens], [past]),
        node(TABLE, [tokens, past, padding], [rotary]),
        node(MASK, [tokens, past, padding], [sees]),
        node(REAL, [padding, past], [real]),
        node(COUNT, [tokens], [count]),
        node(ops.Embedding(vocab=V, width=D), [tokens], [x], "embed"),
        node(
            ops.Stack(runs=((parts[4], 2),)),
            [x, rotary, sees, real, count, cache],
            [y, taps],
            "layer",
        ),
        node(norm(), [y], [last], "last"),
        node(linear(V, D), [last], [logits], "head"),
        node(balance, [taps], [loss]),
    ]
    wants = [ops.MaskArgument(), CACHE]
    root = Unit(
        "tiny_mixtral",
        "model",
        [tokens],
        [padding, cache],
        nodes,
        [logits],
        [taps],
        doc,
        wants=wants,
    )
    return Graph("tiny_mixtral", [*parts, root])
