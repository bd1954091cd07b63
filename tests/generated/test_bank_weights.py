"""Norms and scales in a bank: each expert has its own, and routed rows take those of their expert."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from tests.generated import variants  # noqa: E402


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def layer(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def plain(x, p, e):
    hidden = F.gelu(rms(x, p.rms[e]) @ p.linear[e].T)
    return hidden @ p.linear_2[e].T


def scaled(x, p, e):
    hidden = layer(x, p.layer_norm[e], p.layer_norm_bias[e]) @ p.linear[e].T
    return (F.silu(hidden) * p.scale[e]) @ p.linear_2[e].T * p.scale_2[e]


def offset(x, p, e):
    return F.relu(rms(x, 1 + p.rms[e]) @ p.linear[e].T) @ p.linear_2[e].T + p.linear_2_bias[e]


EXPERTS = {
    "(rms() -> linear(96) -> gelu -> linear)": plain,
    "(layer_norm() -> linear(96) -> silu -> scale(learned, per = channel) -> linear -> scale(learned))": scaled,
    "(rms(offset = true) -> linear(96) -> relu -> linear(bias = true))": offset,
}
each = pytest.mark.parametrize("experts", EXPERTS)


def bank(experts, **more):
    module, model = variants.made(("swiglu(96)", experts), **more)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.layer[0].sparse.experts.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.copy_(parameter + 0.2 * noise)
    return module, model


@each
def test_rows_take_the_weights_of_their_expert(experts):
    module, model = bank(experts)
    sparse = model.layer[0].sparse
    x = torch.randn(2, 7, 64, dtype=torch.float64, requires_grad=True)
    found, _ = sparse(x, None)
    score, chosen = (x @ sparse.router.score.weight.T).topk(2)
    wanted = torch.zeros_like(x)
    for e in range(4):
        share = (score.softmax(-1) * (chosen == e)).sum(-1, keepdim=True)
        wanted = wanted + share * EXPERTS[experts](x, sparse.experts, e)
    variants.agree(sparse, found, wanted, x)
    variants.generates(module, model)


@each
def test_it_compiles_whole_and_starts_on_meta(experts):
    _, model = bank(experts, dtype=torch.float32)
    ids = variants.tokens()
    expected = model(ids).logits
    torch.compiler.reset()
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = whole(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().mean().backward()
    assert all(p.grad is not None for p in model.layer.parameters())
    with torch.device("meta"):
        empty = type(model)()
        assert empty(ids.to("meta")).logits.shape == expected.shape


def test_an_expert_sees_no_sequence():
    for whole in ("attention(heads = 2)", "moe(router = top2, experts = 4 * linear)"):
        assert variants.codes(("4 * swiglu(96)", f"4 * (linear(32) -> {whole})")) == ["E0306"]
