"""The dense counterpart: the same model, with every mixture as what one token meets of it."""

from __future__ import annotations

import pytest

import moedsl
from moedsl.diagnostics.model import Sink
from moedsl.ir.cost import cost
from moedsl.ir.lower import lower
from moedsl.trial.dense import NoTwin, dense_twin
from tests.packages import SPECS, source

SPARSE = [p.stem for p in sorted(SPECS.glob("*.moe")) if "moe " in p.read_text()]


# Mixtures that no dense layer is like.
WITHOUT = {
    "heads_as_experts",
    "jetmoe_8b",
    "lory",
    "moeut_small",
    "switch_attention",
    "switch_attention_lm",
    "switch_head",
}
# Where choices find no room the number of experts that a token meets is a fraction, and the twin has a whole one.
ROUNDED = {"expert_choice_base", "gshard", "moe_plus_plus", "st_moe", "switch_base", "vmoe_b32"}
# Blocks that only some of the tokens go through stay what they are.
PASSED_BY = {"mod_small", "mor_small"}


def checked(name, *settings):
    result = moedsl.check(source(name), settings)
    assert result.ok, result.diagnostics
    return result


def lowered(model):
    sink = Sink()
    graph = lower(model, sink)
    assert graph is not None and not sink.found, sink.found
    return graph


def routers(graph):
    """Parameters of the routers: what the sparse model has beside what a token meets of its experts."""
    return sum(
        parameter.size
        for place in graph.places()
        if place.unit.kind == "router"
        for node in place.unit.nodes
        for parameter in node.op.parameters()
        if not parameter.buffer
    )


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_what_is_like_no_dense_layer_has_no_twin(name):
    result = checked(name)
    with pytest.raises(NoTwin):
        dense_twin(result.model, result.graph)


@pytest.mark.parametrize("name", sorted(set(SPARSE) - WITHOUT))
def test_the_twin_is_as_large_as_what_is_active(name):
    result = checked(name)
    twin = lowered(dense_twin(result.model, result.graph))
    assert not [place for place in twin.places() if place.unit.kind in ("moe", "router", "experts")]
    if name not in PASSED_BY:
        assert cost(twin).total.total == cost(twin).total.active
    expected = cost(result.graph).total.active - routers(result.graph)
    exact = pytest.approx(expected, rel=0.1) if name in ROUNDED else expected
    assert cost(twin).total.active == exact


def test_widths_follow_the_number_of_experts_met():
    result = checked("tiny", "top2.select=top_k(3)", "sparse.experts=8 * swiglu(32)")
    twin = dense_twin(result.model, result.graph)
    assert twin.name == "tiny_dense" and not twin.checkpoints
    assert "width=96" in repr(twin).replace("('width', Number(value=96))", "width=96")


def test_what_has_no_width_stands_beside_itself():
    result = checked("tiny", "sparse.experts=4 * (linear(32) -> relu -> linear(64))")
    twin = lowered(dense_twin(result.model, result.graph))
    assert cost(twin).total.total == cost(result.graph).total.active - routers(result.graph)


def test_a_dense_model_has_no_twin():
    result = checked("llama2_7b")
    with pytest.raises(NoTwin, match="no mixture"):
        dense_twin(result.model, result.graph)
