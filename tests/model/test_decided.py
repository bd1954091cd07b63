"""`choices` in a router that a `let` applies: as many as those have experts who use the decision."""

from __future__ import annotations

import pytest

import moedsl.pipeline
from moedsl.ir import ops
from moedsl.source import Source


def spec(attention: str = "", block: str = "", root: str = "") -> str:
    return f"""model m {{
  vocab = 32
  width = 16
  norm before, after, last = rms
  router noisy {{
    score  = linear -> gaussian(1 / choices)
    gate   = score -> softmax
    select = top_k(2)
  }}
  attention own {{
    heads = 4
    share = tiled
    {attention}
  }}
  block layer(first) {{
    let h = before(x)
    x += own(h)
    {block}
  }}
  input  tokens = ids(vocab)
  let    start = tokens -> embed
  let    whole = {root or "start"}
  output logits = start -> 2 * layer(whole) -> last -> head
}}
"""


PICK = """let pick = noisy(x)
    q = moe(router = pick, experts = 4 * linear, mix = stack)
    o = moe(router = pick, experts = 4 * linear, inputs = stack)"""
ONE = (
    "let g = after(x)\n    let one = noisy(g)\n    x += moe(router = one, experts = 6 * mlp(4))(h)"
)


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        (spec(PICK), {1 / 4}),
        (spec(block=ONE), {1 / 6}),
        (spec(PICK, ONE), {1 / 4, 1 / 6}),
        (
            spec(root="noisy(start)", block="x += moe(router = first, experts = 8 * mlp(4))(h)"),
            {1 / 8},
        ),
    ],
)
def test_choices_are_the_experts_of_those_who_use_it(text: str, amounts: set[float]) -> None:
    result = moedsl.pipeline.check(Source(text, "m.moe"))
    assert [d for d in result.diagnostics if d.severity == "error"] == []
    nodes = [node for unit in result.graph.units for node in unit.nodes]
    assert {node.op.amount for node in nodes if isinstance(node.op, ops.Noise)} == amounts


@pytest.mark.parametrize(
    "use",
    [
        "x += one",  # nobody says
        "x += moe(router = one, experts = 6 * mlp(4))(h) + moe(router = one, experts = 4 * mlp(4))(h)",
    ],
)
def test_without_an_answer_it_is_not_known(use: str) -> None:
    text = spec(block=f"let one = noisy(h)\n    {use}")
    assert "E0201" in [d.code for d in moedsl.pipeline.check(Source(text, "m.moe")).diagnostics]
