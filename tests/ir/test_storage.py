"""Where weights are, before and after rewrites."""

from __future__ import annotations

from moedsl.ir.graph import Graph
from moedsl.rewrites import rewrite
from tests.ir.specs import graph_of, mixture

EXPERTS = "experts = 4 * swiglu(32, bias = true)\nshared = 2 * swiglu(48)"


def sizes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {module: parameter.shape for _, module, parameter, _ in graph.parameters()}


def test_parameters_have_a_path_and_a_name() -> None:
    graph = graph_of(mixture("experts = 4 * swiglu(32)"))
    names = {path: module for path, module, _, _ in graph.parameters()}
    assert names["embed"] == "embed.weight"
    assert names["layer[1].b"] == "layer.1.b.weight"
    assert names["layer[0].sparse.router.score"] == "layer.0.sparse.router.score.weight"
    assert names["layer[0].sparse.experts.gate"] == "layer.0.sparse.experts.gate"


def test_logical_weights_are_the_same_before_and_after() -> None:
    graph = graph_of(mixture(EXPERTS))
    before, after = graph.storage(), rewrite(graph).storage()
    assert set(before) == set(after)
    assert all(before[path].shape == after[path].shape for path in before)


def test_parts_fill_their_parameters() -> None:
    graph = rewrite(graph_of(mixture(EXPERTS)))
    physical = sizes(graph)
    filled: dict[str, int] = {}
    for one in graph.storage().values():
        whole = physical[one.module]
        filled[one.module] = filled.get(one.module, 0) + _size(one.shape)
        if one.axis is not None:
            assert one.start + one.length <= whole[one.axis]
            assert one.shape == (*whole[: one.axis], one.length, *whole[one.axis + 1 :])
    assert filled == {module: _size(shape) for module, shape in physical.items()}


def test_where_gate_and_up_went() -> None:
    storage = rewrite(graph_of(mixture(EXPERTS))).storage()
    up = storage["layer[0].sparse.experts.up.weight"]
    assert (up.module, up.axis, up.start, up.length) == (
        "layer.0.sparse.experts.gate_up",
        1,
        32,
        32,
    )
    bias = storage["layer[0].sparse.experts.up.bias"]
    assert (bias.module, bias.shape) == ("layer.0.sparse.experts.gate_up_bias", (4, 32))
    down = storage["layer[0].sparse.shared[1].down"]
    assert (down.module, down.axis, down.start) == ("layer.0.sparse.shared.down.weight", 1, 48)


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
