"""An attention's scores as an expression: what kernels know stays fused, the rest is written out."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.generated import variants  # noqa: E402

SCORES = {
    "dot(scale = 0.1) -> soft_cap(0.3) -> scale(2)": lambda d: 2 * (0.3 * (0.1 * d / 0.3).tanh()),
    "dot() + dot(scale = 0.2)": lambda d: d / 4 + 0.2 * d,
    "dot() -> tanh": lambda d: (d / 4).tanh(),
    "dot -> scale(2) -> scale(3)": lambda d: 6 * d / 4,
    "dot -> scale(3) -> soft_cap(0.3)": lambda d: 0.3 * (3 * d / 4 / 0.3).tanh(),
}
FUSED = {"dot -> scale(2) -> scale(3)", "dot -> scale(3) -> soft_cap(0.3)"}


def made(scores, kv_heads=4, mask="causal", **more):
    changes = (
        ("heads = 4", f"heads = 4\n    kv_heads = {kv_heads}\n    scores = {scores}"),
        ("q, k  = linear -> rope(theta = 1e4)", "q, k  = linear"),
        ("mask  = causal", f"mask  = {mask}"),
    )
    if mask == "none":
        changes += (("-> last -> head", "-> last -> linear(7)"),)
    return variants.made(*changes, **more)


@pytest.mark.parametrize(("kv_heads", "mask"), [(2, "causal"), (4, "none")])
@pytest.mark.parametrize("scores", SCORES)
def test_scores_are_what_is_written(scores, kv_heads, mask):
    module, model = made(scores, kv_heads, mask)
    own = model.layer[0].own
    with torch.no_grad():
        for weight in own.parameters():
            weight.mul_(8)
    assert hasattr(module.model, "mix") == (scores not in FUSED)
    x = torch.randn(2, 6, 64, dtype=torch.float64, requires_grad=True)
    sees = torch.ones(6, 6, dtype=torch.bool)
    sees = sees.tril() if mask == "causal" else sees
    found = own(x, sees[None, None], None) if mask == "causal" else own(x, None)

    q = own.q(x).view(2, 6, 4, 16).transpose(1, 2)
    k, v = (p(x).view(2, 6, kv_heads, 16).transpose(1, 2) for p in (own.k, own.v))
    k, v = (h.repeat_interleave(4 // kv_heads, dim=1) for h in (k, v))
    score = SCORES[scores](q @ k.mT).masked_fill(~sees, -torch.inf)
    wanted = own.o((score.softmax(-1) @ v).transpose(1, 2).flatten(2))
    variants.agree(own, found, wanted, x)
    if mask == "causal":
        variants.generates(module, model)


def test_padding_moves_nothing():
    _, model = made("dot() + dot(scale = 0.2)", kv_heads=2)
    ids = variants.tokens(1, 9)
    padded = torch.cat([torch.full((1, 4), 3), ids], 1)
    mask = torch.arange(13)[None] >= 4
    with torch.no_grad():
        alone, beside = model(ids).logits, model(padded, mask).logits[:, 4:]
    torch.testing.assert_close(alone, beside)


def test_it_compiles_whole():
    _, model = made("dot() + dot(scale = 0.2)", kv_heads=2, dtype=torch.float32)
    ids = variants.tokens()
    expected = model(ids).logits
    torch.compiler.reset()
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_drop_in_training():
    setting = ("heads = 4", "heads = 4\n    dropout = 0.5\n    scores = dot -> tanh")
    _, noisy = variants.made(setting)
    _, plain = variants.made(("heads = 4", "heads = 4\n    scores = dot -> tanh"))
    noisy.load_state_dict(plain.state_dict())
    ids = variants.tokens()
    assert torch.equal(noisy.eval()(ids).logits, plain(ids).logits)
    assert not torch.equal(noisy.train()(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("scores", ["dot -> softmax", "dot -> rms()", "q", "x -> linear(16)"])
def test_what_is_no_score(scores):
    assert variants.codes(("heads = 4", f"heads = 4\n    scores = {scores}")) == ["E0311"]
