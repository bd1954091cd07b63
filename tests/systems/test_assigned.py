"""Rows assigned to experts so that each gets as many: Sinkhorn by Megatron's loop, BASE by a linear program in float64."""

from __future__ import annotations

import sys

import networkx
import pytest
import torch
import torch.nn.functional as F

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.source import Source
from tests.agree import agree
from tests.systems.small import built, codes, model_of, spec, tokens, watched
from tests.systems.test_keyed import with_attention

ROUTER = """\
gate   = score -> sigmoid
choose = score
select = phase(train = assigned({}), eval = top_k(1))
"""
EXACT, EVEN = ROUTER.format("method = exact, tolerance = 1e-7"), ROUTER.format("")
RESIDUAL = "experts = 4 * (layer_norm(eps = 1e-5) -> mlp(8, activation = relu))"


def megatron_sinkhorn(cost, tol=0.0001):
    """Megatron-LM moe_utils.py, `sinkhorn`, word for word but for the types."""
    cost = torch.exp(cost)
    d0 = torch.ones(cost.size(0), dtype=cost.dtype)
    d1 = torch.ones(cost.size(1), dtype=cost.dtype)
    eps, error, d1_old = 0.00000001, 1e9, d1
    while error > tol:
        d0 = (1 / d0.size(0)) * 1 / (torch.sum(d1 * cost, 1) + eps)
        d1 = (1 / d1.size(0)) * 1 / (torch.sum(d0.unsqueeze(1) * cost, 0) + eps)
        error = torch.mean(torch.abs(d1_old - d1))
        d1_old = d1
    return d1 * cost * d0.unsqueeze(1)


def best_assignment(score):
    """The largest sum of scores with no more rows for an expert than its share, as a flow of least cost."""
    rows, experts = score.shape
    network = networkx.DiGraph()
    network.add_node("end", demand=rows)
    for e in range(experts):
        network.add_edge(("expert", e), "end", capacity=-(-rows // experts))
    for i in range(rows):
        network.add_node(i, demand=-1)
        for e in range(experts):
            cost = -round(score[i, e].item() * 1e9)  # whole numbers, or it may never end
            network.add_edge(i, ("expert", e), weight=cost, capacity=1)
    _, flow = networkx.network_simplex(network)
    return torch.tensor(
        [next(e for e in range(experts) if flow[i]["expert", e]) for i in range(rows)]
    )


def library(module, name):
    return getattr(sys.modules[f"{module.__name__}.assigning"], name)


@pytest.fixture(scope="module")
def even():
    return built(with_attention(EVEN))


@pytest.fixture(scope="module")
def exact():
    return built(with_attention(EXACT).replace("experts = 6 * swiglu(8)", RESIDUAL))


# --- Sinkhorn -------------------------------------------------------------------------------------


def test_sinkhorn_is_megatrons(even) -> None:
    model = model_of(even)
    ids = tokens(batch=6)
    rows, output = watched(model, ids)
    moved = 0
    for layer, x, record in zip(model.layer, rows, output.routing.values(), strict=True):
        logits = x @ layer.sparse.router.score.weight.T
        expert = megatron_sinkhorn(logits.detach()).topk(1).indices
        assert torch.equal(record.expert_NK, expert)
        weight = logits.sigmoid().gather(1, expert)
        agree(record.weight_NK, weight, 1e-13, "sinkhorn")
        given = torch.autograd.grad(record.weight_NK.square().sum(), x, retain_graph=True)
        want = torch.autograd.grad(weight.square().sum(), x, retain_graph=True)
        agree(given, want, 1e-12, "sinkhorn", of="gradients")
        greedy = logits.argmax(1, keepdim=True)
        moved += int((expert != greedy).sum())
        loads = [torch.bincount(each.flatten(), minlength=6).max() for each in (expert, greedy)]
        assert loads[0] <= loads[1]
    assert moved > 10, "the assignment had its say"


def test_several_choices_keep_their_softmax() -> None:
    """With k > 1: softmax over all at the selected, not divided by its sum."""
    text = "gate = score -> softmax\nchoose = score\n"
    text += "select = phase(train = assigned(2), eval = top_k(2))\n"
    model = model_of(built(spec(text)))
    rows, output = watched(model, tokens(batch=6))
    logits = rows[0] @ model.layer[0].sparse.router.score.weight.T
    record = output.routing["layer.0.sparse"]
    expert = megatron_sinkhorn(logits.detach()).topk(2).indices
    assert torch.equal(record.expert_NK, expert)
    torch.testing.assert_close(record.weight_NK, logits.softmax(1).gather(1, expert))


def test_large_scores_do_not_overflow(even) -> None:
    """Gotcha: exp of what is not shifted is infinite in float32 from 89 on."""
    torch.manual_seed(0)
    logits = 5 * torch.randn(64, 6) + 120 * torch.rand(64, 1)
    assert not megatron_sinkhorn(logits.clamp(max=1e4), tol=2).isfinite().all()
    choices = library(even, "even_choices")(logits, None, 1, 1e-4, 200)
    shifted = logits.double() - logits.double().amax(1, keepdim=True)
    assert (choices == megatron_sinkhorn(shifted).topk(1).indices).float().mean() > 0.98


def test_padding_has_no_share(even) -> None:
    torch.manual_seed(0)
    logits = torch.randn(40, 6, dtype=torch.float64)
    real = torch.rand(40) < 0.7
    found = library(even, "even_choices")(logits, real, 1, 1e-4, 100)
    assert torch.equal(found[real], megatron_sinkhorn(logits[real]).topk(1).indices)
    naive = library(even, "even_choices")(logits, None, 1, 1e-4, 100)
    assert not torch.equal(found[real], naive[real])


# --- the auction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [24, 23, 5])
def test_an_auction_finds_the_best_even_assignment(exact, rows: int) -> None:
    assign = library(exact, "assign_rows")
    uneven = 0
    for seed in range(4):
        score = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)).double()
        expert = assign(score, None, 1e-7)
        assert torch.bincount(expert[:, 0], minlength=4).max() <= -(-rows // 4)
        best = score.gather(1, best_assignment(score)[:, None]).sum()
        assert best - score.gather(1, expert).sum() <= 1e-7 * rows + 1e-9
        greedy = torch.bincount(score.argmax(1), minlength=4).max()
        uneven += int(greedy > -(-rows // 4))
    assert uneven > 0, "the largest score alone is not even"


def test_an_auction_of_what_is_no_number(exact) -> None:
    assign = library(exact, "assign_rows")
    score = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    score[3, 1], score[5] = torch.nan, torch.inf
    assert torch.bincount(assign(score, None, 1e-4)[:, 0], minlength=4).max() == 6
    assert torch.equal(assign(score[:, :1], None, 1e-4), torch.zeros(24, 1, dtype=torch.int64))
    real = torch.arange(24) < 16
    assert torch.bincount(assign(score, real, 1e-4)[real, 0], minlength=4).max() == 4
    ties = assign(torch.ones(24, 4), None, 1e-4)
    assert torch.bincount(ties[:, 0], minlength=4).tolist() == [6, 6, 6, 6]


def test_base_interpolates(exact) -> None:
    """fairseq base_layer.py: alpha = sigmoid(x . w_e), y = alpha * F(x) + (1 - alpha) * x, F a residual sublayer."""
    model = model_of(exact)
    block = model.layer[0].sparse
    experts, centroids = block.experts, block.router.score.weight
    norm, bias = (p for n, p in experts.named_parameters() if "norm" in n)
    up, down = (p for n, p in experts.named_parameters() if "norm" not in n)
    x = torch.randn(3, 8, 16, dtype=torch.float64, requires_grad=True)

    def formula():
        rows = x.flatten(0, 1)
        affinity = rows @ centroids.T
        expert = best_assignment(affinity)
        out = []
        for row, e, z in zip(rows, expert, affinity, strict=True):
            alpha = z[e].sigmoid()
            h = F.layer_norm(row, (16,), norm[e], bias[e], 1e-5)
            out.append(alpha * (row + F.relu(h @ up[e].T) @ down[e].T) + (1 - alpha) * row)
        return torch.stack(out).view_as(x)

    real = torch.ones(24, dtype=torch.bool)
    ours, theirs = x + block(x, real)[0], formula()
    agree(ours, theirs, 1e-12, "base_layers")
    draw = torch.randn_like(ours)
    wanted = [x, centroids, norm, bias, up, down]
    for a, b in zip(
        torch.autograd.grad((ours * draw).sum(), wanted),
        torch.autograd.grad((theirs * draw).sum(), wanted),
        strict=True,
    ):
        agree(a, b, 1e-10, "base_layers", of="gradients")


# --- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["even", "exact"])
def test_tokens_see_each_other_in_training_alone(which: str, request) -> None:
    module = request.getfixturevalue(which)
    model = model_of(module)
    ids = tokens(batch=4)
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 11) % 32
    assert not torch.allclose(model(ids).logits[:, :5], model(changed).logits[:, :5])
    model.eval()
    whole = model(ids).logits
    torch.testing.assert_close(whole[:, :5], model(changed).logits[:, :5], rtol=1e-12, atol=1e-12)
    cache = module.Cache()
    parts = [model(part, cache=cache).logits for part in ids.split([4, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
    assert module.generate(model.float(), ids, max_new_tokens=2).shape == (4, 9)


@pytest.mark.parametrize("which", ["even", "exact"])
def test_compiled_whole(which: str, request) -> None:
    model = model_of(request.getfixturevalue(which), dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for training in (True, False):
        model.train(training)
        torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)


def test_findings() -> None:
    text = with_attention(EVEN)
    graph = moedsl.pipeline.check(Source(text, "m.moe")).graph
    assert str(causality(graph)) == "causal when decoding with top_k(1)"
    always = EVEN.replace("phase(train = assigned(), eval = top_k(1))", "assigned")
    assert codes(spec(always)) == ["E0410"]
    assert codes(spec(always + "lookahead = allowed\n")) == []
    assert codes(spec(EXACT.replace("exact,", "exact, k = 2,").replace("top_k(1)", "top_k(2)"))) == ["E0420"]  # fmt: skip
    loss = "experts = 6 * swiglu(8)\nloss = balance(1e-2)"
    assert codes(spec(EVEN, loss)) == ["W1005"]
