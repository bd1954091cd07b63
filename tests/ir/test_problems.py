"""What cannot be lowered is told, and the rest of the spec is lowered all the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moedsl.diagnostics.model import Sink
from moedsl.ir import ops
from moedsl.ir.lower import lower
from moedsl.model import terms
from tests.ir.specs import OUTPUT, errors_of, feed_forward, lowered, mixture, model

NOT_STAGES = ["balance(1e-2)", "dot", "top_k(2)", "ids(4)", "split(2)", "huggingface()"]


def deciding(score: str, body: str) -> str:
    """A model whose layers decide before they mix."""
    router = f"router pick {{\n  score = {score}\n  select = top_k(2)\n}}\n"
    block = f"block layer {{\n  let h = a(x)\n  let d = pick(h)\n{body}\n}}\n"
    return model(router, "ffn expert = swiglu(32)\n", block, OUTPUT)


def applied(decision: str, experts: int) -> str:
    moe = f"moe sparse {{\n  router = {decision}\n  experts = {experts} * expert\n}}\n"
    return moe + "x += sparse(h)"


@pytest.mark.parametrize("recipe", NOT_STAGES)
def test_nothing_flows_through_what_is_no_stage(recipe: str) -> None:
    (found,) = errors_of(feed_forward(f"silu -> {recipe}"))
    assert (found.code, recipe.split("(")[0] in found.message) == ("E0211", True)
    assert found.help


def test_a_loss_is_no_expert() -> None:
    assert [d.code for d in errors_of(mixture("experts = 4 * balance(1)"))] == ["E0211"]


@pytest.mark.parametrize(
    ("term", "code"),
    [(terms.Tensor("nowhere"), "E0201"), (terms.Recipe("silu", "silu", ()), "E0210")],
)
def test_an_output_of_nothing(term: terms.Term, code: str) -> None:
    """Resolving refuses such outputs; lowering does not rely on it."""
    graph, _ = lowered(feed_forward("silu"))
    sink = Sink()
    assert graph.model is not None
    lower(replace(graph.model, outputs=(terms.Output("logits", term),)), sink)
    assert [d.code for d in sink.found] == [code]


def test_a_number_in_the_place_of_a_tensor() -> None:
    text = mixture("experts = 4 * swiglu(32)").replace("sparse(b(x))", "sparse(b(x), route = 3)")
    assert [d.code for d in errors_of(text)] == ["E0210"]


def test_a_norm_without_weights_stands_in_a_bank() -> None:
    assert not errors_of(mixture("experts = 4 * (rms(weight = false) -> swiglu(32))"))


# --- decisions that are made before they are applied -------------------------------------------


def test_a_decision_counts_the_choices_of_its_score() -> None:
    graph, sink = lowered(deciding("linear(4)", applied("d", 4)))
    assert not sink.found
    (router,) = (unit for unit in graph.units if unit.kind == "router")
    assert isinstance(router.nodes[0].op, ops.Rows)  # one decision for each row, as in a mixture


CASES = {
    "E0304": deciding("linear(4)", "x += d"),
    "E0402": deciding("linear", "x += expert(h)"),
    "E0405": deciding("linear(4)", applied("h", 4)),
    "E0406": deciding("linear(4)", applied("d", 5)),
}


@pytest.mark.parametrize("code", CASES)
def test_decisions_that_do_not_fit_are_told_once(code: str) -> None:
    (found,) = errors_of(CASES[code])
    assert found.code == code
    assert found.help
