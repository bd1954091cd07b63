"""README, Calls: bodies, streams and parameters."""

from __future__ import annotations

import pytest

from moedsl.model import terms
from tests.model.specs import PARTS, answer, applied, model, resolved, stage


def block(body: str, head: str = "layer(feed_forward)") -> str:
    before = PARTS[: PARTS.index("  block layer")]
    return model("layer(sparse)", parts=f"{before}  block {head} {{\n{body}\n  }}\n")


def test_the_stream_is_assigned_in_order():
    body = "x += own(before_mix(x))\nx = x -> before_ffn\nx += feed_forward(x)"
    found = resolved(block(body))
    names = [statement.name for statement in stage(found.flow, "layer").body]
    assert names == ["x", "x", "x"]


def test_let_names_a_tensor():
    found = resolved(block("let h = before_mix(x)\nx += own(h) + feed_forward(before_ffn(h))"))
    let, assign = stage(found.flow, "layer").body
    assert isinstance(let, terms.Let)
    assert assign.value.right.left.inputs == (terms.Tensor("h"),)


@pytest.mark.parametrize(
    "body, code",
    [
        ("let h = own\nx += feed_forward(before_mix(x))", "E0210"),
        ("y += own(before_mix(x))", "E0201"),
        ("x += own", "E0210"),
        ("x = own(y)", "E0201"),
        ("let h = before_mix(x)\nlet h = before_ffn(x)\nx += h", "E0213"),
        ("let index = before_mix(x)\nx += own(x)", "E0219"),
    ],
)
def test_what_a_block_refuses(body, code):
    assert code in answer(block(body)).codes


def test_a_let_is_known_after_it_stands():
    assert (
        "E0201" in answer(block("x += own(h)\nlet h = before_mix(x)\nx += feed_forward(h)")).codes
    )


def test_recipes_of_a_block_are_its_own():
    body = "norm inner = rms(eps = 1e-4)\nx += own(inner(x))\nx += feed_forward(before_ffn(x))"
    layer = stage(answer(block(body)).flow, "layer")
    assert layer.body[0].value.right.inputs[0].recipe.setting("eps") == terms.Number(1e-4)


def test_tied_once_per_instance_of_the_body_that_declares_it():
    body = "tied inner = rms()\nx += own(inner(x))\nx += feed_forward(inner(x))"
    layer = stage(answer(block(body)).flow, "layer")
    first, second = (s.value.right.inputs[0].recipe for s in layer.body)
    assert first == second
    assert first.tied == "layer.inner"


def test_a_number_may_be_passed():
    parts = PARTS.replace("moe sparse {", "moe sparse(count) {").replace(
        "4 * swiglu", "count * swiglu"
    )
    flow = resolved(model("layer(sparse(2)) -> layer(sparse(3))", parts=parts)).flow
    counts = [applied(b, 1).setting("experts").count for b in flow if b.name == "layer"]
    assert counts == [2, 3]


def test_a_word_may_be_passed():
    parts = PARTS.replace("block layer(feed_forward)", "block layer(feed_forward, m)")
    parts = parts.replace("own(before_mix(x))", "(own with { mask = m })(before_mix(x))")
    layer = stage(resolved(model("layer(sparse, none)", parts=parts)).flow, "layer")
    assert applied(layer, 0).setting("mask") == terms.Word("none")


def test_a_parameter_may_have_a_default():
    parts = PARTS.replace("layer(feed_forward)", "layer(feed_forward = sparse)")
    layer = stage(resolved(model("2 * layer", parts=parts)).flow, "layer")
    assert applied(layer, 1).place == "feed_forward"


@pytest.mark.parametrize(
    "mention, code",
    [("layer", "E0204"), ("layer(sparse, sparse)", "E0205"), ("layer(fed = sparse)", "E0202")],
)
def test_parameters_are_matched(mention, code):
    assert code in answer(model(mention)).codes


def test_tensors_are_bound():
    parts = (
        PARTS
        + "  block cross(feed_forward, memory) {\n    x += own(last(x), memory)\n    x += feed_forward(x)\n  }\n"
    )
    more = "let memory = tokens -> embed -> layer(sparse)"
    text = model("2 * cross(swiglu(8), memory)", more, parts).replace("-> last ->", "->")
    cross = stage(answer(text).flow, "cross")
    assert cross.bound == (("memory", terms.Tensor("memory")),)
    assert cross.body[0].value.right.inputs[1] == terms.Tensor("memory")


def test_a_tensor_by_name_is_passed_on():
    found = answer(
        block("let h = before_mix(x)\nx += sparse(h, route = x)\nx += feed_forward(before_ffn(x))")
    )
    call = stage(found.flow, "layer").body[1].value.right
    assert call.named == (("route", terms.Tensor("x")),)


def test_an_inline_recipe_is_applied():
    layer = stage(answer(block("x += geglu(8)(before_mix(x))\nx += feed_forward(x)")).flow, "layer")
    assert applied(layer, 0).construct == "geglu"


def test_a_decision_is_a_value():
    more = "block other {\n    let pick = top2(x)\n    x += moe(router = pick, experts = 4 * swiglu(8))(last(x))\n  }"
    found = answer(model("layer(sparse) -> other", more).replace("-> last ->", "->"))
    other = stage(found.flow, "other")
    assert applied(other, 1).setting("router") == terms.Tensor("pick")
