"""Experts on devices (DeepSeek-V2, 2024, sections 2.2.3 and 2.2.4): losses over what devices compute and receive,
against the formulas token by token in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.agree import agree
from tests.packages import model_class, package
from tests.systems.small import built, codes, model_of, spec, tokens

E, D, M, K = 8, 4, 2, 3
PICK = f"gate = score -> softmax\nselect = groups({D}, keep = {M}) -> top_k({K})\n"
BANK = f"experts = {E} * swiglu(8)\n"
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0] * 6 + [1]]).bool()


def losses_of(expert_TK: Tensor, s_TE: Tensor, devices: int, limit: int) -> tuple[Tensor, ...]:
    """Equations 23 to 31 for one sequence, as they stand: f and P of experts, f' and P', f'' and P'' of devices."""
    T, N, size = len(s_TE), s_TE.shape[1], s_TE.shape[1] // devices
    picks = expert_TK.tolist()
    f = [N / (len(picks[0]) * T) * sum(i in p for p in picks) for i in range(N)]
    P = [s_TE[:, i].sum() / T for i in range(N)]
    on = [range(d * size, (d + 1) * size) for d in range(devices)]
    f1 = [sum(f[j] for j in on[d]) / size for d in range(devices)]
    P1 = [sum(P[j] for j in on[d]) for d in range(devices)]
    sent = [sum(any(j in p for j in on[d]) for p in picks) for d in range(devices)]
    f2 = [devices / (limit * T) * count for count in sent]
    return tuple(
        sum(a * b for a, b in zip(fs, Ps, strict=True)) for fs, Ps in ((f, P), (f1, P1), (f2, P1))
    )


def sequences(record, mask: Tensor):
    """(picks, scores) of the real tokens of each sequence that has any."""
    for row, real in zip(torch.arange(mask.numel()).view_as(mask), mask, strict=True):
        if real.any():
            yield record.expert_NK[row[real]], record.logits_NE[row[real]].softmax(1)


SETTINGS = {
    "share": f"devices = {D}",
    "visits": f"devices = {D}, count = visits, limit = {M}",
    "of all visits": f"devices = {D}, count = visits",
}


def wanted_of(name: str, parts, devices: int = D, limit: int = M) -> Tensor:
    """Of one mixture: `parts` are (picks, scores) of what is taken together."""
    found = []
    for expert, s in parts:
        _, share, visits = losses_of(expert, s, devices, limit)
        visited = sum(len({e // (E // D) for e in p}) for p in expert.tolist())
        found.append(
            {
                "share": share,
                "visits": visits,
                "of all visits": visits * limit * len(s) / visited,
            }[name]
        )
    return torch.stack(found).mean()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("over", ["sequence", "site"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernel", "steps"])
def test_it_is_the_formula(name: str, over: str, fused: bool) -> None:
    pick = PICK if fused else PICK + "choose = gate -> hide(phase(train = 0.2, eval = 0.2))\n"
    text = spec(pick, f"{BANK}loss = balance(0.02, {SETTINGS[name]}, over = {over})")
    model = model_of(built(text))
    torch.manual_seed(0)
    output = model(tokens(), mask=MASK)
    wanted: Tensor | float = 0.0
    for record in output.routing.values():
        parts = list(sequences(record, MASK))
        if over == "site":
            parts = [tuple(torch.cat(each) for each in zip(*parts, strict=True))]
        wanted = wanted + 0.02 * wanted_of(name, parts)
    mine = output.losses["sparse.balance"]
    agree(mine, wanted, 1e-12, "deepseek_v2")
    scores = [layer.sparse.router.score.weight for layer in model.layer]
    got = torch.autograd.grad(mine, scores, retain_graph=True)
    agree(got, torch.autograd.grad(wanted, scores), 1e-10, "deepseek_v2", of="gradients")


def test_naive_forms_are_other_losses() -> None:
    """Visits that count choices, P'' that is a mean, a divisor of K, a batch for a sequence."""
    text = spec(PICK, f"{BANK}loss = balance(1, {SETTINGS['visits']}, over = sequence)")
    model = model_of(built(text))
    output = model(tokens(), mask=MASK)
    parts = [list(sequences(record, MASK)) for record in output.routing.values()]
    pooled = [[tuple(map(torch.cat, zip(*part, strict=True)))] for part in parts]
    naive = {
        "choices": sum(wanted_of("share", part) for part in parts),
        "a mean of P": sum(wanted_of("visits", part) for part in parts) / (E // D),
        "over K": sum(wanted_of("visits", part, limit=K) for part in parts),
        "the batch": sum(wanted_of("visits", part) for part in pooled),
    }
    mine = output.losses["sparse.balance"]
    agree(mine, sum(wanted_of("visits", part) for part in parts), 1e-12)
    for name, value in naive.items():
        assert abs(value - mine) / mine > 1e-3, name


def test_perfect_balance_is_worth_one() -> None:
    """Eight tokens that visit two of four devices each, all equally."""
    module = built(spec(PICK, f"{BANK}loss = balance(1, {SETTINGS['visits']})"))
    routing = next(iter(model_of(module)(tokens()).routing.values()))
    even = routing._replace(
        visits_SD=torch.full((1, D), 4),
        probability_SE=torch.full((1, E), 1.0).double(),
        tokens_S=torch.tensor([8]),
    )
    assert float(module.losses.sparse_balance([even])) == pytest.approx(1)


def test_deepseek_v2() -> None:
    """The published coefficients of its three losses, on a small model of the spec; and one graph."""
    small = ("vocab=32", "width=16", "depth=1", "context=128", "mla.heads=2", "mla.kv_rank=8")
    small += ("mla.q_rank=8", "mla.head_dim=8", "mla.rope_dim=4", "dense=swiglu(16)")
    small += (f"sparse.experts={E} * swiglu(8)", "sparse.shared=swiglu(8)")
    small += (f"devices={D}", f"visited={M}")
    small += (f"top6.select=groups(devices, keep = visited) -> top_k({K})",)
    module = package("deepseek_v2", small)
    model = model_class(module)().double()
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    output = model(tokens(), mask=MASK)
    (record,) = output.routing.values()
    each = [torch.stack(losses_of(*part, D, M)) for part in sequences(record, MASK)]
    wanted = torch.stack(each).mean(0) * torch.tensor([0.003, 0.05, 0.02], dtype=torch.float64)
    found = torch.stack([output.losses[f"sparse.balance{n}"] for n in ("", "_2", "_3")])
    agree(found, wanted, 1e-12, "deepseek_v2")
    router, loss = model.layer[1].feed_forward.router, module.losses.sparse_balance_3
    x = torch.randn(14, 16, dtype=torch.float64)
    step = torch.compile(lambda x: loss([router(x, None, 2)]), fullgraph=True, backend="eager")
    agree(step(x), loss([router(x, None, 2)]), 1e-12)


REFUSED = {
    "no devices": ("count = visits", "E0508"),
    "a limit of what is no visit": (f"devices = {D}, limit = 2", "E0508"),
    "a limit above all": (f"devices = {D}, count = visits, limit = 5", "E0508"),
    "devices that do not come out": ("devices = 3, count = visits", "E0411"),
    "over all ranks": (f"devices = {D}, count = visits, over = batch", "E0208"),
    "over the model": (f"devices = {D}, over = model", "E0208"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together(name: str) -> None:
    settings, code = REFUSED[name]
    assert codes(spec(PICK, f"{BANK}loss = balance(0.01, {settings})")) == [code]


def test_one_decision_has_one_number_of_devices() -> None:
    both = "[balance(1, devices = 4, count = visits), balance(1, devices = 2, count = visits)]"
    assert codes(spec(PICK, f"{BANK}loss = {both}")) == ["E0504"]
