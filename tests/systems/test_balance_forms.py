"""Balance by kinds and devices, over ranks and steps, against the formulas in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.agree import agree
from tests.systems.small import built, codes, model_of, spec, tokens, watched

SOFT = "gate = score -> softmax\nselect = top_k(2)\n"
KINDS = "experts = [full = 4 * swiglu(8), null = 2 * zero]\n"
PLAIN = "experts = 6 * swiglu(8)\n"
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0] * 6 + [1]]).bool()


def stats(record) -> tuple[Tensor, Tensor]:
    """(share of choices f, with sum 1; mean probability P), over real tokens."""
    real = MASK.flatten()
    count = torch.bincount(record.expert_NK[real].flatten(), minlength=6).double()
    return count / count.sum(), record.logits_NE[real].softmax(1).mean(0)


def averaged(f: Tensor, P: Tensor) -> Tensor:
    """AdaMoE: f of every null is the mean f of the nulls."""
    f = torch.cat([f[:4], f[4:].mean().expand(2)])
    return 6 * (f * P).sum()


def light(f: Tensor, P: Tensor) -> Tensor:
    """MoE++: sum of eta_i f_i P_i, eta 1 for FFN experts, 0.75 for those that cost nothing."""
    return 6 * (torch.tensor([1.0] * 4 + [0.75] * 2) * f * P).sum()


def devices(f: Tensor, P: Tensor) -> Tensor:
    """DeepSeek-V2: f' is the mean of E f on a device, P' the sum of P there; L = sum f' P'."""
    return ((6 * f).view(3, 2).mean(1) * P.view(3, 2).sum(1)).sum()


def zeros_as_one(f: Tensor, P: Tensor) -> Tensor:
    """LongCat: two devices of true experts, and the nulls as one group more."""
    f, P = (torch.stack([x[:2].sum(), x[2:4].sum(), x[4:].sum()]) for x in (f, P))
    return 3 * (f * P).sum()


@pytest.mark.parametrize(
    "settings, bank, form",
    [
        ("average = null", KINDS, averaged),
        ("light = null, eta = 0.75", KINDS, light),
        ("devices = 3", PLAIN, devices),
        ("devices = 2, together = null", KINDS, zeros_as_one),
        ("over = batch", PLAIN, lambda f, P: 6 * (f * P).sum()),
        ("over = batch, count = all", PLAIN, lambda f, P: 2 * 6 * (f * P).sum()),
    ],
    ids=["average", "light", "devices", "together", "batch", "batch all"],
)
def test_it_is_the_formula(settings: str, bank: str, form) -> None:
    module = built(spec(SOFT, f"{bank}loss = balance(0.01, {settings})"))
    model = model_of(module)
    output = model(tokens(), mask=MASK)
    wanted = sum(0.01 * form(*stats(r)) for r in output.routing.values())
    mine = output.losses["sparse.balance"]
    adamoe = ["adamoe"] if "average" in settings else []
    agree(mine, wanted, 1e-13, *adamoe)
    scores = [layer.sparse.router.score.weight for layer in model.layer]
    got = torch.autograd.grad(mine, scores, retain_graph=True)
    want = torch.autograd.grad(wanted, scores, retain_graph=True)
    agree(got, want, 1e-10, *adamoe, of="gradients")
    if settings not in ("over = batch", "over = batch, count = all"):
        naive = sum(0.01 * 6 * (f * P).sum() for f, P in map(stats, output.routing.values()))
        assert abs(mine - naive) > 1e-5  # as the released AdaMoE line, which averages nothing


def test_shares_are_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = built(spec(SOFT, PLAIN + "loss = balance(0.01, over = batch)"))
    model = model_of(module)
    others = torch.tensor([9, 0, 3, 0, 4, 4])

    def all_reduce(count):
        count += others

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    output = model(tokens(), mask=MASK)
    wanted = 0.0
    for record in output.routing.values():
        f, P = stats(record)
        count = 2 * MASK.sum() * f + others
        wanted = wanted + 0.01 * 6 * (count / count.sum() * P).sum()
    torch.testing.assert_close(output.losses["sparse.balance"], wanted, rtol=1e-13, atol=0)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_shares_are_over_the_step(again: bool) -> None:
    module = built(spec(SOFT, PLAIN + "loss = balance(0.01, over = step)"))
    model = model_of(module)
    model.checkpoint_layers = again
    for _ in range(2):  # two steps of two forwards: the second starts anew
        counts, loads = torch.zeros(2, 6, dtype=torch.float64), []
        for seed in (1, 2):
            output = model(tokens(seed=seed), mask=MASK)
            wanted = 0.0
            for i, record in enumerate(output.routing.values()):
                f, P = stats(record)
                counts[i] += 2 * MASK.sum() * f
                wanted = wanted + 0.01 * 6 * (counts[i] / counts[i].sum() * P).sum()
            found = output.losses["sparse.balance"]
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=0)
            (output.logits.sum() + found).backward()
            loads.append(module.tally(output.routing))
        model.adapt(*loads)
    assert not any("count" in name for name in model.state_dict())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(tokens()).losses["sparse.balance"].isfinite()


ADA = "gate = score -> softmax\nselect = top_k(3)\nweigh = gate -> normalize(kinds = full)\n"
NULLS = "experts = [full = 3 * swiglu(8), null = 3 * zero]\n"


def test_nulls_take_nothing_away() -> None:
    """AdaMoE: weights over the true experts that were picked; a token of nulls alone is left as it was."""
    model = model_of(built(spec(ADA, NULLS)))
    rows, output = watched(model, tokens())
    picked_none = 0
    for layer, x in zip(model.layer, rows, strict=True):
        bank, y = layer.sparse.experts, torch.zeros_like(x)
        for n, p in enumerate(layer.sparse.router.score(x).softmax(1)):
            kept = [e for e in p.topk(3).indices.tolist() if e < 3]
            picked_none += not kept
            for e in kept:
                g, u = (x[n] @ bank.gate_up[e].T).chunk(2, -1)
                y[n] = y[n] + p[e] / p[kept].sum() * ((F.silu(g) * u) @ bank.down[e].T)
        mine = layer.sparse(x.view(3, 7, 16))[0].flatten(0, 1)
        agree(mine, y, 1e-12, "adamoe")
    assert picked_none > 0
    output.logits.square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_what_does_not_go_together() -> None:
    def found(settings: str, bank: str = KINDS) -> list[str]:
        return codes(spec(SOFT, f"{bank}loss = balance(0.01, {settings})"))

    assert found("average = nul") == ["E0412"]
    assert found("average = null", PLAIN) == ["E0412"]
    assert found("devices = 4", PLAIN) == ["E0411"]
    assert found("average = null, over = model") == ["E0208"]
    assert found("average = null, over = layer") == []
    assert codes(spec(SOFT, f"{PLAIN}loss = balance(ramp(0, 1, 9), over = step)")) == ["E0208"]
    assert codes(spec(SOFT + "weigh = gate -> normalize(kinds = full)\n", PLAIN)) == ["E0412"]


@pytest.mark.parametrize("select", ["positive", "all", "expert_choice"])
def test_first_choices_are_counted_where_one_is_first(select: str) -> None:
    gate = "relu" if select == "positive" else "softmax"
    room = "\ncapacity = 1\nlookahead = allowed" if select == "expert_choice" else ""
    router = f"gate = score -> {gate}\nselect = phase(train = {select}, eval = {select}){room}"
    for text in (router, router.replace(f"phase(train = {select}, eval = {select})", select)):
        assert "E0505" in codes(spec(text, PLAIN + "loss = balance(0.01, count = first)"))
        assert "E0505" not in codes(spec(text, PLAIN + "loss = balance(0.01)"))
    assert codes(spec(SOFT, PLAIN + "loss = balance(0.01, count = first)")) == []


@pytest.mark.parametrize("free", ["zero", "identity", "scale(learned)", "(scale(0.5) -> tanh)"])
def test_experts_that_cost_nothing_are_balanced_apart(free: str) -> None:
    bank = f"experts = [full = 4 * swiglu(8), skip = 2 * {free}]\n"
    assert codes(spec(SOFT, bank + "loss = balance(0.01)")) == ["W1006"]
    assert codes(spec(SOFT, bank + "loss = [z(1e-3), importance(1e-2)]")) == []
    for said in ("average = skip", "light = skip, eta = 0.5", "together = skip"):
        assert codes(spec(SOFT, bank + f"loss = balance(0.01, {said})")) == []
    costly = "experts = [wide = 4 * swiglu(8), narrow = 2 * swiglu(4)]\n"
    assert codes(spec(SOFT, costly + "loss = balance(0.01)")) == []


def test_what_is_even_needs_no_balance() -> None:
    every = "gate = score -> softmax\nselect = all\n"
    assert codes(spec(every, PLAIN + "loss = balance(0.01)")) == ["W1005"]
    assert codes(spec(every, PLAIN + "loss = z(0.01)")) == []
    assert codes(spec(every + "choose = gate + balancing(1e-3)\n")) == ["E0420"]
