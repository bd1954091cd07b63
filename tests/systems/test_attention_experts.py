"""Experts in attention against formulas in float64, token by token and pick by pick.

MoA: Zhang et al., 2022, section 3; SwitchHead: Csordas et al., 2024, section 2.2; MoH: SkyworkAI/MoH, `moh.py`;
experts at q, k and v: mesh_tensorflow `ExpertsSelfAttention`.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

import moedsl.pipeline  # noqa: E402
from moedsl.ir.cost import cost  # noqa: E402
from moedsl.source import Source  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.generated.variants import gradients  # noqa: E402
from tests.packages import SPECS, compiled, imported, model_class, package  # noqa: E402

SMALL = ("vocab=61", "width=32", "depth=2")
SETTINGS = {
    "heads_as_experts": (
        "chosen_heads.head_dim=8",
        "chosen_heads.asking.experts=6 * linear",
        "chosen_heads.telling.experts=6 * linear",
    ),
    "switch_head": ("switched.heads=4", "switched.head_dim=8"),
    "mixture_of_heads": (),
    "switch_attention_lm": (
        "expert_attention.heads=4",
        "expert_attention.inside.experts=4 * (linear(20) -> relu)",
        "expert_attention.asking.experts=4 * linear(width)",
        "expert_attention.told.experts=4 * linear(width)",
    ),
}
NAMES = sorted(SETTINGS)
each = pytest.mark.parametrize("name", NAMES)


def settings(name):
    return (*SMALL, *SETTINGS[name])


def made(name, *more):
    module = package(name, (*settings(name), *more))
    model = model_class(module)().double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.copy_(1 + 0.3 * torch.randn(weight.shape, generator=generator))
            else:
                scale = 1 if weight.shape[0] == 61 else weight.shape[-1] ** -0.5
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return module, model


def tokens(batch=2, length=7):
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(1))


# --- the formulas ---------------------------------------------------------------------------------


def rms(x, norm):
    return x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight


def turned(x, size):
    """x [T, C] by its positions."""
    angle = torch.arange(len(x)).double()[:, None] / 1e4 ** (torch.arange(0, size, 2) / size)
    # The tables of the package are float32.
    cos, sin = angle.float().cos().double(), angle.float().sin().double()
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def attend(q, k, v):
    """One head, [T, C] each, causal."""
    score = q @ k.T * q.shape[-1] ** -0.5
    past = torch.ones(len(q), len(q)).tril().bool()
    return score.masked_fill(~past, -torch.inf).softmax(-1) @ v


def moa(attention, x):
    p = (x @ attention.top4.score.weight.T).softmax(-1)
    weight, pick = p.topk(4)
    weight = weight / weight.sum(-1, keepdim=True).detach()
    k, v = turned(x @ attention.k.weight.T, 8), x @ attention.v.weight.T
    ask, tell = attention.q.experts.linear, attention.o.experts.linear
    y = torch.zeros_like(x)
    for j in range(4):  # the j-th pick of every token is one head
        q = torch.stack([ask[e] @ x[t] for t, e in enumerate(pick[:, j].tolist())])
        mixed = attend(turned(q, 8), k, v)
        told = torch.stack([tell[e] @ mixed[t] for t, e in enumerate(pick[:, j].tolist())])
        y = y + weight[:, j, None] * told
    return y


def switch_head(attention, x):
    heads, y = 4, torch.zeros_like(x)
    q, k = ((x @ p.weight.T).unflatten(-1, (heads, 8)) for p in (attention.q, attention.k))
    source, destination = (
        (x @ site.router.score.weight.T).unflatten(-1, (heads, 5)).sigmoid()
        for site in (attention.v, attention.o)
    )
    read = attention.v.experts.linear.unflatten(0, (heads, 5))
    written = attention.o.experts.linear.unflatten(0, (heads, 5))
    for h in range(heads):
        v = torch.stack(
            [
                sum(source[t, h, e] * read[h, e] @ x[t] for e in source[t, h].topk(2).indices)
                for t in range(len(x))
            ]
        )
        mixed = attend(turned(q[:, h], 8), turned(k[:, h], 8), v)
        y = y + torch.stack(
            [
                sum(
                    destination[t, h, e] * written[h, e] @ mixed[t]
                    for e in destination[t, h].topk(2).indices
                )
                for t in range(len(x))
            ]
        )
    return y


def moh(attention, x):
    maps = attention.q, attention.k, attention.v
    q, k, v = ((x @ p.weight.T).unflatten(-1, (8, -1)) for p in maps)
    gates = (x @ attention.heard.score.weight.T).softmax(-1)
    kept = torch.zeros_like(gates).scatter(1, gates.topk(4).indices, 1)
    routed = gates * kept
    routed = 4 * routed / routed.sum(-1, keepdim=True)
    shared = 2 * (x @ attention.two.weight.T).softmax(-1)
    groups = 2 * (x @ attention.pair.weight.T).softmax(-1)
    scale = torch.cat([groups[:, :1] * shared, groups[:, 1:] * routed], -1)
    mixed = [
        scale[:, h, None] * attend(turned(q[:, h], 4), turned(k[:, h], 4), v[:, h])
        for h in range(8)
    ]
    return torch.cat(mixed, -1) @ attention.o.weight.T


def switched(attention, x):
    """`served` is what the package says found room: the order of the batch decides, and tests/systems tests that."""
    p = (x @ attention.top1.score.weight.T).softmax(-1)
    weight, pick = p.max(-1)
    served = attention.served
    q, kv = [], []
    for t, e in enumerate(pick.tolist()):
        inside = (attention.inside.experts.linear[e] @ x[t]).relu()
        room = 1.0 if served[t] else 0.0
        q.append(room * weight[t] * (attention.q.experts.linear[e] @ inside))
        kv.append(room * weight[t] * (attention.told.experts.linear[e] @ inside))
    q, kv = (torch.stack(z).unflatten(-1, (4, -1)) for z in (q, kv))
    mixed = [attend(q[:, h], kv[:, h], kv[:, h]) for h in range(4)]
    return torch.cat(mixed, -1) @ attention.o.weight.T


FORMULAS = {
    "heads_as_experts": ("chosen_heads", moa),
    "switch_head": ("switched", switch_head),
    "mixture_of_heads": ("heads_of_tokens", moh),
    "switch_attention_lm": ("expert_attention", switched),
}


def feed_forward(layer, h):
    if hasattr(layer, "mlp"):
        return (h @ layer.mlp.up.weight.T).relu() @ layer.mlp.down.weight.T
    ffn = layer.swiglu
    return (F.silu(h @ ffn.gate.weight.T) * (h @ ffn.up.weight.T)) @ ffn.down.weight.T


def formula(name, model, ids, routing=None):
    """Logits, sequence by sequence."""
    attribute, rule = FORMULAS[name]
    found = []
    for b, row in enumerate(ids):
        x = model.embed.weight[row]
        for i, layer in enumerate(model.layer):
            attention = getattr(layer, attribute)
            if routing is not None:
                one = routing[f"layer.{i}.{attribute}.pick"]
                attention.served = (one.expert_NK.view(*ids.shape) < 4)[b]
            x = x + rule(attention, rms(x, layer.before_mix))
            x = x + feed_forward(layer, rms(x, layer.before_ffn))
        found.append(rms(x, model.last) @ model.head.weight.T)
    return torch.stack(found)


# --- the tests ------------------------------------------------------------------------------------


def worst(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


@each
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_values_and_every_gradient(name, training):
    _, model = made(name)
    model.train(training)
    ids = tokens()
    output = model(ids)
    routing = output.routing if name == "switch_attention_lm" else None
    wanted = formula(name, model, ids, routing)
    assert wanted.std() > 0.3
    agree(output.logits, wanted, 1e-9, name)
    weights = list(model.parameters())
    found, want = gradients(output.logits, *weights), gradients(wanted, *weights)
    agree(found, want, 1e-7, name, of="gradients")


@each
def test_decoding_equals_the_whole(name):
    module, model = made(name)
    if name == "switch_attention_lm":  # in evaluation room is limited, in decoding it is not
        module, model = made(name, "top1.capacity=none")
    model.eval()
    ids = tokens(2, 9)
    with torch.no_grad():
        whole = model(ids).logits
        cache = module.Cache()
        parts = [model(ids[:, a:b], cache=cache).logits for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)


@each
def test_padding_changes_nothing(name):
    _, model = made(name)
    if name == "switch_attention_lm":
        _, model = made(name, "top1.capacity=none")
    model.eval()
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.bool)
    mask[1, :4] = False
    output, alone = model(ids, mask), model(ids[1:, 4:])
    torch.testing.assert_close(output.logits[1:, 4:], alone.logits, rtol=1e-6, atol=1e-6)
    for loss, value in model(ids[1:], mask[1:]).losses.items():
        torch.testing.assert_close(value, alone.losses[loss], rtol=1e-6, atol=0)


@each
def test_it_compiles_whole(name):
    _, model = made(name)
    ids = tokens()
    whole = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(ids).logits, model(ids).logits)


@each
def test_counts_are_those_of_the_module(name):
    from torch.utils.flop_counter import FlopCounterMode

    result = compiled(name, settings(name))
    counted = cost(result.graph, tokens=7).total
    model = model_class(imported(result.files))()
    assert counted.total == sum(p.numel() for p in model.parameters())
    # Experts are operators that torch's counter does not know: a pick is a product with its expert's matrix.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens(1, 7))
    experts = [p for n, p in model.named_parameters() if ".experts." in n]
    # Of the matrices of all four heads, a head takes two of its own.
    picks = {"heads_as_experts": 4, "switch_head": 2 * 4, "switch_attention_lm": 1}
    routed = sum(2 * picks.get(name, 0) * p[0].numel() for p in experts)
    attention = 2 * 7 * 2 * 32 * 2  # two layers; scores and mixing, heads times channels are 32
    assert 7 * counted.flops == counter.get_total_flops() + 7 * (routed + attention)


# --- losses ---------------------------------------------------------------------------------------


def test_moh_balance_is_averaged_over_layers():
    _, model = made("mixture_of_heads")
    output = model(tokens())
    values = []
    for one in output.routing.values():
        share = F.one_hot(one.expert_NK, 6).double().sum(1).mean(0)
        values.append((share * one.logits_NE.softmax(-1).mean(0)).mean() * 36)
    wanted = 0.01 * torch.stack(values).mean()
    assert list(output.losses) == ["heard.balance"]
    torch.testing.assert_close(output.losses["heard.balance"], wanted)


def test_moa_losses_count_a_shared_decision_once():
    _, model = made("heads_as_experts")
    output = model(tokens())
    assert list(output.losses) == ["top4.balance", "top4.z"]
    assert list(output.routing) == ["layer.0.chosen_heads.pick", "layer.1.chosen_heads.pick"]
    z = sum(0.001 * r.logits_NE.logsumexp(-1).square().mean() for r in output.routing.values())
    torch.testing.assert_close(output.losses["top4.z"], z)


@pytest.mark.parametrize("count", ["share", "all", "first"])
def test_balance_of_heads_is_the_mean_over_heads(count):
    more = (f"switched.read.loss=[balance(1, count = {count}), z(1)]",)
    _, model = made("switch_head", *more)
    ids, mask = tokens(), torch.ones(2, 7, dtype=torch.bool)
    mask[0, :3] = False
    output = model(ids, mask)
    real = mask.flatten()
    balance, z = 0.0, 0.0
    for i in range(2):
        one = output.routing[f"layer.{i}.switched.v"]
        logits = one.logits_NE[real].unflatten(-1, (4, 5))
        picked = one.expert_NK[real].unflatten(-1, (4, 2)) - 5 * torch.arange(4)[:, None]
        for h in range(4):
            kept = picked[:, h, : 1 if count == "first" else 2]
            share = F.one_hot(kept, 5).double().sum(1).mean(0)
            share = share / 2 if count == "share" else share
            p = logits[:, h].sigmoid()
            balance = balance + 5 * (share * (p / p.sum(-1, keepdim=True)).mean(0)).sum() / 4
        z = z + logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(output.losses["read.balance"], balance)
    torch.testing.assert_close(output.losses["read.z"], z)


# --- other readings are other functions -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("heads_as_experts", "chosen_heads.asking.weight=input"),  # weights at both sides
        ("switch_head", "by_sigmoid.weigh=gate -> normalize"),  # renormalised
        ("mixture_of_heads", "heard.weigh=gate -> normalize"),  # not times k
    ],
)
def test_another_reading_is_another_function(name, change):
    _, model = made(name)
    _, other = made(name, change)
    other.load_state_dict(model.state_dict())
    assert worst(other(tokens()).logits, formula(name, model, tokens())) > 1e-2


def test_gradient_through_the_divisor_differs():
    """Gotcha 27: the paper's denominator is detached; the value is the same, the router's gradient is not."""
    _, model = made("heads_as_experts")
    _, other = made("heads_as_experts", "top4.weigh=gate -> normalize")
    other.load_state_dict(model.state_dict())
    found, plain = model(tokens()).logits, other(tokens()).logits
    assert worst(plain, found) < 1e-12
    (a,) = gradients(found, model.layer[0].chosen_heads.top4.score.weight)
    (b,) = gradients(plain, other.layer[0].chosen_heads.top4.score.weight)
    assert worst(b, a) > 1e-2


def test_the_destination_chooses_what_is_written():
    """Gotcha 28: selectors of values read the source, those of outputs the token itself, not what was mixed for it."""
    text = (SPECS / "switch_head.moe").read_text()
    assert "written(mixed, route = x)" in text
    other = text.replace("written(mixed, route = x)", "written(mixed)")
    result = moedsl.pipeline.compile(Source(other, "switch_head.moe"), settings("switch_head"))
    _, model = made("switch_head")
    shape = model_class(imported(result.files))().layer[0].switched.o.router.score.weight.shape
    assert shape == (20, 32) == model.layer[0].switched.o.router.score.weight.shape
    naive = model_class(imported(result.files))().double()
    naive.load_state_dict(model.state_dict())
    assert worst(naive(tokens()).logits, formula("switch_head", model, tokens())) > 1e-2


def test_a_token_without_room_has_zeros():
    _, model = made("switch_attention_lm", "top1.capacity=0.5")
    output = model(tokens())
    absent = (output.routing["layer.0.expert_attention.pick"].expert_NK == 4).flatten()
    assert absent.any() and not absent.all()
    attention = model.layer[0].expert_attention
    pick = output.routing["layer.0.expert_attention.pick"]
    x = rms(model.embed.weight[tokens()], model.layer[0].before_mix)
    q = attention.q(attention.inside(x, pick), pick).flatten(0, 1)
    assert (q[absent] == 0).all() and (q[~absent] != 0).any()


def codes(text):
    return [d.code for d in moedsl.pipeline.check(Source(text, "m.moe")).diagnostics]


def test_a_projection_may_not_drop_unsaid():
    text = (SPECS / "switch_attention_lm.moe").read_text()
    assert codes(text) == []
    assert codes(text.replace("    overflow = zero\n", "")) == ["E0421", "E0421"]
    kept = text.replace("    overflow = zero\n", "").replace("    capacity = ", "    # ")
    assert codes(kept) == []
