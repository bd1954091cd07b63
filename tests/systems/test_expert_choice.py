"""Experts that choose, against loops over experts and tokens in float64; the capped plan against its own conditions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.systems import plain_capacity as plain
from tests.systems.small import built, codes, model_of, spec

E = 6
CHOICE = "gate = score -> softmax\nselect = expert_choice\nweigh = gate\nlookahead = allowed\n"
CASES = {
    "batch": (CHOICE + "capacity = 2", 21, 7),
    "sequence": (CHOICE + "capacity = 1.5\nwithin = sequence", 7, 2),
    "groups": (CHOICE + "capacity = room(1, round = nearest, least = 2)\nwithin = tokens(5)", 5, 2),
}


def tokens() -> Tensor:
    """All different: equal tokens are ties, which a rounding error breaks."""
    return torch.randperm(32, generator=torch.Generator().manual_seed(1))[:21].view(3, 7)


def reference(model: nn.Module, ids: Tensor, size: int, room: int, real: list[bool] | None):
    """Zhou et al. 2022, section 3.2: softmax over experts; an expert takes its best tokens; that score is the weight."""
    p = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
    x = p["embed.weight"][ids]
    for layer in range(2):
        at = f"layer.{layer}."
        h = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * p[at + "before.weight"]
        h_ND = h.flatten(0, 1)
        gate = (h_ND @ p[at + "sparse.router.score.weight"].T).softmax(1)
        rows = []
        for n, experts in enumerate(plain.take(gate.tolist(), size, room, real)):
            y = torch.zeros(16, dtype=torch.float64)
            for e in experts:
                g, u = (p[at + "sparse.experts.gate_up"][e] @ h_ND[n]).chunk(2)
                y = y + gate[n, e] * (p[at + "sparse.experts.down"][e] @ (F.silu(g) * u))
            rows.append(y)
        x = x + torch.stack(rows).view_as(x)
    x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * p["last.weight"]
    return x @ p["head.weight"].T, p


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("name", CASES)
def test_models_agree_with_loops(name: str, masked: bool) -> None:
    text, size, room = CASES[name]
    model, ids = model_of(built(spec(text))), tokens()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, : 5 if masked else 0] = False
    logits, p = reference(model, ids, size, room, mask.flatten().tolist())
    found = model(ids, mask=mask if masked else None).logits
    torch.testing.assert_close(found[mask], logits[mask], rtol=1e-11, atol=1e-11)
    found[mask].square().mean().backward()
    logits[mask].square().mean().backward()
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.grad, p[key].grad, rtol=1e-10, atol=1e-11)


def test_loads_are_equal_and_tokens_have_many_or_none() -> None:
    text = CASES["batch"][0].replace("capacity = 2", "capacity = 1")
    routing = model_of(built(spec(text)))(tokens()).routing["layer.0.sparse"]
    taken = routing.expert_NK < E
    assert taken.sum(0).tolist() == [4] * E
    assert taken.sum(1).min() == 0 and taken.sum(1).max() > 1
    assert routing.rows == 24


def test_softmax_over_tokens_would_choose_others() -> None:
    """The axis is experts; the precursor's was tokens."""
    model = model_of(built(spec(CASES["batch"][0])))
    routing = model(tokens()).routing["layer.0.sparse"]
    other = plain.take(routing.logits_NE.softmax(0).tolist(), 21, 7)
    assert [{e for e in row if e < E} for row in routing.expert_NK.tolist()] != other


def test_it_looks_ahead_and_needs_a_capacity() -> None:
    assert codes(spec(CASES["batch"][0].replace("lookahead = allowed\n", ""))) == ["E0410"]
    assert codes(spec(CHOICE)) == ["E0420"]
    assert not hasattr(built(spec(CASES["batch"][0])), "generate")


def plan_in_loops(keys: Tensor, room: int, most: int, entropy: float, rounds: int) -> Tensor:
    """Dykstra's projections in the Kullback-Leibler sense, in plain numbers and not in logarithms."""
    plan = (keys / entropy).exp()
    by_row, by_one = torch.ones(len(keys), 1, dtype=plan.dtype), torch.ones_like(plan)
    for _ in range(rounds):
        plan = plan * room / plan.sum(0, keepdim=True)
        raised = plan * by_row
        shrunk = raised * (most / raised.sum(1, keepdim=True)).clamp(max=1)
        by_row = (raised / shrunk)[:, :1]
        raised = shrunk * by_one
        plan = raised.clamp(max=1)
        by_one = raised / plan
    return plan


def test_capped_plans() -> None:
    module = built(
        spec(CHOICE.replace("expert_choice", "expert_choice(most = 2)") + "capacity = 2")
    )
    keys = torch.randn(24, E, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keys = (keys + torch.linspace(0, 3, 24)[:, None]).softmax(1) + torch.linspace(0, 1, 24)[
        :, None
    ].double()
    plan = module.capacity.capped_plan(keys, 24, 8, None, 2, 0.05, 300).exp()
    want = plan_in_loops(keys, 8, 2, 0.05, 300)
    torch.testing.assert_close(plan, want.to(plan.dtype), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        plan.sum(0), torch.full((E,), 8.0, dtype=plan.dtype), rtol=1e-2, atol=0
    )
    assert plan.sum(1).max() < 2.01 and plan.max() <= 1.0001

    def value(a: Tensor) -> float:
        return ((keys * a).sum() + 0.05 * torch.special.entr(a).sum()).item()

    # No plan that meets the conditions is worth more: mass moved around a square of two rows and two experts.
    generator = torch.Generator().manual_seed(1)
    best = value(want)
    for _ in range(300):
        rows, experts = (
            torch.randperm(24, generator=generator)[:2],
            torch.randperm(E, generator=generator)[:2],
        )
        moved = want.clone()
        step = 1e-3 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=want.dtype)
        moved[rows[:, None], experts] += step
        if moved.min() >= 0 and moved.max() <= 1:
            assert value(moved) < best + 1e-6
    # Free experts crowd on the best rows; under a plan they spread.
    free = module.capacity.choose_rows(keys, 24, 8, None) < E
    capped = module.capacity.choose_rows(plan, 24, 8, None) < E
    assert free.sum(1).max() == E and capped.sum(1).max() <= 3
    assert math.isclose(capped.sum().item(), free.sum().item())
