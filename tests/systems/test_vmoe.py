"""Images in sparse layers. Oracle: the formulas of google-research/vmoe (nn/routing.py, nn/vit_moe.py), in float64, a
group, a choice and a patch at a time."""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch")

from moedsl.ir.cost import cost  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import compiled, model_class, package  # noqa: E402

EXPERTS, PICKS, WIDTH, GROUP = 6, 2, 32, 34
COMMON = (
    "width=32",
    "own.heads=4",
    "dense=mlp(48, activation = gelu, bias = true)",
    "image=pixels(3, 32, 32)",
    "patch=patches(8)",
    "head=linear(7, bias = true)",
)
SMALL = (
    *COMMON,
    "sparse.experts=6 * mlp(24, activation = gelu, bias = true)",
    "top2.within=tokens(34)",
)
SOFT = (*COMMON, "sparse.experts=8 * mlp(24, activation = gelu, bias = true)")


def model_of(name, settings):
    model = model_class(package(name, settings))().double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 1.0 if "score" in key else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def images(batch=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 32, 32, dtype=torch.float64, generator=generator)


def expert(sparse, e, row):
    hidden = torch.nn.functional.gelu(sparse.experts.up[e] @ row + sparse.experts.up_bias[e])
    return sparse.experts.down[e] @ hidden + sparse.experts.down_bias[e]


def vmoe(sparse, x_BTD, by_priority=True, renormalised=False):
    """Softmax first, then top-k, no division; room is shared by two images (17 patches each with the class token)."""
    x = x_BTD.flatten(0, 1)
    outputs, dropped = [], 0
    for group in x.split(GROUP):
        gate = (group @ sparse.router.score.weight.T).softmax(-1)
        room = math.ceil(len(group) * PICKS * 1.05 / EXPERTS)
        room = math.ceil(room / 4) * 4
        picks = gate.sort(dim=-1, descending=True, stable=True).indices[:, :PICKS]
        order = range(len(group))
        if by_priority:
            order = gate.amax(-1).sort(descending=True, stable=True).indices.tolist()
        used, y = [0] * EXPERTS, [torch.zeros(WIDTH, dtype=x.dtype) for _ in group]
        for rank in range(PICKS):
            for t in order:
                e = int(picks[t, rank])
                used[e] += 1
                if used[e] > room:
                    dropped += 1
                    continue
                weight = gate[t, e] / gate[t, picks[t]].sum() if renormalised else gate[t, e]
                y[t] = y[t] + weight * expert(sparse, e, group[t])
        outputs += y
    return torch.stack(outputs).view_as(x_BTD), dropped


def error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def sparse():
    return model_of("vmoe_b32", SMALL).layer[9].feed_forward


def patches():
    return torch.randn(
        4, 17, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )


def test_values_and_gradients_where_experts_overflow(sparse):
    ours, twin = copy.deepcopy(sparse), copy.deepcopy(sparse)
    x, y = patches().requires_grad_(), patches().requires_grad_()
    actual, _ = ours(x)
    expected, dropped = vmoe(twin, y)
    assert dropped > 5, "some experts must overflow here"
    weight = torch.randn(
        actual.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    agree(actual, expected, 1e-12, "vmoe_b32")
    found = [x.grad, *(p.grad for p in ours.parameters())]
    wanted = [y.grad, *(p.grad for p in twin.parameters())]
    agree(found, wanted, 1e-12, "vmoe_b32", of="gradients")


@pytest.mark.parametrize("naive", ({"by_priority": False}, {"renormalised": True}), ids=str)
def test_what_it_is_not(sparse, naive):
    actual, _ = sparse(patches())
    assert error(vmoe(sparse, patches(), **naive)[0], actual) > 1e-2


def test_weights_come_from_the_noisy_softmax(sparse):
    """In training the noise of 1 / E moves weights, and the loss of importance does not see it."""
    ours = copy.deepcopy(sparse).train()
    x = patches().flatten(0, 1)
    torch.manual_seed(0)
    one, other = ours.router(x), ours.router(x)
    assert not torch.equal(one.weight_NK, other.weight_NK)
    assert torch.equal(one.clean_SE, other.clean_SE)
    noise = (one.logits_NE - x @ ours.router.score.weight.T).flatten()
    assert abs(noise.std().item() * EXPERTS - 1) < 0.1


def test_losses():
    """0.005 times the squared coefficient of variation of the clean softmax, of the population, for each layer."""
    model = model_of("vmoe_b32", SMALL)
    seen = []
    for layer in model.layer[9:12:2]:
        layer.feed_forward.router.register_forward_hook(lambda m, x, y: seen.append((m, x[0])))
    output = model(images())
    expected = sum(
        0.005 * (total.var(correction=0) / total.mean().square())
        for m, x in seen
        if (total := (x @ m.score.weight.T).softmax(-1).sum(0)) is not None
    )
    torch.testing.assert_close(output.losses["sparse.importance"], expected)
    assert len(seen) == 2 and set(output.losses) == {"sparse.importance", "sparse.load"}


def test_sparse_layers_are_the_last_of_the_odd_ones():
    """`range(1, 12, 2)[-2:]`, not the last two."""
    output = model_of("vmoe_b32", SMALL)(images(1))
    assert list(output.routing) == ["layer.9.feed_forward", "layer.11.feed_forward"]


def test_published_sizes():
    """12 layers of 12 heads and 768 channels; two of them have 32 experts."""
    dense, sparse, soft = (compiled(n).graph for n in ("vit_b32", "vmoe_b32", "soft_moe_b32"))
    one = 2 * 768 * 3072 + 3072 + 768
    counted = cost(sparse).total.total - cost(dense).total.total
    assert counted == 2 * (31 * one + 32 * 768)
    extra = (
        cost(dense).total.total - cost(soft).total.total
    )  # without the class token and its position
    assert extra == 2 * 768 - 6 * (127 * one + 128 * 768 + 1)


def test_soft_experts_cost_what_dense_layers_do():
    """128 slots for 144 patches: the experts' products shrink by that share, and slots are filled and read."""
    dense, soft = (cost(compiled(n).graph).total for n in ("vit_b32", "soft_moe_b32"))
    assert abs(soft.flops / dense.flops - 1) < 0.03


@pytest.mark.parametrize(("name", "settings"), (("vmoe_b32", SMALL), ("soft_moe_b32", SOFT)))
def test_compiles_whole(name, settings):
    model = model_of(name, settings)
    whole = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(whole(images()).logits, model(images()).logits)


@pytest.mark.parametrize(("name", "settings"), (("vmoe_b32", SMALL), ("soft_moe_b32", SOFT)))
def test_every_parameter_learns(name, settings):
    model = model_of(name, settings).train()
    output = model(images())
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_images_of_a_batch_do_not_meet_in_slots():
    model = model_of("soft_moe_b32", SOFT)
    with torch.no_grad():
        torch.testing.assert_close(model(images()).logits[1:2], model(images()[1:2]).logits)
