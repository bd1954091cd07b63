"""A decision by `let`: made once, for every mixture that names it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from moedsl.diagnostics.model import Sink  # noqa: E402
from moedsl.model.dump import dump_model  # noqa: E402
from moedsl.model.resolve import resolve  # noqa: E402
from moedsl.source import Source  # noqa: E402
from moedsl.syntax.parser import parse  # noqa: E402
from tests.generated import variants  # noqa: E402

NO_MIXTURE = (
    """  moe sparse {
    router  = top2
    experts = 4 * swiglu(96)
    loss    = [balance(1e-2), z(1e-3)]
  }
""",
    "",
)
LAYER = "    x += sparse(before_ffn(x))"
WIDE = "moe wide {\n      router = pick\n      experts = 4 * swiglu(48)\n      loss = %s\n    }"
NARROW = "moe narrow {\n      router = pick\n      experts = %s\n      loss = %s\n    }"


def sharing(first="balance(1e-2)", second="none", experts="4 * swiglu(16)"):
    body = f"""    let h = before_ffn(x)
    let pick = top2(h)
    {WIDE % first}
    {NARROW % (experts, second)}
    x += wide(h) + narrow(h)"""
    return NO_MIXTURE, (LAYER, body)


def swiglu(x, gate_up, down):
    gate, up = (x @ gate_up.T).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ down.T


def mixture(h, weight, chosen, experts):
    """Every expert on every token, times the weight that its decision gave it."""
    total = torch.zeros_like(h)
    for e in range(4):
        share = (weight * (chosen == e)).sum(-1, keepdim=True)
        total = total + share * swiglu(h, experts.gate_up[e], experts.down[e])
    return total


def test_two_mixtures_follow_one_decision():
    _, model = variants.made(*sharing())
    layer = model.layer[0]
    h = torch.randn(2, 5, 64, dtype=torch.float64, requires_grad=True)
    pick = layer.top2(h, None)
    found = layer.wide(h, pick) + layer.narrow(h, pick)

    score, chosen = (h @ layer.top2.score.weight.T).topk(2)
    weight = score.softmax(-1)
    wanted = sum(mixture(h, weight, chosen, m.experts) for m in (layer.wide, layer.narrow))
    part = torch.nn.ModuleList([layer.top2, layer.wide, layer.narrow])
    variants.agree(part, found, wanted, h)


def test_it_decodes_and_is_named_once():
    module, model = variants.made(*sharing())
    output = model(variants.tokens())
    assert list(output.routing) == ["layer.0.pick", "layer.1.pick"]
    variants.generates(module, model)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("balance(1e-2)", "balance(1e-2)", ["wide.balance"]),
        ("balance(1e-2)", "balance(2e-2)", ["wide.balance", "narrow.balance"]),
        ("none", "[z(1e-3), balance(1e-2)]", ["narrow.z", "narrow.balance"]),
    ],
)
def test_a_loss_of_it_counts_once(first, second, names):
    _, model = variants.made(*sharing(first, second))
    output = model(variants.tokens())
    assert list(output.losses) == names
    routed = output.routing["layer.0.pick"], output.routing["layer.1.pick"]
    balance = 0.0
    for one in routed:
        share = F.one_hot(one.expert_NK, 4).double().mean((0, 1))
        balance = balance + 4 * (share * one.logits_NE.softmax(-1).mean(0)).sum()
    for name, value in output.losses.items():
        if name.endswith("balance"):
            coefficient = {"wide": 0.01, "narrow": 0.02 if second == "balance(2e-2)" else 0.01}
            torch.testing.assert_close(value, coefficient[name.split(".")[0]] * balance)


MODEL = (
    ("    router  = top2", "    router  = pick"),
    ("  moe sparse", "  let h = embed(tokens)\n  let pick = top2(h)\n  moe sparse"),
    ("tokens -> embed ->", "h ->"),
)
ATTENTION = (
    ("heads = 4", "heads = 4\n    let pick = top2(x)"),
    (
        "q, k  = linear -> rope(theta = 1e4)",
        "q, k  = linear -> rope(theta = 1e4)\n    o = mixed -> moe(router = pick, experts = 4 * linear)",
    ),
)
PASSED = (
    NO_MIXTURE,
    (
        "  block layer {",
        "  block inner(d) {\n    x += moe(router = d, experts = 4 * swiglu(32))(before_ffn(x))\n  }\n"
        "  block layer {\n    let pick = top2(before_mix(x))",
    ),
    ("x += own(before_mix(x))", "x += own(x)"),
    (LAYER, "    x += inner(pick)(x)"),
)
IN_PLACE = (("router  = top2", "router  = top2(x)"),)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (MODEL, ["pick"]),
        (ATTENTION, ["layer.0.own.pick", "layer.0.sparse", "layer.1.own.pick", "layer.1.sparse"]),
        (PASSED, ["layer.0.pick", "layer.1.pick"]),
        (IN_PLACE, ["layer.0.sparse", "layer.1.sparse"]),
    ],
    ids=["model", "attention", "passed", "in place"],
)
def test_wherever_it_is_made(changes, names):
    module, model = variants.made(*changes)
    output = model(variants.tokens())
    assert sorted(output.routing) == names
    (output.logits.square().mean() + sum(output.losses.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    variants.generates(module, model)


def test_tensors_named_in_a_form():
    """A `let` of an attention or a mixture is read by its expressions."""
    inner = "let h = x -> linear(32)\n    "
    module, model = variants.made(
        ("heads = 4", inner + "heads = 4"), ("q, k  = linear", "q, k = h -> linear")
    )
    assert model.layer[0].own.q.weight.shape == (64, 32)
    variants.generates(module, model)
    router = inner + "router = top2 { score = h -> linear }"
    module, model = variants.made(("router  = top2", router))
    sparse = model.layer[0].sparse
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    logits = sparse(x, None)[1].logits_NE
    wanted = x @ sparse.linear.weight.T @ sparse.router.score.weight.T
    torch.testing.assert_close(logits, wanted.flatten(0, 1))


def test_mixtures_that_share_agree_on_their_choices():
    assert variants.codes(*sharing(experts="8 * swiglu(16)")) == ["E0406"]


@pytest.mark.parametrize(
    "changes", [sharing(), MODEL, ATTENTION, PASSED], ids=["block", "model", "attention", "passed"]
)
def test_the_resolved_spec_reads_again(changes):
    """What reads a tensor of a body is declared in it."""
    text = variants.text(*changes)
    first = resolved(text)
    assert resolved(dump_model(first)) == first


def resolved(text):
    sink, source = Sink(), Source(text)
    found = resolve(parse(source, sink), source, sink)
    assert not sink.has_errors, sink.found
    return found
