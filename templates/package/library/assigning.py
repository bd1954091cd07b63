"""Rows assigned to experts so that every expert gets as many as every other.

Shapes: N rows, E experts, K kept of each row.
"""

import torch
from torch import Tensor


@torch.library.custom_op("package::even_choices", mutates_args=())
def even_choices(
    key_NE: Tensor, real_N: Tensor | None, kept: int, tolerance: float, rounds: int
) -> Tensor:
    """The `kept` largest of each row in a plan with equal shares for all experts.

    The plan is exp(key), its rows and its columns scaled in turn to equal sums, until
    the columns' factors change by less than `tolerance` on average. What is scaled is
    exp(key - largest of its row), which no factor of a row can tell apart.
    """
    plan_NE = (key_NE - key_NE.amax(1, keepdim=True)).exp()
    if real_N is not None:
        plan_NE = plan_NE * real_N.unsqueeze(1)
    count = plan_NE.any(1).sum().clamp_min(1)
    done = torch.zeros((), dtype=torch.bool, device=key_NE.device)
    column_E = torch.ones_like(plan_NE[0])
    for _ in range(rounds):
        row_N = 1 / (count * ((plan_NE * column_E).sum(1) + 1e-8))
        sum_E = (plan_NE * row_N.unsqueeze(1)).sum(0)
        next_E = 1 / (plan_NE.shape[1] * (sum_E + 1e-8))
        change = (next_E - column_E).abs().mean()
        column_E = column_E.where(done, next_E)
        done = done | (change <= tolerance)
    key_NE = key_NE + column_E.log()
    order_NE = key_NE.sort(dim=1, descending=True, stable=True).indices
    return order_NE[:, :kept].contiguous()


@even_choices.register_fake
def _(
    key_NE: Tensor, real_N: Tensor | None, kept: int, tolerance: float, rounds: int
) -> Tensor:
    return key_NE.new_empty((key_NE.shape[0], kept), dtype=torch.int64)


@torch.library.custom_op("package::assign_rows", mutates_args=())
def assign_rows(key_NE: Tensor, real_N: Tensor | None, step: float) -> Tensor:
    """The expert of each row, [N, 1]: none has more than its share of the real rows.

    An auction: rows without an expert bid for the one that is worth most to them
    after its price: what it is worth beyond the second best, and `step`. Experts keep
    the highest bids that they have room for, and their price is the lowest. The sum
    of keys is the largest there is, to within `step` for each row. Rows of padding get
    what is worth most to them, and take no room.
    """
    expert_N = key_NE.argmax(1)
    number_M = torch.arange(len(key_NE), device=key_NE.device)
    if real_N is not None:
        number_M = number_M[real_N]
    expert_N[number_M] = auction(key_NE[number_M], step)
    return expert_N.unsqueeze(1)


@assign_rows.register_fake
def _(key_NE: Tensor, real_N: Tensor | None, step: float) -> Tensor:
    return key_NE.new_empty((key_NE.shape[0], 1), dtype=torch.int64)


def auction(key_NE: Tensor, step: float) -> Tensor:
    """The expert of each row, [N]. Large steps first: they find prices that are nearly
    right, from which small ones have little left to do.
    """
    rows, experts = key_NE.shape
    room = -(-rows // experts)
    finite_NE = key_NE.isfinite()
    if experts == 1 or not finite_NE.any():
        return torch.arange(rows, device=key_NE.device) // max(room, 1)
    key_NE = key_NE.double().where(finite_NE, key_NE[finite_NE].min().double())
    nobody_ME = key_NE.new_zeros(room * experts - rows, experts)
    key_NE = torch.cat([key_NE, nobody_ME])
    now = max((key_NE.max() - key_NE.min()).item() / 4, step)
    price_E = key_NE.new_zeros(experts)
    while True:
        expert_N = bid(key_NE, price_E, room, now)
        if now <= step:
            return expert_N[:rows]
        now = max(now / 5, step)


def bid(key_NE: Tensor, price_E: Tensor, room: int, step: float) -> Tensor:
    """One auction from these prices, which it raises: the expert of each row, [N]."""
    bid_N = key_NE.new_zeros(len(key_NE))
    expert_N = torch.full_like(bid_N, -1, dtype=torch.int64)
    while (expert_N < 0).any():
        free_M = (expert_N < 0).nonzero().squeeze(1)
        worth_M2, best_M2 = (key_NE[free_M] - price_E).topk(2)
        best_M = best_M2[:, 0]
        expert_N[free_M] = best_M
        bid_N[free_M] = price_E[best_M] + worth_M2[:, 0] - worth_M2[:, 1] + step
        for expert in best_M.unique().tolist():
            taken_M = (expert_N == expert).nonzero().squeeze(1)
            if len(taken_M) < room:
                continue
            order_M = bid_N[taken_M].argsort(descending=True, stable=True)
            expert_N[taken_M[order_M[room:]]] = -1
            price_E[expert] = bid_N[taken_M[order_M[room - 1]]]
    return expert_N
