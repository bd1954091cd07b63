"""losses.py against the plain formulas in float64, and against transformers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from moedsl.backend.route_view import RouteView
from moedsl.backend.runtime_view import BalanceView, ZView
from tests.runtime.views import LOSSES, balances, package

ROUTE = RouteView(
    name="top2", num_experts=8, top_k=2, statistics=("choices", "first", "probability", "z")
)
B, T, L = 3, 5, 4
REAL = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()


def logits(seed: int = 0, dtype=torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(B * T, 8, generator=generator, dtype=dtype).requires_grad_() for _ in range(L)
    ]


def values(view: BalanceView, rows: list[Tensor], real: Tensor) -> list[Tensor]:
    """E * sum(share * mean probability) of each group of rows that the view pools."""
    whole = [[(z, real.flatten()) for z in rows]]
    groups: list[list[tuple[Tensor, Tensor]]]
    match view.over:
        case "model":
            groups = whole
        case "layer":
            sizes = iter(rows)
            groups = [[(next(sizes), real.flatten()) for _ in range(n)] for n in view.groups]
        case _:
            groups = [[(z, real.flatten())] for z in rows]
    if view.over != "sequence":
        return [balance(view, group) for group in groups]
    found = []
    for z in rows:
        parts = zip(z.split(T), real, strict=True)
        each = [balance(view, [(part, own)]) for part, own in parts if own.any()]
        found.append(torch.stack(each).mean())
    return found


def balance(view: BalanceView, group: list[tuple[Tensor, Tensor]]) -> Tensor:
    probability = torch.cat([z[own].softmax(-1) for z, own in group])
    chosen = probability.topk(2).indices
    chosen = chosen[:, :1] if view.count == "first" else chosen
    share = torch.bincount(chosen.flatten(), minlength=8).double() / len(probability)
    share = share / 2 if view.count == "share" else share
    return 8 * (share * probability.mean(0)).sum()


def routings(module, rows: list[Tensor], real: Tensor | None):
    flat = None if real is None else real.flatten()
    return [module.routing.route_top2(z, flat, B) for z in rows]


@pytest.fixture(scope="module")
def module():
    return package(routes=(ROUTE,), losses=LOSSES)


def agree(mine: Tensor, wanted: Tensor, rows: list[Tensor]) -> None:
    torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-14)
    for a, b in zip(
        torch.autograd.grad(mine, rows), torch.autograd.grad(wanted, rows), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("view", balances(), ids=lambda v: v.name)
@pytest.mark.parametrize("real", [REAL, None], ids=["padded", "full"])
def test_balance_is_the_formula(module, view: BalanceView, real: Tensor | None) -> None:
    rows = logits()
    loss: Callable = getattr(module.losses, view.name)
    every = torch.ones(B, T).bool() if real is None else real
    wanted = torch.stack(values(view, rows, every))
    wanted = view.coefficient * (wanted.sum() if view.layers == "sum" else wanted.mean())
    agree(loss(routings(module, rows, real)), wanted, rows)


@pytest.mark.parametrize("real", [REAL, None], ids=["padded", "full"])
def test_z_is_the_formula(module, real: Tensor | None) -> None:
    rows = logits()
    own = torch.ones(B * T).bool() if real is None else real.flatten()
    wanted = 1e-3 * sum(z[own].logsumexp(-1).square().mean() for z in rows)
    agree(module.losses.sparse_z(routings(module, rows, real)), wanted, rows)


@pytest.mark.parametrize("real", [REAL, None], ids=["padded", "full"])
def test_all_over_model_is_transformers(module, real: Tensor | None) -> None:
    rows = logits(1)
    mine = module.losses.all_model_sum_8_all(routings(module, rows, real))
    mask = None if real is None else real.long()
    agree_single(mine, 0.02 * load_balancing_loss_func(tuple(rows), 8, 2, mask), rows)


def agree_single(mine: Tensor, wanted: Tensor, rows: list[Tensor]) -> None:
    """transformers sums in float32 whatever it gets."""
    torch.testing.assert_close(mine.float(), wanted.float(), rtol=2e-6, atol=0)
    for a, b in zip(
        torch.autograd.grad(mine, rows), torch.autograd.grad(wanted, rows), strict=True
    ):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=1e-4, atol=1e-9)


def test_perfect_balance_is_worth_what_the_docstring_says(module) -> None:
    rows = [torch.zeros(16, 8).double() + torch.eye(8).repeat(2, 1) * 1e-9 for _ in range(L)]
    rows = [z + torch.eye(8).roll(1, 0).repeat(2, 1) * 5e-10 for z in rows]
    decided = [module.routing.route_top2(z, None, 1) for z in rows]
    for view in balances():
        worth = float(getattr(module.losses, view.name)(decided)) / view.coefficient
        times = 1 if view.layers == "mean" or view.over == "model" else len(view.groups) or L
        assert worth == pytest.approx(times * (2 if view.count == "all" else 1), rel=1e-6)
        assert "the number of choices" in view.summary or view.count != "all"


def test_padding_alone_gives_zero_and_a_gradient(module) -> None:
    rows = logits()
    decided = routings(module, rows, torch.zeros(B, T).bool())
    for view in (*balances(), ZView(name="sparse_z", coefficient=1, of="")):
        loss = getattr(module.losses, view.name)(decided)
        assert float(loss.detach()) == 0
        grads = torch.autograd.grad(loss, rows, retain_graph=True)
        assert all(float(g.abs().max()) == 0 for g in grads)


def test_layers_may_differ_in_experts() -> None:
    sizes = (4, 8)
    routes = tuple(
        RouteView(name=f"of{n}", num_experts=n, top_k=2, statistics=("choices", "probability"))
        for n in sizes
    )
    view = BalanceView(name="any", coefficient=1, num_experts=None, of="`sparse`")
    module = package(routes=routes, losses=(view,))
    rows = [torch.randn(15, n, dtype=torch.float64) for n in sizes]
    decided = [
        getattr(module.routing, f"route_of{n}")(z, None, 1)
        for n, z in zip(sizes, rows, strict=True)
    ]
    wanted = 0
    for z in rows:
        p = z.softmax(-1)
        share = torch.bincount(p.topk(2).indices.flatten(), minlength=z.shape[1]).double() / 30
        wanted = wanted + z.shape[1] * (share * p.mean(0)).sum()
    torch.testing.assert_close(module.losses.any(decided), wanted)
