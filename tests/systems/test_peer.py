"""Product keys and experts of one neuron (He, 2024): brute force over all experts in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.ir.cost import cost
from tests.packages import compiled, package, source
from tests.systems.small import built, codes, model_of, spec, tokens

SIDE, E, H, K = 6, 36, 2, 3
SMALL = (f"side={SIDE}", "width=16", "vocab=32", "own.heads=2",
         f"retrieve.score=linear({H} * 8) -> product_keys(heads = {H})", f"retrieve.select=top_k({K})")  # fmt: skip
ROUTER = f"""\
score  = linear({H} * 8) -> {{}}product_keys(heads = {H}{{}})
select = top_k({K})
weigh  = score -> softmax
"""
FORMS = {"shared": ("", ""), "own": ("", ", keys = own"), "normed": ("rms(eps = 1e-6) -> ", "")}
NEURONS = f"experts = {E} * mlp(1, activation = gelu)"


def all_scores(router, x):
    """The score of every expert for each head, [N, H, E]: no half is chosen before the other."""
    query = router.score_linear(x)
    if hasattr(router, "score_rms"):
        query = F.rms_norm(query, (H * 8,), router.score_rms.weight, 1e-6)
    query = query.unflatten(1, (H, 2, 4))
    keys = router.score_product_keys
    keys = keys if keys.dim() == 4 else keys.expand(H, -1, -1, -1)
    left = torch.einsum("nhc,hac->nha", query[:, :, 0], keys[:, 0])
    right = torch.einsum("nhc,hac->nha", query[:, :, 1], keys[:, 1])
    return (left[:, :, :, None] + right[:, :, None, :]).flatten(2)


def formula(mixture, x):
    """Every expert on every row, times the weight that the heads give it together."""
    score = all_scores(mixture.router, x)
    best = score.topk(K, 2)
    weight = torch.zeros_like(score).scatter(2, best.indices, best.values.softmax(2)).sum(1)
    hidden = F.gelu(x @ mixture.experts.up.T)
    return (weight * hidden) @ mixture.experts.down, best.indices.flatten(1)


@pytest.fixture(scope="module", params=FORMS)
def made(request):
    return model_of(built(spec(ROUTER.format(*FORMS[request.param]), NEURONS)))


def test_the_best_of_all_without_looking_at_all(made) -> None:
    mixture = made.layer[0].sparse
    x = torch.randn(5, 8, 16, dtype=torch.float64, requires_grad=True)
    ours, record = mixture(x)
    theirs, expert = formula(mixture, x.flatten(0, 1))
    assert torch.equal(record.expert_NK, expert)
    torch.testing.assert_close(ours.flatten(0, 1), theirs, rtol=1e-12, atol=1e-12)
    twice = sum(len(set(row.tolist())) < H * K for row in expert)
    assert twice > 0, "some neuron is found by two heads, and counts twice"
    draw = torch.randn_like(theirs)
    wanted = [x, *mixture.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours.flatten(0, 1) * draw).sum(), wanted),
        torch.autograd.grad((theirs * draw).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_naive_forms_differ(made) -> None:
    """Weights over all heads at once, or of the best alone, as in the port that scores without competition."""
    mixture = made.layer[0].sparse
    x = torch.randn(40, 16, dtype=torch.float64)
    score = all_scores(mixture.router, x)
    best = score.topk(K, 2)
    record = mixture.router(x)
    together = best.values.flatten(1).softmax(1)
    assert not torch.allclose(record.weight_NK, together)
    torch.testing.assert_close(record.weight_NK.sum(1), torch.full((40,), float(H)).double())
    row = best.indices // SIDE
    halves = score.unflatten(2, (SIDE, SIDE)).amax(3).topk(1, 2).indices
    assert (row != halves).any(), "not all in the best row"


def test_experts_of_one_neuron_under_a_plain_router() -> None:
    """A bank of `mlp(1)` is looked up whatever chooses: the same function as grouped products."""
    router = "gate = score -> softmax\nselect = {}\n"
    for select in ("top_k(2)", "top_p(0.6)"):
        text = spec(router.format(select), "experts = 6 * mlp(1, activation = relu)")
        model = model_of(built(text))
        mixture = model.layer[0].sparse
        assert mixture.experts.up.shape == (6, 16)
        x = torch.randn(1, 9, 16, dtype=torch.float64)
        y, record = mixture(x)
        weight = torch.zeros(9, 7, dtype=torch.float64)
        weight = weight.scatter(1, record.expert_NK, record.weight_NK)[:, :6]
        wanted = (weight * F.relu(x[0] @ mixture.experts.up.T)) @ mixture.experts.down
        torch.testing.assert_close(y[0], wanted)


def test_other_experts_may_be_named_by_two_halves() -> None:
    mixture = (
        model_of(built(spec(ROUTER.format("", ""), f"experts = {E} * mlp(4)"))).layer[0].sparse
    )
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    y, record = mixture(x)
    wanted = torch.zeros(9, 16, dtype=torch.float64)
    for n in range(9):
        for e, w in zip(record.expert_NK[n].tolist(), record.weight_NK[n], strict=True):
            wanted[n] += w * mixture.experts.down[e] @ F.gelu(mixture.experts.up[e] @ x[0, n])
    torch.testing.assert_close(y[0], wanted.detach())


def test_the_spec() -> None:
    module = package("peer", SMALL)
    model = model_of(module).eval()
    ids = tokens()
    whole = model(ids).logits
    cache = module.Cache()
    parts = [model(part, cache=cache).logits for part in ids.split([3, 1, 3], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-11, atol=1e-11)
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 32
    torch.testing.assert_close(model(changed).logits[:, :5], whole[:, :5], rtol=1e-11, atol=1e-11)
    graph = compiled("peer", SMALL).graph
    assert str(causality(graph)) == "causal"
    assert cost(graph).total.total == sum(weight.numel() for weight in model.parameters())
    single = torch.compile(model.float(), fullgraph=True, backend="eager")
    torch.testing.assert_close(single(ids).logits, model(ids).logits)
    full = moedsl.pipeline.check(source("peer"))
    assert full.ok
    table = cost(full.graph).total
    assert table.total - table.active == 2 * 512 * (1024**2 - 8 * 16)


def test_findings() -> None:
    ok = ROUTER.format("", "")
    assert codes(spec(ok, NEURONS)) == []
    assert codes(spec(ok, "experts = 35 * mlp(1)")) == ["E0415"]
    assert codes(spec(ok.replace(f"{H} * 8", "15"), NEURONS)) == ["E0430"]
    assert codes(spec(ok.replace(f"top_k({K})", "top_p(0.5)"), NEURONS)) == ["E0416"]
    assert codes(spec("gate = score -> softmax\n" + ok, NEURONS)) == ["E0416"]
    assert codes(spec("capacity = 2\n" + ok, NEURONS)) == ["E0416"]
    assert codes(spec(ok, NEURONS + "\nloss = balance(1e-2)")) == ["E0416"]
    assert codes(spec(ok.replace("top_k(3)", "top_k(37)"), NEURONS)) == ["E0401"]
