"""Rewrites: what is joined, what is left alone, and that the graph given stays as it was."""

from __future__ import annotations

import pytest

from moedsl.ir import ops
from moedsl.ir.cost import cost
from moedsl.ir.dump import dump_graph
from moedsl.rewrites import rewrite
from tests.ir.specs import ROUTER, graph_of, mixture, nodes_of, ops_of, unit_of

EXPERTS = "experts = 4 * swiglu(32)\nloss = balance(1e-2)"


def router(*lines: str) -> str:
    return (
        "router top2 {\n" + "".join(f"  {line}\n" for line in ("select = top_k(2)", *lines)) + "}\n"
    )


FUSED = {
    router("score = linear", "weigh = score -> softmax"): {"score": "softmax", "before": False},
    router("score = linear", "gate = score -> softmax"): {"score": "softmax", "before": True},
    router("score = linear", "gate = score -> sigmoid", "weigh = gate -> normalize -> scale(2.5)"): {
        "score": "sigmoid", "before": True, "normalize": True, "scale": 2.5, "distribution": "sigmoid",
    },
    router("score = float32 -> linear", "gate = score -> softmax", "weigh = gate -> normalize(eps = 1e-9)"): {
        "score": "softmax", "before": True, "normalize": True, "eps": 1e-9,
    },
    router("score = linear"): {"score": "identity"},
}  # fmt: skip

LEFT = [
    router("score = linear", "gate = score -> softplus -> sqrt"),
    router("score = linear", "gate = score -> softmax(temperature = 2)"),
    router("score = linear", "weigh = score -> softmax -> scale(learned)"),
    router("score = linear", "choose = score -> tanh", "weigh = score -> softmax"),
]


@pytest.mark.parametrize("text", FUSED)
def test_routes_that_fuse(text: str) -> None:
    unit = unit_of(rewrite(graph_of(mixture(EXPERTS, text))), "top2")
    (route,) = nodes_of(unit, ops.Route)
    for name, value in FUSED[text].items():
        assert getattr(route.op, name) == value, name
    assert route.op.statistics == ("choices", "probability")
    assert set(ops_of(unit)) <= {"Linear", "Route", "Cast"}


@pytest.mark.parametrize("text", LEFT)
def test_routes_that_keep_their_steps(text: str) -> None:
    unit = unit_of(rewrite(graph_of(mixture(EXPERTS, text))), "top2")
    assert ops_of(unit)[-1] == "Routed" and "TopK" in ops_of(unit)


def test_different_routes_have_different_names() -> None:
    bodies = "experts = 4 * swiglu(32)"
    graph = rewrite(graph_of(mixture(bodies)))
    names = [n.op.name for u in graph.units for n in nodes_of(u, ops.Route)]
    assert names == ["top2"]


def test_gate_and_up_are_one_product() -> None:
    bank = unit_of(rewrite(graph_of(mixture(EXPERTS))), "sparse_experts")
    assert ops_of(bank) == ["Linear", "Chunk", "Pointwise", "Combination", "Linear"]
    assert [n.place for n in nodes_of(bank, ops.Linear)] == ["gate_up", "down"]
    assert [v.name for v in bank.nodes[1].outputs] == ["gate", "up"]


def test_gate_and_up_of_other_places_stay_apart() -> None:
    text = EXPERTS.replace("swiglu(32)", "(swiglu(32) + swiglu(32))")
    bank = unit_of(rewrite(graph_of(mixture(text))), "sparse_experts")
    places = [n.place for n in nodes_of(bank, ops.Linear)]
    assert places[0] == "swiglu_gate_up" and len(set(places)) == 4


def test_equal_shared_experts_are_one_wide_one() -> None:
    graph = graph_of(mixture("experts = 4 * swiglu(32)\nshared = 3 * swiglu(48)"))
    fused = rewrite(graph)
    (shared,) = [n for n in nodes_of(unit_of(fused, "sparse"), ops.Call) if n.role == "shared"]
    assert shared.path == "shared"
    widths = [n.op.out.size for n in nodes_of(shared.op.unit, ops.Linear)]
    assert widths == [144, 144, 64]
    assert cost(fused).total == cost(graph).total


def test_shared_experts_with_biases_stay_apart() -> None:
    graph = graph_of(mixture("experts = 4 * swiglu(32)\nshared = 2 * swiglu(48, bias = true)"))
    calls = nodes_of(unit_of(rewrite(graph), "sparse"), ops.Call)
    assert len([n for n in calls if n.role == "shared"]) == 2


def test_the_given_graph_stays_as_it_was() -> None:
    graph = graph_of(mixture(EXPERTS + "\nshared = 2 * swiglu(48)", ROUTER))
    before = dump_graph(graph)
    once, twice = dump_graph(rewrite(graph)), dump_graph(rewrite(graph))
    assert dump_graph(graph) == before and once == twice != before
