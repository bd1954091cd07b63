"""Noise: what it perturbs, when, and that it is drawn again as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.systems.small import built, codes, model_of, spec, tokens, watched

TOP2 = "select = top_k(2)\nweigh = score -> softmax\n"
FORMS = {
    "jitter": "score = jitter(0.3) -> linear\n",
    "gaussian": "score = linear -> gaussian(1 / choices)\n",
    "learned": "score = linear -> gaussian(std = (x -> linear -> softplus) + 0.01)\n",
    "gumbel": "score = linear -> gumbel(0.5)\n",
    "dropout": "score = dropout(0.3) -> linear\n",
    "hide": "gate = score -> sigmoid\nchoose = gate -> hide(0.4)\n",
}


def logits_of(form: str, router, x: Tensor) -> Tensor:
    """The noisy score by the papers' formulas, drawn from torch's generator as it stands."""
    clean = router.score_linear if form == "learned" else router.score
    match form:
        case "jitter":  # Switch: x * U(1 - e, 1 + e)
            return clean(x * (0.7 + 0.6 * torch.rand_like(x)))
        case "gaussian":  # V-MoE: z + N(0, (1 / E)^2)
            return clean(x) + torch.randn(len(x), 6, dtype=x.dtype) / 6
        case "learned":  # Shazeer: x W + N(0, 1) * (softplus(x W_noise) + 1e-2)
            std = F.softplus(x @ router.score_std.weight.T) + 0.01
            return clean(x) + std * torch.randn_like(std)
        case "gumbel":
            u = torch.empty(len(x), 6, dtype=x.dtype).exponential_()
            return clean(x) - 0.5 * u.log()
        case "dropout":
            return clean(F.dropout(x, 0.3))
    return clean(x)


@pytest.fixture(scope="module", params=FORMS)
def noisy(request):
    form = request.param
    rest = TOP2 if form != "hide" else "select = top_k(2)\n"
    return form, built(spec(FORMS[form] + rest))


def test_it_is_the_formula_in_training_and_absent_in_evaluation(noisy) -> None:
    form, module = noisy
    model = model_of(module)
    for training in (True, False):
        model.train(training)
        router = model.layer[0].sparse.router
        x = torch.randn(21, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        torch.manual_seed(7)
        record = router(x)
        torch.manual_seed(7)
        linear = router.score_linear if form == "learned" else router.score
        wanted = logits_of(form, router, x) if training else linear(x)
        torch.testing.assert_close(record.logits_NE, wanted, rtol=1e-12, atol=1e-13)
        ranked = wanted
        if form == "hide" and training:
            torch.manual_seed(7)
            hidden = torch.rand_like(wanted) < 0.4
            ranked = wanted.sigmoid().masked_fill(hidden, -torch.inf)
            assert hidden.any()
        expert = ranked.sort(dim=1, descending=True, stable=True).indices[:, :2]
        assert torch.equal(record.expert_NK, expert)
        kept = wanted.gather(1, expert)
        weight = kept.sigmoid() if form == "hide" else kept.softmax(1)
        torch.testing.assert_close(record.weight_NK, weight, rtol=1e-12, atol=0)


def test_experts_get_what_they_would_without_it(noisy) -> None:
    """The ports of Switch that jitter in place give experts the jittered rows: the papers do not."""
    _, module = noisy
    model = model_of(module)
    seen: list[Tensor] = []
    model.layer[0].sparse.experts.register_forward_hook(lambda _, i, __: seen.append(i[0]))
    rows, output = watched(model, tokens())
    expert = output.routing["layer.0.sparse"].expert_NK
    order = expert.flatten().argsort(stable=True) // 2
    torch.testing.assert_close(seen[0], rows[0][order], rtol=0, atol=0)


def test_backward_of_recomputed_layers_draws_the_same(noisy) -> None:
    _, module = noisy
    found = []
    for again in (False, True):
        model = model_of(module)
        model.checkpoint_layers = again
        torch.manual_seed(3)
        output = model(tokens())
        (output.logits.square().sum() + sum(output.losses.values())).backward()
        found.append([weight.grad for weight in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_compiled_whole(noisy) -> None:
    _, module = noisy
    model = model_of(module, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(tokens()).logits.isfinite().all()
    model.eval()
    torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)


def test_whole_tokens_are_dropped() -> None:
    text = spec(TOP2).replace(
        "x += sparse(before(x))", "x += sparse(before(x)) -> dropout(0.5, per = token)"
    )
    model = model_of(built(text))
    x = torch.randn(40, 30, 16, dtype=torch.float64)
    torch.manual_seed(1)
    block = model.layer[0]
    moved = block(x)[0] - x
    zero = (moved == 0).all(-1)
    assert 0.45 < zero.double().mean() < 0.55
    y = block.sparse(block.before(x))[0]
    torch.testing.assert_close(moved[~zero], 2 * y[~zero])
    block.eval()
    torch.testing.assert_close(block(x)[0], x + y)


def test_what_noise_cannot_be() -> None:
    assert codes(spec("score = linear -> gaussian(0 - 1)\n" + TOP2)) == ["E0206"]
    assert codes(spec("score = jitter(2) -> linear\n" + TOP2)) == ["E0206"]
    phased = "score = linear -> gaussian(phase(train = 0.2, eval = 0.1))\n"
    assert codes(spec(phased + TOP2)) == []
