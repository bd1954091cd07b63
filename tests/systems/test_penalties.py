"""Losses over routing, and numbers with state behind them, against plain formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.agree import agree
from tests.systems.small import built, codes, model_of, spec, tokens, watched

SHAZEER = """\
score  = linear -> gaussian(std = (x -> linear -> softplus) + 0.01)
select = top_k(2)
weigh  = score -> softmax
"""
VMOE = "score = linear -> gaussian(1 / choices)\ngate = score -> softmax\nselect = top_k(2)\n"
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0] * 6 + [1]]).bool()


def cv2(x: Tensor) -> Tensor:
    """tensor2tensor expert_utils.cv_squared: population variance."""
    return ((x - x.mean()) ** 2).mean() / (x.mean() ** 2 + 1e-10)


def phi(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def clean_and_std(router, x: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(router, "score_std"):
        return router.score_linear(x), F.softplus(router.score_std(x)) + 0.01
    return router.score(x), torch.full((len(x), 6), 1 / 6, dtype=x.dtype)


def check(module, name: str, value, *systems: str) -> float:
    """The loss by its name against `value(router, x, record)`, summed over layers; gradients too."""
    model = model_of(module)
    torch.manual_seed(11)
    rows, output = watched(model, tokens(), mask=MASK)
    real = MASK.flatten()
    wanted = sum(
        value(layer.sparse.router, x[real], _real(record, real))
        for layer, x, record in zip(model.layer, rows, output.routing.values(), strict=True)
    )
    mine = output.losses[name]
    agree(mine, wanted, 1e-12, *systems)
    weights = [w for layer in model.layer for w in layer.sparse.router.parameters()]
    got = torch.autograd.grad(mine, weights, retain_graph=True, allow_unused=True)
    want = torch.autograd.grad(wanted, weights, retain_graph=True, allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in got)
    agree(got, want, 1e-10, *systems, of="gradients")
    return mine.item()


def _real(record, real: Tensor):
    """What was decided for real tokens: the picks, the weights and the noisy logits."""
    return record.expert_NK[real], record.weight_NK[real], record.logits_NE[real]


def each(weight: Tensor, expert: Tensor) -> Tensor:
    return torch.zeros(len(weight), 6, dtype=weight.dtype).scatter(1, expert, weight)


@pytest.mark.parametrize("of", ["weight", "gate", "clean"])
def test_importance(of: str) -> None:
    router = SHAZEER if of == "weight" else VMOE
    module = built(spec(router, f"experts = 6 * swiglu(8)\nloss = importance(0.1, of = {of})"))
    given = {
        "weight": lambda r, x, d: each(d[1], d[0]),
        "gate": lambda r, x, d: d[2].softmax(1),
        "clean": lambda r, x, d: clean_and_std(r, x)[0].softmax(1),
    }[of]
    shazeer = ["noisy_top_k"] if of == "weight" else []
    check(module, "sparse.importance", lambda r, x, d: 0.1 * cv2(given(r, x, d).sum(0)), *shazeer)
    with pytest.raises(AssertionError):  # PyTorch ports: the unbiased variance is another loss
        check(
            module,
            "sparse.importance",
            lambda r, x, d: 0.1 * given(r, x, d).sum(0).var() / given(r, x, d).sum(0).mean() ** 2,
        )


def test_importance_of_one_expert_is_zero() -> None:
    text = spec(
        "gate = score -> sigmoid\nselect = top_k(1)\n",
        "experts = 1 * swiglu(8)\nloss = importance(1)",
    )
    assert model_of(built(text))(tokens()).losses["sparse.importance"] == 0


def pair(clean: Tensor, std: Tensor, noisy: Tensor) -> Tensor:
    """Shazeer 2017, appendix A: P(x, i) with kth_excluding(H(x), k, i), one number at a time."""
    rows = []
    for h, s, z in zip(clean, std, noisy, strict=True):
        bars = [torch.cat([z[:i], z[i + 1 :]]).sort(descending=True).values[1] for i in range(6)]
        rows.append(phi((h - torch.stack(bars)) / s))
    return torch.stack(rows)


def last(clean: Tensor, std: Tensor, noisy: Tensor) -> Tensor:
    """V-MoE nn/routing.py: 1 - Phi((threshold - clean) / std), the k-th largest noisy logit."""
    bar = noisy.sort(dim=1, descending=True).values[:, 1:2]
    return 1 - phi((bar - clean) / std)


@pytest.mark.parametrize("bar, router", [("others", SHAZEER), ("others", VMOE), ("last", VMOE)])
def test_load(bar: str, router: str) -> None:
    module = built(spec(router, f"experts = 6 * swiglu(8)\nloss = load(0.2, bar = {bar})"))
    forms = {"others": pair, "last": last}

    def value(form):
        return lambda r, x, d: 0.2 * cv2(form(*clean_and_std(r, x), d[2]).sum(0))

    shazeer = ["noisy_top_k"] if router == SHAZEER else []
    check(module, "sparse.load", value(forms.pop(bar)), *shazeer)
    with pytest.raises(AssertionError):
        check(module, "sparse.load", value(*forms.values()))
    model = model_of(module).eval()
    output = model(tokens(), mask=MASK)
    counts = [
        torch.bincount(d.expert_NK[MASK.flatten()].flatten(), minlength=6).double()
        for d in output.routing.values()
    ]
    torch.testing.assert_close(output.losses["sparse.load"], sum(0.2 * cv2(c) for c in counts))


def test_load_of_all_is_the_count() -> None:
    text = spec(VMOE.replace("top_k(2)", "top_k(6)"), "experts = 6 * swiglu(8)\nloss = load(0.2)")
    assert model_of(built(text))(tokens()).losses["sparse.load"] == 0


def entropy(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(-1)


@pytest.mark.parametrize("gate", ["", "gate = score -> sigmoid\n"])
def test_entropy_of_each_token(gate: str) -> None:
    weigh = "" if gate else "weigh = score -> softmax\n"
    text = spec(
        f"{gate}select = top_k(2)\n{weigh}", "experts = 6 * swiglu(8)\nloss = entropy(1e-4)"
    )

    def value(r, x, d):
        s = d[2].sigmoid()
        return 1e-4 * entropy(s / s.sum(1, keepdim=True) if gate else d[2].softmax(1)).mean()

    check(built(text), "sparse.entropy", value)


def test_entropy_of_the_mean_pulls_up() -> None:
    """MoEUT: minus the entropy of the mean softmax of the selection logits, whatever the gate."""
    moe = "experts = 6 * swiglu(8)\nloss = entropy(0.01, of = score, per = mean, aim = high)"
    module = built(spec("gate = score -> sigmoid\nselect = top_k(2)\n", moe))
    check(module, "sparse.entropy", lambda r, x, d: -0.01 * entropy(d[2].softmax(1).mean(0)))


def test_entropy_over_all_places() -> None:
    moe = "experts = 6 * swiglu(8)\nloss = entropy(0.01, of = score, per = mean, aim = high, over = model)"
    model = model_of(built(spec("gate = score -> sigmoid\nselect = top_k(2)\n", moe)))
    output = model(tokens(), mask=MASK)
    every = torch.cat([d.logits_NE[MASK.flatten()] for d in output.routing.values()])
    wanted = -0.01 * entropy(every.softmax(1).mean(0))
    torch.testing.assert_close(output.losses["sparse.entropy"], wanted, rtol=1e-13, atol=0)


def test_entropy_of_what_is_hidden_has_a_gradient() -> None:
    router = "score = linear -> hide(0.5)\ngate = score -> softmax\nselect = top_k(2)\n"
    model = model_of(built(spec(router, "experts = 6 * swiglu(8)\nloss = entropy(1)")))
    torch.manual_seed(2)
    grads = torch.autograd.grad(
        model(tokens()).losses["sparse.entropy"],
        [layer.sparse.router.score.weight for layer in model.layer],
    )
    assert all(g.isfinite().all() and g.any() for g in grads)


# --- selections of as many as are needed ----------------------------------------------------------

REMOE = "gate = score -> relu\nselect = positive\n"


def test_positive_is_relu_routing() -> None:
    moe = "experts = 6 * swiglu(8)\nloss = l1(sparsity(1 - 1 / 6, start = 0.5))"
    module = built(spec(REMOE, moe))
    model = model_of(module)
    rows, output = watched(model, tokens())
    for layer, x, record in zip(model.layer, rows, output.routing.values(), strict=True):
        gate = layer.sparse.router.score(x).relu()
        picked = torch.arange(6).where(gate > 0, 6)
        assert torch.equal(record.expert_NK, picked)
        agree(record.weight_NK, gate, 1e-15, "remoe")
        assert 0 < (gate > 0).sum() < gate.numel()
        # Dense: every expert on every row, times its gate.
        bank, y = layer.sparse.experts, 0
        for e in range(6):
            g, u = (x @ bank.gate_up[e].T).chunk(2, -1)
            y = y + gate[:, e : e + 1] * ((F.silu(g) * u) @ bank.down[e].T)
        agree(layer.sparse(x.view(3, 7, 16), None)[0].flatten(0, 1), y, 1e-12, "remoe")

    def value(r, x, d):
        gate = d[2].relu()
        count = (gate > 0).sum(0)
        return 0.5 * 6 / (1 * len(x) ** 2) * (gate.sum(0) * count).sum()

    check(module, "sparse.l1", value, "remoe")


def test_sparsity_finds_its_coefficient() -> None:
    """ReMoE training.py: lambda *= 1.2 while the mean sparsity over layers is below 1 - k / E, else /= 1.2."""
    for target, up in ((0.01, False), (0.99, True)):
        moe = f"experts = 6 * swiglu(8)\nloss = l1(sparsity({target}))"
        module = built(spec(REMOE, moe))
        model = model_of(module).to(torch.bfloat16)
        assert model.sparse_l1.value.dtype == torch.float32
        load = module.tally(model(tokens(), mask=MASK).routing)
        taken = sum(one.choices_E.sum() for one in load.values()) / (2 * MASK.sum() * 6)
        assert (1 - taken < target) == up
        model.adapt(load)
        change = 1.2 if up else 1 / 1.2
        torch.testing.assert_close(model.sparse_l1.value.item(), 1e-8 * change, rtol=1e-6, atol=0)
        model.init_weights()
        torch.testing.assert_close(model.sparse_l1.value.item(), 1e-8, rtol=1e-6, atol=0)


def test_sparsity_is_the_mean_over_layers() -> None:
    """Not of single layers: one dense layer beside a sparse one may be on target."""
    module = built(spec(REMOE, "experts = 6 * swiglu(8)\nloss = l1(sparsity(0.5))"))
    model = model_of(module)
    full = module.Load(torch.full((6,), 10), torch.tensor(10))
    some = module.Load(torch.tensor([1, 0, 0, 0, 0, 0]), torch.tensor(10))
    model.adapt({"layer.0.sparse": full, "layer.1.sparse": some})  # mean (0 + 59/60) / 2 < 0.5
    assert model.sparse_l1.value > 1e-8
    none = module.Load(torch.zeros(6, dtype=torch.int64), torch.tensor(10))
    model.init_weights()
    model.adapt({"layer.0.sparse": full, "layer.1.sparse": none})  # 0.5 is not below
    assert model.sparse_l1.value < 1e-8


def test_a_ramp_is_walked_by_steps() -> None:
    moe = "experts = 6 * swiglu(8)\nloss = balance(ramp(0.1, 0.02, 4))"
    plain = moe.replace("ramp(0.1, 0.02, 4)", "1")
    module = built(spec("select = top_k(2)\nweigh = score -> softmax\n", moe))
    model = model_of(module)
    other = model_of(built(spec("select = top_k(2)\nweigh = score -> softmax\n", plain)))
    unit = other(tokens()).losses["sparse.balance"]
    for wanted in (0.1, 0.08, 0.06, 0.04, 0.02, 0.02):
        output = model(tokens())
        torch.testing.assert_close(
            output.losses["sparse.balance"], wanted * unit, rtol=1e-6, atol=0
        )
        model.adapt(module.tally(output.routing))


@pytest.mark.parametrize("most", ["all", "3"])
def test_top_p_keeps_the_crossing_one(most: str) -> None:
    """Huang et al., 2024: the smallest set of largest probabilities whose sum reaches p; weights as they are."""
    module = built(spec(f"gate = score -> softmax\nselect = top_p(0.7, most = {most})\n"))
    model = model_of(module)
    rows, output = watched(model, tokens())
    sizes = set()
    for layer, x, record in zip(model.layer, rows, output.routing.values(), strict=True):
        for n, p in enumerate(layer.sparse.router.score(x).softmax(1)):
            order, total, kept = p.sort(descending=True).indices.tolist(), 0.0, []
            for e in order[: 3 if most == "3" else 6]:
                kept.append(e)
                total += p[e].item()
                if total >= 0.7:
                    break
            found = record.expert_NK[n]
            assert found[: len(kept)].tolist() == kept and (found[len(kept) :] == 6).all()
            agree(record.weight_NK[n, : len(kept)], p[kept], 1e-14, "top_p")
            assert (record.weight_NK[n, len(kept) :] == 0).all()
            sizes.add(len(kept))
    assert len(sizes) > 1


@pytest.mark.parametrize("select", ["positive", "top_p(0.7)"])
def test_compiled_whole(select: str) -> None:
    gate = "relu" if select == "positive" else "softmax"
    model = model_of(built(spec(f"gate = score -> {gate}\nselect = {select}\n")))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)


def test_what_does_not_go_together() -> None:
    top2 = "gate = score -> softmax\nselect = top_k(2)\n"
    assert codes(spec("select = top_p(0.5)\n")) == ["E0413"]
    assert codes(spec(top2, "experts = 6 * swiglu(8)\nloss = load(0.1)")) == ["E0503"]
    both = "experts = 6 * swiglu(8)\nloss = [balance(0.1), entropy(0.1, of = score)]"
    assert codes(spec(top2, both)) == ["E0504"]
    assert codes(spec(top2, "experts = 6 * swiglu(8)\nloss = z(balancing(0.1))")) != []
    assert codes(spec(top2, "experts = 6 * swiglu(8)\nloss = z(ramp(1, 0, 0))")) == ["E0206"]
