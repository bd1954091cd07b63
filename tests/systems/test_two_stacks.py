"""GShard, Expert Choice and experts in attention: systems of two stacks that change Switch Transformer's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402

import moedsl.pipeline  # noqa: E402
from moedsl.checks.causality import causality  # noqa: E402
from moedsl.ir.info import info_table  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import compiled, model_class, package, source  # noqa: E402

SMALL = ("vocab=60", "width=16", "drop=0", "own.heads=2", "own.head_dim=6")
MLP = "mlp(24, activation = relu)"
EXPERTS = (f"dense={MLP}", f"sparse.experts=4 * {MLP}")


def stacks(encoder: str = "sparse") -> tuple[str, ...]:
    return (
        f"memory=source -> embed -> encode(dense) -> encode({encoder}) -> last_memory",
        "logits=tokens -> embed -> decode(dense, memory) -> decode(sparse, memory) -> last -> head",
    )


def made(name: str, *settings: str, encoder: str = "sparse"):
    module = package(name, (*SMALL, *EXPERTS, *settings, *stacks(encoder)))
    torch.manual_seed(0)
    model = model_class(module)().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=max(parameter.shape) ** -0.5)
    return module, model


def batch():
    torch.manual_seed(1)
    ids, tokens = torch.randint(2, 60, (3, 17)), torch.randint(2, 60, (3, 11))
    return ids, tokens, torch.arange(17) < torch.tensor([[17], [9], [12]])


# --- GShard's router, against NLLB's of transformers ----------------------------------------------


def nllb(experts: int, **settings):
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router

    config = transformers.NllbMoeConfig(
        d_model=16, num_experts=experts, router_bias=False, **settings
    )
    config.hidden_size = 16
    router = NllbMoeTop2Router(config)
    router.expert_capacity = None  # fairseq's: 2 * ceil(tokens / experts)
    return router


SAME = {
    "evaluation": (
        ("top2.capacity=phase(train = room(0.2, per = group), decode = none)",),
        {"moe_eval_capacity_token_fraction": 0.2},
        False,
    ),
    "training": (
        ("top2.capacity=phase(train = room(1, per = token, times = 2), decode = none)",),
        {"moe_eval_capacity_token_fraction": -1.0},
        True,
    ),
}


@pytest.mark.parametrize("before", (True, False), ids=("normalised before", "after dropping"))
@pytest.mark.parametrize("case", SAME, ids=str)
def test_the_router_is_that_of_transformers(case, before):
    room, config, training = SAME[case]
    weighed = "top2.weighed=" + ("picked" if before else "served")
    common = ("top2.select=top_k(2)", "top2.within=batch", weighed, *room)
    _, model = made("gshard", *common)
    theirs = nllb(
        4, normalize_router_prob_before_dropping=before, second_expert_policy="all", **config
    )
    ours = model.encode[1].feed_forward.router
    with torch.no_grad():
        theirs.classifier.weight.copy_(torch.randn(4, 16))
        ours.score.weight.copy_(theirs.classifier.weight)
    theirs.train(training)
    ours.train(training)
    x = torch.randn(50, 16) + theirs.classifier.weight[0].detach() / 3  # one is liked best
    padding = torch.rand(50) < 0.2
    _, wanted, logits = theirs(x, padding)
    got = ours(x, ~padding, None)
    torch.testing.assert_close(got.logits_NE, logits)
    kept = torch.zeros(50, 5).scatter_add(1, got.expert_NK, got.weight_NK)[:, :4]
    agree(kept[~padding], wanted[~padding], 1e-5, "gshard")
    assert (got.expert_NK[~padding] == 4).sum() > 3, "some must find no room"
    direction = torch.randn(50, 4)
    (got_grad,) = torch.autograd.grad((kept * direction)[~padding].sum(), ours.score.weight)
    (their_grad,) = torch.autograd.grad(
        (wanted * direction)[~padding].sum(), theirs.classifier.weight
    )
    agree(got_grad, their_grad, 1e-4, "gshard", of="gradients")
    if case == "evaluation":
        naive = model_class(
            package(
                "gshard",
                (*SMALL, *EXPERTS, *common, "top2.priority=first_come", *stacks()),
            )
        )().eval()
        other = naive.encode[1].feed_forward.router
        other.load_state_dict(ours.state_dict())
        assert not torch.equal(other(x, ~padding, None).expert_NK, got.expert_NK)


def test_the_weaker_of_two_stays_by_chance():
    """With probability 2 * its share: half of one that has a quarter."""
    _, model = made("gshard", "top2.capacity=none")
    router = model.encode[1].feed_forward.router.train()
    with torch.no_grad():
        router.score.weight.zero_()
        router.score.weight[:, 0] = torch.tensor([3.0, 0.0, -9.0, -9.0]).add(0)
        router.score.weight[1, 0] = 3.0 - torch.tensor(3.0).log()
    x = torch.zeros(4000, 16)
    x[:, 0] = 1
    torch.manual_seed(0)
    routing = router(x, None)
    assert (routing.expert_NK[:, 0] == 0).all()
    stays = (routing.expert_NK[:, 1] == 1).float().mean()
    torch.testing.assert_close(stays, torch.tensor(0.5), atol=0.03, rtol=0)
    torch.testing.assert_close(routing.weight_NK[:, 0], torch.full((4000,), 0.75))
    assert (router.eval()(x, None).expert_NK[:, 1] == 1).all()


def test_gshards_decoder_decodes_without_drops():
    graph = compiled("gshard").graph
    assert str(causality(graph)) == "causal when decoding with capacity = none"
    bare = moedsl.pipeline.check(
        source("gshard"), ("top2.capacity=room(2, per = token, round = down)",)
    )
    assert "E0410" in [d.code for d in bare.diagnostics], "the future could take a second expert"


def test_gshards_size():
    assert 600e9 < info_table(compiled("gshard").graph).total.total < 625e9


# --- Expert Choice ------------------------------------------------------------------------------------


def chosen(*settings: str):
    experts = f"chosen.experts=4 * {MLP}"
    room = "by_experts.capacity=room(2, per = token, round = nearest)"
    return made("expert_choice", experts, room, *settings, encoder="chosen")


def test_encoders_experts_take_the_tokens_that_fit_best():
    _, model = chosen()
    ids, tokens, mask = batch()
    reads = []
    sparse = model.encode[1].feed_forward
    sparse.register_forward_hook(lambda _, given, made: reads.append((given[0], made[0])))
    routing = model(ids, tokens, source_mask=mask).routing
    x, y = (each.flatten(0, 1).double() for each in reads[0])
    share = F.linear(x, sparse.router.score.weight.double()).softmax(-1)
    slots = round(2 * mask.numel() / 4)
    wanted = torch.zeros_like(x)
    real = mask.flatten()
    for expert in range(4):
        order = share[:, expert].masked_fill(~real, -1).argsort(descending=True, stable=True)
        rows = order[: min(slots, int(real.sum()))]
        hidden = F.relu(F.linear(x[rows], sparse.experts.up[expert].double()))
        out = F.linear(hidden, sparse.experts.down[expert].double())
        wanted[rows] += share[rows, expert, None] * out
    agree(y[real], wanted[real], 1e-4, "expert_choice")
    taken = routing["encode.1.feed_forward"].expert_NK
    loads = torch.stack([(taken[real] == e).sum() for e in range(4)])
    assert (loads == slots).all() and (taken[~real] == 4).all()
    assert routing["decode.1.feed_forward"].expert_NK.shape == (33, 2)


def test_only_the_encoder_may_look_ahead():
    assert str(causality(compiled("expert_choice").graph)).startswith("causal")
    inside = moedsl.pipeline.check(source("expert_choice"), ("sparse.router=by_experts",))
    assert "E0410" in [d.code for d in inside.diagnostics]


def test_expert_choice_generates():
    module, model = chosen()
    ids, tokens, mask = batch()
    said = module.generate(model, ids, tokens[:, :1], 4, source_mask=mask)
    cache = module.Cache()
    steps = [
        model(ids, part, source_mask=mask, cache=cache).logits for part in said[:, :-1].split(1, 1)
    ]
    assert torch.equal(torch.cat(steps, 1).argmax(-1), said[:, 1:])


# --- experts in attention -------------------------------------------------------------------------


BANKS = (
    "own.inside.experts=4 * (linear(20) -> relu)",
    "own.asking.experts=4 * linear(12)",
    "own.told.experts=4 * linear(12)",
    "cross.heads=2",
    "cross.head_dim=6",
    "top1.score=float32 -> linear",
    "top1.capacity=phase(train = room(0.8, round = down, least = 1), decode = none)",
)


def bias(table, length: int, causal: bool):
    """T5's numbers for each head and distance, [H, T, T]; all distances here are short enough to have their own."""
    ahead = torch.arange(length) - torch.arange(length)[:, None]
    bucket = (-ahead).clamp_min(0) if causal else ahead.abs() + 16 * (ahead > 0)
    return table[bucket].permute(2, 0, 1)


def experts_in_attention(own, table, x, causal: bool):
    """mesh_tensorflow ExpertsSelfAttention with ExpertsAttentionParams: one decision and one hidden vector; from it the
    query, and one tensor for keys and values, each times the gate; nothing where an expert has no room left."""
    batch, length, _ = x.shape
    share = (x @ own.deciding.score.weight.T).softmax(-1)
    room, used, dropped = int(0.8 * batch * length / 4), [0] * 4, 0
    asked, told = (torch.zeros(batch, length, 12, dtype=x.dtype) for _ in range(2))
    for b in range(batch):
        for t in range(length):
            expert = int(share[b, t].argmax())
            used[expert] += 1
            if used[expert] > room:
                dropped += 1
                continue
            hidden = (own.inside.experts.linear[expert] @ x[b, t]).relu()
            for given, bank in ((asked, own.q), (told, own.told)):
                given[b, t] = share[b, t, expert] * (bank.experts.linear[expert] @ hidden)
    q, kv = (given.unflatten(-1, (2, 6)) for given in (asked, told))
    score = torch.einsum("bthc,bshc->bhts", q, kv) * 6**-0.5 + bias(table, length, causal)
    if causal:
        later = torch.ones(length, length).triu(1).bool()
        score = score.masked_fill(later, -torch.inf)
    mixed = torch.einsum("bhts,bshc->bthc", score.softmax(-1), kv)
    return mixed.flatten(-2) @ own.o.weight.T, dropped


@pytest.mark.parametrize("causal", (False, True), ids=("encoder", "decoder"))
def test_one_decision_makes_queries_and_what_is_read(causal):
    _, model = made("switch_attention", *BANKS)
    model = model.double().train()
    own = model.decode[0].own_causal if causal else model.encode[0].own
    near = (model.near_causal if causal else model.near).weight.detach()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    rows = bias(near, 7, causal)
    seen = torch.ones(7, 7).tril().bool()[None, None] if causal else None
    got, routing = own(x, seen, None, rows, None)
    wanted, dropped = experts_in_attention(own, near, x, causal)
    assert dropped == (routing.expert_NK == 4).sum() > 1
    agree(got, wanted, 1e-12, "switch_attention")
    direction = torch.randn_like(got)
    weights = list(own.parameters())
    agree(
        torch.autograd.grad((got * direction).sum(), weights),
        torch.autograd.grad((wanted * direction).sum(), weights),
        1e-12,
        "switch_attention",
        of="gradients",
    )


def test_experts_in_both_stacks():
    """One decision for each self-attention, and one loss over all of them; a cache gives what the whole gives."""
    module, model = made("switch_attention", *BANKS, "top1.capacity=none", encoder="dense")
    ids, tokens, mask = batch()
    output = model(ids, tokens, source_mask=mask)
    assert {"encode.0.own.pick", "decode.1.own_causal.pick"} <= output.routing.keys()
    assert not any("cross" in name for name in output.routing)
    assert "deciding.balance" in output.losses
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    cache = module.Cache()
    steps = [model(ids, part, source_mask=mask, cache=cache) for part in tokens.split(4, 1)]
    logits = torch.cat([step.logits for step in steps], 1)
    torch.testing.assert_close(logits, output.logits, rtol=1e-4, atol=1e-5)


def test_what_a_cache_keeps_of_projected_memory():
    """Keys and values of the memory, and who made them, are there in every step."""
    bank = "moe(router = top1, experts = 4 * linear)"
    across = [f"cross.{role}={bank}" for role in "qkv"]
    module, model = made("switch_attention", *BANKS, *across, "top1.capacity=none")
    ids, tokens, mask = batch()
    whole = model(ids, tokens, source_mask=mask)
    cache = module.Cache()
    steps = [model(ids, part, source_mask=mask, cache=cache) for part in tokens.split(4, 1)]
    logits = torch.cat([step.logits for step in steps], 1)
    torch.testing.assert_close(logits, whole.logits, rtol=1e-4, atol=1e-5)
    for step in steps:
        assert torch.equal(
            step.routing["decode.1.cross.k"].expert_NK, whole.routing["decode.1.cross.k"].expert_NK
        )
