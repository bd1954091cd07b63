"""Routers with limited room against published implementations: transformers (Switch, NLLB) and st-moe-pytorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.agree import agree
from tests.systems.small import built, codes, model_of, spec

E, D = 6, 16
TOP2 = "gate = score -> softmax\nselect = top_k(2)\nlookahead = allowed\npriority = by_rank\n"


def router_of(text: str, loss: str = "none") -> nn.Module:
    module = built(spec(text, f"experts = {E} * swiglu(8)\nloss = {loss}"))
    return model_of(module, dtype=torch.float32).layer[0].sparse.router


def called(router: nn.Module, x_ND: Tensor, real: Tensor | None = None, sequences: int = 1):
    """With what this router wants of the rest of the model."""
    import inspect

    known = {"x_ND": x_ND, "real_N": real, "num_sequences": sequences, "cache": None}
    return router(*(known[name] for name in inspect.signature(router.forward).parameters))


def dense(routing) -> Tensor:
    """The weight of each expert for each row, [N, E]."""
    rows = routing.weight_NK.new_zeros(routing.expert_NK.shape[0], E + 1)
    return rows.scatter(1, routing.expert_NK, routing.weight_NK)[:, :-1]


def inputs(batch: int = 2, length: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    favourite = torch.randn(D, generator=generator)
    return torch.randn(batch, length, D, generator=generator) + 0.7 * favourite


def test_switch_routers_of_transformers() -> None:
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers import modeling_switch_transformers as switch

    config = SwitchTransformersConfig(hidden_size=D, num_experts=E, expert_capacity=4)
    theirs = switch.SwitchTransformersTop1Router(config).eval()
    text = "gate = score -> softmax\nselect = top_k(1)\nweigh = gate\ncapacity = slots(4)\nwithin = sequence"
    ours = router_of(text).eval()
    theirs.classifier.weight.data.copy_(ours.score.weight.data)
    x = inputs()
    mask, probability, _ = theirs(x)
    want = (mask * probability).flatten(0, 1)
    found = dense(called(ours, x.flatten(0, 1), sequences=2))
    assert (mask.sum(-1) == 0).sum() > 5  # some overflow
    assert torch.equal(found, want)
    # Room of the batch and not of each sequence would be something else.
    other = router_of(text.replace("within = sequence", "within = batch"))
    other.load_state_dict(ours.state_dict())
    assert not torch.equal(dense(called(other, x.flatten(0, 1))), want)


NLLB = [
    (before, prioritised, training)
    for before in (True, False)
    for prioritised in (True, False)
    for training in (True, False)
]


@pytest.mark.parametrize(("before", "prioritised", "training"), NLLB)
def test_nllb_routers_of_transformers(before: bool, prioritised: bool, training: bool) -> None:
    from transformers import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router

    config = NllbMoeConfig(
        d_model=D, num_experts=E, second_expert_policy="all",
        normalize_router_prob_before_dropping=before, batch_prioritized_routing=prioritised,
        moe_eval_capacity_token_fraction=0.2, router_bias=False, router_ignore_padding_tokens=False,
    )  # fmt: skip
    theirs = NllbMoeTop2Router(config).train(training)
    theirs.expert_capacity = (
        None  # 2 * ceil(rows / experts), as in fairseq; a configuration must give a number
    )
    text = TOP2 + (
        "capacity = phase(train = room(1, per = token, times = 2), eval = room(0.2, per = group))\n"
        f"weigh = gate -> normalize(eps = {0 if before else 1e-9})\n"
        f"weighed = {'picked' if before else 'served'}"
    )
    ours = router_of(text.replace("by_rank", "best") if prioritised else text).train(training)
    theirs.classifier.weight.data.copy_(ours.score.weight.data)
    x = inputs().flatten(0, 1)
    real = torch.ones(40, dtype=torch.bool)
    real[:6] = False
    logits = theirs.classifier(x)
    _, want = theirs.route_tokens(logits, padding_mask=~real)
    found = dense(called(ours, x, real))
    assert ((want > 0).sum(1)[real] < 2).sum() > 3  # some overflow
    agree(found, want, 1e-6, "gshard_lm")
    probe = torch.randn(found.shape, generator=torch.Generator().manual_seed(4))
    (found * probe).sum().backward()
    (want * probe).sum().backward()
    gradients = ours.score.weight.grad, theirs.classifier.weight.grad
    agree(*gradients, 1e-4, "gshard_lm", of="gradients")


@pytest.mark.parametrize("k", (2, 3))
@pytest.mark.parametrize("training", (True, False))
def test_gating_of_st_moe_pytorch(k: int, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    st_moe = pytest.importorskip("st_moe_pytorch.st_moe_pytorch")
    theirs = st_moe.TopNGating(D, E, top_n=k, threshold_train=0.4, threshold_eval=0.4).train(
        training
    )
    text = (
        f"gate = score -> softmax\nselect = top_k({k}) -> thin(below = 0.4, keep = random)\n"
        "weigh = gate -> normalize\nlookahead = allowed\npriority = by_rank\nwithin = sequence\n"
        "capacity = phase(train = room(1.25, per = token, round = down, least = 4), "
        "eval = room(2, per = token, round = down, least = 4))"
    )
    ours = router_of(text, "[balance(1, count = first, over = sequence), z(1)]").train(training)
    theirs.to_gates.weight.data.copy_(ours.score.weight.data)
    x = inputs(2, 24)
    drawn = torch.rand(k, 2, 24, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(drawn))
    _, combine, after_drops, z = theirs(x)
    # It counts what was left of the first picks, by a mask that it changes in place; with room for all, what was picked.
    theirs.capacity_factor_train = 100
    balance = theirs(x)[2]
    monkeypatch.undo()
    monkeypatch.setattr(torch, "rand_like", lambda like: drawn[1:].flatten(1).T)
    routing = called(ours, x.flatten(0, 1), sequences=2)
    want = combine.sum(-1).flatten(0, 1)
    picked = 48 * k
    assert 0.3 * picked < (want > 0).sum() < 0.9 * picked  # some stayed away, some overflowed
    agree(dense(routing), want, 1e-6, "st_moe")
    probe = torch.randn(want.shape, generator=torch.Generator().manual_seed(4))
    loss, theirs_loss = (dense(routing) * probe).sum(), (want * probe).sum()
    if training:
        mine = (routing.first_SE * routing.probability_SE).sum(1) * E / 24**2
        torch.testing.assert_close(mine.mean(), balance)
        assert (mine.mean() - after_drops).abs() > 0.1
        torch.testing.assert_close(routing.z_S.sum() / 48, z)
        loss, theirs_loss = loss + mine.mean(), theirs_loss + balance
    loss.backward()
    theirs_loss.backward()
    gradients = ours.score.weight.grad, theirs.to_gates.weight.grad
    agree(*gradients, 1e-4, "st_moe", of="gradients")


def test_the_second_pick_stays_as_often_as_its_share_says() -> None:
    text = (
        "gate = score -> softmax\nselect = top_k(2) -> thin(below = 0.5)\nweigh = gate -> normalize"
    )
    router = router_of(text)
    x = inputs(1, 1)[0].expand(20000, D)
    torch.manual_seed(0)
    routing = called(router, x)
    share = routing.weight_NK.sum(1).min()  # of the first pick alone: weights are made before
    kept = (routing.expert_NK[:, 1] < E).float().mean()
    assert abs(kept - (1 - share) / 0.5) < 0.02
    assert (called(router.eval(), x).expert_NK < E).all()  # in training only


@pytest.mark.parametrize(("keep", "stay"), (("threshold", "some"), ("none", "no"), ("all", "all")))
def test_which_picks_stay(keep: str, stay: str) -> None:
    text = f"gate = score -> softmax\nselect = top_k(2) -> thin(below = 0.3, keep = {keep})\nweigh = gate"
    routing = called(router_of(text), inputs().flatten(0, 1))
    second = routing.expert_NK[:, 1] < E
    gate = routing.logits_NE.softmax(1).sort(dim=1, descending=True).values
    want = {
        "some": gate[:, 1] / gate[:, :2].sum(1) > 0.3,
        "no": gate[:, 0] < 0,
        "all": gate[:, 0] > 0,
    }
    assert torch.equal(second, want[stay])


def test_thinning_takes_picks() -> None:
    assert "E0315" in codes(spec("gate = score -> softmax\nselect = thin(below = 0.3) -> top_k(2)"))
