"""From resolved models to units: what each construct becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

import moedsl.pipeline
from moedsl.ir import ops
from moedsl.ir.dump import dump_graph
from tests.ir.specs import (
    ATTENTION,
    OUTPUT,
    ROUTER,
    feed_forward,
    graph_of,
    lowered,
    mixture,
    model,
    nodes_of,
    ops_of,
    unit_of,
)
from tests.packages import source

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.moe"))
LAYER = "block layer {\n  x += own(a(x))\n  x += sparse(b(x))\n}\n"
TINY = model(
    ATTENTION,
    ROUTER,
    "moe sparse {\n  router = top2\n  experts = 4 * swiglu(96)\n}\n",
    LAYER,
    OUTPUT,
)


@pytest.mark.parametrize("name", [path.stem for path in SPECS])
def test_specs_lower_without_a_word(name: str) -> None:
    graph = moedsl.pipeline.check(source(name)).graph
    assert graph.root.kind == "model"
    assert not any(node.poisoned for unit in graph.units for node in unit.nodes)


def test_mixtral_reads_as_its_figure() -> None:
    text = dump_graph(graph_of(TINY))
    assert "q [B, T, H 4, C 16] = rotate(%2, rotary)" in text
    assert "sparse (moe): x [B, T, D 64]\n" in text
    assert "routing Routing = call router: top2(x2)" in text
    assert "y [R, D 64] = call experts: sparse_experts(%3, rows)" in text
    assert "stack layer: 2 * layer(x, rotary, attention_mask, cache)" in text


def test_units_come_callees_first_and_equal_layers_once() -> None:
    graph = graph_of(TINY)
    assert [unit.name for unit in graph.units] == [
        "own", "top2", "sparse_experts", "sparse", "layer", "m",
    ]  # fmt: skip
    (stack,) = nodes_of(graph.root, ops.Stack)
    assert stack.op.runs == ((unit_of(graph, "layer"), 2),)


def test_ambients_go_down_and_taps_come_up() -> None:
    graph = graph_of(TINY)
    layer = unit_of(graph, "layer")
    assert [value.name for value in layer.ambients] == ["rotary", "mask", "cache"]
    assert [value.name for value in layer.taps] == ["sparse"]
    assert [value.name for value in graph.root.ambients] == ["mask", "cache"]
    for unit in graph.units:
        for node in unit.nodes:
            if isinstance(node.op, ops.Call):
                called = node.op.unit
                assert len(node.inputs) == len(called.inputs) + len(called.ambients)
                assert len(node.outputs) == len(called.outputs) + len(called.taps)


def test_layers_of_one_stack_take_the_same() -> None:
    dense = "block plain { x += swiglu(32)(a(x)) }\n"
    output = "output logits = tokens -> embed -> 2 * (plain -> layer) -> head\n"
    graph = graph_of(model(ATTENTION, dense, "block layer { x += own(b(x)) }\n", output))
    (stack,) = nodes_of(graph.root, ops.Stack)
    plain, layer = unit_of(graph, "plain"), unit_of(graph, "layer")
    assert list(stack.op.runs) == [(plain, 1), (layer, 1)] * 2
    assert plain.wants == layer.wants
    paths = [place.path for place in graph.places() if place.unit.kind == "block"]
    assert paths == ["plain[0]", "layer[1]", "plain[2]", "layer[3]"]


# --- small constructs ---------------------------------------------------------------------------

STAGES = {
    "clip(2)": "Clip",
    "soft_cap(30)": "SoftCap",
    "scale(0.5)": "Scale",
    "scale(learned)": "LearnedScale",
    "scale(learned, per = channel)": "LearnedScale",
    "dropout(0.1)": "Dropout",
    "float32": "Cast",
    "silu": "Pointwise",
    "gelu": "Pointwise",
    "gelu(approximate = tanh)": "Pointwise",
    "relu": "Pointwise",
    "sigmoid": "Pointwise",
    "tanh": "Pointwise",
    "softplus": "Pointwise",
    "square": "Pointwise",
    "sqrt": "Pointwise",
    "softmax": "Softmax",
    "softmax(temperature = 2)": "Softmax",
    "normalize": "Normalize",
    "normalize(eps = 1e-9)": "Normalize",
    "zero": "Zeros",
    "rms(weight = false)": "Norm",
    "rms(offset = true)": "Norm",
    "layer_norm(bias = false)": "Norm",
    "linear": "Linear",
    "linear(64, bias = true)": "Linear",
    "identity": "Combination",
}


@pytest.mark.parametrize("stage", STAGES)
def test_stages(stage: str) -> None:
    ops_found = ops_of(unit_of(graph_of(feed_forward(f"linear(64) -> {stage}")), "layer"))
    assert STAGES[stage] in ops_found


FEED_FORWARD = [
    "swiglu(96)",
    "swiglu(96, alpha = 1.702, limit = 7.0, up_shift = 1, bias = true)",
    "geglu(96)",
    "glu(96, activation = relu)",
    "mlp(96)",
    "mlp(96, activation = relu -> square, bias = true)",
    "swiglu(96, dropout = 0.1)",
]


@pytest.mark.parametrize("form", FEED_FORWARD)
def test_feed_forward_forms(form: str) -> None:
    graph = graph_of(feed_forward(form))
    unit = graph.units[0]
    assert unit.kind == "ffn"
    roles = [node.place for node in nodes_of(unit, ops.Linear)]
    assert roles == (["up", "down"] if form.startswith("mlp") else ["gate", "up", "down"])
    assert all(node.op.bias == ("bias = true" in form) for node in nodes_of(unit, ops.Linear))


def test_roles_are_changed_in_place() -> None:
    text = "ffn dense = swiglu(96) with { gate ->= rms()\n hidden = hidden -> scale(learned, per = channel) }\n"
    graph = graph_of(feed_forward("dense", text))
    places = {node.path for node in unit_of(graph, "dense").nodes if node.op.parameters()}
    assert places == {"gate.linear", "gate.rms", "up", "hidden", "down"}


def test_a_product_of_branches() -> None:
    graph = graph_of(feed_forward("swiglu(96) * (linear(1) -> sigmoid)"))
    layer = unit_of(graph, "layer")
    assert [n.place for n in layer.nodes if n.place] == ["a", "swiglu", "linear"]


# --- attention ----------------------------------------------------------------------------------


def attention(*settings: str) -> str:
    body = "attention own {\n  heads = 4\n" + "".join(f"  {s}\n" for s in settings) + "}\n"
    return model(body, "block layer { x += own(a(x)) }\n", OUTPUT)


def attend_of(*settings: str) -> ops.Attend:
    graph = graph_of(attention(*settings))
    (node,) = nodes_of(unit_of(graph, "own"), ops.Attend)
    assert isinstance(node.op, ops.Attend)
    return node.op


def test_attention_settings() -> None:
    assert attend_of().causal and attend_of().sees == "past"
    assert attend_of("mask = none").sees == "all"
    assert not attend_of("mask = none").cached_keys
    assert attend_of("kv_heads = 2").grouped
    assert attend_of("window = 8").mask.window == 8
    assert attend_of("scores = dot(scale = 1)").scale == 1
    capped = attend_of("scores = dot() -> soft_cap(30)")
    assert (capped.soft_cap, capped.mask.tensor) == (30, True)
    assert attend_of("dropout = 0.1").dropout == 0.1


def test_rotation_of_a_part() -> None:
    graph = graph_of(attention("q, k = linear -> rope(theta = 1e6, part = 50%, pairs = adjacent)"))
    (table, _) = {n.op.table for n in nodes_of(unit_of(graph, "own"), ops.Rotate)} | {None}
    assert table is None or (table.theta, table.size, table.head, table.pairs) == (
        1e6,
        8,
        16,
        "adjacent",
    )


def test_norms_of_heads_and_of_projections() -> None:
    per_head = unit_of(graph_of(attention("q, k = linear -> rms(per = head)")), "own")
    whole = unit_of(graph_of(attention("q, k = linear -> rms()")), "own")
    assert [n.op.over.size for n in nodes_of(per_head, ops.Norm)] == [16, 16]
    assert [n.op.over.size for n in nodes_of(whole, ops.Norm)] == [64, 64]
    assert [n.place for n in nodes_of(whole, ops.Norm)] == ["q_rms", "k_rms"]


def test_an_output_gate_is_as_wide_as_the_heads() -> None:
    gate = attention("head_dim = 24", "o = mixed * (x -> linear -> sigmoid) -> linear")
    linears = nodes_of(unit_of(graph_of(gate), "own"), ops.Linear)
    assert [(n.op.inner.size, n.op.out.size) for n in linears[3:]] == [(64, 96), (96, 64)]


def test_a_second_stream() -> None:
    text = model(
        "tied embed = embedding(vocab)\n",
        "attention own { heads = 4 }\n",
        "block layer(memory) { x += own(a(x), memory) }\n",
        "let memory = tokens -> embed -> last\n",
        "output logits = tokens -> embed -> 2 * layer(memory) -> head\n",
    )
    graph = graph_of(text)
    own = unit_of(graph, "own")
    assert [value.name for value in own.inputs] == ["x", "memory"]
    assert [n.inputs[0].name for n in nodes_of(own, ops.Linear)[:3]] == ["x", "memory", "memory"]
    assert len({n.place for n in nodes_of(graph.root, ops.Embedding)}) == 1


# --- mixtures -----------------------------------------------------------------------------------


def test_named_kinds_are_counted_in_order() -> None:
    bank = "experts = [full = 3 * swiglu(32), skip = zero, keep = 2 * identity, wide = geglu(48)]"
    sparse = unit_of(graph_of(mixture(bank)), "sparse")
    kinds = [(n.op.first, n.op.count) for n in nodes_of(sparse, ops.KindRows)]
    assert kinds == [(0, 3), (4, 2), (6, 1)]
    assert [n.op.experts for n in nodes_of(sparse, ops.Dispatch)] == [3, 1]
    paths = [n.path for n in nodes_of(sparse, ops.Call)]
    assert paths == ["router", "experts.full", "experts.wide"]


def test_a_bank_of_an_expression() -> None:
    graph = graph_of(mixture("experts = 4 * (linear(32) -> silu -> linear)"))
    bank = unit_of(graph, "sparse_experts")
    assert [n.place for n in nodes_of(bank, ops.Linear)] == ["linear", "linear_2"]
    assert all(n.op.bank == 4 and n.inputs[1].name == "rows" for n in nodes_of(bank, ops.Linear))


def test_weights_on_the_input() -> None:
    sparse = unit_of(graph_of(mixture("experts = 4 * swiglu(32)\nweight = input")), "sparse")
    assert "RowWeights" in ops_of(sparse)


def test_shared_experts_stand_beside() -> None:
    body = "experts = 4 * swiglu(32)\nshared = 2 * swiglu(32)"
    sparse = unit_of(graph_of(mixture(body)), "sparse")
    shared = [n for n in nodes_of(sparse, ops.Call) if n.role == "shared"]
    assert [(n.path, n.place) for n in shared] == [
        ("shared[0]", "shared_0"), ("shared[1]", "shared_1"),
    ]  # fmt: skip


def test_the_router_may_read_another_stream() -> None:
    text = mixture("experts = 4 * swiglu(32)").replace("sparse(b(x))", "sparse(b(x), route = x)")
    sparse = unit_of(graph_of(text), "sparse")
    assert [value.name for value in sparse.inputs] == ["x", "route"]


def test_losses_stand_at_the_root() -> None:
    loss = "experts = 4 * swiglu(32)\nloss = [balance(0.02, count = all, over = model), z(1e-3)]"
    root = graph_of(mixture(loss)).root
    balance, z = root.nodes[-2:]
    assert (balance.op.loss, balance.op.over, balance.op.count) == (
        "sparse.balance",
        "model",
        "all",
    )
    assert (z.op.loss, z.op.coefficient) == ("sparse.z", 1e-3)
    assert balance.inputs == z.inputs == (root.taps[0],)


def test_statistics_are_only_those_that_losses_read() -> None:
    def which(loss: str) -> list[str]:
        router = unit_of(graph_of(mixture(f"experts = 4 * swiglu(32)\n{loss}")), "top2")
        return [node.op.which for node in nodes_of(router, ops.Statistic)]

    assert which("") == []
    assert which("loss = z(1e-3)") == ["z", "tokens"]
    assert which("loss = balance(1e-2, count = first)") == ["first", "probability", "tokens"]


def test_two_mixtures_of_one_name_share_a_loss() -> None:
    text = model(
        ROUTER,
        "moe sparse(count) {\n  router = top2\n  experts = count * swiglu(32)\n  loss = balance(1e-2)\n}\n",
        "block layer(f) { x += f(b(x)) }\n",
        "output logits = tokens -> embed -> layer(swiglu(32)) -> layer(sparse(4)) -> 2 * layer(sparse(8)) -> head\n",
    )
    root = graph_of(text).root
    (balance,) = [node for node in root.nodes if isinstance(node.op, ops.Balance)]
    assert balance.op.num_experts is None
    assert [site.place.path for site in graph_of(text).sites()] == [
        "layer[1].f", "layer[2].f", "layer[3].f",
    ]  # fmt: skip


def test_a_tied_head_owns_nothing() -> None:
    text = model("head = tied(embed)\n", "block layer { x += swiglu(32)(a(x)) }\n", OUTPUT)
    graph = graph_of(text)
    (head,) = nodes_of(graph.root, ops.TiedLinear)
    assert (head.op.of, head.op.out.size, head.op.parameters()) == ("embed", 256, ())
    assert not any(path.startswith("head") for path, *_ in graph.parameters())


def test_lowering_never_raises_on_a_users_mistake() -> None:
    _, sink = lowered(mixture("experts = 4 * swiglu(32)", ROUTER.replace("linear", "linear(3)")))
    assert [d.code for d in sink.found] == ["E0403"]
